"""Mutants of images of every format that is read: a picture or a sentence comes out, and where a format has checksums
the right picture."""

from __future__ import annotations

import functools
import io
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from pipeline.data.decode import DecodeError, decode
from tests.reliability.child import Child
from tests.reliability.mutate import mutated
from tests.reliability.registry import Draw

MOST_PIXELS = 178_956_970


def draws(seed: int, count: int | None) -> Iterator[Draw]:
    """Without end, the seeds one after another."""
    pictures = seeds()
    right = {name: decode(data, max_pixels=MOST_PIXELS) for name, data in pictures.items()}

    def look(draw: str) -> str | None:
        name = draw.split()[1]
        kind, data = mutated(pictures[name], random.Random(f"{seed} {draw}"))
        try:
            pixels = decode(data, max_pixels=MOST_PIXELS)
        except DecodeError as e:
            return None if str(e).isprintable() and str(e) else f"a {kind} is refused without a sentence: {str(e)!r}"
        if not (pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3):
            return f"a {kind} gives pixels of {pixels.dtype} {pixels.shape}"
        if name.startswith("png") and not np.array_equal(pixels, right[name]):
            return f"a {kind} gives other pixels in silence"
        return None

    child = Child(look)
    for i in itertools.count():
        for name in pictures:
            draw = f"{i} {name}"
            yield Draw(draw, functools.partial(child.ask, draw))


def seeds() -> dict[str, bytes]:
    """About thirty small pictures by name, which begins with the format."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    rgb, smooth = Image.fromarray(noise), Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC)
    grey, alpha, palette = rgb.convert("L"), rgb.convert("RGBA"), rgb.quantize(16)
    alpha.putalpha(grey)
    deep = Image.fromarray(generator.integers(0, 65536, (24, 32), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 50)
    made: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "png-rgb": (rgb, "PNG", {}),
        "png-grey": (grey, "PNG", {}),
        "png-alpha": (alpha, "PNG", {}),
        "png-palette": (palette, "PNG", {"transparency": 3}),
        "png-deep": (deep, "PNG", {}),
        "png-bits": (rgb.convert("1"), "PNG", {}),
        "png-turned": (rgb, "PNG", {"exif": exif}),
        "png-keyed": (rgb, "PNG", {"transparency": tuple(map(int, noise[0, 0]))}),
        "png-text": (rgb, "PNG", {"pnginfo": text}),
        "jpeg": (smooth, "JPEG", {}),
        "jpeg-progressive": (smooth, "JPEG", {"progressive": True}),
        "jpeg-grey": (grey, "JPEG", {}),
        "jpeg-cmyk": (smooth.convert("CMYK"), "JPEG", {}),
        "jpeg-turned": (smooth, "JPEG", {"exif": exif}),
        "jpeg-restarts": (smooth, "JPEG", {"restart_marker_rows": 1}),
        "gif": (palette, "GIF", {}),
        "gif-moving": (palette, "GIF", {"save_all": True, "append_images": [grey.quantize(16)]}),
        "webp": (smooth, "WEBP", {}),
        "webp-lossless": (alpha, "WEBP", {"lossless": True}),
        "webp-moving": (rgb, "WEBP", {"save_all": True, "append_images": [smooth.resize((32, 24))]}),
        "tiff": (rgb, "TIFF", {}),
        "tiff-deflate": (rgb, "TIFF", {"compression": "tiff_deflate"}),
        "tiff-lzw": (alpha, "TIFF", {"compression": "tiff_lzw"}),
        "tiff-deep": (deep, "TIFF", {}),
        "tiff-jpeg": (smooth, "TIFF", {"compression": "jpeg"}),
        "tiff-fax": (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        "bmp": (rgb, "BMP", {}),
        "bmp-palette": (palette, "BMP", {}),
        "ppm": (rgb, "PPM", {}),
        "pgm": (grey, "PPM", {}),
        "jpeg2000": (smooth, "JPEG2000", {}),
        "avif": (smooth, "AVIF", {}),
        "mpo": (smooth, "MPO", {"save_all": True, "append_images": [smooth]}),
    }
    found = {}
    for name, (image, kind, settings) in made.items():
        saved = io.BytesIO()
        image.save(saved, kind, **settings)
        found[name] = saved.getvalue()
    return found
