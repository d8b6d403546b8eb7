"""Every format, depth, kind of transparency and orientation against libvips, a decoder that shares no code with Pillow
but the formats' own libraries; BMP, JPEG 2000 and PPM, which it doesn't read, against the values that were written.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.decode import DecodeError, decode
from tests.data.stored import bmp32, encoded, packed_rows, png, tiff

pyvips = pytest.importorskip("pyvips")

BACKGROUND = (10, 120, 230)
HEIGHT, WIDTH = 13, 21


def shown_by_vips(data: bytes) -> np.ndarray:
    """(H, W, 3) over the background."""
    image = pyvips.Image.new_from_buffer(data, "").autorot()
    largest = 65535 if image.format == "ushort" else 255
    if image.hasalpha():
        if image.bands == 2:
            image = image.colourspace("rgb16" if largest == 65535 else "srgb")
        image = image.flatten(background=[v * largest / 255 for v in BACKGROUND], max_alpha=largest)
    values = image.numpy().astype(float).reshape(image.height, image.width, -1) * (255 / largest)
    if image.interpretation == "cmyk":
        # Ink over ink on white, as Pillow and browsers without a profile do.
        values = (255 - values[:, :, :3]) * (255 - values[:, :, 3:]) / 255
    return np.broadcast_to(values, (*values.shape[:2], 3))


def shown(data: bytes) -> np.ndarray:
    return decode(data, background=BACKGROUND, max_pixels=1_000_000)


def assert_alike(data: bytes, by: float = 1) -> None:
    ours, theirs = shown(data), shown_by_vips(data)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= by


def noise(channels: int, bits: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << bits, (HEIGHT, WIDTH, channels), dtype=np.int64)


def smooth(channels: int) -> Image.Image:
    """What lossy formats keep."""
    small = np.random.default_rng(0).integers(0, 256, (4, 5, channels), dtype=np.uint8)
    bands = [Image.fromarray(small[:, :, i]).resize((53, 41), Image.Resampling.BICUBIC) for i in range(channels)]
    return Image.merge({1: "L", 3: "RGB", 4: "RGBA"}[channels], bands)


PNG_KINDS = [
    *((0, depth) for depth in (1, 2, 4, 8, 16)),
    *((3, depth) for depth in (1, 2, 4, 8)),
    *((colour, depth) for colour in (2, 4, 6) for depth in (8, 16)),
]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize(("colour", "depth"), PNG_KINDS)
def test_png(colour: int, depth: int, keyed: bool, interlaced: bool) -> None:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    samples = noise(channels, depth)
    key, palette = None, None
    if colour == 3:
        colours = min(1 << depth, 100)
        samples %= colours
        palette = noise(3)[:5].tobytes()[: 3 * colours]
        key = bytes(range(0, 250, 250 // colours))[:colours] if keyed else None
    elif keyed and colour in (0, 2):
        samples[::2, ::3] = samples[0, 0]
        key = struct.pack(f">{channels}H", *samples[0, 0])
        if depth == 16:
            samples[1, 1:4] = samples[0, 0] ^ 1  # the same upper byte, and not transparent
    elif keyed:
        pytest.skip("no colour can be transparent beside alpha")
    # 16 bits are cut to 8 before alpha is laid over, not after.
    assert_alike(png(samples, depth, colour, key=key, palette=palette, interlaced=interlaced), by=2.1)


TIFF_KINDS: list[dict[str, Any]] = [
    *({"photometric": p, "bits": b} for p in (0, 1) for b in (1, 2, 4, 8, 16)),
    *({"channels": 2, "photometric": 1, "bits": 8, "extra": e} for e in (1, 2)),
    *({"channels": 3, "photometric": 2, "bits": b, "planes": p} for b in (8, 16) for p in (False, True)),
    *({"channels": 4, "photometric": 2, "bits": b, "extra": e} for b in (8, 16) for e in (1, 2)),
    *({"channels": 4, "photometric": 2, "bits": b, "extra": 2, "planes": True} for b in (8, 16)),
    *({"channels": 4, "photometric": 5, "bits": b} for b in (8, 16)),
    {"channels": 4, "photometric": 5, "bits": 8, "planes": True},
    *({"photometric": 3, "bits": b} for b in (1, 2, 4, 8)),
]


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", TIFF_KINDS, ids=lambda k: "-".join(f"{name}{value}" for name, value in k.items()))
def test_tiff(kind: dict[str, Any], order: str, deflated: bool) -> None:
    options = dict(kind)
    bits = options.pop("bits")
    samples = noise(options.pop("channels", 1), bits)
    if options["photometric"] == 3:
        options["palette"] = (np.random.default_rng(1).integers(0, 256, 3 << bits) * 257).tolist()
    if options.get("extra") == 1:  # colours were multiplied by alpha
        samples[:, :, -1] = samples[:, :, -1] // 2 + (1 << bits) // 2
        samples[:, :, :-1] = samples[:, :, :-1] * samples[:, :, -1:] // ((1 << bits) - 1)
    data = tiff(samples, bits, order=order, deflated=deflated, **options)
    if (order, options["photometric"], bits) == (">", 0, 16):
        with pytest.raises(DecodeError):  # not read, and said
            shown(data)
        return
    # 16 bits are cut to 8 before alpha or ink is laid over, not after.
    assert_alike(data, by=3.1 if options.get("extra") == 1 else 2.1)


@pytest.mark.parametrize("planes", [False, True])
def test_tiff_whose_fourth_channel_is_no_alpha(planes: bool) -> None:
    samples = noise(4)
    data = tiff(samples, 8, 2, extra=0, planes=planes)
    if planes:
        with pytest.raises(DecodeError):
            shown(data)
    else:
        np.testing.assert_array_equal(shown(data), samples[:, :, :3])


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_of_signed_values_is_refused_since_their_range_is_unknown(bits: int) -> None:
    with pytest.raises(DecodeError, match="unknown range"):
        shown(tiff(noise(1, bits), bits, 1, sample_format=2))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw", "predictor": "horizontal"},
        {"compression": "deflate", "predictor": "horizontal", "tile": True, "tile_width": 16, "tile_height": 16},
        {"compression": "packbits"},
        {"compression": "deflate", "bigtiff": True},
        {"compression": "jpeg", "Q": 95},
        {"tile": True, "tile_width": 16, "tile_height": 16, "pyramid": True},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (4, 8), (1, 16), (3, 16), (4, 16)])
def test_tiff_as_vips_writes_it(channels: int, bits: int, options: dict[str, Any]) -> None:
    if options.get("compression") == "jpeg" and (bits == 16 or channels == 4):
        pytest.skip("there is no such TIFF")
    values = np.asarray(smooth(channels)).reshape(41, 53, channels).astype(f"u{bits // 8}")
    image = pyvips.Image.new_from_array(values * 257 if bits == 16 else values)
    colours = {1: "b-w", 3: "srgb", 4: "srgb"} if bits == 8 else {1: "grey16", 3: "rgb16", 4: "rgb16"}
    image = image.copy(interpretation=colours[channels])
    assert_alike(image.write_to_buffer(".tif", **options), by=2.1)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(mode: str, subsampling: int, progressive: bool) -> None:
    image = smooth({"L": 1, "RGB": 3, "CMYK": 4}[mode])
    image = Image.frombytes("CMYK", image.size, image.tobytes()) if mode == "CMYK" else image
    # Decoders round the inverse transform and enlarge colour differences each in its own way.
    assert_alike(encoded(image, "JPEG", quality=90, subsampling=subsampling, progressive=progressive), by=6)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    ("fmt", "options", "by"),
    [
        ("WEBP", {"lossless": True, "exact": True}, 1),
        ("WEBP", {"quality": 95}, 3),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, 3),
    ],
)
def test_webp_and_avif(fmt: str, options: dict[str, Any], by: float, channels: int) -> None:
    assert_alike(encoded(smooth(channels), fmt, **options), by)


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("transparency", [None, 5])
def test_gif(transparency: int | None, interlaced: int) -> None:
    image = Image.fromarray((noise(1)[:, :, 0] % 64).astype(np.uint8), "P")
    image.putpalette(noise(3).astype(np.uint8).tobytes()[:192])
    options = {} if transparency is None else {"transparency": transparency}
    assert_alike(encoded(image, "GIF", interlace=interlaced, **options))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_orientation(fmt: str, mode: str, orientation: int) -> None:
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1}[mode]
    image = smooth(channels)
    if (mode == "RGBA" and fmt == "JPEG") or (mode == "I;16" and fmt not in ("PNG", "TIFF")):
        pytest.skip("there is no such file")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": "4:4:4"} if fmt in ("JPEG", "AVIF") else {}
    data = encoded(image, fmt, exif=exif, **options)
    assert_alike(data, by={"JPEG": 6, "AVIF": 8, "WEBP": 3}.get(fmt, 2.1))
    assert shown(data).shape[:2] == ((53, 41) if orientation > 4 else (41, 53))


# ---- what libvips doesn't read, against the values that were written


@pytest.mark.parametrize("header_bytes", [56, 108, 124])
@pytest.mark.parametrize("alpha", ["mixed", "zero everywhere", "zero but once"])
def test_bmp_of_32_bits(alpha: str, header_bytes: int) -> None:
    pixels = noise(4).astype(np.uint8)
    if alpha != "mixed":
        pixels[:, :, 3] = 0
    if alpha == "zero but once":
        pixels[0, 0, 3] = 255
    got = shown(bmp32(pixels, header_bytes=header_bytes))
    # Programs that know no alpha leave the byte at 0.
    share = np.ones((HEIGHT, WIDTH, 1)) if alpha == "zero everywhere" else pixels[:, :, 3:] / 255
    assert np.abs(got - (pixels[:, :, :3] * share + np.array(BACKGROUND) * (1 - share))).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_bmp_and_dib(mode: str) -> None:
    image = Image.fromarray(noise(3).astype(np.uint8)).convert(mode)
    for fmt in ("BMP", "DIB"):
        np.testing.assert_array_equal(shown(encoded(image, fmt)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_jpeg_2000(mode: str) -> None:
    image = Image.fromarray(noise(3).astype(np.uint8)).convert(mode)
    np.testing.assert_array_equal(shown(encoded(image, "JPEG2000")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("largest", [1, 100, 255, 1000, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_ppm(kind: str, largest: int) -> None:
    samples = noise(3 if kind in ("P3", "P6") else 1, 16) % (largest + 1)
    plain = b" ".join(b"%d" % v for v in samples.ravel())
    body = plain if kind in ("P2", "P3") else b"".join(packed_rows(samples, 16 if largest > 255 else 8))
    got = shown(f"{kind}\n{WIDTH} {HEIGHT}\n{largest}\n".encode() + body)
    assert np.abs(got - samples * 255 / largest).max() <= 1


@pytest.mark.parametrize("left", [0, 3])
def test_gif_smaller_than_its_canvas_shows_the_background_beside_it(left: int) -> None:
    image = Image.fromarray((noise(1)[:, :, 0] % 64).astype(np.uint8), "P")
    image.putpalette(noise(3).astype(np.uint8).tobytes()[:192])
    data = bytearray(encoded(image, "GIF"))
    data[6:10] = struct.pack("<HH", WIDTH + 5, HEIGHT + 4)
    data[data.index(b"\x2c\0\0\0\0") + 1] = left
    expected = np.full((HEIGHT + 4, WIDTH + 5, 3), BACKGROUND, dtype=np.uint8)
    expected[:HEIGHT, left : left + WIDTH] = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(shown(bytes(data)), expected)
