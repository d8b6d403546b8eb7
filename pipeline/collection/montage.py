"""A picture of an answer: the query on the left, its neighbours beside it with rank, distance and label."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.base.writable import require_writable
from pipeline.data import listed, made_here
from pipeline.data.decode import DecodeError, decode

_PAGE, _FRAME, _EMPTY = (255, 255, 255), (214, 218, 224), (240, 241, 243)
_INK, _QUIET = (24, 28, 34), (104, 112, 122)
_GAP, _MARGIN = 14, 24
# Side of a neighbour's picture by how many there are: (up to, pixels).
_SIDES = ((6, 220), (20, 180), (60, 140), (200, 104), (math.inf, 72))
_ASPECT = 1.5  # of the neighbours' grid, width to height
# JPEG's limit is 65,535 a side; beyond this no viewer is at ease.
_MAX_PIXELS = 120_000_000
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class Tile:
    """A picture with its caption: `note` in bold on the left, `distance` on the right, `label` below.

    `image`: a file or its bytes. `sha256`: of the file where a list names it: only that content is drawn.
    """

    image: Path | bytes
    note: str
    distance: str = ""
    label: str = ""
    sha256: str = ""


def montage(query: Tile, neighbours: Sequence[Tile], path: str | Path, *, title: str = "", max_pixels: int) -> None:
    """Writes a PNG, JPEG or WebP by the suffix of `path`, whole or not at all.

    An image that can't be read is shown as an empty frame that says so. Raises UserError on another suffix.
    """
    path = Path(path)
    require_name(path)
    image = draw(query, neighbours, title=title, max_pixels=max_pixels)
    with disk.atomic_path(path) as tmp:
        image.save(tmp, FORMATS[path.suffix.lower()], exif=made_here.exif())


def require_name(path: Path) -> None:
    """Raises UserError if a montage can't have that name, or can't be written there; call it before the search."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"a montage named {path.name}", allowed=f"a name that ends in {', '.join(FORMATS)}")
    require_writable(path, folder=False)


def draw(query: Tile, neighbours: Sequence[Tile], *, title: str = "", max_pixels: int) -> Image.Image:
    """The montage in memory, RGB. Raises UserError for more neighbours than fit a picture."""
    side = next(px for most, px in _SIDES if len(neighbours) <= most)
    size = max(11, side // 12)
    line = round(size * 1.35)
    labelled = any(t.label for t in neighbours)
    # A cell: the picture, the note, and the label if any has one.
    height = side + 6 + line * (2 if labelled else 1)
    columns = _columns(len(neighbours), height / side)
    rows = max(1, math.ceil(len(neighbours) / columns))
    query_side = max(min(round(side * 1.6), 320), 180)
    left = _MARGIN + query_side + 2 * _GAP + 1 + 2 * _GAP
    top = _MARGIN + (round(17 * 1.35) + _GAP if title else 0)
    grid_width = columns * (side + _GAP) - _GAP
    width = left + grid_width + _MARGIN
    query_height = query_side + 6 + 2 * round(17 * 1.35)
    total = top + max(rows * (height + _GAP) - _GAP, query_height) + _MARGIN
    if width * total > _MAX_PIXELS:
        raise UserError(f"a montage of {len(neighbours)} neighbours has {width} x {total} pixels", allowed="a lower k")
    page = Image.new("RGB", (width, total), _PAGE)
    pen = ImageDraw.Draw(page)
    if title:
        _write(pen, (_MARGIN, _MARGIN), title, size=17, room=width - 2 * _MARGIN, ink=_QUIET)
    _cell(page, query, (_MARGIN, top), query_side, size=17, max_pixels=max_pixels)
    rule = _MARGIN + query_side + 2 * _GAP
    pen.line((rule, top, rule, total - _MARGIN), fill=_FRAME)
    if not neighbours:
        _write(pen, (left, top), "no neighbours", size=17, room=width - left, ink=_QUIET)
    for i, tile in enumerate(neighbours):
        at = (left + i % columns * (side + _GAP), top + i // columns * (height + _GAP))
        _cell(page, tile, at, side, size=size, max_pixels=max_pixels)
    return page


def _columns(count: int, cell_height: float) -> int:
    """Columns for a grid of about _ASPECT, its last row as full as can be; cells are 1 wide."""
    ideal = math.sqrt(max(1, count) * _ASPECT * cell_height)
    if count <= ideal:
        return max(1, count)
    candidates = range(max(1, round(ideal * 0.8)), min(count, round(ideal * 1.25)) + 1)
    return min(candidates, key=lambda c: (-count % c, abs(c - ideal)))


def _cell(page: Image.Image, tile: Tile, at: tuple[int, int], side: int, *, size: int, max_pixels: int) -> None:
    """A picture within side x side px at `at`, its proportions kept, and its caption below."""
    pen, (x, y) = ImageDraw.Draw(page), at
    try:
        source = tile.image
        if isinstance(source, Path) and tile.sha256:
            source = listed.read(source, tile.sha256)
        picture = Image.fromarray(decode(source, max_pixels=max_pixels, reduced_to=2 * side))
    except (listed.ListedError, DecodeError) as e:
        pen.rectangle((x, y, x + side - 1, y + side - 1), fill=_EMPTY, outline=_FRAME)
        gone = isinstance(tile.image, Path) and not tile.image.exists()
        reason = "the file is gone" if gone else str(e)
        _write(pen, (x + 8, y + side // 2 - size), reason, size=size, room=side - 16, ink=_QUIET)
    else:
        scale = side / max(picture.size)
        shown = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        filter_ = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        corner = (x + (side - shown[0]) // 2, y + (side - shown[1]) // 2)
        pen.rectangle((x, y, x + side - 1, y + side - 1), fill=_EMPTY)
        page.paste(picture.resize(shown, filter_), corner)
        pen.rectangle((x, y, x + side - 1, y + side - 1), outline=_FRAME)
    line = round(size * 1.35)
    taken = _write(pen, (x, y + side + 4), tile.note, size=size, room=side, ink=_INK, bold=True)
    if tile.distance:
        _write(pen, (x, y + side + 4), tile.distance, size=size, room=side - taken - size, ink=_INK, right=x + side)
    if tile.label:
        _write(pen, (x, y + side + 4 + line), tile.label, size=size, room=side, ink=_QUIET)


def _write(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    *,
    size: int,
    room: int,
    ink: tuple[int, int, int],
    bold: bool = False,
    right: int | None = None,
) -> int:
    """One line of text, cut with an ellipsis to `room` px; it ends at `right` if given. Returns its width in px."""
    # File systems may take accents apart; fonts draw them better in one piece. A line holds no line breaks.
    text = " ".join(unicodedata.normalize("NFC", text).split())
    file = _font_file(frozenset(text), bold)
    there = _characters(file)
    # What no font here can draw is told apart by its code point, rather than by an empty box.
    text = "".join(c if c.isspace() or ord(c) in there else f"‹{ord(c):04X}›" for c in text)
    font = _font(file, size)
    if font.getlength(text) > room:
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if font.getlength(text[:middle] + "…") <= room else (low, middle - 1)
        text = text[:low].rstrip() + "…"
    width = math.ceil(font.getlength(text))
    pen.text(at if right is None else (right - width, at[1]), text, font=font, fill=ink)
    return width


@functools.lru_cache(maxsize=64)
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@functools.lru_cache(maxsize=1024)
def _font_file(characters: frozenset[str], bold: bool) -> str:
    """DejaVu Sans, or where it lacks a character the font of this machine that has the most of them."""
    import matplotlib

    own = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{'-Bold' if bold else ''}.ttf"
    wanted = {ord(c) for c in characters if not c.isspace()}
    lacking = len(wanted - _characters(own))
    if not lacking:
        return own
    counts = {file: len(wanted - _characters(file)) for file in _system_fonts()}
    best = min(counts, key=lambda file: (counts[file], file), default=own)
    return best if best != own and counts[best] < lacking else own


@functools.cache
def _characters(file: str) -> frozenset[int]:
    """Code points that a font file draws; none if it is no font that can be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (RuntimeError, OSError):
        return frozenset()


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    from matplotlib.font_manager import findSystemFonts

    return tuple(sorted(findSystemFonts()))
