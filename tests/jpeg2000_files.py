"""JPEG 2000 codestreams written packet by packet (ISO/IEC 15444-1, A and B), for what no encoder makes: code-blocks of
some bytes that ask for many passes.
"""

from __future__ import annotations

import struct


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">HH", marker, len(body) + 2) + body


class _Bits:
    """Behind a byte of 255 the next has seven bits."""

    def __init__(self) -> None:
        self._out, self._byte, self._count, self._room = bytearray(), 0, 0, 8

    def put(self, value: int, count: int) -> None:
        for i in range(count - 1, -1, -1):
            self._byte = self._byte << 1 | value >> i & 1
            self._count += 1
            if self._count == self._room:
                self._out.append(self._byte)
                self._room, self._byte, self._count = 7 if self._byte == 0xFF else 8, 0, 0

    def bytes(self) -> bytes:
        if self._count:
            self.put(0, self._room - self._count)
        return bytes(self._out) + (b"\0" if self._out[-1:] == b"\xff" else b"")


def _packet(across: int, down: int, data: bytes, passes: int) -> bytes:
    """A packet of one band of (across, down) blocks. All have the same data and passes, and no plane is all zeros."""
    bits = _Bits()
    bits.put(1, 1)
    levels = [(across, down)]
    while levels[-1] != (1, 1):
        levels.append(((levels[-1][0] + 1) // 2, (levels[-1][1] + 1) // 2))
    known: set[tuple[int, int, int]] = set()
    for y in range(down):
        for x in range(across):
            nodes = {(level, x >> level, y >> level) for level in range(len(levels))} - known
            known |= nodes
            for _ in range(2):  # both tag trees hold 0 everywhere
                bits.put((1 << len(nodes)) - 1, len(nodes))
            _put_passes(bits, passes)
            length_bits = 3 + passes.bit_length() - 1
            more = max(0, len(data).bit_length() - length_bits)
            bits.put((1 << more) - 1 << 1, more + 1)
            bits.put(len(data), length_bits + more)
    return bits.bytes() + data * (across * down)


def _put_passes(bits: _Bits, passes: int) -> None:
    """Table B.4."""
    if passes <= 2:
        bits.put((0, 2)[passes - 1], passes)
    elif passes <= 5:
        bits.put(0b1100 | passes - 3, 4)
    elif passes <= 36:
        bits.put(0b1111 << 5 | passes - 6, 9)
    else:
        bits.put(0b111111111 << 7 | passes - 37, 16)


def blocks_of_passes(
    width: int,
    height: int,
    *,
    planes: int = 30,
    passes: int = 0,
    data: bytes = b"\x80",
    block: int = 64,
    style: int = 0,
    padding: int = 0,
) -> bytes:
    """A grey picture of one resolution whose code-blocks ask for `passes` (all of `planes` if 0) over `data`. `style`:
    of the coding, as in table A.19. `padding`: bytes of comments.
    """
    exponent = block.bit_length() - 3
    size = struct.pack(">HIIIIIIIIH3B", 0, width, height, 0, 0, width, height, 0, 0, 1, 7, 1, 1)
    head = b"\xff\x4f" + segment(0xFF51, size)
    head += segment(0xFF52, bytes([0, 0, 0, 1, 0, 0, exponent, exponent, style, 1]))
    head += segment(0xFF5C, bytes([0, planes + 1 << 3]))
    while padding > 0:
        head += segment(0xFF64, bytes(2 + min(padding, 65_000)))
        padding -= 65_000
    packet = _packet(-(-width // block), -(-height // block), data, passes or 3 * planes - 2)
    return head + segment(0xFF90, struct.pack(">HIBB", 0, 14 + len(packet), 0, 1)) + b"\xff\x93" + packet + b"\xff\xd9"
