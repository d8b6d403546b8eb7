"""The folder of figures: what is written is what is read, and what isn't whole or ours is told."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.config import LayerSpec
from pipeline.figures.records.about import About, Method
from pipeline.figures.records.advice import Advice, Duel, Side, Standing
from pipeline.figures.records.files import Figures, read, write
from pipeline.figures.records.runs import Comparison, Run
from pipeline.figures.records.strategies import Recall, Strategies

ABOUT: dict[str, Any] = {
    **{"name": "photos", "arch": "vgg16", "images": 4, "classes": ("a", "b"), "lost": 0, "samples": (), "layers": ()},
    **{"codes": (), "best_spec": "", "heads": ("svm",), "selection": "accuracy", "alpha": 0.05},
}
METHOD: dict[str, Any] = {
    **{"source": "folder", "unlabelled": 0, "other_files": 0, "left_out": 0, "repeats": 1, "from_source": ()},
    **{"seed": 0, "splits": {"train": (2, 3)}, "class_sizes": (("a", 2),), "weights": {}, "codes": {}},
    **{"heads": {"k_grid": [1]}, "trained": True, "failures": (("x.jpg", "cut short"),)},
}


@pytest.fixture
def figures() -> Figures:
    run = Run(LayerSpec.parse("pool5-avg-l2"), "svm", 4, 8.0, ({"accuracy": 0.1 + 0.2, "log_loss": None},), {})
    board = Comparison((run,), 0, "accuracy", 0.05, "none", ("best",), (None,))
    values = np.array([[0.1 + 0.2, math.nan]])
    recall = Recall(("a",), ("one", "two"), values, values * math.nan, np.array([3.0]))
    return Figures(
        about=About(**ABOUT),
        method=Method(**METHOD),
        metrics={"images": 4},
        thumbnails={"96/x": "data:,"},
        comparison=board,
        strategies=Strategies((), (), recall, {"one": {"start": 0.5}}, ("conv1_1",)),
        tables={"map.csv": "id\n1\n", "plots/confusion.csv": "actual,predicted\n"},
    )


def test_what_was_written_is_read(figures: Figures, tmp_path: Path) -> None:
    write(figures, tmp_path)
    found = read(tmp_path)
    for name in ("about", "method", "metrics", "thumbnails", "comparison", "tables"):
        assert getattr(found, name) == getattr(figures, name), name
    assert found.retrieval is None and found.sanity is None
    assert found.strategies is not None and figures.strategies is not None
    ours, theirs = found.strategies.recall, figures.strategies.recall
    for name in ("mean", "std", "images"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name), equal_nan=True), name
    assert found.strategies.gains == figures.strategies.gains
    assert found.uri("96/x") == "data:," and found.uri("") == ""


def test_a_spread_that_is_missing_is_null_in_the_file(tmp_path: Path, figures: Figures) -> None:
    side = Side("svm", 0.5, math.nan, 1, 96, 10)
    standing = Standing(Duel(side, side, (0.5, 0.5), 1.0), None, ("frozen",), trained=True)
    write(replace(figures, advice=Advice({"spec": "x"}, None, {}, standing)), tmp_path)
    assert json_files.read(tmp_path / "advice.json")["standing"]["alike"]["advised"]["std"] is None
    found = read(tmp_path).advice
    assert found is not None and found.standing is not None and found.standing.alike is not None
    assert math.isnan(found.standing.alike.advised.std)


def test_what_an_earlier_run_left_is_not_read(figures: Figures, tmp_path: Path) -> None:
    write(figures, tmp_path)
    write(replace(figures, comparison=None, tables={}), tmp_path)
    assert (tmp_path / "comparison.json").is_file() and (tmp_path / "map.csv").is_file()
    found = read(tmp_path)
    assert found.comparison is None and found.runs == () and found.tables == {}


@pytest.mark.parametrize("missing", ["figures.json", "about.json", "thumbnails.json", "map.csv"])
def test_a_file_that_is_missing_is_named(missing: str, figures: Figures, tmp_path: Path) -> None:
    write(figures, tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=f"{missing} does not exist"):
        read(tmp_path)


def test_values_of_another_kind_are_told_with_their_place(figures: Figures, tmp_path: Path) -> None:
    write(figures, tmp_path)
    json_files.write(tmp_path / "about.json", json_files.read(tmp_path / "about.json") | {"images": "many"})
    with pytest.raises(UserError, match=r"about\.json has at 'images': .*; see `dvc repro figures`"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 99}, "figures of version 99"),
        ({"tables": ["../../x.csv"]}, r"lists '\.\./\.\./x\.csv'"),
        ({"tables": ["index.html"]}, "lists 'index.html'"),
    ],
)
def test_an_index_of_another_version_or_of_files_elsewhere_is_refused(
    changes: dict[str, Any], said: str, figures: Figures, tmp_path: Path
) -> None:
    write(figures, tmp_path)
    json_files.write(tmp_path / "figures.json", json_files.read(tmp_path / "figures.json") | changes)
    with pytest.raises(UserError, match=said):
        read(tmp_path)


def test_an_index_that_lists_nothing_is_told(tmp_path: Path) -> None:
    json_files.write(tmp_path / "figures.json", ["x"])
    with pytest.raises(UserError, match="lists no figures"):
        read(tmp_path)
