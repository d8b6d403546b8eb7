"""What of a PNG its pixels need, told from its chunks, and whether its data hold every row (PNG 3rd ed., 5 and 10)."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2

_SAMPLES = {GREY: 1, RGB: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Adam7: first column, first row, and the steps of both, of each pass.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# Keywords of texts that may say how the picture is turned, and the most that Pillow unpacks of one.
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_METADATA = (b"Raw profile type exif", b"XML:com.adobe.xmp")
_MOST_TEXT_BYTES = 1 << 20
# Chunks of them that are looked at: one or two say how a picture is turned.
_MOST_METADATA = 16
# Kinds that no pixel needs: one that is damaged changes nothing.
_UNNEEDED = frozenset(
    b"tEXt zTXt iTXt tIME pHYs gAMA cHRM iCCP sRGB sBIT bKGD hIST sPLT cICP mDCV cLLI oFFs pCAL sCAL gIFg gIFx sTER "
    b"acTL fcTL fdAT".split()
)
_AT_ONCE_BYTES = 1 << 20


@dataclass(frozen=True)
class Png:
    """`depth` in bits a sample; `keyed`: a colour is transparent (tRNS); `needed`: a PNG of the same pixels alone;
    `ended`: its end chunk is there; `turned_late`: what may say how it is turned stands behind its data.
    """

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    keyed: bool
    needed: bytes
    data: tuple[memoryview, ...]  # zlib's stream, in pieces
    checked: bool  # by the checksums of its chunks
    ended: bool = False
    turned_late: bool = False

    @property
    def bits_of_a_pixel(self) -> int:
        return self.depth * _SAMPLES[self.colour]

    def holds_every_row(self) -> bool:
        """Whether the compressed data make all bytes that the size asks for: a decoder leaves missing rows black."""
        missing = self._data_bytes()
        inflate = zlib.decompressobj()
        try:
            for part in self.data:
                rest: bytes | memoryview = part
                while rest and missing > 0 and not inflate.eof:
                    missing -= len(inflate.decompress(rest, _AT_ONCE_BYTES))
                    rest = inflate.unconsumed_tail
            return missing <= len(inflate.flush())
        except zlib.error:
            return False

    def is_checked(self) -> bool:
        """Whether the data are what they were: by the chunks' checksums, or where one is cut off by zlib's own."""
        if self.checked:
            return True
        inflate, most = zlib.decompressobj(), self._data_bytes() + _AT_ONCE_BYTES
        try:
            for part in self.data:
                rest: bytes | memoryview = part
                while rest and most > 0 and not inflate.eof:
                    most -= len(inflate.decompress(rest, _AT_ONCE_BYTES))
                    rest = inflate.unconsumed_tail
        except zlib.error:
            return False
        return inflate.eof

    def _data_bytes(self) -> int:
        """Bytes of all rows before compression, each after a byte that names its filter."""
        bits = self.bits_of_a_pixel
        sizes = [(self.width, self.height)]
        if self.interlaced:
            sizes = [(-(-(self.width - x) // dx), -(-(self.height - y) // dy)) for x, y, dx, dy in _PASSES]
        return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def read(file: BinaryIO, *, header_only: bool = False) -> Png | None:
    """The PNG at the start of a file, read up to its end chunk or where it is cut; None if its header is not sound.

    `header_only`: read up to where its data begin, which can be opened but not loaded.
    Chunks that no pixel needs (texts, profiles, what other programs left) are skipped, however long they are.
    Raises ValueError on one that is needed, or may be, and does not match its checksum.
    """
    kept, kept_bytes = [SIGNATURE], len(SIGNATURE)
    places: list[slice] = []
    keyed, header, checked, ended, turned_late = False, b"", True, False, False
    for kind, chunk in _chunks(file, header_only=header_only):
        length = int.from_bytes(chunk[:4], "big")
        if kind == b"IHDR":
            header = header or chunk[8 : 8 + length]
        keyed |= kind == b"tRNS"
        ended |= kind == b"IEND"
        turned_late |= bool(places) and kind in (b"eXIf", *_TEXTS)
        if kind == b"IDAT":
            checked &= len(chunk) == length + 12
            places.append(slice(kept_bytes + 8, kept_bytes + min(8 + length, len(chunk))))
        kept.append(chunk)
        kept_bytes += len(chunk)
    if len(header) != 13:
        return None
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if colour not in _SAMPLES:
        return None
    needed = b"".join(kept)
    data = tuple(memoryview(needed)[place] for place in places)
    return Png(width, height, depth, colour, interlace == 1, keyed, needed, data, checked, ended, turned_late)


def _chunks(file: BinaryIO, *, header_only: bool) -> Iterator[tuple[bytes, bytes]]:
    """(kind, the whole chunk) of those that decide pixels; the last may be cut short."""
    looked_at = 0
    end = file.seek(0, os.SEEK_END)
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if header_only and kind == b"IDAT":
            yield kind, head
            return
        vital = not kind[0] & 0x20 or kind in (b"tRNS", b"eXIf")  # a capital first letter
        is_metadata = kind in _TEXTS and looked_at < _MOST_METADATA
        if vital or is_metadata:
            file.seek(-len(head), os.SEEK_CUR)
            chunk = file.read(min(length + 12, end))
            if vital and len(chunk) == length + 12:
                _require_checksum(kind, chunk)
            looked_at += is_metadata and chunk[8:].startswith(_METADATA)
            if vital or _is_sound_metadata(kind, chunk):
                yield kind, chunk
            if kind == b"IEND":
                return
        elif kind in _UNNEEDED:
            file.seek(length + 4, os.SEEK_CUR)
        else:
            _skip(file, kind, length)


def _require_checksum(kind: bytes, chunk: bytes) -> None:
    """Raises ValueError unless a whole chunk is what it was when it was written: Pillow doesn't look at all of them."""
    if zlib.crc32(memoryview(chunk)[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        raise ValueError(f"its chunk {_shown(kind)} does not match its checksum")


def _skip(file: BinaryIO, kind: bytes, length: int) -> None:
    """Past a chunk of an unknown kind. Raises ValueError if it is damaged: it may be one that pixels need, misspelt."""
    checksum, left = zlib.crc32(kind), length
    while left and (part := file.read(min(left, _AT_ONCE_BYTES))):
        checksum, left = zlib.crc32(part, checksum), left - len(part)
    if left or file.read(4) != checksum.to_bytes(4, "big"):
        raise ValueError(f"its chunk {_shown(kind)} is cut off or does not match its checksum")


def _shown(kind: bytes) -> str:
    return ascii(kind.decode("latin-1"))


def _is_sound_metadata(kind: bytes, chunk: bytes) -> bool:
    """Whether a chunk that is not vital is whole, and holds Exif or XMP of no more than Pillow reads."""
    body, checksum = chunk[8:-4], chunk[-4:]
    if zlib.crc32(chunk[4:-4]).to_bytes(4, "big") != checksum:
        return False
    keyword, _, rest = body.partition(b"\0")
    if keyword not in _METADATA:
        return False
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] == b"\0"):
        return True
    # zTXt: method, text. iTXt: whether it is packed, method, language, translated keyword, text.
    packed = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(packed, _MOST_TEXT_BYTES)
    except zlib.error:
        return False
    return not inflate.unconsumed_tail
