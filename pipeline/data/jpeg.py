"""The structure of a JPEG: where its picture ends, what its pixels need, and whether scans are missing (ITU-T T.81, B).

Bytes behind the picture (the video of a motion photo, further frames) and segments that no pixel needs are left out,
whatever they look like.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"

# Of a file, read first: they hold most headers, and most pictures but not a video behind.
_HEADER_BYTES, _FIRST_BYTES = 1 << 16, 16 << 20

_SOS, _DRI = 0xDA, 0xDD
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # baseline, extended, progressive; the last two arithmetic
_PROGRESSIVE, _ARITHMETIC = {0xC2, 0xCA}, {0xC9, 0xCA}
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_TABLES = {0xDB, 0xDD, 0xE0, 0xEE, *range(0xC0, 0xD0)}  # E0 and EE say which colours the values are
_EXIF = 0xE1  # Exif and XMP may say how the picture is turned
_METADATA = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")

# In a scan, 0xFF is data before a 0, and a restart before D0 to D7; else it ends the scan.
_SCAN_END = re.compile(rb"\xff\xff*[^\x00\xff\xd0-\xd7]")  # written so that `re` looks for 0xFF first
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")


@dataclass
class _Component:
    across: int  # sampling factors
    down: int
    left: list[int | None] = field(default_factory=lambda: [None] * 64)  # bits that scans owe each coefficient


@dataclass(frozen=True)
class Jpeg:
    """`body`: a JPEG of the same pixels without its end marker. `scans`: their number; `missing`: what is not there of
    them, in words, "" where nothing is. `huffman`: coded so that what follows the data shows in a scan that is cut.
    `ended`: its end marker is there.
    """

    width: int
    height: int
    body: bytes
    scans: int
    missing: str
    huffman: bool
    ended: bool = False


def read(file: BinaryIO, *, header_only: bool = False) -> Jpeg | None:
    """The first picture of a JPEG file; None if it has no frame that is read here. Not much more than it is read.

    `header_only`: up to where its data begin, which can be opened but not loaded.
    """
    limit = _HEADER_BYTES if header_only else _FIRST_BYTES
    while True:
        file.seek(0)
        data = file.read(limit)
        found, ended = _read(data, header_only=header_only)
        if ended or len(data) < limit:
            return found
        limit *= 4


def _read(data: bytes, *, header_only: bool) -> tuple[Jpeg | None, bool]:
    """The picture, and whether all that was asked for is in `data`."""
    ended = False
    frame, width, height, interval, scans, missing = 0, 0, 0, 0, 0, ""
    components: dict[int, _Component] = {}
    kept = [data[:2]]
    for marker, segment, scan in _segments(data):
        body = segment[4:]
        if marker in _FRAMES and not frame:
            frame = marker
            height, width, count = struct.unpack_from(">HHB", body, 1)
            for i in range(count):
                name, factors, _ = struct.unpack_from("3B", body, 6 + 3 * i)
                components[name] = _Component(factors >> 4, factors & 15)
        elif marker == END[1]:
            ended = True
        elif marker == _SOS and header_only:
            kept.append(segment)
            ended = True
            break
        elif marker == _DRI:
            (interval,) = struct.unpack_from(">H", body)
        elif marker == _SOS and components:
            scans += 1
            named = [components[body[1 + 2 * i]] for i in range(body[0]) if body[1 + 2 * i] in components]
            _pay(named, body[1 + 2 * body[0] :], progressive=frame in _PROGRESSIVE)
            if interval and len(_RESTART.findall(scan)) < -(-_units(named, components, width, height) // interval) - 1:
                missing = "cut off between restart markers"
        kept += [segment, scan]
    if not frame:
        return None, ended
    if any(bits != 0 for c in components.values() for bits in c.left):
        missing = "scans are missing"
    # A single 0xFF at the end is half of what was cut.
    body = b"".join(kept).rstrip(b"\xff")
    return Jpeg(width, height, body, scans, missing, frame not in _ARITHMETIC, ended), ended


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(marker, its whole segment, the scan's data behind it) of what decides pixels, and the end marker."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        while data[at : at + 1] == b"\xff":
            at += 1
        if at >= len(data):
            return
        marker = data[at]
        if marker == END[1]:
            yield marker, b"", b""
            return
        if marker in _ALONE or marker == 0:
            continue
        length = int.from_bytes(data[at + 1 : at + 3], "big")
        end = at + 1 + length
        if length < 2 or end > len(data):
            return
        segment, scan, at = data[at - 1 : end], b"", end
        if marker == _SOS:
            found = _SCAN_END.search(data, end)
            at = found.start() if found else len(data)
            scan = data[end:at]
        if marker in _TABLES or marker == _SOS or (marker == _EXIF and segment[4:].startswith(_METADATA)):
            yield marker, segment, scan


def _pay(components: list[_Component], rest: bytes, *, progressive: bool) -> None:
    """Notes what a scan brings. `rest`: first and last coefficient, bits of accuracy before and after it (two nibbles).

    A progressive picture is whole when every coefficient has come down to its last bit.
    """
    first, last, accuracy = rest[:3] if progressive else (0, 63, 0)
    for component in components:
        for i in range(first, min(last, 63) + 1):
            component.left[i] = accuracy & 15


def _units(named: list[_Component], every: dict[int, _Component], width: int, height: int) -> int:
    """MCUs of a scan: blocks of a component that comes alone, else groups of all of them (T.81, A.2)."""
    across, down = max(c.across for c in every.values()), max(c.down for c in every.values())
    if len(named) == 1:
        # The component's own size in samples, then in blocks of 8.
        columns = -(-width * named[0].across // across)
        rows = -(-height * named[0].down // down)
        return -(-columns // 8) * -(-rows // 8)
    return -(-width // (8 * across)) * -(-height // (8 * down))
