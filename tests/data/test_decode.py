"""The decoder against hand-made pixels, for each mode, orientation and kind of broken file."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data import jpeg
from pipeline.data.decode import DecodeError, decode, inspect
from tests.data.stored import bmp32, chunk, encoded, png, segment, tiff

MANY = 1_000_000


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


@pytest.mark.parametrize("shape", [(701, 400), (3, 150_000), (300_000, 1)])
def test_alpha_of_large_pictures_of_every_shape(shape: tuple[int, int]) -> None:
    rgba = np.random.default_rng(1).integers(0, 256, (*shape, 4), dtype=np.uint8)
    flat = Image.new("RGB", shape[::-1], (0, 50, 250))
    flat.paste(Image.fromarray(rgba), mask=Image.fromarray(rgba).getchannel("A"))
    got = decode(encoded(Image.fromarray(rgba), "PNG", compress_level=1), background=(0, 50, 250), max_pixels=MANY)
    np.testing.assert_array_equal(got, np.asarray(flat))


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
    data = png(np.array([[[1000], [65535]]]), 16, 0, key=struct.pack(">H", 1000))
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
        (b"this is not an image, whatever its name", "not an image"),
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


# ---- sound pixels with something around them, and data that end early

LONG = 3 << 20
PACKED = zlib.compress(b"a" * LONG)
PNG_CHUNKS: dict[str, bytes] = {
    "tEXt": chunk(b"tEXt", b"k\0" + b"a" * LONG),
    "zTXt": chunk(b"zTXt", b"k\0\0" + PACKED),
    "iTXt": chunk(b"iTXt", b"k\0\1\0\0\0" + PACKED),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + PACKED),
    "Exif in a text": chunk(b"zTXt", b"Raw profile type exif\0\0" + PACKED),
    "iCCP": chunk(b"iCCP", b"k\0\0" + PACKED),
    "texts of 70 MB": b"".join(chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 1_000_000)) for _ in range(70)),
    "unknown": chunk(b"prVt", b"a" * LONG),
    "bad checksum": chunk(b"tEXt", b"k\0a")[:-1] + b"?",
}


@pytest.mark.parametrize("name", PNG_CHUNKS)
def test_png_with_long_chunks_around_sound_pixels(name: str) -> None:
    pixels = noise()
    data = encoded(Image.fromarray(pixels), "PNG")
    for at in (33, len(data) - 12):  # before the pixels and behind them
        np.testing.assert_array_equal(decode(data[:at] + PNG_CHUNKS[name] + data[at:], max_pixels=MANY), pixels)


@pytest.mark.parametrize("kind", [b"IDAT", b"tRNS", b"eXIf", b"tRnS", b"prVt", b"PLTE"])
def test_png_with_a_damaged_chunk_that_pixels_need_or_may_need_is_broken(kind: bytes) -> None:
    """A kind may be misspelt: what was tRNS is then one that nobody knows."""
    data = encoded(Image.fromarray(noise()), "PNG")
    damaged = chunk(kind, b"MM\0*\0\0\0\x08\0\0\0\0")[:-1] + b"?"
    with pytest.raises(DecodeError, match="does not match its checksum"):
        decode(data[:33] + damaged + data[33:], max_pixels=MANY)


def test_png_whose_data_are_changed_and_cut_is_broken() -> None:
    """Without the chunk's checksum zlib's own tells it."""
    data = bytearray(encoded(Image.fromarray(noise()), "PNG", compress_level=0)[:-16])
    data[200] ^= 1
    with pytest.raises(DecodeError, match="broken"):
        decode(bytes(data), max_pixels=MANY)


@pytest.mark.parametrize("where", ["eXIf", "text", "XMP"])
def test_png_is_turned_by_whatever_metadata_says_so(where: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = noise()
    data = encoded(Image.fromarray(np.ascontiguousarray(STORED[6](upright))), "PNG")
    said = {
        "eXIf": chunk(b"eXIf", exif.tobytes()[6:]),
        "text": chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n%8d\n" % len(exif.tobytes()) + exif.tobytes().hex().encode() + b"\n"),
        ),
        "XMP": chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta tiff:Orientation="6"/>'),
    }[where]
    np.testing.assert_array_equal(decode(data[:33] + said + data[33:], max_pixels=MANY), upright)


def test_png_without_its_end_chunk_or_its_checksums_is_whole() -> None:
    pixels = noise()
    data = encoded(Image.fromarray(pixels), "PNG")
    for lacking in (12, 6, 16):  # the end chunk, half of it, and the data's checksum with it
        np.testing.assert_array_equal(decode(data[:-lacking], max_pixels=MANY), pixels)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), [(0, 1), (0, 16), (2, 8), (2, 16), (3, 4), (6, 8)])
def test_png_whose_data_end_early_is_broken_and_one_that_is_black_is_not(
    colour: int, depth: int, interlaced: bool
) -> None:
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    palette = bytes(48) if colour == 3 else None
    rows = 3 + 3 + 2 + 5 + 4 + 9 + 8 if interlaced else 17
    black = np.zeros((17, 9, channels), dtype=np.int64)
    for samples in (noise(17, 9, channels).astype(np.int64) % (1 << depth), black):
        whole = png(samples, depth, colour, palette=palette, interlaced=interlaced)
        assert decode(whole, max_pixels=MANY).shape == (17, 9, 3)
        for held in (1, rows - 1):
            cut = png(samples, depth, colour, palette=palette, interlaced=interlaced, rows=held)
            with pytest.raises(DecodeError, match="before the last row"):
                decode(cut, max_pixels=MANY)


JPEG_SEGMENTS: dict[str, bytes] = {
    "comments": segment(0xFE, b"a" * 65_000) * 400,
    "profile": segment(0xE2, b"ICC_PROFILE\0\1\1" + b"a" * 65_000) * 40,
    "Photoshop": segment(0xED, b"Photoshop 3.0\0" + b"a" * 65_000) * 40,
    "long XMP": segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"a" * 65_000) * 40,
    "frames that aren't there": segment(0xE2, b"MPF\0II*\0\x08\0\0\0" + b"\xff" * 90),
    "garbage": segment(0xFE, b"") + b"\0\1\2",
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
def test_jpeg_with_long_segments_around_sound_pixels(name: str) -> None:
    data = encoded(Image.fromarray(noise()), "JPEG")
    plain = decode(data, max_pixels=MANY)
    for at in (2, data.rindex(b"\xff\xda")):
        np.testing.assert_array_equal(decode(data[:at] + JPEG_SEGMENTS[name] + data[at:], max_pixels=MANY), plain)


@pytest.mark.parametrize("fmt", ["WEBP", "TIFF", "GIF"])
def test_other_formats_with_long_metadata_around_sound_pixels(fmt: str) -> None:
    image = Image.fromarray(noise())
    options: dict[str, Any] = {
        "WEBP": {"lossless": True, "xmp": b"a" * LONG, "icc_profile": b"a" * LONG, "exif": b"Exif\0\0" + b"a" * LONG},
        "TIFF": {"icc_profile": b"a" * LONG, "description": "a" * LONG},
        "GIF": {"comment": b"a" * LONG},
    }[fmt]
    short = decode(encoded(image, fmt, **({"lossless": True} if fmt == "WEBP" else {})), max_pixels=MANY)
    data = encoded(image, fmt, **options)
    assert len(data) > LONG
    np.testing.assert_array_equal(decode(data, max_pixels=MANY), short)
    np.testing.assert_array_equal(decode(data + b"behind" * 1000, max_pixels=MANY), short)


JPEG_KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "subsampling": {"subsampling": 0},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "progressive restarts": {"progressive": True, "restart_marker_rows": 1},
}
PICTURES: dict[str, Callable[[], Image.Image]] = {
    "noise": lambda: Image.fromarray(noise(61, 75)),
    "grey": lambda: Image.fromarray(noise(61, 75)[:, :, 0]),
    "white": lambda: Image.new("RGB", (75, 61), "white"),
    "CMYK": lambda: Image.frombytes("CMYK", (75, 61), noise(61, 75, 4).tobytes()),
    "tiny": lambda: Image.fromarray(noise(1, 1)),
}


@pytest.mark.parametrize("kind", JPEG_KINDS)
@pytest.mark.parametrize("picture", PICTURES)
def test_jpeg_that_lacks_its_end_marker_alone_is_whole(picture: str, kind: str) -> None:
    data = encoded(PICTURES[picture](), "JPEG", **JPEG_KINDS[kind])
    with Image.open(io.BytesIO(data)) as image:
        plain = np.asarray(image.convert("RGB"))
    video = b"\0\0\0\x18ftypmp42" + b"\xff\xda\xff\xd8\xff\xd9" * 500
    for sound in (data, data[:-2], data[:-1], data[:-2] + b"\xff\xff", data + b"\0" * 99, data + video):
        np.testing.assert_array_equal(decode(sound, max_pixels=MANY), plain)


@pytest.mark.parametrize("kind", JPEG_KINDS)
@pytest.mark.parametrize("picture", ["noise", "grey", "CMYK"])
def test_jpeg_that_is_cut_in_its_data_is_broken_also_when_closed_again(picture: str, kind: str) -> None:
    data = encoded(PICTURES[picture](), "JPEG", **JPEG_KINDS[kind])
    scan = data.index(b"\xff\xda")
    start = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    for end in (start + 1, start + 50, *(int(start + (len(data) - start) * s) for s in (0.3, 0.6, 0.9)), len(data) - 6):
        for closing in (b"", b"\xff\xd9", b"\xff\xd9" + b"video" * 99):
            for side in (None, 7):  # fine detail that is not there counts at a part of the size too
                with pytest.raises(DecodeError, match="cut off"):
                    decode(data[:end] + closing, max_pixels=MANY, reduced_to=side)


def test_jpeg_that_ends_between_scans_is_broken() -> None:
    data = encoded(Image.fromarray(noise()), "JPEG", progressive=True)
    at = 0
    while (at := data.find(b"\xff\xda", at + 1)) >= 0:
        with pytest.raises(DecodeError):
            decode(data[:at] + b"\xff\xd9", max_pixels=MANY)


def test_jpeg_of_hundreds_of_scans_is_refused_at_once() -> None:
    data = encoded(Image.new("RGB", (2000, 2000), "white"), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xc4") : -2]
    assert decode(data[:-2] + last * 20 + data[-2:], max_pixels=5_000_000).shape == (2000, 2000, 3)
    started_s = time.perf_counter()
    with pytest.raises(DecodeError, match=r"more than 64 scans \(510\)"):
        decode(data[:-2] + last * 500 + data[-2:], max_pixels=5_000_000)
    assert time.perf_counter() - started_s < 0.5
    # Few enough scans, of too many pixels: the sizes are what the header says.
    size = data.index(b"\xff\xc2") + 5
    wide = data[:size] + struct.pack(">HH", 12_000, 12_000) + data[size + 4 :]
    with pytest.raises(DecodeError, match=r"20 scans of 12000 x 12000 pixels"):
        decode(wide[:-2] + last * 10, max_pixels=10**9)


def test_a_known_picture_is_not_looked_through_twice() -> None:
    data = encoded(Image.fromarray(noise()), "JPEG")
    np.testing.assert_array_equal(decode(data, max_pixels=MANY, known_whole=True), decode(data, max_pixels=MANY))


@pytest.mark.parametrize(
    ("data", "decoder"),
    [
        (png(noise()[:, :, :1] % 4, 2, 0, key=b"\0\1"), 2),
        (png(noise()[:, :, :1] % 16, 4, 0, key=b"\0\1"), 2),
        (png(noise(), 16, 2, key=bytes(6)), 2),
        (bmp32(noise(channels=4)), 2),
        (tiff(noise(), 16, 2, planes=True), 2),
        (png(noise()[:, :, :1] % 2, 1, 0, key=b"\0\1"), 1),
        (png(noise()[:, :, :1] % 4, 2, 0), 1),
        (png(noise(), 8, 2, key=bytes(6)), 1),
        (png(noise(), 16, 2), 1),
        (tiff(noise(), 16, 2), 1),
        (tiff(noise(), 8, 2, planes=True), 1),
        (encoded(Image.fromarray(noise()), "BMP"), 1),
        (encoded(Image.fromarray(noise()), "GIF"), 1),
        (encoded(Image.fromarray(noise()), "JPEG"), 1),
    ],
)
def test_whose_pixels_the_second_version_changed(data: bytes, decoder: int) -> None:
    assert inspect(data, max_pixels=MANY).decoder == decoder


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_a_12_bit_picture_in_16_bits_is_dark(colour: int) -> None:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    samples = np.random.default_rng(0).integers(0, 1 << 12, (9, 9, channels))
    if colour in (4, 6):
        samples[:, :, -1] = 65535
    assert inspect(png(samples, 16, colour), max_pixels=MANY).dark
    samples[3, 3, 0] = 1 << 12
    assert not inspect(png(samples, 16, colour), max_pixels=MANY).dark


def test_one_bright_pixel_at_the_end_of_a_large_picture_is_enough() -> None:
    samples = np.zeros((700, 400, 3), dtype=np.int64)
    assert inspect(png(samples, 16, 2), max_pixels=MANY).dark
    samples[-1, -1, 2] = 1 << 12
    assert not inspect(png(samples, 16, 2), max_pixels=MANY).dark


@pytest.mark.parametrize(("bits", "dark"), [(8, False), (16, True)])
@pytest.mark.parametrize("channels", [1, 3])
def test_which_tiffs_and_ppms_are_dark(channels: int, bits: int, dark: bool) -> None:
    samples = np.random.default_rng(0).integers(0, 16, (9, 9, channels))
    assert inspect(tiff(samples, bits, {1: 1, 3: 2}[channels]), max_pixels=MANY).dark == dark
    head = {1: b"P5", 3: b"P6"}[channels] + b" 9 9 %d\n" % ((1 << bits) - 1)
    body = samples.astype(f">u{bits // 8}").tobytes()
    assert inspect(head + body, max_pixels=MANY).dark == dark


def test_the_thumbnail_in_a_raw_file_is_not_its_picture(tmp_path: Path) -> None:
    plain, thumbnail = tiff(noise(), 8, 2), tiff(noise(), 8, 2, tags=[(254, "I", [1]), (330, "I", [8])])
    assert decode(plain, max_pixels=MANY).shape == decode(plain, max_pixels=MANY, name="1.tif").shape == (24, 40, 3)
    (tmp_path / "1.NEF").write_bytes(plain)
    for refused in (
        lambda: decode(tmp_path / "1.NEF", max_pixels=MANY),
        lambda: decode(plain, max_pixels=MANY, name="1.arw"),
    ):
        with pytest.raises(DecodeError, match=r"RAW \((NEF|ARW)\), which is not read: export them"):
            refused()
    with pytest.raises(DecodeError, match="RAW, which is not read"):
        decode(thumbnail, max_pixels=MANY)
    # A pyramid, whose smaller pictures lie below the whole one.
    assert decode(tiff(noise(), 8, 2, tags=[(330, "I", [8])]), max_pixels=MANY).shape == (24, 40, 3)


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


def test_a_video_behind_a_jpeg_is_not_read() -> None:
    """And a picture that is longer than what is read at once is read whole."""
    data = encoded(Image.fromarray(noise(2000, 3000)), "JPEG", quality=100, subsampling=0)
    assert len(data) > 8 << 20
    for piece in (1 << 10, 16 << 20):
        file = io.BytesIO(data + bytes(200 << 20))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jpeg, "_FIRST_BYTES", piece)
            found = jpeg.read(file)
        assert found is not None and (found.width, found.height, found.missing) == (3000, 2000, "")
        assert len(data) - 2000 < len(found.body) < len(data) and file.tell() < 5 * len(data)
