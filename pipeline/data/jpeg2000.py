"""What a JPEG 2000 has the decoder set up and go over, told from its headers (ISO/IEC 15444-1, A and B).

The decoder takes memory for each tile, precinct and code-block before it reads their data, and 300 bytes of headers can
ask for a hundred million of them. Its time goes into the bit-planes of the code-blocks (`jpeg2000_packets`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from pipeline.data import jpeg2000_packets
from pipeline.data.jpeg2000_packets import MOST_PLANES, Coding, Tile

BOXES = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"

_SIZ, _COD, _COC, _QCD, _QCC, _RGN = 0xFF51, 0xFF52, 0xFF53, 0xFF5C, 0xFF5D, 0xFF5E
_SOT, _SOD, _EOC = 0xFF90, 0xFF93, 0xFFD9
# Of where packets lie and in which order they come; such files are bound by their main headers.
_ELSEWHERE = {0xFF5F: "POC", 0xFF60: "PPM", 0xFF61: "PPT"}
# A precinct without a number of its own is this large.
_WHOLE = 15
# What a tile takes for each component, and how many packets take as much as one block.
_BLOCKS_OF_A_TILE = 2
_PACKETS_OF_A_BLOCK = 8
# What a sample takes beside its blocks' planes (the transform, the colours), and a block whatever is in it; the planes
# of high throughput's blocks (ISO/IEC 15444-15), which are decoded all at once.
_TRANSFORM_PLANES = 1
_BLOCK_PLANES = 70
_FAST = 0x40
_FAST_PLANES = 4
# A sound tile-part's header has a few markers.
_MOST_MARKERS = 100_000
# Those that the decoder knows. Behind another one it looks for the next of these, pair of bytes for pair.
_KNOWN = {
    *(0xFF50, _SIZ, _COD, _COC, 0xFF55, 0xFF57, 0xFF58, 0xFF59, _QCD, _QCC, _RGN, *_ELSEWHERE, 0xFF63, 0xFF64),
    *(0xFF74, 0xFF75, 0xFF77, 0xFF78, _SOT),
}


class UnboundError(Exception):
    """Headers in which a decoder may find more than is read here; `str()` says why."""


@dataclass(frozen=True)
class Style:
    """How a component is cut up. `precincts`: (log2 width, log2 height), lowest resolution first; `block` as well."""

    levels: int
    block: tuple[int, int]
    precincts: tuple[tuple[int, int], ...]

    def count(self, width: int, height: int) -> tuple[int, int]:
        """Precincts and code-blocks with their precincts in all bands, of a tile of this size in one component."""
        precincts = blocks = 0
        for resolution, (across, down) in enumerate(self.precincts):
            scale = 1 << (self.levels - resolution)
            wide, high = -(-width // scale), -(-height // scale)
            here = -(-wide // (1 << across)) * -(-high // (1 << down))
            # But for the lowest resolution there are three bands, each of half the size.
            bands, halved = (3, 1) if resolution else (1, 0)
            block = [
                1 << max(0, min(size, most - halved)) for size, most in zip(self.block, (across, down), strict=True)
            ]
            in_band = -(-(wide >> halved) // block[0]) * -(-(high >> halved) // block[1])
            precincts += here
            blocks += bands * (here + in_band)
        return precincts, blocks


@dataclass(frozen=True)
class Jpeg2000:
    """`width`, `height` in pixels, of the codestream: a box around it may say others. `blocks`: what is set up.
    `planes`: of samples, that the decoder goes over at most, by what the headers allow.
    """

    width: int
    height: int
    components: int
    blocks: int
    planes: int


@dataclass
class _Found:
    """What the segments of a codestream say. `coding`: the one COD, of the main header; None where tiles or components
    have others, or packets come in other orders or elsewhere. `most_planes` by quantisation, `raised` by regions of
    interest. `parts`: (tile, first and last byte of data + 1), 0 for the end of the file.
    """

    size: tuple[int, ...] = ()
    layers: int = 1
    styles: set[Style] = field(default_factory=set)
    coding: bytes | None = None
    is_alike: bool = True
    is_fast: bool = True
    most_planes: int = 0
    raised: int = 0
    parts: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, body: bytes, *, has_precincts: bool) -> None:
        self.styles.add(_style(body, has_precincts=has_precincts))
        is_fast = bool(body[3] & _FAST)
        self.is_fast &= is_fast
        self.is_alike &= not is_fast

    @property
    def components(self) -> int:
        return self.size[8]

    @property
    def tile_columns(self) -> int:
        return -(-(self.size[0] - self.size[6]) // self.size[4])

    @property
    def tiles(self) -> int:
        return self.tile_columns * -(-(self.size[1] - self.size[7]) // self.size[5])

    @property
    def samples(self) -> int:
        right, bottom, left, top, *_, components = self.size
        return (right - left) * (bottom - top) * components


def read(file: BinaryIO) -> Jpeg2000 | None:
    """What the headers of a JPEG 2000 file ask for; None if there are none that are sound. Raises UnboundError."""
    found = _found(file)
    if found is None:
        return None
    right, bottom, left, top, tile_width, tile_height, *_ = found.size
    width, height = right - left, bottom - top
    # Each tile may have a style of its own: counted as if all had the one that takes most.
    counts = [style.count(min(width, tile_width), min(height, tile_height)) for style in found.styles]
    packets = found.layers * max((precincts for precincts, _ in counts), default=0)
    a_tile = max((blocks for _, blocks in counts), default=0) + _BLOCKS_OF_A_TILE + packets // _PACKETS_OF_A_BLOCK
    blocks = found.tiles * found.components * a_tile
    of_a_block = min(found.most_planes + found.raised, MOST_PLANES) if found.most_planes else MOST_PLANES
    if found.is_fast:
        of_a_block = min(of_a_block, _FAST_PLANES)
    planes = found.samples * (_TRANSFORM_PLANES + of_a_block) + blocks * _BLOCK_PLANES
    return Jpeg2000(width, height, found.components, blocks, planes)


def count_planes(file: BinaryIO, most: int) -> int | None:
    """The planes that the packets of a file which `read` took for sound ask for, with what counting them takes; `most`
    + 1 or more once that is exceeded. None if they can't be told.
    """
    found = _found(file)
    if found is None or found.coding is None or not found.is_alike or any(found.size[i] for i in (2, 3, 6, 7)):
        return None
    coding = _coding(found.coding)
    if coding.progression > 4:
        return None
    total = found.samples * _TRANSFORM_PLANES
    return total + jpeg2000_packets.of_tiles(_tiles(file, found), coding, found.components, most - total)


def _found(file: BinaryIO) -> _Found | None:
    try:
        found = _read(file)
    except (struct.error, IndexError):  # cut off within a header
        return None
    if found is None or not found.size or not found.size[4] or not found.size[5]:
        return None
    is_sound = found.size[0] > found.size[2] and found.size[1] > found.size[3]
    return found if is_sound else None


def _read(file: BinaryIO) -> _Found | None:
    if not _go_to_codestream(file):
        return None
    found = _Found()
    in_tile, part_end = -1, 0
    for marker, body, at in _segments(file):
        if marker == _SIZ:
            found.size = found.size or struct.unpack_from(">8IH", body, 2)
            # Samples of components may lie further apart than pixels.
            found.is_alike &= set(body[37::3] + body[38::3]) == {1}
        elif marker == _COD:
            found.layers = max(found.layers, struct.unpack_from(">H", body, 2)[0])
            found.is_alike &= found.coding is None and in_tile < 0
            found.coding = body
            found.add(body[5:], has_precincts=bool(body[0] & 1))
        elif marker in (_COC, _QCC, _RGN) and found.size:
            rest = body[1 if found.size[8] < 257 else 2 :]
            found.is_alike &= marker == _QCC
            if marker == _COC:
                found.add(rest[1:], has_precincts=bool(rest[0] & 1))
            elif marker == _QCC:
                found.most_planes = max(found.most_planes, _planes(rest))
            else:
                found.raised = max(found.raised, rest[1])
        elif marker == _QCD:
            found.most_planes = max(found.most_planes, _planes(body))
        elif marker in _ELSEWHERE:
            found.is_alike = False
        elif marker == _SOT:
            in_tile, length = struct.unpack_from(">HI", body)
            part_end = at + length if length else 0
        elif marker == _SOD:
            found.parts.append((in_tile, at + 2, part_end))
    return found


def _planes(body: bytes) -> int:
    """From the style on, as QCD and QCC have it (table A.28): bit-planes of the blocks in the largest band (E.1)."""
    sizes = body[1:] if body[0] & 31 == 0 else body[1::2]
    return (body[0] >> 5) + max(size >> 3 for size in sizes) - 1 if sizes else 0


def _coding(body: bytes) -> Coding:
    style = _style(body[5:], has_precincts=bool(body[0] & 1))
    progression, layers = struct.unpack_from(">BH", body, 1)
    return Coding(progression, layers, style.levels, style.block, body[8], style.precincts, bool(body[0] & 6))


def _tiles(file: BinaryIO, found: _Found) -> Iterator[Tile]:
    right, bottom, _, _, width, height, *_ = found.size
    parts: dict[int, list[tuple[int, int]]] = {}
    for tile, start, end in found.parts:
        if 0 <= tile < found.tiles:
            parts.setdefault(tile, []).append((start, end))
    for tile, spans in parts.items():
        data = []
        for start, end in spans:
            file.seek(start)
            data.append(file.read(max(0, end - start)) if end else file.read())
        row, column = divmod(tile, found.tile_columns)
        left, top = column * width, row * height
        yield Tile(left, top, min(left + width, right), min(top + height, bottom), b"".join(data))


def _go_to_codestream(file: BinaryIO) -> bool:
    file.seek(0)
    if file.read(4) == CODESTREAM:
        file.seek(0)
        return True
    file.seek(0)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        taken = 8
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
            taken = 16
        if kind == b"jp2c":
            return True
        if length < taken:  # 0: up to the end of the file
            return False
        file.seek(length - taken, 1)
    return False


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    """(marker, what stands in its segment, where it is) of the main header and of each tile-part's, without their data,
    for which SOD stands.
    """
    file.read(2)
    part_end = 0
    for _ in range(_MOST_MARKERS):
        at = file.tell()
        head = file.read(4)
        if len(head) < 4:
            return
        marker, length = struct.unpack(">HH", head)
        if marker == _SOD:
            yield marker, b"", at
            if part_end <= at:  # the last part, up to the end of the file
                return
            file.seek(part_end)
            continue
        if marker == _EOC or marker < 0xFF00 or length < 2:  # the decoder goes no further either
            return
        body = file.read(length - 2)
        if marker == _SOT:
            part_bytes = struct.unpack_from(">I", body, 2)[0]
            part_end = at + part_bytes if part_bytes else 0
        if marker not in _KNOWN and (len(body) % 2 or b"\xff" in head[2:] + body):
            raise UnboundError(f"a marker that is not known ({marker:#x}) with others in it")
        yield marker, body, at
    raise UnboundError(f"more than {_MOST_MARKERS:,} markers")


def _style(body: bytes, *, has_precincts: bool) -> Style:
    """From the number of levels on, as COD and COC have it (table A.20)."""
    levels = min(body[0], 32)
    sizes = body[5 : 6 + levels] if has_precincts else b""
    precincts = [(size & 15, size >> 4) for size in sizes]
    precincts += [(_WHOLE, _WHOLE)] * (levels + 1 - len(precincts))
    return Style(levels, ((body[1] & 15) + 2, (body[2] & 15) + 2), tuple(precincts))
