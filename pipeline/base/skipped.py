"""What a stage leaves that has nothing to measure: its files, which DVC asks for, and the reason in each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base import disk, hdf5_files, json_files

_KEY = "skipped"


@dataclass(frozen=True)
class Skipped:
    """`reason`: why there are no results, in words that the page shows."""

    reason: str

    def record(self, **about: Any) -> dict[str, Any]:
        """What metrics.json holds; `reason_in` tells it from results."""
        return {**about, _KEY: self.reason}

    def write(
        self,
        out: Path,
        *,
        hdf5: Mapping[str, Mapping[str, Any]] | None = None,
        texts: Iterable[str] = (),
        folders: Iterable[str] = (),
        **about: Any,
    ) -> dict[str, Any]:
        """Files in `out`, last metrics.json, whose record of `about` it returns. `hdf5`: name -> attributes."""
        for name, attributes in (hdf5 or {}).items():
            with hdf5_files.new(out / name) as f:
                f.attrs.update({**attributes, _KEY: self.reason})
        for name in texts:
            disk.write_text(out / name, f"{_KEY}: {self.reason}\n")
        for name in folders:
            disk.write_text(out / name / f"{_KEY}.txt", f"{self.reason}\n")
        record = self.record(**about)
        json_files.write_last(out / "metrics.json", record)
        return record


def reason_in(record: Mapping[str, Any]) -> str:
    """Why a record, or the attributes of an HDF5 file, holds no results; "" where it does."""
    return str(record.get(_KEY, ""))
