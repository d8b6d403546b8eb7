"""Image files written by hand, from their formats' specifications, for what Pillow doesn't write."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def encoded(image: Image.Image, fmt: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def packed_rows(samples: np.ndarray, bits: int, order: str = ">") -> list[bytes]:
    """(H, W, C) -> the bytes of each row; samples of fewer than 8 bits share bytes, the first in the high bits."""
    rows = samples.reshape(len(samples), -1)
    if bits >= 8:
        return [row.astype(f"{order}u{bits // 8}").tobytes() for row in rows]
    spread = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return [np.packbits(row.astype(np.uint8).ravel()).tobytes() for row in spread]


def png(
    samples: np.ndarray,
    depth: int,
    colour: int,
    *,
    key: bytes | None = None,
    palette: bytes | None = None,
    interlaced: bool = False,
    rows: int | None = None,
) -> bytes:
    """(H, W, C) samples -> a PNG; `key` is the body of tRNS, `rows` how many of the rows its data hold."""
    height, width = samples.shape[:2]
    data = b"\x89PNG\r\n\x1a\n"
    data += chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced)))
    data += chunk(b"PLTE", palette) if palette is not None else b""
    data += chunk(b"tRNS", key) if key is not None else b""
    lines: list[bytes] = []
    for x, y, dx, dy in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        some = samples[y::dy, x::dx]
        lines += [b"\0" + line for line in packed_rows(some, depth)] if some.size else []
    return data + chunk(b"IDAT", zlib.compress(b"".join(lines[:rows]))) + chunk(b"IEND", b"")


def bmp32(pixels: np.ndarray, *, header_bytes: int = 124) -> bytes:
    """(H, W, 4) RGBA -> a BMP whose header (version 3, 4 or 5) names a mask for alpha."""
    height, width = pixels.shape[:2]
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    body = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    head = struct.pack("<IiiHHIIiiII", header_bytes, width, height, 1, 32, 3, len(body), 0, 0, 0, 0) + masks
    head = head.ljust(header_bytes, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body


def tiff(
    samples: np.ndarray,
    bits: int,
    photometric: int,
    *,
    extra: int | None = None,
    planes: bool = False,
    order: str = "<",
    palette: list[int] | None = None,
    orientation: int = 1,
    sample_format: int = 1,
    deflated: bool = False,
    tags: Sequence[tuple[int, str, list[int]]] = (),
) -> bytes:
    """(H, W, C) samples -> a TIFF (TIFF 6.0) of one strip, or one a plane."""
    height, width, count = samples.shape
    parts = [samples[:, :, i : i + 1] for i in range(count)] if planes else [samples]
    strips = [b"".join(packed_rows(part, bits, order)) for part in parts]
    if deflated:
        strips = [zlib.compress(strip) for strip in strips]
    body = b"".join(strips)
    entries: list[tuple[int, str, list[int]]] = [
        (256, "H", [width]),
        (257, "H", [height]),
        (258, "H", [bits] * count),
        (259, "H", [8 if deflated else 1]),
        (262, "H", [photometric]),
        (273, "I", [8 + sum(map(len, strips[:i])) for i in range(len(strips))]),
        (274, "H", [orientation]),
        (277, "H", [count]),
        (278, "H", [height]),
        (279, "I", [len(strip) for strip in strips]),
        (284, "H", [2 if planes else 1]),
        *([(320, "H", palette)] if palette is not None else []),
        *([(338, "H", [extra])] if extra is not None else []),
        (339, "H", [sample_format] * count),
        *tags,
    ]
    entries.sort()
    body += b"\0" * (len(body) % 2)
    at = 8 + len(body) + 2 + 12 * len(entries) + 4
    table, beyond = b"", b""
    for tag, kind, values in entries:
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        table += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(values))
        if len(packed) <= 4:
            table += packed.ljust(4, b"\0")
        else:
            table += struct.pack(f"{order}I", at + len(beyond))
            beyond += packed
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(entries)) + table + b"\0" * 4 + beyond


def segment(marker: int, body: bytes) -> bytes:
    """Of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
