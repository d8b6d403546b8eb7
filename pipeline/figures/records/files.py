"""All figures together, and the folder that keeps them: a JSON file a subject, and tables as CSV.

`figures.json`, written last, has the version and lists the files that belong to it: what else lies there, from an
earlier run, is not read.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from pipeline.base import disk, json_files
from pipeline.base.errors import UserError
from pipeline.base.failing import place
from pipeline.base.versions import VERSIONS
from pipeline.figures.records.about import About, Method
from pipeline.figures.records.advice import Advice
from pipeline.figures.records.answers import CodesMap, Confusion, Copies, CurvePoint, Mistakes
from pipeline.figures.records.retrieval import Retrieval
from pipeline.figures.records.runs import Comparison, Run
from pipeline.figures.records.strategies import Strategies
from pipeline.figures.records.training import Checked, TunedNetwork

INDEX = "figures.json"
# Names of tables, which lie beside the page by the same name: none leads elsewhere.
_TABLE = re.compile(r"(plots/)?[a-z_]+\.csv")


@dataclass(frozen=True, eq=False)
class Figures:
    """A subject is None where its stage was not asked for or had nothing to say. `comparison` is None without labels,
    `about.codes` is empty where strategies alone were trained.

    `metrics`: the figures that DVC compares. `thumbnails`: name -> data URI. `tables`: file name -> CSV with a line an
    image or an answer, which no drawing needs as a whole.
    """

    about: About
    method: Method
    metrics: Mapping[str, Any]
    thumbnails: Mapping[str, str]
    comparison: Comparison | None = None
    copies: Copies | None = None
    curve: tuple[CurvePoint, ...] | None = None
    confusion: Confusion | None = None
    mistakes: Mistakes | None = None
    map: CodesMap | None = None
    advice: Advice | None = None
    sanity: tuple[Checked, ...] | None = None
    strategies: Strategies | None = None
    tuned_network: TunedNetwork | None = None
    retrieval: Retrieval | None = None
    tables: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Heads on codes; () where none were trained."""
        return self.comparison.runs if self.comparison else ()

    def uri(self, thumbnail: str) -> str:
        """A picture's thumbnail as a data URI; "" if it has none."""
        return self.thumbnails[thumbnail] if thumbnail else ""


@functools.cache
def _kinds() -> dict[str, TypeAdapter[Any]]:
    """Subject -> its type, of all that have a JSON file."""
    return {name: TypeAdapter(kind) for name, kind in get_type_hints(Figures).items() if name != "tables"}


def write(figures: Figures, folder: Path) -> None:
    """`folder`/figures.json and the files that it lists."""
    values = {name: getattr(figures, name) for name in _kinds()}
    subjects = [name for name, value in values.items() if value is not None]
    for name in subjects:
        json_files.write(folder / f"{name}.json", _kinds()[name].dump_python(values[name], mode="json"))
    for name, text in figures.tables.items():
        disk.write_text(folder / name, text)
    index = {"version": VERSIONS["figures"], "subjects": subjects, "tables": sorted(figures.tables)}
    json_files.write_last(folder / INDEX, index)


def read(folder: Path) -> Figures:
    """What `write` wrote. Raises UserError naming the file that is missing, or is not what it should be."""
    index = json_files.read(folder / INDEX)
    try:
        version, subjects, tables = index["version"], set(index["subjects"]), list(index["tables"])
    except (TypeError, KeyError):
        raise UserError(f"{folder / INDEX} lists no figures", see="`dvc repro figures`") from None
    strange = [name for name in tables if not _TABLE.fullmatch(str(name))]
    if strange:
        raise UserError(f"{folder / INDEX} lists {strange[0]!r}", allowed="names such as map.csv and plots/depth.csv")
    if version != VERSIONS["figures"]:
        raise UserError(f"{folder} has figures of version {version}", allowed=str(VERSIONS["figures"]))
    values = {name: _read(folder / f"{name}.json", kind) for name, kind in _kinds().items() if name in subjects}
    return Figures(**values, tables={name: _text(folder, name) for name in tables})


def _read(path: Path, kind: TypeAdapter[Any]) -> Any:
    try:
        return kind.validate_python(json_files.read(path))
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} has at {where!r}: {first['msg']}", see="`dvc repro figures`") from None


def _text(folder: Path, name: str) -> str:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path} does not exist", see="`dvc repro figures`")
    with place(path):
        return path.read_text(encoding="utf-8")
