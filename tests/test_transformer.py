"""`pipeline.CNNCodes` in scikit-learn's own tools, and its rows against those of extraction."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

import pipeline
from pipeline import CNNCodes, extract
from pipeline.base.errors import UserError
from pipeline.codes.embedder import ImagesError
from pipeline.transformer import InputError
from tests.pictures import draw_classes

FP32: dict[str, Any] = {"precision": "fp32", "device": "cpu", "batch_size": 4}
SMALL: dict[str, Any] = {"network": "tinyvgg", "layer": "conv5_2-avg", "weights": "random:0", "size": 32, "codes": FP32}

_TABLE = "gives `transform` a table of numbers, whose rows are no images: "
EXPECTED = {
    "check_dict_unchanged": _TABLE + "to see that it changes no attribute",
    "check_estimators_dtypes": _TABLE + "of float32, float64 and int in turn",
    "check_estimators_pickle": _TABLE + "to compare what a pickle gives (below with images)",
    "check_f_contiguous_array_estimator": _TABLE + "in Fortran's order",
    "check_fit_idempotent": _TABLE + "after each of two fits",
    "check_fit_score_takes_y": _TABLE + "by fit_transform, with y",
    "check_methods_sample_order_invariance": _TABLE + "in two orders",
    "check_methods_subset_invariance": _TABLE + "whole and row by row",
    "check_pipeline_consistency": _TABLE + "alone and in a pipeline (below with images)",
    "check_transformer_general": _TABLE + "by fit_transform and by fit, then transform",
}


@parametrize_with_checks([CNNCodes(**SMALL)], expected_failed_checks=lambda _: EXPECTED, xfail_strict=True)
def test_it_is_an_estimator(estimator: CNNCodes, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_classes(tmp_path_factory.mktemp("photos"), per_class=4)


def files(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))


def test_rows_are_those_of_extraction(photos: Path, tmp_path: Path) -> None:
    rows = CNNCodes(**SMALL).fit_transform(files(photos))
    made = {"crop": 32, "scales": [32], "dtype": "float32", **FP32}
    run = extract(
        photos, out=tmp_path / "codes", layers=["conv5_2-avg"], arch="tinyvgg", weights="random:0", codes=made
    )
    manifest = run.manifest()
    at = {str(photos / path): i for path, i in zip(manifest.paths.tolist(), manifest.ids.tolist(), strict=True)}
    expected = run.codes("conv5_2-avg").by_id([at[str(file)] for file in files(photos)])
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, expected)


def test_paths_pictures_and_arrays_give_one_row(photos: Path, tmp_path: Path) -> None:
    (first, *_), turned, clear = files(photos), tmp_path / "turned.png", tmp_path / "clear.png"
    with Image.open(first) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        half = image.crop((0, 0, 40, 20))
        half.save(turned, exif=exif)
        half.putalpha(Image.linear_gradient("L").resize(half.size))
        half.save(clear)
    codes = CNNCodes(**SMALL).fit()
    for file in (first, turned, clear):
        with Image.open(file) as image:
            by_path, by_text, by_picture = codes.transform([file, str(file), image])
        np.testing.assert_array_equal(by_path, by_text)
        np.testing.assert_array_equal(by_path, by_picture)
    with Image.open(first) as image:
        pixels, grey = np.asarray(image), np.asarray(image.convert("L"))
    expected = codes.transform([first])
    np.testing.assert_array_equal(codes.transform([pixels]), expected)
    np.testing.assert_array_equal(codes.transform(pixels[None]), expected)
    np.testing.assert_array_equal(codes.transform(grey[None]), codes.transform([np.stack([grey] * 3, axis=2)]))
    np.testing.assert_array_equal(codes.transform(np.array([[str(first)]], dtype=object)), expected)
    assert codes.transform([]).shape == (0, expected.shape[1])


def test_more_images_than_are_held_at_once(photos: Path) -> None:
    first, second, *_ = files(photos)
    asked = [first] * 70 + [second]
    rows = CNNCodes(**SMALL).fit_transform(asked)
    assert len(rows) == 71
    np.testing.assert_array_equal(rows[:70], np.repeat(rows[:1], 70, axis=0))
    assert not np.array_equal(rows[70], rows[0])


def test_clone_and_search_in_a_pipeline(photos: Path) -> None:
    images, labels = [str(f) for f in files(photos)], [f.parent.name for f in files(photos)]
    model = make_pipeline(CNNCodes(**SMALL), LinearSVC())
    search = GridSearchCV(model, {"cnncodes__layer": ["pool1-avg", "conv5_2-avg"], "linearsvc__C": [1.0]}, cv=2)
    search.fit(images, labels)
    assert (search.predict(images) == labels).mean() > 0.9
    assert clone(model[0]).get_params() == model[0].get_params()
    columns = ColumnTransformer([("codes", CNNCodes(**SMALL), [0])])
    assert columns.fit_transform(np.array([[image] for image in images], dtype=object)).shape[0] == len(images)


def test_names_of_features(photos: Path) -> None:
    codes = CNNCodes(**SMALL).fit()
    names = codes.get_feature_names_out()
    assert names[:2].tolist() == ["conv5_2-avg_0", "conv5_2-avg_1"]
    assert len(names) == codes.transform(files(photos)[:1]).shape[1]


def test_set_output_asks_for_a_table_with_these_names(photos: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = CNNCodes(**SMALL).set_output(transform="pandas").fit_transform(files(photos)[:2])
    assert isinstance(table, pandas.DataFrame) and table.columns[1] == "conv5_2-avg_1"


def test_a_pickle_has_no_tensors_and_answers_alike(photos: Path) -> None:
    codes = CNNCodes(**SMALL).fit()
    rows = codes.transform(files(photos)[:3])
    pickled = pickle.dumps(codes)
    assert len(pickled) < 4000
    np.testing.assert_array_equal(pickle.loads(pickled).transform(files(photos)[:3]), rows)


def test_a_pickle_refuses_other_weights(photos: Path) -> None:
    codes = pickle.loads(pickle.dumps(CNNCodes(**SMALL).fit()))
    codes.weights = "random:1"
    with pytest.raises(UserError, match="not the weights"):
        codes.transform(files(photos)[:1])


def test_what_is_no_image_is_said(photos: Path, tmp_path: Path) -> None:
    codes = CNNCodes(**SMALL)
    with pytest.raises(NotFittedError):
        codes.transform(files(photos))
    codes.fit()
    with pytest.raises(InputError, match="image 2 is an array of float64"):
        codes.transform([files(photos)[0], np.zeros((4, 4, 3))])
    with pytest.raises(ValueError, match="one image where a sequence"):
        codes.transform(str(files(photos)[0]))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(ImagesError, match=r"1 of 2 images cannot be read: .*bad\.jpg"):
        codes.transform([files(photos)[0], tmp_path / "bad.jpg"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"layer": "conv9"}, "conv9"), ({"codes": {"colour": 1}}, "colour"), ({"network": "vgg99"}, "vgg99")],
)
def test_fit_checks_the_parameters(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        CNNCodes(**{**SMALL, **wrong}).fit()


def test_it_is_in_the_public_api() -> None:
    assert "CNNCodes" in pipeline.__all__ and pipeline.CNNCodes is CNNCodes
