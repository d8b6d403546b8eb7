"""params.yaml is typed and closed: each kind of mistake is one sentence that names the key and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import MEMORY_MB, SECTIONS, CodesParams, DatasetParams, HashSpec, LayerSpec, load
from pipeline.errors import UserError
from pipeline.workspace import PRESET

SHIPPED = Path(__file__).parent.parent / "params.yaml"


def changed(tmp_path: Path, section: str, **values: Any) -> Path:
    params = yaml.safe_load(SHIPPED.read_text())
    params[section] |= values
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


@pytest.mark.parametrize("section", SECTIONS)
def test_the_shipped_params_are_valid(section: str) -> None:
    load(SECTIONS[section], SHIPPED)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_missing_key_is_named(section: str, tmp_path: Path) -> None:
    params = yaml.safe_load(SHIPPED.read_text())
    key = next(iter(params[section]))
    del params[section][key]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    with pytest.raises(UserError, match=f"{key}: missing"):
        load(SECTIONS[section], path)


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("dataset", {"sede": 1}, r"sede: unknown key \(allowed: .*seed"),
        ("dataset", {"seed": "1"}, "seed: .*valid integer, got '1'"),
        ("dataset", {"seed": True}, "seed: .*valid integer, got True"),
        ("dataset", {"source": "ftp"}, "source: .*'folder'.*got 'ftp'"),
        ("dataset", {"test_share": 1.0}, "test_share: .*less than 1"),
        ("codes", {"layers": ["pool5-mean"]}, "layers.0: .*not LAYER-POOLING.*flatten"),
        ("codes", {"layers": []}, "layers: .*at least 1"),
        ("codes", {"layers": ["pool5-avg", "pool5-avg"]}, "names a spec twice"),
        ("codes", {"crop": 100}, "must not be below"),
        ("codes", {"view": "whole"}, "flatten needs images of one size"),
        ("codes", {"batch_size": 0}, "batch_size: .*greater than or equal to 1"),
        ("heads", {"c_grid": [0.0]}, "c_grid must be positive"),
        ("heads", {"heads": ["tree"]}, "heads.0: .*'svm'"),
        ("retrieval", {"specs": ["itq-pool5-avg"]}, "specs.0: .*no number for itq.*itq64-pool5-avg"),
        ("retrieval", {"specs": ["itq60-pool5-avg"]}, "specs.0: .*multiple of 8"),
        ("retrieval", {"specs": ["sigmoid64-pool5-flatten"]}, "specs.0: .*no number after its name"),
        ("retrieval", {"specs": ["md5-pool5-avg"]}, "specs.0: .*one of cosine, sigmoid"),
        ("retrieval", {"specs": ["itq64-pool5"]}, "specs.0: .*not LAYER-POOLING"),
        ("retrieval", {"specs": ["lsh8-pool5-avg"] * 2}, "names a spec twice"),
        ("retrieval", {"settings": {"cosine": {}}}, "no hashers"),
        ("retrieval", {"settings": {"itq": {"nbits": 8}}}, "belongs in the spec's name"),
        ("retrieval", {"settings": {"itq": {"seed": True}}}, "settings.itq.seed"),
        ("retrieval", {"k": 0}, "k: .*greater than or equal to 1"),
        ("report", {"alpha": 0.9}, "alpha: .*less than 0.5"),
    ],
)
def test_a_bad_value_is_named(section: str, values: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        load(SECTIONS[section], changed(tmp_path, section, **values))


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 problem\(s\)") as e:
        load(DatasetParams, changed(tmp_path, "dataset", seed=-1, repeats=0))
    assert "seed" in str(e.value) and "repeats" in str(e.value)


@pytest.mark.parametrize("text", ["[", "- 1\n- 2\n", "codes: 1\nextra: {}\n", "codes: 1\n", "\x00"])
def test_a_file_that_is_no_params_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml"):
        load(CodesParams, path)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*params\.yaml"):
        load(CodesParams, tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("conv5_3-avg", LayerSpec(layer="conv5_3", pooling="avg")),
        ("pool5-flatten-l2", LayerSpec(layer="pool5", pooling="flatten", l2=True)),
        ("conv1_1.pre-spp", LayerSpec(layer="conv1_1.pre", pooling="spp")),
        ("fc7-gem", LayerSpec(layer="fc7", pooling="gem")),
    ],
)
def test_specs_parse_and_print(text: str, spec: LayerSpec) -> None:
    assert LayerSpec.parse(text) == spec
    assert spec.name == text


@pytest.mark.parametrize(
    "text", ["", "conv5_3", "conv5_3-", "-avg", "conv5_3-avg-l1", "conv5_3-avg ", "../x-avg", "a/b-avg"]
)
def test_bad_specs_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="not LAYER-POOLING"):
        LayerSpec.parse(text)


@pytest.mark.parametrize(
    ("text", "hasher", "codes", "parameters"),
    [
        ("itq64-conv5_3-avg", "itq", "conv5_3-avg", {"nbits": 64}),
        ("topk256-pool5-flatten", "topk", "pool5-flatten", {"k": 256}),
        ("sigmoid-pool5-flatten", "sigmoid", "pool5-flatten", {}),
        ("cosine-conv5_3.pre-avg-l2", "cosine", "conv5_3.pre-avg-l2", {}),
    ],
)
def test_hash_specs_parse_and_print(text: str, hasher: str, codes: str, parameters: dict[str, int]) -> None:
    spec = HashSpec.parse(text)
    assert (spec.hasher, spec.codes.name, spec.parameters, spec.name) == (hasher, codes, parameters, text)


@pytest.mark.parametrize(
    "text", ["", "itq64", "64-pool5-avg", "itq064-pool5-avg", "itq64-../x-avg", "itq64 -pool5-avg"]
)
def test_bad_hash_specs_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"hash spec|layer spec"):
        HashSpec.parse(text)


def test_the_one_default_in_code_is_the_shipped_one() -> None:
    for path in (SHIPPED, PRESET):
        assert load(CodesParams, path).memory_mb == MEMORY_MB


def test_a_params_file_from_before_there_was_a_bound_on_memory(tmp_path: Path) -> None:
    params = yaml.safe_load(SHIPPED.read_text())
    del params["codes"]["memory_mb"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert load(CodesParams, tmp_path / "params.yaml").memory_mb == MEMORY_MB
