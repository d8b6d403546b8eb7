"""YAML of a stranger's: a few lines can stand for billions of values, and a megabyte takes a minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.errors import UserError
from pipeline.config import read_yaml

LEVELS = range(1, 10)
LAUGHS = "a0: &a0 [x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in LEVELS)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in LEVELS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "stands for more than 100,000 values by its anchors"),
        (MERGES, "stands for more than 100,000 values by its anchors"),
        ("a: &a [*a]\n", "stands for more than 100,000 values by its anchors"),
        ("a: [" + "1," * 60_000 + "]\n", "is longer than settings are; allowed: 100,000 bytes"),
        ("[" * 5000, "is not YAML"),
        ("a: " + "9" * 5000, "is not YAML"),
    ],
)
def test_small_files_that_ask_for_much_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"params\.yaml {words}"):
        read_yaml(tmp_path / "params.yaml")


def test_anchors_and_merges_are_read(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 2}\nc: *a\n")
    assert read_yaml(tmp_path / "params.yaml")["b"] == {"x": 2, "y": [1, 2]}
