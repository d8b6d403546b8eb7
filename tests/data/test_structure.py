"""Headers and ends of files tell what a full decoding of an image that is cut off would, without its pixels."""

from __future__ import annotations

import io
import random
import zlib

import numpy as np
import pytest
from PIL import Image, features

from pipeline.data.decode import DecodeError, decode, inspect, is_broken
from tests.data.stored import chunk, encoded, png
from tests.reliability.images import seeds
from tests.reliability.mutate import mutated

MOST = 10_000
KINDS = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "gif": ("GIF", {}),
    "webp": ("WEBP", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "deflated": ("TIFF", {"compression": "tiff_deflate"}),
    "jpeg2000": ("JPEG2000", {}),
    "avif": ("AVIF", {}),
    "ppm": ("PPM", {}),
}
# Formats whose structure does not say it, so that they are decoded at once.
AT_ONCE = {"ppm"}


def stored(kind: str, **more: object) -> bytes:
    fmt, how = KINDS[kind]
    if fmt == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    pixels = np.random.default_rng(0).integers(0, 256, (44, 40, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), fmt, **how, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_image_is_known_by_its_structure(kind: str) -> None:
    data = stored(kind)
    seen = inspect(data, max_pixels=MOST)
    assert (seen.height, seen.width, seen.dark) == (*decode(data, max_pixels=MOST).shape[:2], False)
    assert seen.whole == (kind in AT_ONCE)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_off_is_refused_as_its_decoding_is(kind: str) -> None:
    data, rng = stored(kind), random.Random(0)
    for _ in range(40):
        cut = data[: rng.randrange(1, len(data) - 3)]
        try:
            decode(cut, max_pixels=MOST)
        except DecodeError as e:
            with pytest.raises(DecodeError) as found:
                inspect(cut, max_pixels=MOST)
            assert str(found.value) == str(e)
        else:
            inspect(cut, max_pixels=MOST)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp", "avif"])
def test_sizes_are_as_shown(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = stored(kind, exif=exif)
    seen = inspect(data, max_pixels=MOST)
    assert (seen.height, seen.width) == decode(data, max_pixels=MOST).shape[:2]


def test_a_picture_of_16_bits_is_decoded_to_see_how_dark_it_is() -> None:
    seen = inspect(png(np.full((9, 9, 1), 4000), 16, 0), max_pixels=MOST)
    assert seen.whole and seen.dark


def test_data_that_are_damaged_between_a_right_beginning_and_end_show_when_they_are_decoded() -> None:
    rows = zlib.compress(bytes(9 * 28))[:-8]
    header = chunk(b"IHDR", bytes([0, 0, 0, 9, 0, 0, 0, 9, 8, 2, 0, 0, 0]))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert not inspect(data, max_pixels=MOST).whole
    with pytest.raises(DecodeError) as found:
        decode(io.BytesIO(data), max_pixels=MOST)
    assert is_broken(str(found.value))


def test_too_many_pixels_are_refused_without_decoding() -> None:
    with pytest.raises(DecodeError, match="max_pixels") as found:
        inspect(stored("png"), max_pixels=100)
    assert not is_broken(str(found.value))


def test_what_can_be_decoded_is_never_refused_and_has_its_size() -> None:
    """Of mutants of all formats; what shows in the pixels alone is broken."""
    late = 0
    for name, data in seeds().items():
        for i in range(10):
            _, mutant = mutated(data, random.Random(f"{i} {name}"))
            try:
                shape = decode(mutant, max_pixels=MOST).shape
            except DecodeError as e:
                try:
                    inspect(mutant, max_pixels=MOST)
                except DecodeError as found:
                    assert str(found) == str(e)
                else:
                    late += is_broken(str(e))
                    assert is_broken(str(e))
            else:
                seen = inspect(mutant, max_pixels=MOST)
                assert (seen.height, seen.width) == shape[:2]
    assert late
