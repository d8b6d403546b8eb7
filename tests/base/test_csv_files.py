"""No cell of our CSV files is a formula to a spreadsheet, and what is read is what was written."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base import csv_files, disk
from pipeline.data.manifest import Failure, Manifest, read_failures, write_failures
from tests.data.test_manifest import manifest

FORMULAS = [
    "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1", "\uff0b1", "\uff0d1",
    "\uff201", "'=1", "''=1", " =1", "' =1", "-", "--1", "a;=cmd", "a;' =cmd", "a\n=cmd", "=1;=2", 'x;"=1"\t@y',
]  # fmt: skip
PLAIN = ["cat", "-5", "+1.5e-3", "-.5", "-inf", "nan", "", "'", "'tis", "a-b", "a=b", "é@x", "1;2", "3-D", "a; b"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_marked_and_comes_back(text: str) -> None:
    marked = csv_files.marked(text)
    assert marked != text and csv_files.unmarked(marked) == text
    # However a spreadsheet parts cells.
    for cell in re.split(r"[;\t\r\n]", marked):
        assert not re.match(r" *[=+\-@\uff0b\uff0d\uff1d\uff20]", cell)


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_and_numbers_stay(text: str) -> None:
    assert csv_files.marked(text) == text == csv_files.unmarked(text)


WORDS = st.text(st.sampled_from("'=+-@;, \"\t\r\na5.\uff1d"), max_size=8)


@given(st.lists(st.lists(WORDS, min_size=3, max_size=3), min_size=1, max_size=4))
def test_rows_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text(csv_files.text(rows), encoding="utf-8", newline="")
    assert csv_files.read(path) == rows


def test_manifests_and_failures(tmp_path: Path) -> None:
    labels = np.array(["=cmd", "'=cmd", "-5"])
    manifest(labels=labels, groups=np.array(["@x", "", "b"])).write(tmp_path, [Failure("=1.jpg", "+x")])
    cells = [cell for row in csv.reader((tmp_path / "manifest.csv").open(newline="")) for cell in row]
    assert "'=cmd" in cells and "''=cmd" in cells and "'@x" in cells and "-5" in cells and "=cmd" not in cells
    back = Manifest.read(tmp_path)
    assert back.labels.tolist() == labels.tolist() and back.groups.tolist() == ["@x", "", "b"]
    assert (tmp_path / "failures.csv").read_text().splitlines()[1] == "'=1.jpg,'+x,broken"
    assert read_failures(tmp_path) == [Failure("=1.jpg", "+x")]


def test_a_manifest_of_an_earlier_version_keeps_its_apostrophes(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    record = json.loads((tmp_path / "dataset.json").read_text())
    assert "formulas_marked" not in record  # usual labels leave both files as they were
    path = tmp_path / "manifest.csv"
    path.write_text(path.read_text().replace(",a,", ",'=a,").replace(",b,", ",=b,"))
    (tmp_path / "dataset.json").write_text(json.dumps(record | {"manifest_sha256": disk.sha256(path)}))
    assert Manifest.read(tmp_path).labels.tolist() == ["'=a", "=b", "'=a"]


def test_older_failures_are_read(tmp_path: Path) -> None:
    (tmp_path / "failures.csv").write_text("path,reason\n=1.jpg,-x\n")
    assert read_failures(tmp_path) == [Failure("=1.jpg", "-x")]
    write_failures(tmp_path, read_failures(tmp_path))
    assert read_failures(tmp_path) == [Failure("=1.jpg", "-x")]


def test_tables_of_the_page() -> None:
    text = csv_files.table(["=label", "n"], [["@cmd", -0.5], ["cat", float("nan")], ["-1", None]])
    assert list(csv.reader(io.StringIO(text))) == [["'=label", "n"], ["'@cmd", "-0.5"], ["cat", ""], ["-1", ""]]


def test_no_other_writer_of_csv() -> None:
    """A table that is written by hand or by the csv module has no marks."""
    own = {"pipeline/base/csv_files.py", "pipeline/data/sources/labels_csv.py"}  # the second reads the user's
    root = Path(__file__).parents[2]
    for path in sorted((root / "pipeline").rglob("*.py")):
        if str(path.relative_to(root)) not in own:
            assert not re.search(r"^\s*(import csv\b|from csv )|to_csv\(|savetxt\(", path.read_text(), re.MULTILINE), (
                path
            )
