"""What the retrieval stage left: one `Retrieved` for each hash spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import HashSpec
from pipeline.errors import UserError
from pipeline.schema import read_json


@dataclass(frozen=True)
class Retrieved:
    """`record` is metrics.json; `folder` holds bits.h5 beside it."""

    spec: HashSpec
    folder: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_reference(self) -> bool:
        """Exact cosine on the floats, which has no bits."""
        return self.spec.hasher == "cosine"

    @property
    def nbits(self) -> int:
        return int(self.record["nbits"])

    @property
    def skipped(self) -> str:
        """Why the stage measured nothing; "" if it did."""
        return str(self.record.get("skipped", ""))

    def figure(self, name: str) -> float | None:
        """A number of the record; `popcount.std` and the like reach into it. None where there is none."""
        value: Any = self.record
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return None if value is None else float(value)


def read_retrieved(folder: Path, names: Sequence[str]) -> tuple[Retrieved, ...]:
    """Every spec, skipped or not, in the order of `names`. Raises UserError naming all that are missing."""
    missing = [name for name in names if not (folder / name / "metrics.json").is_file()]
    if missing:
        raise UserError(f"{folder} has no results of {', '.join(missing)}", see="`dvc repro retrieval`")
    return tuple(
        Retrieved(HashSpec.parse(name), folder / name, read_json(folder / name / "metrics.json")) for name in names
    )
