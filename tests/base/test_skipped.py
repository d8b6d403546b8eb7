"""Whatever is left out says why, in every file that a stage was asked for."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.base import hdf5_files
from pipeline.base.skipped import Skipped, reason_in


def test_every_file_says_why(tmp_path: Path) -> None:
    record = Skipped("no labels").write(
        tmp_path, hdf5={"bits.h5": {"version": 1}}, texts=["curves.csv"], folders=["codes"], spec="lsh8-pool5-avg"
    )
    assert record == {"spec": "lsh8-pool5-avg", "skipped": "no labels"}
    assert json.loads((tmp_path / "metrics.json").read_text()) == record
    with hdf5_files.opened(tmp_path / "bits.h5") as f:
        assert dict(f.attrs) == {"version": 1, "skipped": "no labels"}
    assert (tmp_path / "curves.csv").read_text() == "skipped: no labels\n"
    assert (tmp_path / "codes/skipped.txt").read_text() == "no labels\n"


def test_results_have_no_reason() -> None:
    assert reason_in({"spec": "pool5-avg", "mean": {}}) == ""
    assert reason_in(Skipped("too few images").record(spec="pool5-avg")) == "too few images"
