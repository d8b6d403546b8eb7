"""The decoder against hand-made pixels, for each mode, orientation and kind of broken file."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.decode import DecodeError, decode

MANY = 1_000_000


def encoded(image: Image.Image, fmt: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def noise(height: int = 24, width: int = 40, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "PPM", "TIFF"])
def test_rgb_comes_back_exactly_from_path_bytes_and_file(fmt: str, tmp_path: Path) -> None:
    pixels = noise()
    data = encoded(Image.fromarray(pixels), fmt)
    path = tmp_path / "no suffix"
    path.write_bytes(data)
    for source in (data, path, str(path), io.BytesIO(data)):
        got = decode(source, max_pixels=MANY)
        assert got.dtype == np.uint8 and got.flags.c_contiguous
        np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_is_repeated(mode: str) -> None:
    grey = Image.fromarray(noise()[:, :, 0]).convert(mode)
    got = decode(encoded(grey, "PNG"), max_pixels=MANY)
    np.testing.assert_array_equal(got, np.repeat(np.asarray(grey.convert("L"))[:, :, None], 3, axis=2))


def test_palette_is_looked_up() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.putpixel((1, 0), 1)
    got = decode(encoded(palette, "PNG"), max_pixels=MANY)
    np.testing.assert_array_equal(got, [[[10, 20, 30], [200, 100, 0]]])


def test_alpha_is_over_the_background() -> None:
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], dtype=np.uint8)
    got = decode(encoded(Image.fromarray(rgba), "PNG"), background=(0, 50, 250), max_pixels=MANY)
    # 51 / 255 = 1 / 5
    np.testing.assert_array_equal(got, [[[200, 100, 0], [0, 50, 250], [40, 60, 200]]])


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA", "P"])
def test_every_kind_of_transparency_shows_the_background(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (3, 2), 1)
        image.putpalette([0, 0, 0, 9, 9, 9])
        data = encoded(image, "PNG", transparency=1)
    else:
        data = encoded(Image.new(mode, (3, 2)), "TIFF" if mode == "PA" else "PNG")
    got = decode(data, background=(1, 2, 3), max_pixels=MANY)
    np.testing.assert_array_equal(got, np.broadcast_to([1, 2, 3], (2, 3, 3)))


def test_cmyk_jpeg() -> None:
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # cyan ink alone
    got = decode(encoded(image, "JPEG", quality=100), max_pixels=MANY).astype(int)
    assert np.all(abs(got - [0, 255, 255]) <= 3)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(fmt: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    got = decode(encoded(Image.fromarray(values), fmt), max_pixels=MANY)
    # v / 257, rounded
    np.testing.assert_array_equal(got[0, :, 0], [0, 0, 1, 1, 128, 255])
    assert np.all(got == got[:, :, :1])


def test_big_endian_16_bit_tiff() -> None:
    values = np.array([[0, 257 * 7, 65535]], dtype=">u2")
    data = encoded(Image.frombytes("I;16B", (3, 1), values.tobytes()), "TIFF")
    assert decode(data, max_pixels=MANY)[0, :, 0].tolist() == [0, 7, 255]


def test_16_bit_grey_png_with_a_transparent_value() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"\0" + struct.pack(">2H", 1000, 65535)
    head = struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"tRNS", struct.pack(">H", 1000))
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    got = decode(data, background=(1, 2, 3), max_pixels=MANY)
    assert got.tolist() == [[[1, 2, 3], [255, 255, 255]]]


@pytest.mark.parametrize(("photometric", "shown"), [(1, [0, 255]), (0, [255, 0])])
def test_16_bit_tiff_where_white_is_zero(photometric: int, shown: list[int]) -> None:
    assert (
        decode(_tiff16(photometric, bits=16, body=struct.pack("<2H", 0, 65535)), max_pixels=MANY)[0, :, 0].tolist()
        == shown
    )


def test_12_bit_tiff_uses_its_whole_range() -> None:
    # two 12-bit values, 0xFFF and 0x000, most significant bits first
    assert decode(_tiff16(1, bits=12, body=b"\xff\xf0\x00"), max_pixels=MANY)[0, :, 0].tolist() == [255, 0]


def _tiff16(photometric: int, *, bits: int, body: bytes) -> bytes:
    """An uncompressed little-endian TIFF of 2 x 1 grey pixels (TIFF 6.0, section 2)."""
    tags = [
        (256, 2),
        (257, 1),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, len(body)),
    ]
    at = 8 + len(body) + len(body) % 2
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return (
        b"II*\0"
        + struct.pack("<I", at)
        + body.ljust(at - 8, b"\0")
        + struct.pack("<H", len(tags))
        + entries
        + b"\0" * 4
    )


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_values_are_refused_since_their_range_is_unknown(mode: str) -> None:
    with pytest.raises(DecodeError, match="32-bit"):
        decode(encoded(Image.new(mode, (2, 2)), "TIFF"), max_pixels=MANY)


# The definition (EXIF 2.32, tag 0x0112): what the stored rows and columns show, for the upright image `a`.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(fmt: str, orientation: int) -> None:
    upright = noise()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"lossless": True, "exact": True} if fmt == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(stored, fmt, exif=exif, **options), max_pixels=MANY), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_counts_as_none() -> None:
    pixels = noise()
    data = encoded(Image.fromarray(pixels), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data, max_pixels=MANY), pixels)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(fmt: str) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode(data, max_pixels=MANY), np.broadcast_to([255, 0, 0], (8, 8, 3)))


@pytest.mark.parametrize("fmt", ["AVIF", "HEIF", "WEBP", "JPEG", "JPEG2000"])
def test_lossy_formats_come_near(fmt: str) -> None:
    if fmt == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    smooth = np.linspace(0, 255, 64)[None, :, None] * np.ones((48, 1, 3))
    got = decode(encoded(Image.fromarray(smooth.astype(np.uint8)), fmt), max_pixels=MANY)
    assert got.shape == (48, 64, 3)
    assert np.abs(got - smooth).mean() < 4


@pytest.mark.parametrize(
    ("side", "shape"), [(None, (400, 600)), (401, (400, 600)), (200, (200, 300)), (51, (100, 150)), (1, (50, 75))]
)
def test_reduced_jpeg_keeps_both_sides_above(side: int | None, shape: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", (600, 400), (200, 30, 30)), "JPEG")
    got = decode(data, max_pixels=MANY, reduced_to=side)
    assert got.shape == (*shape, 3)
    assert np.abs(got.astype(int) - [200, 30, 30]).max() <= 3


def test_reducing_leaves_other_formats_whole() -> None:
    assert decode(encoded(Image.fromarray(noise()), "PNG"), max_pixels=MANY, reduced_to=1).shape == (24, 40, 3)


# ---- broken files


@pytest.mark.parametrize("fmt", ["JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF", "PNG"])
@pytest.mark.parametrize("kept", [0.001, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_an_error_not_grey(fmt: str, kept: float) -> None:
    data = encoded(Image.fromarray(noise()), fmt)
    with pytest.raises(DecodeError):
        decode(data[: int(len(data) * kept)], max_pixels=MANY)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"this is no image, whatever its name", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),  # would start Ghostscript
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "."),
        (b"GIF89a" + b"\xff" * 30, "."),
    ],
)
def test_what_is_no_image_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(data, max_pixels=MANY)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"])
def test_any_flipped_byte_gives_pixels_or_a_decode_error(fmt: str) -> None:
    data = bytearray(encoded(Image.fromarray(noise(8, 8)), fmt))
    outcomes = set()
    for at in range(0, len(data), max(1, len(data) // 60)):
        hurt = bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            outcomes.add(decode(hurt, max_pixels=MANY).ndim)
        except DecodeError:
            outcomes.add("error")
    assert "error" in outcomes and outcomes <= {3, "error"}


def test_more_than_max_pixels_is_a_bomb_before_anything_is_decoded() -> None:
    data = encoded(Image.fromarray(noise(20, 10)), "PNG")
    assert decode(data, max_pixels=200).shape == (20, 10, 3)
    with pytest.raises(DecodeError, match=r"10 x 20 .* max_pixels \(199\)"):
        decode(data, max_pixels=199)
    # 50,000 x 50,000 promised by the header alone: Pillow's own limit holds whatever max_pixels says
    huge = data[:16] + struct.pack(">II", 50_000, 50_000) + data[24:29] + struct.pack(">I", 0) + data[33:]
    huge = huge[:29] + struct.pack(">I", zlib.crc32(huge[12:29])) + huge[33:]
    with pytest.raises(DecodeError, match="bomb"):
        decode(huge, max_pixels=10**12)


def test_limits_are_not_pillows_global_ones() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode(encoded(Image.fromarray(noise()), "PNG"), max_pixels=MANY)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_missing_file_is_a_decode_error(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="No such file"):
        decode(tmp_path / "gone.png", max_pixels=MANY)


def test_heic_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from pipeline.data import decode as module

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    module._formats_with_heif.cache_clear()
    with pytest.raises(DecodeError, match=r"cnn-codes\[heic\]"):
        decode(b"\0\0\0\x18ftypheic" + b"\0" * 40, max_pixels=MANY)
