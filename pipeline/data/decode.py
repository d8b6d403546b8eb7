"""The one image decoder: whatever Pillow reads becomes 8-bit RGB, or a DecodeError that says why not.

What is shown is what a viewer shows: the first frame, turned as EXIF says, over a background where it is transparent.
Embedded colour profiles are ignored: values are taken as sRGB, as the networks' training images were.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError, _imaging
from PIL.ImageFile import ImageFile

from pipeline.base import budget
from pipeline.data import colours, jpeg, jpeg2000, kinds, png, structure
from pipeline.data.colours import Pixels
from pipeline.data.jpeg import Jpeg
from pipeline.data.jpeg2000 import Jpeg2000
from pipeline.data.png import Png

# Formats that state their size up front and run no foreign program. Others (EPS, PDF, ICO, ...) are refused.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_ORIENTATION_TAG = 0x0112

# libjpeg goes over the whole picture once a scan, and a scan can be a few bytes long. Encoders make about ten.
_MOST_SCANS = 64
_MOST_SCANNED_PIXELS = 1 << 31
_BAND_ROWS = 64
# Put behind a JPEG's data to see whether pixels depend on it. Against the zeros that libjpeg puts there itself.
_OTHER_END = bytes(range(0xB5, 0x75, -1)) + jpeg.END


_T = TypeVar("_T")


# How the reason begins where a file says that it is an image of a kind that is read, and its pixels are not all there.
_BROKEN = "broken: "


class DecodeError(Exception):
    """A file that is not a readable image; `str()` is the reason in words, without the path."""


class Seen(NamedTuple):
    """What is known of an image, whose pixels may not have been looked at. `height`, `width` in pixels as shown;
    `decoder`: the version that its pixels are of (see `colours.VERSION`); `whole`: it was decoded; `dark`: 16 bit
    values of which none needs more than 12 bits.
    """

    height: int
    width: int
    decoder: int
    whole: bool = False
    dark: bool = False


def decode(
    source: str | Path | bytes | BinaryIO,
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int,
    reduced_to: int | None = None,
    known_whole: bool = False,
    of_a_guest: bool = False,
    name: str = "",
) -> Pixels:
    """An image file, its bytes or an open file -> (H, W, 3) uint8 RGB, C-contiguous.

    `background` is the RGB, 0..255, under transparent pixels. `reduced_to` lets libjpeg decode a JPEG at 1/2, 1/4 or
    1/8, the least that keeps both sides at `reduced_to` pixels or more; other formats come whole. 16-bit grey is scaled
    by 255/65535, not clipped. `known_whole`: the same bytes were decoded before, so that data which end early need not
    be looked for (a JPEG is decoded twice for that). `of_a_guest`: a JPEG 2000 may have less work in it. `name`: of the
    file, where `source` isn't its path; some RAW files are known by it alone. Raises DecodeError on any file that
    can't be shown whole: empty, truncated, not an image, of a format or mode that is not read here (such as RAW, whose
    first picture is a thumbnail), of more pixels than a file of its length may have, or of more than `max_pixels`
    (Pillow's own limit, twice `Image.MAX_IMAGE_PIXELS`, holds above that).
    """
    read = functools.partial(
        _decode,
        name=name or (str(source) if isinstance(source, str | Path) else ""),
        background=background,
        max_pixels=max_pixels,
        reduced_to=reduced_to,
        known_whole=known_whole,
        of_a_guest=of_a_guest,
    )
    return _opened(source, read).pixels


def inspect(source: str | Path | bytes | BinaryIO, *, max_pixels: int) -> Seen:
    """What header and structure tell of an image. It is decoded if they don't show that it ends where it should, how it
    is turned or, where it has 16 bits, how dark it is.

    Raises DecodeError as `decode` does, but for what shows in the pixels of an image alone.
    """

    def look(file: BinaryIO) -> Seen:
        with _image(file, name="", max_pixels=max_pixels) as (image, about, layout):
            colours.require_range(image)
            told = structure.is_whole(file, image, about) and not structure.is_turned_late(image, about)
            if told and layout.bits != 16:
                # Not Pillow's own of PNG, which loads the pixels to find what is behind them.
                turned = _TURNS[_orientation(image, Image.Image.getexif)][0]
                width, height = image.size[::-1] if turned else image.size
                return Seen(height, width, layout.decoder)
        file.seek(0)
        pixels, decoder, dark = _decode(file, max_pixels=max_pixels)
        height, width, _ = pixels.shape
        return Seen(height, width, decoder, whole=True, dark=dark)

    return _opened(source, look)


class _Decoded(NamedTuple):
    pixels: Pixels
    decoder: int
    dark: bool


def _opened(source: str | Path | bytes | BinaryIO, read: Callable[[BinaryIO], _T]) -> _T:
    if isinstance(source, bytes):
        return read(io.BytesIO(source))
    if not isinstance(source, str | Path):
        return read(source)
    try:
        with Path(source).open("rb") as file:
            return read(file)
    except OSError as e:
        raise DecodeError(f"can't be read: {e.strerror or e}") from e


def _decode(
    file: BinaryIO,
    *,
    name: str = "",
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int,
    reduced_to: int | None = None,
    known_whole: bool = False,
    of_a_guest: bool = False,
) -> _Decoded:
    opened = _image(file, name=name, max_pixels=max_pixels, reduced_to=reduced_to, of_a_guest=of_a_guest)
    with opened as (image, about, layout):
        image.load()
        if not known_whole:
            _require_whole(image, about, reduced=reduced_to is not None)
        # After load, since PNG may hold its EXIF behind the pixels and TIFF is turned by load itself.
        turn = _orientation(image)
        pixels = colours.to_rgb(image, background, layout)
        dark = colours.is_dark(image, layout)
        return _Decoded(np.ascontiguousarray(_turn(pixels, turn)), layout.decoder, dark)


@contextlib.contextmanager
def _image(
    file: BinaryIO, *, name: str, max_pixels: int, reduced_to: int | None = None, of_a_guest: bool = False
) -> Iterator[tuple[ImageFile, Png | Jpeg | Jpeg2000 | None, colours.Layout]]:
    """A file that may be decoded, opened and not loaded. Whatever fails inside is a DecodeError."""
    head = file.read(kinds.HEAD_BYTES)
    file.seek(0)
    if not head:
        raise DecodeError("empty file")
    if kinds.is_raw(name, head):
        raise DecodeError(kinds.judge(name, head, "").reason)
    formats = formats_of(head)
    try:
        image_file, about = what_pixels_need(file, head, max_pixels, of_a_guest=of_a_guest)
        with Image.open(image_file, formats=formats) as image:
            _require_size(*image.size, max_pixels)
            require_proportion(*image.size, file, work=work_of_a_pixel(image, about))
            if reduced_to is not None and image.format in ("JPEG", "MPO"):
                image.draft(None, (reduced_to, reduced_to))
            yield image, about, colours.layout(image, about if isinstance(about, Png) else None)
    except DecodeError:
        raise
    except colours.ModeError as e:
        raise DecodeError(str(e)) from e
    except UnidentifiedImageError:
        raise DecodeError("not an image of a format that is read here, or cut off in its first bytes") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise DecodeError(f"decompression bomb: {e}") from e
    except Exception as e:  # Pillow's parsers raise whatever a broken file makes them trip over; one row, not the run
        raise DecodeError(f"{_BROKEN}{' '.join(str(e).split()) or type(e).__name__}") from e


def is_broken(reason: str) -> bool:
    """Whether a DecodeError says of an image that was listed that its pixels are not all there."""
    return reason.startswith(_BROKEN)


@functools.cache
def _formats() -> list[str]:
    Image.init()
    _silence_tiff()
    return [f for f in FORMATS if f in Image.OPEN]


def _silence_tiff() -> None:
    """Keeps libtiff, and Pillow's log of TIFFs, from writing to stderr what the exception that follows says too.

    Pillow has no setting for libtiff: it turns off its warnings, not its errors. The symbol of Pillow's extension is
    looked up in the libraries that it was linked with, so that this is the libtiff which Pillow calls. Where that is
    linked in without its names, its lines are shown and nothing else changes.
    """
    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)
    with contextlib.suppress(AttributeError, OSError):
        extension = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            extension[name](None)


def formats_of(head: bytes) -> list[str]:
    """The formats that a file with these first 12 bytes may have. Raises DecodeError for HEIC without its extra."""
    return _formats_with_heif() if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS else _formats()


@functools.cache
def _formats_with_heif() -> list[str]:
    try:
        import pillow_heif
    except ImportError:
        raise DecodeError("HEIC is read by an extra: pip install 'cnn-codes[heic]'") from None
    pillow_heif.register_heif_opener()
    return [*_formats(), "HEIF"]


def what_pixels_need(
    file: BinaryIO, head: bytes, max_pixels: int, *, header_only: bool = False, of_a_guest: bool = False
) -> tuple[BinaryIO, Png | Jpeg | Jpeg2000 | None]:
    """The file without what stands around its pixels, where that could keep Pillow from them, and what it is.

    `header_only`: enough to open it, not to load it. Raises DecodeError on a JPEG of more pixels or scans, or
    a JPEG 2000 of more pixels, blocks or bit-planes (of these, not with `header_only`), than are allowed, by
    `max_pixels` or by the file's length; `of_a_guest`: of fewer bit-planes.
    """
    file.seek(0)
    if head.startswith(png.SIGNATURE):
        found = png.read(file, header_only=header_only)
        file.seek(0)
        return (io.BytesIO(found.needed), found) if found else (file, None)
    if head.startswith((jpeg2000.BOXES, jpeg2000.CODESTREAM)):
        return file, _bounded_jpeg2000(file, max_pixels, header_only=header_only, of_a_guest=of_a_guest)
    if not head.startswith(jpeg.SIGNATURE):
        return file, None
    picture = jpeg.read(file, header_only=header_only)
    file.seek(0)
    if picture is None:
        return file, None
    # Before anything is decoded, as a file of some kilobytes can ask for minutes of work.
    _require_size(picture.width, picture.height, max_pixels)
    if picture.scans > _MOST_SCANS:
        raise DecodeError(f"a JPEG of more than {_MOST_SCANS} scans ({picture.scans}), which no camera makes")
    if picture.scans * picture.width * picture.height > _MOST_SCANNED_PIXELS:
        raise DecodeError(
            f"a JPEG of {picture.scans} scans of {picture.width} x {picture.height} pixels: all scans together may "
            f"have {_MOST_SCANNED_PIXELS / 1e6:.0f} million"
        )
    require_proportion(picture.width, picture.height, file)
    return io.BytesIO(picture.body + jpeg.END), picture


def _bounded_jpeg2000(file: BinaryIO, max_pixels: int, *, header_only: bool, of_a_guest: bool) -> Jpeg2000 | None:
    """Raises DecodeError on a JPEG 2000 that has the decoder set up, or go over, more than a file of its length may.
    Leaves the file at its beginning.
    """
    size_bytes = file.seek(0, os.SEEK_END)
    try:
        picture = jpeg2000.read(file)
    except jpeg2000.UnboundError as e:
        raise DecodeError(f"a JPEG 2000 whose headers have {e}, which no encoder writes") from None
    file.seek(0)
    if picture is None:
        return None
    _require_size(picture.width, picture.height, max_pixels)
    require_proportion(picture.width, picture.height, file, work=float(max(1, picture.components)))
    if picture.blocks > budget.most_blocks(size_bytes):
        raise DecodeError(
            f"a JPEG 2000 of {size_bytes:,} bytes that asks for {picture.blocks:,} tiles, precincts and code-blocks, "
            f"more than {budget.FREE_BLOCKS:,} and one for each {round(1 / budget.BLOCKS_OF_A_BYTE)} bytes of a file"
        )
    most = budget.most_guest_planes(size_bytes) if of_a_guest else budget.most_planes(size_bytes)
    if picture.planes > most and not header_only:
        # The headers allow for more than sound files have.
        planes = jpeg2000.count_planes(file, most)
        file.seek(0)
        if planes is None or planes > most:
            free, of_a_byte = budget.FREE_PLANES, budget.PLANES_OF_A_BYTE
            if of_a_guest:
                free, of_a_byte = budget.GUEST_FREE_PLANES, budget.GUEST_PLANES_OF_A_BYTE
            raise DecodeError(
                f"a JPEG 2000 of {size_bytes:,} bytes whose code-blocks ask for more than {most / 1e6:,.0f} million "
                f"bit-planes of samples ({free / 1e6:.0f} million and {of_a_byte} for each byte of a file"
                + (f", at most {budget.FREE_PLANES / 1e6:.0f} million)" if of_a_guest else ")")
            )
    return picture


def _require_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DecodeError(f"{width} x {height} pixels are more than max_pixels ({max_pixels})")


def require_proportion(width: int, height: int, file: BinaryIO, *, work: float = 1.0) -> None:
    """Raises DecodeError on more pixels than a file of this length may have (`pipeline.base.budget`), where each counts
    as `work` of them.
    """
    at = file.tell()
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(at)
    if width * height * work > budget.most_pixels(size_bytes):
        counted = f" (each counts as {work:.1f})" if work > 1 else ""
        raise DecodeError(
            f"it has {size_bytes:,} bytes and asks for {width} x {height} pixels{counted}, more than "
            f"{budget.FREE_PIXELS / 1e6:.0f} million and {budget.PIXELS_OF_A_BYTE} for each byte of a file"
        )


def work_of_a_pixel(image: Image.Image, about: Png | Jpeg | Jpeg2000 | None) -> float:
    """What a pixel of an opened image takes to decode, 1 for one of 24 bits or less.

    PNG is unpacked and filtered by the byte. JPEG 2000 takes as long for each band as others for all.
    """
    if isinstance(about, Png):
        return max(1.0, about.bits_of_a_pixel / 24)
    return float(len(image.getbands())) if image.format == "JPEG2000" else 1.0


def _require_whole(image: Image.Image, about: Png | Jpeg | Jpeg2000 | None, *, reduced: bool) -> None:
    """Raises DecodeError if the data of a loaded image end early, where the decoder fills what is missing. `reduced`:
    it may have been decoded at a part of its size, for which fine detail is not looked at.
    """
    if isinstance(about, Jpeg):
        if about.missing:
            raise DecodeError(f"{_BROKEN}cut off ({about.missing})")
        if about.huffman and _depends_on_the_end(image, about, reduced=reduced):
            raise DecodeError(f"{_BROKEN}cut off in its picture data")
    if isinstance(about, Png):
        last_row = np.asarray(image.crop((0, image.height - 1, image.width, image.height)))
        # Rows are written one after another into zeros, so that most files need no count.
        if (about.interlaced or not last_row.any()) and not about.holds_every_row():
            raise DecodeError(f"{_BROKEN}its picture data end before the last row")
        if not about.is_checked():
            raise DecodeError(f"{_BROKEN}its picture data are cut off")


def _depends_on_the_end(image: Image.Image, about: Jpeg, *, reduced: bool) -> bool:
    """Whether other bytes behind a JPEG's data give other pixels: only where the data don't hold all of them."""
    if reduced:
        with Image.open(io.BytesIO(about.body + jpeg.END), formats=["JPEG", "MPO"]) as whole:
            return _depends_on_the_end(whole, about, reduced=False)
    with Image.open(io.BytesIO(about.body + _OTHER_END), formats=["JPEG", "MPO"]) as other:
        other.draft(None, image.size)
        other.load()
        # In bands, as Pillow's arrays are copies.
        width, height = image.size
        bands = ((0, top, width, min(top + _BAND_ROWS, height)) for top in range(0, height, _BAND_ROWS))
        return any(image.crop(band).tobytes() != other.crop(band).tobytes() for band in bands)


def _orientation(image: Image.Image, exif: Callable[[Any], Image.Exif] = lambda image: image.getexif()) -> int:
    """The EXIF orientation, 1..8; 1 (upright) where there is none or the EXIF can't be read, as viewers do."""
    try:
        value = exif(image).get(_ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return 1
    return value if value in _TURNS else 1


# EXIF orientation -> (transpose rows and columns first, then flip rows, flip columns)
_TURNS: dict[int, tuple[bool, bool, bool]] = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    transpose, flip_rows, flip_columns = _TURNS[orientation]
    if transpose:
        pixels = pixels.transpose(1, 0, 2)
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
