"""The classical experiment on a made-up wiki.mat: faces to the table of last layers, tuned, scratch and plain nets."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import config
from pipeline.codes import extract
from pipeline.codes.reader import Codes
from pipeline.config import CodesParams, FinetuneParams, HeadsParams
from pipeline.data.build import build
from pipeline.data.manifest import Manifest
from pipeline.figures.class_recall import recall_of
from pipeline.heads.run import fit_head
from pipeline.nets.weights import write_canonical
from pipeline.strategies.run import run_strategy
from tests import yaml_files
from tests.data.faces import Face, faces
from tests.data.world import params as dataset_params
from tests.strategies import world

ROOT = Path(__file__).parents[1]
GENDER = ROOT / "experiments/gender.yaml"


def section(name: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = yaml_files.params(GENDER)[name]
    return values | changes


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """16 people of 3 pictures each; the men's are lighter. Some that are not wanted lie between."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("wiki")
    people = [(f"person {i}", float(i % 2)) for i in range(16)]
    listed = [
        Face(f"{i % 4:02}/{i}_{j}.png", name, gender, shade=70 + 110 * (i % 2))
        for i, (name, gender) in enumerate(people)
        for j in range(3)
    ]
    unwanted = [Face("00/a.png", score=0.5), Face("00/b.png", second=2.0), Face("00/c.png", gender=float("nan"))]
    faces(folder / "wiki.mat", listed + unwanted)
    return build(dataset_params(source="imdb_wiki", root=folder / "wiki.mat"), folder / "out")


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.name)
def test_a_params_file_is_whole(path: Path) -> None:
    written = yaml_files.params(path)
    for name, values in yaml_files.params(ROOT / "params.yaml").items():
        assert written[name].keys() == values.keys(), name
        config.validate(config.SECTIONS[name], written[name], where=name)


def test_the_table_has_its_rows() -> None:
    """Last layers (codes of them, and they alone trained), all tuned, from scratch, and plain networks."""
    run = section("finetune")["run"]
    assert {"frozen", "last_layers", "finetune_all", "scratch", "fc", "cnn", "resnet18"} <= set(run)
    assert section("tuned")["strategy"] in run
    assert {"fc6-flatten", "fc7-flatten"} <= set(section("codes")["layers"]) and "svm" in section("heads")["heads"]


def test_a_person_is_on_one_side(manifest: Manifest) -> None:
    assert len(manifest.ids) == 48 and manifest.classes == ("female", "male")
    for splits in manifest.splits:
        sides = {(group, split) for group, split in zip(manifest.groups, splits, strict=True)}
        assert len(sides) == 16


def test_heads_on_the_last_layers_tell_recall_by_class(manifest: Manifest, tmp_path: Path) -> None:
    write_canonical(world.weights(), tmp_path / "w.safetensors")
    layers = section("codes")["layers"]
    codes = section("codes", crop=64, scales=[64], precision="fp32", device="cpu")
    extract(
        manifest, tmp_path / "w.safetensors", config.validate(CodesParams, codes, where="codes"), tmp_path / "codes"
    )
    heads = config.validate(HeadsParams, section("heads", c_grid=[1.0]), where="heads")
    for layer in layers:
        told = fit_head(Codes.open(tmp_path / "codes" / layer), manifest, heads, "svm", tmp_path / f"heads/{layer}")
        for repeat in told["repeats"]:
            assert repeat["mean_class_recall"] == pytest.approx(sum(repeat["class_recall"]) / 2)
        assert told["mean"]["accuracy"] > 0.8, layer  # shades differ by far


TRAINED = {
    "frozen": "fc6 to fc8 at 1",
    "last_layers": "fc6 to fc7 at 0.1, fc8 at 1",
    "finetune_all": "conv1_1 to fc7 at 0.1, fc8 at 1",
    "scratch": "everything at 0.1",
    "fc": "everything at 1",
    "cnn": "everything at 1",
    "resnet18": "everything at 1",
}


@pytest.mark.network
@pytest.mark.one_precision  # which rows a table has; strategies/test_strategies.py trains each kind in both
@pytest.mark.parametrize("name", section("finetune")["run"])
def test_the_strategies_of_the_table(manifest: Manifest, tmp_path: Path, name: str) -> None:
    """The section as it is, but for what a CPU can't do in a second: smaller images and layers, and less of it."""
    weights = world.weights()
    widths = [len(weights.tensors[f"{layer}.bias"]) for layer in ("fc6", "fc7")]
    less = {"size": 64, "scale": 72, "widths": widths, "epochs": 1, "repeats": 1, "batch_size": 8, "device": "cpu"}
    small = config.validate(FinetuneParams, section("finetune", **less), where="finetune")
    told = run_strategy(name, manifest, weights, small, tmp_path / name, cache=tmp_path / "cache")
    assert told["trained"] == TRAINED[name]
    (repeat,) = told["repeats"]
    assert repeat["mean_class_recall"] == pytest.approx(sum(repeat["class_recall"]) / 2)
    shown = recall_of({name: told["repeats"]}, manifest)
    assert shown.classes == ("female", "male") and list(shown.mean[:, 0]) == pytest.approx(repeat["class_recall"])
    rows = list(csv.DictReader((tmp_path / name / "predictions.csv").open()))
    women = [row["predicted"] == "female" for row in rows if row["true"] == "female"]
    assert shown.mean[0, 0] == pytest.approx(sum(women) / len(women)) and shown.images[0] == len(women)
    assert {row["id"] for row in rows} == set(manifest.ids[manifest.rows("test", 0)])
