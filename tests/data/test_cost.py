"""What decoding takes is told from the header: never less than it takes, and not much more."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from pipeline.data import cost
from pipeline.data.decode import decode
from tests import peak
from tests.data.stored import chunk, png

WIDTH, HEIGHT = 2000, 1500
SMOOTH = np.random.default_rng(0).integers(0, 256, (HEIGHT // 25, WIDTH // 25, 4), dtype=np.uint8)


def picture(mode: str) -> Image.Image:
    rgba = Image.fromarray(SMOOTH).resize((WIDTH, HEIGHT))
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgba.convert("L")).astype(np.uint16) * 257)
    return rgba.convert("RGB").convert(mode) if mode in ("P", "1", "CMYK") else rgba.convert(mode)


def written(mode: str, kind: str, options: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    picture(mode).save(out, kind, **options)
    return out.getvalue()


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("RGB", "JPEG", {}),
    ("RGB", "JPEG", {"progressive": True, "subsampling": 0, "quality": 95}),
    ("CMYK", "JPEG", {}),
    ("L", "JPEG", {}),
    ("RGB", "PNG", {}),
    ("RGBA", "PNG", {}),
    ("LA", "PNG", {}),
    ("P", "PNG", {"transparency": 3}),
    ("1", "PNG", {}),
    ("I;16", "PNG", {}),
    ("I;16", "TIFF", {}),
    ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    ("CMYK", "TIFF", {}),
    ("P", "GIF", {}),
    ("RGB", "BMP", {}),
    ("RGB", "WEBP", {"method": 0}),
    ("RGBA", "WEBP", {"method": 0}),
    ("RGB", "WEBP", {"method": 0, "lossless": True}),
    ("RGB", "JPEG2000", {}),
    ("RGBA", "JPEG2000", {}),
    ("RGB", "AVIF", {"speed": 10}),
]


def taken_by_decoding(data: bytes) -> int:
    """Bytes; what the decoder loads when it is first called is not of the image."""

    def run() -> None:
        decode(data, max_pixels=WIDTH * HEIGHT)

    return peak.of(run, warm=run)


@pytest.mark.parametrize(("mode", "kind", "options"), CASES, ids=str)
def test_the_header_tells_what_decoding_takes(mode: str, kind: str, options: dict[str, Any]) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = written(mode, kind, options)
    told = cost.look(data, max_pixels=WIDTH * HEIGHT)
    assert (told.width, told.height) == (WIDTH, HEIGHT)
    taken = taken_by_decoding(data)
    assert told.bytes / 3 < taken < told.bytes + (4 << 20)
    assert told.bytes <= len(data) + WIDTH * HEIGHT * cost.MOST_BYTES_A_PIXEL


@pytest.mark.parametrize("keyed", [False, True])
def test_the_header_of_16_bit_rgb_tells_what_decoding_takes(keyed: bool) -> None:
    samples = np.asarray(picture("RGB")).astype(np.int64) * 257
    data = png(samples, 16, 2, key=bytes(6) if keyed else None)
    told = cost.look(data, max_pixels=WIDTH * HEIGHT)
    taken = taken_by_decoding(data)
    assert told.bytes / 3 < taken < told.bytes + (4 << 20)


def test_chunks_around_the_pixels_do_not_hide_what_they_take() -> None:
    plain = written("RGB", "PNG", {})
    data = plain[:33] + chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(3 << 20))) + plain[33:]
    assert cost.look(data, max_pixels=WIDTH * HEIGHT).bytes >= cost.look(plain, max_pixels=WIDTH * HEIGHT).bytes


def test_a_file_is_left_at_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(written("L", "PNG", {}))
    with (tmp_path / "a.png").open("rb") as file:
        assert cost.look(file, max_pixels=WIDTH * HEIGHT).bytes
        assert file.tell() == 0


def test_a_reduced_jpeg_takes_less_and_coefficients_all_the_same() -> None:
    def told(reduced_to: int | None, **options: Any) -> cost.Header:
        return cost.look(written("RGB", "JPEG", options), max_pixels=WIDTH * HEIGHT, reduced_to=reduced_to)

    assert (told(200).width, told(200).height) == (WIDTH // 4, HEIGHT // 4)
    assert told(200).bytes < told(None).bytes / 5
    assert told(200, progressive=True).bytes > WIDTH * HEIGHT * 6


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\nand no more"])
def test_what_the_decoder_refuses_takes_nothing(data: bytes) -> None:
    assert cost.look(data, max_pixels=100).bytes == 0


def test_too_many_pixels_are_left_to_the_decoder() -> None:
    assert cost.look(written("L", "PNG", {}), max_pixels=WIDTH * HEIGHT - 1).bytes == 0
