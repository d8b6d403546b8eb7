"""What a JPEG 2000 has the decoder set up, told from its headers (ISO/IEC 15444-1, A and B).

The decoder takes memory for each tile, precinct and code-block before it reads their data, and 300 bytes of headers can
ask for a hundred million of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BOXES = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"

_SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
# A precinct without a number of its own is this large.
_WHOLE = 15
# What a tile takes for each component, and how many packets take as much as one block.
_BLOCKS_OF_A_TILE = 2
_PACKETS_OF_A_BLOCK = 8
# A sound tile-part's header has a few markers.
_MOST_MARKERS = 100_000


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
    """`width`, `height` in pixels, of the codestream: a box around it may say others. `blocks`: what is set up."""

    width: int
    height: int
    components: int
    blocks: int


def read(file: BinaryIO) -> Jpeg2000 | None:
    """What the headers of a JPEG 2000 file ask for; None if there are none that are sound."""
    try:
        return _read(file)
    except (struct.error, IndexError):  # cut off within a header
        return None


def _read(file: BinaryIO) -> Jpeg2000 | None:
    if not _go_to_codestream(file):
        return None
    size: tuple[int, ...] = ()
    styles: list[Style] = []
    layers = 1
    for marker, body in _segments(file):
        if marker == _SIZ:
            size = size or struct.unpack_from(">8IH", body, 2)
        elif marker == _COD:
            layers = max(layers, struct.unpack_from(">H", body, 2)[0])
            styles.append(_style(body[5:], has_precincts=bool(body[0] & 1)))
        elif marker == _COC and size:
            rest = body[1 if size[8] < 257 else 2 :]
            styles.append(_style(rest[1:], has_precincts=bool(rest[0] & 1)))
    if not size or not size[4] or not size[5]:
        return None
    right, bottom, left, top, tile_width, tile_height, tiles_left, tiles_top, components = size
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0:
        return None
    tiles = -(-(right - tiles_left) // tile_width) * -(-(bottom - tiles_top) // tile_height)
    # Each tile may have a style of its own: counted as if all had the one that takes most.
    counts = [style.count(min(width, tile_width), min(height, tile_height)) for style in set(styles)]
    packets = layers * max((precincts for precincts, _ in counts), default=0)
    blocks = max((blocks for _, blocks in counts), default=0) + _BLOCKS_OF_A_TILE + packets // _PACKETS_OF_A_BLOCK
    return Jpeg2000(width, height, components, tiles * components * blocks)


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


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(marker, what stands in its segment) of the main header and of each tile-part's, without their data."""
    file.read(2)
    part_end = 0
    for _ in range(_MOST_MARKERS):
        at = file.tell()
        head = file.read(4)
        if len(head) < 4:
            return
        marker, length = struct.unpack(">HH", head)
        if marker == _SOD:
            if part_end <= at:  # the last part, up to the end of the file
                return
            file.seek(part_end)
            continue
        if marker == _EOC or length < 2:
            return
        body = file.read(length - 2)
        if marker == _SOT:
            part_bytes = struct.unpack_from(">I", body, 2)[0]
            part_end = at + part_bytes if part_bytes else 0
        yield marker, body


def _style(body: bytes, *, has_precincts: bool) -> Style:
    """From the number of levels on, as COD and COC have it (table A.20)."""
    levels = min(body[0], 32)
    sizes = body[5 : 6 + levels] if has_precincts else b""
    precincts = [(size & 15, size >> 4) for size in sizes]
    precincts += [(_WHOLE, _WHOLE)] * (levels + 1 - len(precincts))
    return Style(levels, ((body[1] & 15) + 2, (body[2] & 15) + 2), tuple(precincts))
