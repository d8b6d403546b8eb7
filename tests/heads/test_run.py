"""A head over all repeats: what it writes, what it may see, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.base import hdf5_files
from pipeline.base.errors import UserError
from pipeline.heads.curve import learning_curve, nested_order
from pipeline.heads.model import Model, predict
from pipeline.heads.registry import HEADS
from pipeline.heads.run import AVERAGED, fit_head, require_grids
from tests.heads.world import SETTINGS, blobs, dataset, params


def named(y: np.ndarray) -> list[str]:
    return [f"class {c}" for c in y]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("scaling", ["l2", "standardise"])
def test_every_head_keeps_the_contract(head: str, scaling: str, tmp_path: Path) -> None:
    x, y = blobs(120, 40, 3, apart=0.8)
    codes, manifest = dataset(x.astype(np.float16), named(y))
    result = fit_head(codes, manifest, params(scaling=scaling), head, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    assert (result["spec"], result["head"], result["classes"]) == ("pool5-avg", head, 3)
    assert (result["dim"], result["bytes_per_code"]) == (40, 80)
    assert len(result["repeats"]) == 2
    for record in result["repeats"]:
        assert (record["n_train"], record["n_val"], record["n_test"]) == (72, 24, 24)
        assert record["accuracy"] > 0.7 and record["top5"] == 1.0
        assert (record["log_loss"] is None) == (not HEADS[head].probabilities)
    (parameter,) = result["repeats"][0]["chosen"]
    assert parameter == HEADS[head].parameter
    for name in AVERAGED:
        values = [r[name] for r in result["repeats"]]
        if values[0] is not None:
            assert result["mean"][name] == pytest.approx(np.mean(values))
            assert result["std"][name] == pytest.approx(np.std(values, ddof=1))
    with h5py.File(tmp_path / "predictions.h5") as f:
        assert json.loads(f.attrs["classes"]) == list(manifest.classes)
        for repeat in range(2):
            group = f[f"repeat_{repeat}"]
            test = manifest.rows("test", repeat)
            assert group["ids"][()].astype(str).tolist() == manifest.ids[test].tolist()
            assert group["true"][()].tolist() == manifest.targets[test].tolist()
            right = (group["scores"][()].argmax(axis=1) == group["true"][()]).mean()
            assert right == pytest.approx(result["repeats"][repeat]["accuracy"])
    labels, scores = predict(Model.load(tmp_path / "model.h5"), codes)
    with h5py.File(tmp_path / "predictions.h5") as f:
        np.testing.assert_allclose(scores[manifest.rows("test", 0)], f["repeat_0/scores"][()], rtol=1e-4, atol=1e-5)
    assert labels == [manifest.classes[c] for c in scores.argmax(axis=1)]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("scaling", ["l2", "standardise"])
def test_test_rows_change_nothing_but_their_own_scores(head: str, scaling: str, tmp_path: Path) -> None:
    x, y = blobs(60, 20, 2, apart=0.3)
    codes, manifest = dataset(x, named(y), repeats=1)
    test = manifest.rows("test")
    changed = x.copy()
    changed[test] = 1000 * changed[test][::-1]
    poisoned, _ = dataset(changed, named(y), repeats=1)
    fit_head(codes, manifest, params(scaling=scaling), head, tmp_path / "a")
    fit_head(poisoned, manifest, params(scaling=scaling), head, tmp_path / "b")
    assert (tmp_path / "a/model.h5").read_bytes() == (tmp_path / "b/model.h5").read_bytes()


@pytest.mark.parametrize("head", ["svm", "softmax", "softmax_elastic", "knn"])
@pytest.mark.parametrize(("n", "d"), [(100, 60), (400, 6)])
def test_streaming_gives_the_same_answers(
    head: str, n: int, d: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = blobs(n, d, 3, apart=0.5)
    codes, manifest = dataset(x, named(y), repeats=1)
    held = fit_head(codes, manifest, params(scaling="standardise"), head, tmp_path / "held")
    monkeypatch.setattr("pipeline.heads.select.MEBIBYTE", 40)
    streamed = fit_head(codes, manifest, params(scaling="standardise"), head, tmp_path / "streamed")
    assert held["repeats"][0]["chosen"] == streamed["repeats"][0]["chosen"]
    with h5py.File(tmp_path / "held/predictions.h5") as f, h5py.File(tmp_path / "streamed/predictions.h5") as g:
        ours, theirs = g["repeat_0/scores"][()], f["repeat_0/scores"][()]
    np.testing.assert_allclose(ours, theirs, atol=0.01 * np.abs(theirs).max())


def test_the_majority_baseline_is_that_of_train_and_val(tmp_path: Path) -> None:
    x, _ = blobs(50, 8, 2)
    # Train and val hold 24 common and 16 rare rows, the test 8 common and 2 rare ones.
    labels = ["common"] * 24 + ["rare"] * 16 + ["common"] * 8 + ["rare"] * 2
    splits = np.array([["train", "train", "train", "val"] * 10 + ["test"] * 10])
    codes, manifest = dataset(x, labels, splits=splits)
    result = fit_head(codes, manifest, params(), "svm", tmp_path)
    assert result["majority"] == {"accuracy": pytest.approx(0.8), "mean_class_recall": pytest.approx(0.5)}


def test_without_labels_every_out_says_so(tmp_path: Path) -> None:
    x, _ = blobs(20, 8, 2)
    codes, manifest = dataset(x, [""] * 20)
    expected = {"spec": "pool5-avg", "head": "knn", "skipped": "no labels"}
    assert fit_head(codes, manifest, params(), "knn", tmp_path) == expected
    assert json.loads((tmp_path / "metrics.json").read_text()) == expected
    with pytest.raises(UserError, match="holds no head: no labels"):
        Model.load(tmp_path / "model.h5")
    assert (tmp_path / "predictions.h5").is_file()


def test_images_without_codes_are_left_out_and_counted(tmp_path: Path) -> None:
    x, y = blobs(60, 8, 2)
    _, manifest = dataset(x, named(y))
    kept = np.arange(60) % 10 != 3
    codes = type(dataset(x, named(y))[0]).from_arrays(manifest.ids[kept], x[kept], spec="pool5-avg", settings=SETTINGS)
    result = fit_head(codes, manifest, params(), "svm", tmp_path)
    assert result["left_out"] == 6
    assert sum(result["repeats"][0][f"n_{s}"] for s in ("train", "val", "test")) == 54


def test_images_without_a_label_among_others_change_nothing(tmp_path: Path) -> None:
    x, y = blobs(60, 8, 3)
    labels = np.array([f"c{i}" for i in y])
    labels[[3, 20, 41, 42, 59]] = ""
    codes, manifest = dataset(x, labels.tolist())
    kept = np.flatnonzero(labels != "")
    alone, bare = dataset(x[kept], labels[kept].tolist(), splits=manifest.splits[:, kept])
    found = [fit_head(*one, params(), "svm", tmp_path / "out") for one in ((codes, manifest), (alone, bare))]
    timeless = [
        [{k: v for k, v in r.items() if not k.endswith("_s")} for r in one["repeats"]] + [one["majority"]]
        for one in found
    ]
    assert timeless[0] == timeless[1] and found[0]["left_out"] == 0


def test_one_class_is_refused(tmp_path: Path) -> None:
    x, _ = blobs(20, 8, 2)
    codes, manifest = dataset(x, ["cat"] * 20)
    with pytest.raises(UserError, match="all images are of one class, 'cat'"):
        fit_head(codes, manifest, params(), "svm", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_class_that_vanishes_from_train_is_named(tmp_path: Path) -> None:
    x, y = blobs(50, 8, 2)
    labels = named(y)
    _, manifest = dataset(x, labels, repeats=2)
    labels[int(manifest.rows("test", 1)[0])] = "lone"
    codes, manifest = dataset(x, labels, repeats=2)
    with pytest.raises(UserError, match="no training image with codes of 1 of 3 classes: lone"):
        fit_head(codes, manifest, params(), "svm", tmp_path)


def test_without_a_val_image_the_middle_of_the_grid_is_taken_and_said(tmp_path: Path) -> None:
    x, y = blobs(40, 8, 2)
    splits = np.where(np.arange(40) // 2 % 2 == 0, "train", "test")[None]
    codes, manifest = dataset(x, named(y), splits=splits)
    (found,) = fit_head(codes, manifest, params(), "svm", tmp_path)["repeats"]
    assert found["chosen"] == {"C": 1.0} and found["val_score"] is None
    assert found["notes"] == ["C = 1 without a choice, for want of validation images"]
    (only,) = fit_head(codes, manifest, params(c_grid=[1.0]), "svm", tmp_path)["repeats"]
    assert only["notes"] == [] and only["accuracy"] == found["accuracy"]


def test_a_k_above_the_number_of_training_images_is_left_out_and_said(tmp_path: Path) -> None:
    x, y = blobs(20, 8, 2, apart=2.0)
    codes, manifest = dataset(x, named(y), repeats=1)
    (found,) = fit_head(codes, manifest, params(k_grid=[1, 3, 50, 80]), "knn", tmp_path)["repeats"]
    assert found["notes"] == ["k of 50, 80 left out: there are 12 training images"]
    assert found["chosen"]["k"] in (1, 3)
    with pytest.raises(UserError, match=r"knn with k of 50 and 16 training images; allowed: k from 1 to 16"):
        fit_head(codes, manifest, params(k_grid=[50]), "knn", tmp_path)


def test_a_class_without_a_test_image_is_named(tmp_path: Path) -> None:
    x, y = blobs(31, 8, 2, apart=2.0)
    splits = np.array([[*(["train", "train", "train", "val", "test"] * 6), "train"]])
    codes, manifest = dataset(x, [*named(y[:30]), "lone"], splits=splits)
    (found,) = fit_head(codes, manifest, params(), "svm", tmp_path)["repeats"]
    assert found["notes"] == ["1 of 3 classes have no test image (lone)"]
    assert found["class_recall"][2] is None


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("each", [2, 3, 5])
def test_every_head_is_made_of_two_images_a_class_and_up(head: str, each: int, tmp_path: Path) -> None:
    x, y = blobs(2 * each, 8, 2, apart=2.0)
    splits = np.repeat(["test", "train", "val", "train", "train"][:each], 2)[None]
    codes, manifest = dataset(x, named(y), splits=splits)
    (found,) = fit_head(codes, manifest, params(k_grid=[1, 3, 5, 10, 20]), head, tmp_path)["repeats"]
    assert found["n_test"] == 2 and Model.load(tmp_path / "model.h5").classes == manifest.classes


def test_a_fit_that_stopped_short_of_its_optimum_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(60, 20, 3, apart=0.5)
    codes, manifest = dataset(x, named(y), repeats=1)
    assert fit_head(codes, manifest, params(), "softmax_l1", tmp_path)["repeats"][0]["notes"] == []
    monkeypatch.setattr("pipeline.heads.proximal.MAX_STEPS", 2)
    notes = fit_head(codes, manifest, params(c_grid=[0.01, 50.0]), "softmax_l1", tmp_path)["repeats"][0]["notes"]
    assert notes and all(n.startswith("C = 50 stopped up to") and n.endswith("% above its optimum") for n in notes)


def test_the_score_on_val_is_that_of_the_setting_fitted_on_train(tmp_path: Path) -> None:
    """Oracle: val made the test split, with nothing left to choose."""
    x, y = blobs(90, 8, 3, apart=0.6)
    splits = np.array([["train", "train", "val", "test", "train"][i % 5] for i in range(90)])[None]
    found = fit_head(*dataset(x, named(y), splits=splits), params(), "svm", tmp_path / "a")["repeats"][0]
    kept = splits[0] != "test"
    moved = np.where(splits == "val", "test", splits)[:, kept]
    only = params(c_grid=[found["chosen"]["C"]])
    oracle = fit_head(*dataset(x[kept], named(y[kept]), splits=moved), only, "svm", tmp_path / "b")["repeats"][0]
    assert found["val_score"] == pytest.approx(oracle["accuracy"])
    assert oracle["val_score"] is None


def test_of_equal_settings_the_smallest_is_chosen(tmp_path: Path) -> None:
    x, y = blobs(60, 30, 2, apart=4.0)
    codes, manifest = dataset(x, named(y))
    for head, smallest in (("svm", {"C": 10.0}), ("knn", {"k": 1})):
        result = fit_head(codes, manifest, params(c_grid=[100.0, 10.0], k_grid=[3, 1]), head, tmp_path)
        assert result["repeats"][0]["chosen"] == smallest


def test_a_model_refuses_other_codes(tmp_path: Path) -> None:
    x, y = blobs(60, 8, 2)
    codes, manifest = dataset(x, named(y))
    fit_head(codes, manifest, params(), "svm", tmp_path)
    model = Model.load(tmp_path / "model.h5")
    make = type(codes).from_arrays
    with pytest.raises(UserError, match=r"codes of fc7-avg with 8 values do not fit.*pool5-avg with 8"):
        predict(model, make(codes.ids, x, spec="fc7-avg", settings=SETTINGS))
    with pytest.raises(UserError, match=r"other settings .crop: 224.; allowed: crop: 96"):
        predict(model, make(codes.ids, x, spec="pool5-avg", settings=SETTINGS | {"crop": 224}))
    predict(model, make(codes.ids, x, spec="pool5-avg", settings=SETTINGS | {"device": "cuda", "precision": "fp16"}))


@pytest.mark.parametrize("labels", [True, False])
def test_a_rerun_clears_away_what_a_killed_run_left(tmp_path: Path, labels: bool) -> None:
    x, y = blobs(60, 8, 2)
    codes, manifest = dataset(x, named(y) if labels else [""] * 60)
    for name in (".model.h5.abc.tmp.h5", ".predictions.h5.x_y.tmp.h5", ".metrics.json.123.tmp.json"):
        (tmp_path / name).write_bytes(b"")
    fit_head(codes, manifest, params(), "svm", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.json", "model.h5", "predictions.h5"]


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    x, y = blobs(60, 8, 2)
    codes, manifest = dataset(x, named(y))
    fit_head(codes, manifest, params(), "svm", tmp_path)
    path = tmp_path / "model.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut short"):
        Model.load(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as f:
        f["head/intercepts"][0] += 1
    with pytest.raises(UserError, match="do not match the digest that it states"):
        Model.load(path)
    hdf5_files.state_digest(path)
    with pytest.raises(UserError, match="fingerprint does not fit"):
        Model.load(path)
    with pytest.raises(UserError, match="does not exist; allowed: the folder of a trained head"):
        Model.load(tmp_path / "none.h5")
    below = tmp_path / "codes/heads/conv5_3-avg-svm/model.h5"
    below.parent.mkdir(parents=True)
    below.touch()
    with pytest.raises(UserError, match=f"does not exist; allowed: {below.parent}; see"):
        Model.load(tmp_path / "codes/model.h5")


def test_the_learning_curve_ends_at_the_heads_own_accuracy(tmp_path: Path) -> None:
    x, y = blobs(120, 10, 3, apart=0.5)
    codes, manifest = dataset(x, named(y))
    points = learning_curve(codes, manifest, params(), "svm", [0.1, 1.0], settings=[1.0] * manifest.repeats)
    result = fit_head(codes, manifest, params(), "svm", tmp_path)
    assert [(p.share, p.n_train, p.repeat) for p in points] == [(0.1, 10, 0), (1.0, 96, 0), (0.1, 10, 1), (1.0, 96, 1)]
    for point in points:
        own = result["repeats"][point.repeat]["accuracy"]
        assert point.accuracy == pytest.approx(own, abs=0.05) if point.share == 1 else point.accuracy <= own + 0.1


def test_the_learning_curve_of_few_images_has_each_number_once() -> None:
    x, y = blobs(6, 10, 2)
    codes, manifest = dataset(x, named(y), splits=np.array([["train", "train", "train", "train", "test", "test"]]))
    points = learning_curve(codes, manifest, params(), "svm", [0.1, 0.2, 0.4, 0.7, 1.0], settings=[1.0])
    assert [(p.share, p.n_train) for p in points] == [(0.4, 2), (0.7, 3), (1.0, 4)]


def test_the_learning_curve_of_knn_lowers_k_to_the_subset() -> None:
    x, y = blobs(60, 10, 3)
    codes, manifest = dataset(x, named(y))
    assert (
        learning_curve(codes, manifest, params(k_grid=[20]), "knn", [0.1], settings=[20] * manifest.repeats)[0].n_train
        == 5
    )


def test_prefixes_of_the_nested_order_are_stratified() -> None:
    y = np.repeat([0, 1, 2], [60, 30, 10])
    order = nested_order(y, np.random.default_rng(0))
    assert sorted(order) == list(range(100))
    assert set(y[order[:3]]) == {0, 1, 2}
    for n in (20, 50, 80):
        np.testing.assert_allclose(np.bincount(y[order[:n]]), np.array([0.6, 0.3, 0.1]) * n, atol=1.5)


def test_too_few_training_images_for_every_k_are_told_before_anything_is_fitted() -> None:
    x, y = blobs(20, 8, 2, apart=0.8)
    _, manifest = dataset(x.astype(np.float16), named(y))
    require_grids(manifest, params(heads=["svm", "knn"], k_grid=[1, 500]))
    require_grids(manifest, params(heads=["svm"], k_grid=[500]))
    with pytest.raises(UserError, match=r"knn with k of 500 and more, and \d+ training images.*k from 1 to"):
        require_grids(manifest, params(heads=["svm", "knn"], k_grid=[500, 600]))
