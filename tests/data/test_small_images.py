"""Pictures of a few bytes that ask for much: refused by their length, or read without what makes them slow."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.base.budget import FREE_PIXELS, PIXELS_OF_A_BYTE
from pipeline.data import cost
from pipeline.data.decode import DecodeError, decode
from tests import small_files
from tests.data import stored

MOST = 178_956_970


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_more_pixels_than_a_file_of_its_length_may_have(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """With a smaller floor, so that the picture can be small too."""
    monkeypatch.setattr("pipeline.base.budget.FREE_PIXELS", 10_000)
    monkeypatch.setattr("pipeline.base.budget.PIXELS_OF_A_BYTE", 0.001)
    saved = io.BytesIO()
    Image.new("RGB", (200, 200)).save(saved, kind)
    with pytest.raises(DecodeError, match=r"it has [0-9,]+ bytes and asks for 200 x 200 pixels, more than"):
        decode(saved.getvalue(), max_pixels=MOST)
    assert cost.look(saved.getvalue(), max_pixels=MOST).bytes == 0
    saved.seek(0)
    Image.new("RGB", (90, 90)).save(saved, kind)
    assert decode(saved.getvalue(), max_pixels=MOST).shape == (90, 90, 3)


def test_a_png_of_169_million_pixels_in_half_a_megabyte() -> None:
    """It took 1.6 GB. A picture of one colour as large as a poster is read."""
    with pytest.raises(DecodeError, match="asks for 13000 x 13000 pixels, more than 50 million and 50 for each byte"):
        decode(small_files.png(13_000, 13_000, length=493_000), max_pixels=MOST)
    assert FREE_PIXELS + PIXELS_OF_A_BYTE * 1_100_000 > 10_000**2


def test_deep_pixels_count_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG of 2.6 MB with 178 million pixels of 64 bits took over 20 s."""
    header = struct.pack(">IIBBBBB", 13_300, 13_300, 16, 6, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", bytes(2_600_000)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(small_files.chunk(*part) for part in parts)
    with pytest.raises(DecodeError, match=r"asks for 13300 x 13300 pixels \(each counts as 2.7\), more than"):
        decode(data, max_pixels=MOST)
    assert cost.look(data, max_pixels=MOST).bytes == 0
    monkeypatch.setattr("pipeline.base.budget.FREE_PIXELS", 100)
    monkeypatch.setattr("pipeline.base.budget.PIXELS_OF_A_BYTE", 0)
    for depth, colour, work in ((1, 0, 1), (8, 2, 1), (8, 6, 4 / 3), (16, 0, 1), (16, 2, 2), (16, 6, 8 / 3)):
        count = {0: 1, 2: 3, 6: 4}[colour]
        most = int(100 / work)
        assert decode(stored.png(np.zeros((1, most, count), int), depth, colour), max_pixels=MOST).shape[1] == most
        with pytest.raises(DecodeError, match="more than"):
            decode(stored.png(np.zeros((1, most + 1, count), int), depth, colour), max_pixels=MOST)


@pytest.mark.parametrize(("mode", "most"), [("L", 100), ("RGB", 33), ("RGBA", 25)])
def test_each_band_of_jpeg_2000_counts(mode: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.base.budget.FREE_PIXELS", 100)
    monkeypatch.setattr("pipeline.base.budget.PIXELS_OF_A_BYTE", 0)
    assert decode(stored.encoded(Image.new(mode, (1, most)), "JPEG2000"), max_pixels=MOST).shape[0] == most
    with pytest.raises(DecodeError, match="more than"):
        decode(stored.encoded(Image.new(mode, (1, most + 1)), "JPEG2000"), max_pixels=MOST)


def test_a_thousand_packed_texts_are_not_unpacked() -> None:
    text = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(1 << 20))
    extra = small_files.chunk(b"iTXt", text) * 1000
    assert not np.any(decode(small_files.png(8, 8, extra), max_pixels=MOST))


def test_how_a_picture_is_turned_is_still_told() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = small_files.chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    noise = small_files.chunk(b"tEXt", b"Comment\0x") * 100
    assert decode(small_files.png(8, 4, noise + extra), max_pixels=MOST).shape == (8, 4, 3)


@pytest.mark.parametrize("length", [3, 2**31 - 1])
def test_a_chunk_of_any_length_claims_no_memory(length: int) -> None:
    data = small_files.png(8, 8, struct.pack(">I", length) + b"abCd" + b"x" * 9)
    with pytest.raises(DecodeError):
        decode(data, max_pixels=MOST)
