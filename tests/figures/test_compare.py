"""Which test is used, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.config import LayerSpec
from pipeline.figures.compare import compare
from pipeline.figures.records.runs import Run
from pipeline.figures.runs import predictions, read_runs

N = 40


def a_run(root: Path, head: str, right: Sequence[Sequence[bool]], *, fixed: bool, bytes_per_code: float = 8) -> Run:
    """A run with two classes whose answers are right as told, one row of `right` a repeat."""
    folder = root / f"pool5-avg-{head}"
    folder.mkdir()
    repeats: list[dict[str, Any]] = []
    with h5py.File(folder / "predictions.h5", "w") as file:
        file.attrs.update({"version": VERSIONS["predictions"], "probabilities": False})
        for repeat, row in enumerate(right):
            group = file.create_group(f"repeat_{repeat}")
            group["ids"] = np.array([f"{'x' if fixed else repeat}-{i}" for i in range(len(row))], dtype="S")
            group["true"] = np.zeros(len(row), dtype=np.int64)
            group["scores"] = np.array([[1.0, 0.0] if ok else [0.0, 1.0] for ok in row], dtype=np.float32)
            sizes = {"repeat": repeat, "n_train": 90, "n_val": 10, "n_test": len(row)}
            repeats.append(sizes | {"chosen": {"C": 1.0}, "accuracy": float(np.mean(row))})
    return Run(LayerSpec.parse("pool5-avg"), head, 4, bytes_per_code, tuple(repeats), {"accuracy": 0.5})


def share(wrong: int) -> list[bool]:
    return [i >= wrong for i in range(N)]


def test_five_random_splits_use_the_corrected_t_test(tmp_path: Path) -> None:
    best = a_run(tmp_path, "a", [share(w) for w in (2, 3, 4, 3, 2)], fixed=False)
    near = a_run(tmp_path, "b", [share(w) for w in (3, 2, 5, 4, 1)], fixed=False)
    far = a_run(tmp_path, "c", [share(w) for w in (20, 22, 21, 20, 22)], fixed=False)
    board = compare([near, best, far], tmp_path, metric="accuracy", alpha=0.05)
    assert (board.test, board.best) == ("t", best)
    assert board.verdicts == ("noise", "best", "behind")
    assert board.within_noise == (near,)
    # t by hand for `near`: differences over 40 images, and the fraction of test to train + val images.
    d = np.array([1, -1, 1, 1, -1]) / N
    t = d.mean() / np.sqrt((1 / 5 + N / 100) * d.var(ddof=1))
    from scipy.stats import t as student

    assert board.p[0] == pytest.approx(2 * student.sf(t, 4))
    assert board.p[1] is None


def test_one_fixed_test_set_uses_mcnemar(tmp_path: Path) -> None:
    best = a_run(tmp_path, "a", [share(0)] * 5, fixed=True)
    five = a_run(tmp_path, "b", [share(5)] * 5, fixed=True)
    six = a_run(tmp_path, "c", [share(6)] * 5, fixed=True)
    board = compare([best, five, six], tmp_path, metric="accuracy", alpha=0.05)
    assert board.test == "mcnemar"
    # All of m rows fall on one side: p = 2 / 2^m.
    assert board.p == (None, pytest.approx(2 / 2**5), pytest.approx(2 / 2**6))
    assert board.verdicts == ("best", "noise", "behind")


def test_a_few_random_splits_claim_nothing(tmp_path: Path) -> None:
    best = a_run(tmp_path, "a", [share(0)] * 4, fixed=False)
    other = a_run(tmp_path, "b", [share(30)] * 4, fixed=False)
    board = compare([best, other], tmp_path, metric="accuracy", alpha=0.05)
    assert (board.test, board.verdicts, board.within_noise) == ("none", ("best", "unknown"), ())


def test_of_equal_ones_the_smaller_code_wins(tmp_path: Path) -> None:
    large = a_run(tmp_path, "a", [share(1)], fixed=True, bytes_per_code=100)
    small = a_run(tmp_path, "b", [share(1)], fixed=True, bytes_per_code=10)
    board = compare([large, small], tmp_path, metric="accuracy", alpha=0.05)
    assert board.best is small
    assert board.verdict(large) == "noise"


def test_all_missing_results_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pool5-avg-svm, pool5-avg-knn"):
        read_runs(tmp_path, ["pool5-avg"], ["svm", "knn"])


@pytest.mark.parametrize("damage", ["cut", "no scores", "a link"])
def test_predictions_that_are_damaged_are_told(tmp_path: Path, damage: str) -> None:
    run = a_run(tmp_path, "a", [share(1)], fixed=True)
    path = tmp_path / "pool5-avg-a/predictions.h5"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        with h5py.File(path, "a") as file:
            del file["repeat_0/scores"]
            if damage == "a link":
                file["repeat_0/scores"] = h5py.ExternalLink("/dev/zero", "/x")
    with pytest.raises(UserError, match=r"predictions\.h5 (can't be read|keeps /repeat_0/scores in another file)"):
        predictions(tmp_path, run, 0)


def test_predictions_of_another_version_are_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path, "a", [share(1)], fixed=True)
    with h5py.File(tmp_path / "pool5-avg-a/predictions.h5", "a") as file:
        file.attrs["version"] = 99
    with pytest.raises(UserError, match="version 99"):
        predictions(tmp_path, run, 0)
