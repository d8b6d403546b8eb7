"""A params file over its preset over the base: each layer holds what it says, and a file of before is shown the way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import transfer
from pipeline.base.errors import UserError
from pipeline.config import (
    PRESET_SECTIONS,
    SECTIONS,
    CodesParams,
    FinetuneParams,
    RetrievalParams,
    assigned,
    load,
    load_all,
    preset_values,
    read_yaml,
    validate,
)
from pipeline.config.convert import STANDING, convert, renamed
from pipeline.config.layered import BASE, KINDS, PRESETS, kind_defaults, names
from pipeline.config.layout import flat, grouped, groups_of, keys_of, path_of
from pipeline.dag.stages import STAGES
from tests import yaml_files

ROOT = Path(__file__).parents[2]
OLD = {
    "params": ROOT / "params.yaml",
    "gender": ROOT / "experiments/gender.yaml",
    "cifar10": ROOT / "experiments/cifar10.yaml",
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def test_params_yaml_is_short() -> None:
    assert len((ROOT / "params.yaml").read_text().splitlines()) <= 80


def test_the_base_has_every_key_in_its_place() -> None:
    base = read_yaml(PRESETS / "base.yaml")
    assert set(base) == set(PRESET_SECTIONS)
    for name, model in SECTIONS.items():
        extra = {KINDS} if name == "finetune" else set()
        assert set(base[name]) == set(keys_of(model)) | extra, name
        for group, one in groups_of(model).items():
            assert set(base[name][group]) == set(one.keys), f"{name}.{group}"


@pytest.mark.parametrize("preset", names())
def test_a_file_that_names_a_preset_and_no_more_is_whole(preset: str, tmp_path: Path) -> None:
    assert load_all(written(tmp_path, f"preset: {preset}\n")).keys() == SECTIONS.keys()


def test_a_file_is_over_its_preset_and_that_over_the_base(tmp_path: Path) -> None:
    base, demo = written(tmp_path, "preset: base\n"), tmp_path / "demo.yaml"
    demo.write_text("preset: demo\ncodes:\n  image: {flip: true}\n")
    ours, theirs = load(CodesParams, demo), load(CodesParams, base)
    assert (ours.crop, ours.flip, ours.batch_size) == (96, True, theirs.batch_size)
    assert (theirs.crop, theirs.flip) == (224, False)


@pytest.mark.parametrize(("model", "key"), [(CodesParams, "codes"), (FinetuneParams, "finetune")])
def test_groups_are_of_files_alone(model: Any, key: str) -> None:
    values = preset_values()[key]
    back, wrong = flat(model, grouped(model, values))
    assert back == values and not wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "laid out as files were before there were presets: it names no preset"),
        ("preset: small\n", "preset is 'small'; allowed: base, demo"),
        ("preset: [base]\n", "preset is "),
        ("preset: base\ncodes: {crop: 96}\n", "codes.crop is codes.image.crop.*params convert"),
        ("preset: base\nfinetune: {optimiser: sgd}\n", "finetune.optimiser is finetune.optimiser.kind.*params convert"),
        ("preset: base\ncodes: {image: 96}\n", "image: not keys and values, got 96"),
        ("preset: base\ncodes: {image: {corp: 96}}\n", r"image\.corp: unknown key \(allowed: view, crop"),
        ("preset: base\ncodes: {image: {crop: 0}}\n", r"image\.crop: .*greater than or equal to 1"),
        ("preset: base\ncodes: {imgae: {}}\n", r"imgae: unknown key \(allowed: layers, dtype, image, compute\)"),
        ("preset: base\nphotos: {}\n", "unknown sections .'photos'."),
        ("preset: base\ncodes: []\n", "codes is "),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        load(CodesParams if "finetune" not in text else FinetuneParams, written(tmp_path, text))


def test_settings_of_all_or_nothing_can_be_emptied(tmp_path: Path) -> None:
    assert load(RetrievalParams, written(tmp_path, "preset: base\n")).approximate
    path = written(tmp_path, "preset: base\nretrieval: {approximate: {}}\n")
    assert load(RetrievalParams, path).approximate == {}


# ---- strategies


def strategies(tmp_path: Path, text: str) -> FinetuneParams:
    return load(FinetuneParams, written(tmp_path, f"preset: base\nfinetune:\n  strategies:\n    {text}\n"))


@pytest.mark.parametrize("kind", kind_defaults())
def test_a_kind_is_all_that_a_strategy_needs(kind: str, tmp_path: Path) -> None:
    made = strategies(tmp_path, f"mine: {{kind: {kind}}}").strategies["mine"]
    assert made.model_dump() == {"kind": kind, **kind_defaults()[kind]}


def test_every_kind_has_its_defaults() -> None:
    kinds = {one["kind"] for one in preset_values()["finetune"]["strategies"].values()}
    assert kinds == set(kind_defaults())


def test_a_strategy_that_says_its_kind_takes_nothing_over(tmp_path: Path) -> None:
    assert strategies(tmp_path, "finetune: {kind: finetune}").strategies["finetune"].below == ""
    assert strategies(tmp_path, "finetune: {multiple: 0.2}").strategies["finetune"].below == "conv4_1"


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="every is of no use to kind frozen"):
        strategies(tmp_path, "mine: {kind: frozen, every: 2}")


@pytest.mark.parametrize("key", ["every: 0", "multiple: 0.0", 'below: ""', "labels: {}"])
def test_a_key_of_another_kind_is_refused_at_the_value_that_its_kind_has_anyway(key: str, tmp_path: Path) -> None:
    name, _, value = key.partition(": ")
    said = rf"strategies\.mine\.{name}: {name} is of no use to kind frozen: leave it out"
    with pytest.raises(UserError, match=said):
        strategies(tmp_path, f"mine: {{kind: frozen, {key}}}")
    with pytest.raises(UserError, match=said):
        assigned([f"finetune.strategies.mine={{kind: frozen, {key}}}"], SECTIONS)
    with pytest.raises(UserError, match=said.replace("mine", "frozen")):
        transfer.params_of(assigned([f"finetune.strategies.frozen.{name}={value}"], SECTIONS)["finetune"])


def test_a_record_spells_out_all_keys(tmp_path: Path) -> None:
    whole = {"mine": strategies(tmp_path, "mine: {kind: frozen}").strategies["mine"].model_dump()}
    assert "every" in whole["mine"]
    assert transfer.params_of({"strategies": whole}).strategies["mine"].every == 0


def test_a_strategy_has_its_own_rate_epochs_and_schedule(tmp_path: Path) -> None:
    schedule = "schedule: {kind: step, every: 3}"
    text = f"mine: {{kind: cnn, epochs: 2, batch_size: 7, optimiser: sgd, learning_rate: 0.5, {schedule}}}"
    params = strategies(tmp_path, text)
    own, others = params.of("mine"), params.of("cnn")
    assert others == params
    assert (own.epochs, own.batch_size, own.optimiser, own.learning_rate) == (2, 7, "sgd", 0.5)
    shared = params.schedule.model_dump()
    assert own.schedule.model_dump() == shared | {"kind": "step", "every": 3}
    assert own.strategies == params.strategies and own.momentum == params.momentum


def test_a_strategy_without_any_is_written_as_before(tmp_path: Path) -> None:
    """So that its fingerprint is what it was."""
    assert set(strategies(tmp_path, "mine: {kind: cnn}").strategies["mine"].model_dump()) == {
        *("kind", "multiple", "below", "every", "augment", "labels", "table")
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mine: {kind: direct, epochs: 2}", "kind direct trains nothing: leave out epochs"),
        ("mine: {kind: cnn, optimiser: lbfgs}", r"strategies\.mine.*clip 5 with lbfgs"),
        ("mine: {kind: cnn, epochs: 0}", "epochs.*greater than or equal to 1"),
        ("mine: {kind: cnn, repeats: 2}", "repeats: unknown key"),
    ],
)
def test_what_does_not_fit_is_told_of_the_strategy(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        strategies(tmp_path, text)


# ---- files of before


def of_those(got: Any, want: Any) -> Any:
    """Without strategies that the base has beside."""
    if not isinstance(got, FinetuneParams):
        return got
    return got.model_copy(update={"strategies": {key: got.strategies[key] for key in want.strategies}})


@pytest.mark.parametrize("name", OLD)
def test_a_file_of_before_says_the_same_once_converted(name: str, tmp_path: Path) -> None:
    old = Path(__file__).with_name(f"old_{name}.yaml")
    with pytest.raises(UserError, match=f"params convert .*old_{name}.yaml --out NEW.yaml"):
        load_all(old)
    new = load_all(written(tmp_path, convert(old).text))
    shipped = load_all(OLD[name])
    before = read_yaml(old)
    for section, model in SECTIONS.items():
        want: Any = validate(model, before[section], where=section)
        assert of_those(new[section], want) == of_those(shipped[section], want) == want, section


@pytest.mark.parametrize("name", OLD)
def test_each_value_of_a_file_of_before_is_in_the_new_one_or_told_as_left_out(name: str) -> None:
    old = Path(__file__).with_name(f"old_{name}.yaml")
    done = convert(old)
    told = {line.partition(":")[0] for line in done.left_out}
    new = YAML(typ="safe", pure=True).load(done.text)
    strategies = new["finetune"]["strategies"]
    kept = {
        *(f"{section}.{path}" for section, model in SECTIONS.items() for path in paths(model, new[section])),
        *(f"finetune.strategies.{name}.{key}" for name, one in strategies.items() for key in one),
    }
    assert not told & kept
    before = read_yaml(old)
    assert told | kept - {"finetune.strategies"} == {
        *(f"{section}.{path_of(SECTIONS[section], key)}" for section, values in before.items() for key in values),
        *(f"finetune.strategies.{name}.{key}" for name, one in before["finetune"]["strategies"].items() for key in one),
    } - {"finetune.strategies"}


def paths(model: Any, values: dict[str, Any]) -> list[str]:
    """What a section of a file sets, by the names that files have."""
    groups = groups_of(model)
    found = []
    for key, value in values.items():
        found += [f"{key}.{one}" for one in value] if key in groups else [key]
    return found


def test_what_is_left_out_is_said_with_its_value(tmp_path: Path) -> None:
    lines = convert(Path(__file__).with_name("old_params.yaml")).left_out
    assert "codes.image.background: [255, 255, 255], as the preset base has it" in lines
    assert "finetune.strategies.frozen.every: 0, as each strategy of kind frozen has it" in lines


def test_a_file_of_before_without_a_bound_on_memory(tmp_path: Path) -> None:
    old = read_yaml(Path(__file__).with_name("old_params.yaml"))
    del old["codes"]["memory_mb"]
    path = tmp_path / "old.yaml"
    path.write_text(yaml_files.dump(old))
    assert load(CodesParams, written(tmp_path, convert(path).text)).memory_mb == 4096


@pytest.mark.parametrize("text", ["preset: base\n", "[]", "codes: {}\n", "photos: {}\n"])
def test_what_is_no_file_of_before_is_not_converted(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a params file from before|nothing to convert|layers: missing"):
        convert(written(tmp_path, text))


def test_docs_list_every_name_that_moved() -> None:
    text = (ROOT / "docs/params.md").read_text()
    lines = {tuple(re.findall(r"`([a-z_.0-9]+)`", line)) for line in text.splitlines() if line.startswith("| `")}
    assert {(old, new) for old, new in renamed().items()} <= lines


# ---- what stands in the file


def stands(values: Any, path: str) -> bool:
    for key in path.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


FILES = [ROOT / "params.yaml", *sorted((ROOT / "experiments").glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_dvc_yaml_names_stands_in_the_file(path: Path) -> None:
    """DVC takes the names of its params from the file alone, and its -S sets what is there."""
    values = read_yaml(path)
    named = {param for stage in STAGES for param in stage.params if "${" not in param}
    named |= {key for stage in STAGES for key in stage.matrix.values()}
    assert not [key for key in sorted(named | set(STANDING)) if not stands(values, key)]
    listed = {*values["finetune"]["run"], *values["sanity"]["strategies"]}
    assert listed <= set(values["finetune"]["strategies"])


def test_every_key_that_the_documents_set_by_dvc_stands() -> None:
    texts = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for path in texts for line in path.read_text().splitlines() if "dvc exp run" in line]
    keys = {key for line in lines for key in re.findall(r"-S '?([a-z_0-9.]+)=", line)}
    values = read_yaml(ROOT / "params.yaml")
    assert len(keys) >= 5 and not [key for key in sorted(keys) if not stands(values, key)]


def test_the_base_is_what_commands_do() -> None:
    assert BASE in names() and preset_values()["codes"]["crop"] == 224


def test_a_file_of_today_needs_no_conversion(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("preset: demo\n")
    with pytest.raises(UserError, match=r"names a preset, as params files do now: there is nothing to convert"):
        convert(path)
