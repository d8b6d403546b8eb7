"""What a stop costs an evaluation: what was found before it is not computed again, and the results are the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.base import stopping, unfinished
from pipeline.codes.reader import Codes
from pipeline.config import HashSpec
from pipeline.retrieval import run
from pipeline.retrieval.measures import by_class
from pipeline.search.cosine import Cosine
from tests.retrieval.world import SPEC, blobs, dataset, params

_TIMES = re.compile(r".*_(s|ms)$")


@pytest.mark.parametrize("name", ["itq16", "learned16", "cosine"])
def test_an_evaluation_goes_on_after_the_measures_that_were_done(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, splits = blobs(120, 24)
    codes, manifest = dataset(x, y, splits)
    spec = HashSpec.parse(f"{name}-{SPEC}")
    asked = params(settings={"learned": {"epochs": 2, "neighbours": 4}}, c_grid=[0.1, 1.0])
    (tmp_path / "codes" / spec.codes.name).mkdir(parents=True)
    monkeypatch.setattr(Codes, "open", lambda folder: codes)
    monkeypatch.setattr(stopping.Timer, "is_due", lambda self: True)
    fits: list[str] = []
    fit = run._fit

    def counted_fit(hasher: Any, task: Any, so_far: Any) -> None:
        fits.append(hasher.name)
        fit(hasher, task, so_far)

    monkeypatch.setattr(run, "_fit", counted_fit)
    cache = tmp_path / "cache"

    def evaluated(out: str) -> Path:
        run.run_spec(spec, tmp_path / "codes", manifest, asked, tmp_path / out, cache=cache)
        return tmp_path / out

    whole = evaluated("whole")
    counted = len(fits)

    def cut(*args: Any, **settings: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "by_class", cut)
    with pytest.raises(KeyboardInterrupt) as stopped:
        evaluated("again")
    assert stopped.value.__notes__ == [f"{spec.name}: what was found is kept; {stopping.GOES_ON}"]
    assert len(fits) == 2 * counted
    for computed in ("by_neighbours", "svm_accuracy", "approximate", "_rounding", "_fit"):
        monkeypatch.setattr(run, computed, cut)
    monkeypatch.setattr(Cosine, "search_rows", _timed_alone(Cosine.search_rows))
    monkeypatch.setattr(run, "by_class", by_class)
    again = evaluated("again")
    for file in ("hasher.h5", "bits.h5", "curve.csv", "training.csv"):
        assert (again / file).read_bytes() == (whole / file).read_bytes(), file
    assert _timeless(again) == _timeless(whole)
    assert not list((cache / unfinished.FOLDER).iterdir())


def _timed_alone(search: Any) -> Any:
    def searched(self: Any, codes: Any, k: int) -> Any:
        assert len(codes) != 24, "all queries at once were searched before"
        return search(self, codes, k)

    return searched


def _timeless(folder: Path) -> Any:
    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(own) for key, own in value.items() if not _TIMES.match(key)}
        return value

    return without(json.loads((folder / "metrics.json").read_text()))
