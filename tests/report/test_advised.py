"""The advice against the strategies, on made-up answers: who wins, by noise or more, and what may not be compared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.figures.advised import Way, duel, standing
from pipeline.figures.inputs import read_inputs
from pipeline.figures.records.advice import Duel, Side, Standing
from pipeline.figures.records.strategies import Finetuned
from pipeline.figures.run import figures_of
from pipeline.report.advised import say
from pipeline.report.sections import advice
from pipeline.strategies.outputs import read_correct, write_predictions
from tests.report.conftest import SPECS
from tests.report.test_strategies import write_strategy
from tests.report.world import heads_params, report_params

HEAD: dict[str, Any] = {"transfer": "head", "kinds": ["frozen"], "from_layer": None}
TUNE: dict[str, Any] = {"transfer": "finetune", "kinds": ["finetune", "gradual"], "from_layer": "conv4_1"}
N = 100
ALPHA = 0.05


def strategy(
    folder: Path, name: str, kind: str, right: int, *, images: int = 30, size: int = 32, below: str = ""
) -> Finetuned:
    """Right on the first `right` of N test images."""
    true = np.zeros(N, dtype=np.int64)
    answers = np.where(np.arange(N) < right, 0, 1)
    ids = np.array([f"id{i:03}" for i in range(N)])
    write_predictions(
        folder / name / "predictions.csv", ["a", "b"], [(ids, true, np.eye(2, dtype=np.float32)[answers])]
    )
    mean = {"accuracy": right / N}
    record = {"kind": kind, "settings": {"below": below}, "params": {"size": size}}
    record["repeats"] = [{"repeat": 0, "n_train": images}]
    return Finetuned(name, record | {"mean": mean, "std": {"accuracy": 0.0}}, [])


def head(right: int, *, images: int = 30, size: int = 32) -> Way:
    correct = {f"id{i:03}": i < right for i in range(N)}
    return Way(Side("svm on pool5-avg", right / N, float("nan"), 1, size, images), correct)


def words(found: Standing | None) -> str:
    assert found is not None
    return " ".join(say(found, ALPHA)).replace("\u202f", " ")


@pytest.mark.parametrize(
    ("frozen", "tuned", "verdict"),
    [
        (90, 70, "ahead by more than noise: the measurements agree"),
        (80, 78, "within noise"),
        (78, 80, "within noise"),
        (80, 80, "within noise"),
        (70, 90, "**the measurements do not agree**"),
    ],
)
def test_a_head_that_was_advised_against_tuning_and_the_reverse(
    tmp_path: Path, frozen: int, tuned: int, verdict: str
) -> None:
    """The answers differ on |frozen - tuned| images, all in favour of one: p = 2^(1 - that)."""
    run = [strategy(tmp_path, "cold", "frozen", frozen), strategy(tmp_path, "warm", "finetune", tuned)]
    found = standing(HEAD, run, tmp_path, None)
    assert found is not None and found.alike is not None and found.codes is None
    assert found.alike.lag == pytest.approx((tuned - frozen) / N)
    assert found.alike.p == pytest.approx(min(1.0, 2.0 ** (1 - abs(frozen - tuned))))
    assert ("p < 0.001" in words(found)) == (found.alike.p < 0.001)
    assert verdict in words(found) and "same 30 training images of 32 px" in words(found)
    other = standing(TUNE, run[::-1], tmp_path, None)
    assert other is not None and other.alike is not None and other.alike.advised.name == "warm"
    assert other.alike.lag == pytest.approx((frozen - tuned) / N)


def test_a_small_lag_beyond_noise_is_said_to_be_small() -> None:
    """Ten of 800 images, all against the advice: p = .002 and 1.25 points."""
    side = Side("one", 0, 0, 1, 32, 30)
    ours, theirs = ({f"id{i:03}": i < right for i in range(800)} for right in (780, 790))
    fought = duel(Way(side, ours), Way(side, theirs))
    assert 0 < fought.lag <= 0.02 and fought.p < ALPHA and fought.verdict(ALPHA) == "close"


def test_the_best_of_each_side_is_compared_and_others_than_tuning_count(tmp_path: Path) -> None:
    run = [
        strategy(tmp_path, "cold", "frozen", 60),
        strategy(tmp_path, "colder", "frozen", 65),
        strategy(tmp_path, "warm", "finetune", 50),
        strategy(tmp_path, "new", "resnet18", 90),
    ]
    found = standing(HEAD, run, tmp_path, None)
    assert found is not None and found.alike is not None
    assert (found.alike.advised.name, found.alike.other.name) == ("colder", "new")


@pytest.mark.parametrize(
    ("from_layer", "below", "is_advised"),
    [
        ("conv4_1", "conv4_1", True),
        ("conv4_1", "", True),
        ("conv4_1", "conv5_1", False),
        (None, "", True),
        (None, "conv4_1", False),
    ],
)
def test_layers_that_were_not_advised_do_not_stand_for_the_advice(
    tmp_path: Path, from_layer: str | None, below: str, is_advised: bool
) -> None:
    run = [strategy(tmp_path, "cold", "frozen", 60), strategy(tmp_path, "warm", "finetune", 90, below=below)]
    found = standing(TUNE | {"from_layer": from_layer}, run, tmp_path, None)
    assert found is not None and found.trained == is_advised
    assert (found.alike is not None) == is_advised
    if not is_advised:
        assert "No strategy of the advised kind (finetune " in words(found)


def test_what_was_not_trained_is_not_claimed(tmp_path: Path) -> None:
    cold, warm = strategy(tmp_path, "cold", "frozen", 60), strategy(tmp_path, "warm", "finetune", 90)
    assert standing(HEAD, [], tmp_path, head(50)) is None
    only_other = words(standing(HEAD, [warm], tmp_path, None))
    assert "No strategy of the advised kind (frozen)" in only_other and "agree" not in only_other
    only_own = words(standing(TUNE, [warm], tmp_path, None))
    assert "there is none to set it against" in only_own
    assert "(finetune from conv4_1 or of all layers or gradual)" in only_own
    # The head on the advised codes is the advised way even where no frozen strategy was trained.
    with_head = words(standing(HEAD, [warm], tmp_path, head(60)))
    assert "svm on pool5-avg is right on 60.0 %, warm on 90.0 %" in with_head and "do not agree" in with_head
    both = words(standing(TUNE, [cold, warm], tmp_path, head(60)))
    assert both.count("the measurements agree") == 2


@pytest.mark.parametrize(("repeats", "said"), [((3, 3), "; over 3 splits"), ((2, 3), "; over 2 and 3 splits")])
def test_the_splits_of_both_sides_are_told(repeats: tuple[int, int], said: str) -> None:
    ours, theirs = (Side(name, 0.6, 0.1, n, 32, 30) for name, n in zip("ab", repeats, strict=True))
    found = Standing(Duel(ours, theirs, (1.0, 1.0), 1.0), None, ("frozen",), trained=True)
    assert said in words(found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 96}, "svm on pool5-avg saw images of 96 px, warm of 32 px"),
        ({"images": 1423}, "svm on pool5-avg learned from 1,423 images, warm from 30"),
    ],
)
def test_apples_and_pears_are_named_and_prove_nothing(tmp_path: Path, changes: dict[str, int], said: str) -> None:
    warm = strategy(tmp_path, "warm", "finetune", 60)
    text = words(standing(HEAD, [warm], tmp_path, head(90, **changes)))
    assert said in text and "not measured alike" in text and "agree" not in text


def test_predictions_that_are_missing_or_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; see `dvc repro finetune`"):
        read_correct(tmp_path / "none.csv", 0)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a file of predictions"):
        read_correct(tmp_path / "bad.csv", 0)
    strategy(tmp_path, "one", "frozen", 3)
    assert sum(read_correct(tmp_path / "one/predictions.csv", 0).values()) == 3
    with pytest.raises(UserError, match="no predictions of repeat 1"):
        read_correct(tmp_path / "one/predictions.csv", 1)


def test_the_section_says_it(advised: Path, tmp_path: Path) -> None:
    """The world's codes are of 96 px and all training images; the strategies had 30 of 32 px."""
    out = tmp_path / "out"
    shutil.copytree(advised, out, symlinks=True)
    plain = read_inputs(out, report_params(), heads=heads_params(), specs=SPECS)
    test, classes = plain.manifest.rows("test", 0), plain.manifest.classes
    true = plain.manifest.targets[test]
    for name, right in (("frozen", 0.9), ("<top>", 0.3)):
        write_strategy(out / "finetune", name)
        answers = np.where(np.arange(len(test)) < right * len(test), true, (true + 1) % len(classes))
        shown = np.eye(len(classes), dtype=np.float32)[answers]
        write_predictions(
            out / "finetune" / name / "predictions.csv", classes, [(plain.manifest.ids[test], true, shown)]
        )
    names = ["frozen", "<top>"]
    inputs = read_inputs(out, report_params(), heads=heads_params(), specs=SPECS, strategies=names)
    assert inputs.advice is not None and inputs.advice["transfer"] == "head"
    figures = figures_of(inputs)
    section = advice.build(figures)
    assert section is not None
    assert "ahead by more than noise: the measurements agree" in section.html
    assert "saw images of 96 px, &lt;top&gt; of 32 px" in section.html and "<top>" not in section.html
    assert figures.advice is not None and figures.advice.standing is not None
    duel = figures.advice.standing.alike
    assert duel is not None and duel.lag == pytest.approx(-0.6)
    record = json_files.read(out / "advise/metrics.json")
    json_files.write(out / "advise/metrics.json", record | TUNE | {"from_layer": "conv5_1"})
    inputs = read_inputs(out, report_params(), heads=heads_params(), specs=SPECS, strategies=names)
    section = advice.build(figures_of(inputs))
    assert section is not None and "<strong>the measurements do not agree</strong>" in section.html
