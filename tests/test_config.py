"""params.yaml is typed and closed: each kind of mistake is one sentence that names the key and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import load_yaml, modify_yaml

from pipeline.base.errors import UserError
from pipeline.config import (
    MEMORY_MB,
    SECTIONS,
    CodesParams,
    DatasetParams,
    FinetuneParams,
    HashSpec,
    LayerSpec,
    load,
    load_all,
    read_yaml,
)
from pipeline.workspace import preset
from tests import yaml_files

SHIPPED = Path(__file__).parent.parent / "params.yaml"


def changed(tmp_path: Path, section: str, **values: Any) -> Path:
    params = yaml_files.params(SHIPPED)
    params[section] |= values
    path = tmp_path / "params.yaml"
    path.write_text(yaml_files.dump_params(params))
    return path


@pytest.mark.parametrize("section", SECTIONS)
def test_the_shipped_params_are_valid(section: str) -> None:
    load(SECTIONS[section], SHIPPED)


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
        ("heads", {"c_grid": [0.0]}, "c_grid has 0; allowed: numbers above 0"),
        ("heads", {"heads": ["tree"]}, "heads.0: .*'svm'"),
        ("retrieval", {"specs": ["itq-pool5-avg"]}, "specs.0: .*no number for itq.*itq64-pool5-avg"),
        ("retrieval", {"specs": ["itq60-pool5-avg"]}, "specs.0: .*multiple of 8"),
        ("retrieval", {"specs": ["itq100000-pool5-avg"]}, "100000 bits; allowed: a multiple of 8 up to 16,384"),
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


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        (
            "heads",
            {"k_grid": [0, 3]},
            "has 1 problem: heads.fit.k_grid has 0; allowed: whole numbers from 1; see",
        ),
        (
            "heads",
            {"c_grid": [1.0, -2.0]},
            "has 1 problem: heads.fit.c_grid has -2; allowed: numbers above 0; see",
        ),
        ("finetune", {"run": ["mine"]}, "finetune has 1 problem: finetune.run names mine; allowed: direct, frozen,"),
        ("codes", {"layers": ["conv9"]}, "see `cnncodes layers`; see docs/params.md"),
    ],
)
def test_a_bad_value_reads_as_a_sentence(section: str, values: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as e:
        load(SECTIONS[section], changed(tmp_path, section, **values))
    assert said in str(e.value)


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 problems") as e:
        load(DatasetParams, changed(tmp_path, "dataset", seed=-1, repeats=0))
    assert "seed" in str(e.value) and "repeats" in str(e.value)


@pytest.mark.parametrize("text", ["[", "- 1\n- 2\n", "codes: 1\nextra: {}\n", "codes: 1\n", "\x00"])
def test_a_file_that_is_no_params_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml"):
        load(CodesParams, path)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml is not here"):
        load(CodesParams, tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("conv5_3-avg", LayerSpec(layer="conv5_3", pooling="avg")),
        ("pool5-flatten-l2", LayerSpec(layer="pool5", pooling="flatten", l2=True)),
        ("conv1_1.pre-spp", LayerSpec(layer="conv1_1.pre", pooling="spp")),
        ("blocks.11.attn-cls", LayerSpec(layer="blocks.11.attn", pooling="cls")),
        ("Mixed_7c.branch1x1-patchavg-l2", LayerSpec(layer="Mixed_7c.branch1x1", pooling="patchavg", l2=True)),
        ("fc7-gem", LayerSpec(layer="fc7", pooling="gem")),
        ("pool5-flatten-sigmoid", LayerSpec(layer="pool5", pooling="flatten", sigmoid=True)),
        ("conv5_3.pre-avg-sigmoid-l2", LayerSpec(layer="conv5_3.pre", pooling="avg", sigmoid=True, l2=True)),
    ],
)
def test_specs_parse_and_print(text: str, spec: LayerSpec) -> None:
    assert LayerSpec.parse(text) == spec
    assert spec.name == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "conv5_3",
        "conv5_3-",
        "-avg",
        "conv5_3-avg-l1",
        "conv5_3-avg ",
        "../x-avg",
        "a/b-avg",
        "fc7-avg-l2-sigmoid",
        "a..b-avg",
        "a.-avg",
        ".a-avg",
        "1a-avg",
    ],
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
        ("cosine-pool5-flatten-sigmoid", "cosine", "pool5-flatten-sigmoid", {}),
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


@pytest.mark.parametrize("suffix", ["-l2", "-sigmoid", "-sigmoid-l2"])
def test_the_sigmoid_takes_codes_as_they_are(suffix: str) -> None:
    with pytest.raises(UserError, match=r"bits of 0 alone.*sigmoid-pool5-flatten"):
        HashSpec.parse(f"sigmoid-pool5-flatten{suffix}")


def test_the_one_default_in_code_is_the_shipped_one() -> None:
    assert load(CodesParams, SHIPPED).memory_mb == preset(CodesParams).memory_mb == MEMORY_MB


# ---- YAML 1.2, as DVC reads it


SCALARS = [
    "1e-5", "1E-5", "-1e-5", "+1e5", "1e5", "1.e+3", "1.5e3", ".5", ".5E+1", "1.", ".inf", "-.inf", "on", "off", "On",
    "yes", "no", "y", "n", "true", "False", "TRUE", "null", "~", "''", "010", "08", "0o10", "0x1F", "0b101", "1_000",
    "1:30", "190:20:30", "1:30.5", "'1e-5'", "2020-01-01", "a: b", "[1e-5, on]",
]  # fmt: skip


@pytest.mark.parametrize("scalar", SCALARS)
def test_a_value_is_what_dvc_takes_it_for(scalar: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"a: {{{scalar}}}\n" if ": " in scalar else f"a: {scalar}\n")
    theirs, ours = load_yaml(path)["a"], read_yaml(path)["a"]
    assert ours == theirs and type(ours) is type(theirs)


@pytest.mark.parametrize(
    ("scalar", "value"),
    [(".5e1", 5.0), ("-.5e1", -5.0), ("1e-5", 1e-5), ("1E-5", 1e-5), ("1e5", 1e5), ("on", "on"), ("010", 10)],
)
def test_values_are_those_of_yaml_1_2(scalar: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{scalar}: {scalar}\n")
    (read,) = read_yaml(tmp_path / "a.yaml").items()
    assert read == (value, value)


@pytest.mark.parametrize("written", ["1e-5", "1E-5", "1.0e-05", "0.00001", ".1e-4"])
def test_a_rate_may_be_written_in_any_way(written: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text, count = re.subn(r"(learning_rate:) [^}]+", rf"\1 {written}", SHIPPED.read_text())
    assert count == 1
    path.write_text(text)
    assert load(FinetuneParams, path).learning_rate == 1e-5


@pytest.mark.parametrize("rate", [1e-4, 3e-5, 1e-5, 1e-7, 2.5e-10, 1e16])
def test_a_rate_that_dvc_sets_is_read(rate: float, tmp_path: Path) -> None:
    """As `dvc exp run -S finetune.optimiser.learning_rate=1e-05` does, comments kept."""
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.read_text())
    with modify_yaml(path) as params:
        params["finetune"]["optimiser"]["learning_rate"] = rate
    assert load(FinetuneParams, path).learning_rate == rate


def test_a_class_may_be_called_no(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("{yes: [n, off], no: [on]}")
    assert read_yaml(path) == {"yes": ["n", "off"], "no": ["on"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a: 1\na: 2\n", 'is not YAML: found duplicate key "a" .*in line 2$'),
        (b"a: [1\nb: 2\n", "is not YAML: .* in line 2$"),
        (b"a: !!python/object/apply:os.system [ls]\n", "is not YAML: could not determine a constructor .* in line 1$"),
        (b"a: 2020-13-45\n", "is not YAML: month must be in"),
        (b"a: \xff\n", "is not YAML: .*utf-8"),
        (b"[" * 5000, "is not YAML: "),
    ],
)
def test_what_is_not_yaml_is_said_with_its_line(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(text)
    with pytest.raises(UserError, match=said):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize("name", ["../../x", "a;touch PWNED", "a b", "a.b", "", "-x", "$(x)"])
def test_a_strategy_has_a_name_that_a_folder_may_have(name: str, tmp_path: Path) -> None:
    params = yaml_files.params(SHIPPED)
    params["finetune"]["strategies"][name] = params["finetune"]["strategies"]["frozen"]
    (tmp_path / "params.yaml").write_text(yaml_files.dump_params(params))
    with pytest.raises(UserError, match=r"strategies.*a name has letters, digits"):
        load(FinetuneParams, tmp_path / "params.yaml")


@pytest.mark.parametrize("name", ["../../x", "a;touch PWNED", "a.b", ""])
@pytest.mark.parametrize("key", ["finetune.run", "sanity.strategies", "tuned.strategy"])
def test_wherever_a_strategy_is_named_it_has_such_a_name(key: str, name: str, tmp_path: Path) -> None:
    params = yaml_files.params(SHIPPED)
    section, _, field = key.partition(".")
    params[section][field] = name if field == "strategy" else [name]
    (tmp_path / "params.yaml").write_text(yaml_files.dump_params(params))
    with pytest.raises(UserError, match=f"{field}.*a name has letters, digits"):
        load(SECTIONS[section], tmp_path / "params.yaml")


def test_what_is_wrong_in_several_sections_is_told_together(tmp_path: Path) -> None:
    params = yaml_files.params(SHIPPED)
    assert load_all(SHIPPED).keys() == SECTIONS.keys()
    params["heads"]["seed"] = -1
    params["report"]["alpha"] = 1
    (tmp_path / "params.yaml").write_text(yaml_files.dump_params(params))
    with pytest.raises(UserError, match=r"heads.*fit\.seed.*report.*alpha"):
        load_all(tmp_path / "params.yaml")
