"""The record that keys the store: complete, closed, and concrete."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import UserError
from pipeline.codes import settings as settings_module
from pipeline.codes.settings import Normalisation, Settings, resolve, resolve_precision, settings_here
from pipeline.config import CodesParams, LayerSpec
from tests.codes.conftest import PARAMS, make_params

NORM = Normalisation(channels="bgr", scale=1.0, mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))


def made(sha: str = "a" * 64, norm: Normalisation = NORM, **changes: Any) -> Settings:
    params = make_params(**{"layers": ["conv3_3-avg"], "precision": "fp32"} | changes)
    return next(iter(resolve(params, arch="tinyvgg", weights_sha256=sha, normalisation=norm).values()))


CHANGES: dict[str, dict[str, Any]] = {
    "layers": {"layers": ["conv3_2-avg"]},
    "view": {"view": "squash"},
    "crop": {"crop": 60},
    "scales": {"scales": [64, 80]},
    "flip": {"flip": True},
    "combine": {"combine": "stack"},
    "background": {"background": [0, 0, 0]},
    "reduced_decode": {"reduced_decode": True},
    "precision": {"precision": "bf16"},
    "dtype": {"dtype": "float16"},
    "batch_size": {"batch_size": 8},
    "compile": {"compile": True},
}
# Keyed as well, but it takes a machine that has another.
ELSEWHERE = {"device"}
# Changes no value.
UNKEYED = {"memory_mb": 100}


def test_every_param_is_tried() -> None:
    assert set(CHANGES) | ELSEWHERE | set(UNKEYED) == set(CodesParams.model_fields) == set(PARAMS)


@pytest.mark.parametrize("param", CHANGES)
def test_every_param_changes_the_key(param: str) -> None:
    assert made(**CHANGES[param]).key != made().key


def test_what_changes_no_value_changes_no_key() -> None:
    assert made(**UNKEYED).key == made().key


def test_what_else_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        made().key,
        made(sha="b" * 64).key,
        made(norm=NORM.model_copy(update={"channels": "rgb"})).key,
        made(layers=["conv3_3-max"]).key,
        made(layers=["conv3_3-avg-l2"]).key,
        made(layers=["conv3_3-avg-sigmoid"]).key,
        made(layers=["conv3_3-avg-sigmoid-l2"]).key,
    }
    monkeypatch.setattr(settings_module, "PREPROCESSING_VERSION", "1.2")
    assert len(keys | {made().key}) == 8


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ("conv3_3-avg", "88c2e56744de0d55ee36a7f6a23f1f3826d162f31041b5a010eb1f876cda78f6"),
        ("pool5-flatten-l2", "c0b085cb6d803c6824b104a921143813d7e40e4d4a1247c1df6d6447bd16fb10"),
        ("conv3_3-spp", "322b3320098d3b605216ddef23a333d64a7040da390c5a32c5a920e286188c6a"),
    ],
)
def test_codes_that_were_computed_before_are_found(spec: str, key: str) -> None:
    assert made(layers=[spec], device="cpu").key == key


@pytest.mark.parametrize("spec", ["conv3_3-avg", "conv3_3-avg-sigmoid", "conv3_3-avg-l2", "conv3_3-avg-sigmoid-l2"])
def test_a_record_tells_its_spec(spec: str) -> None:
    one = made(layers=[spec])
    assert Settings.from_json(one.as_json()) == one
    assert one.spec.name == LayerSpec.named_in(one.as_json()).name == spec


def test_json_round_trip() -> None:
    one = made(flip=True, layers=["conv3_3-spp-l2"], view="whole", scales=[64, 96])
    assert Settings.from_json(json.loads(json.dumps(one.as_json()))) == one
    assert one.as_json()["pooling_settings"] == {"levels": [1, 2, 4]}


def test_another_versions_settings_are_refused() -> None:
    with pytest.raises(UserError, match="preprocessing version"):
        Settings.from_json(made().as_json() | {"preprocessing_version": "0.1"})
    with pytest.raises(UserError, match="another version: novelty"):
        Settings.from_json(made().as_json() | {"novelty": 1})


def test_batches_hold_views() -> None:
    assert made(batch_size=8, flip=True, scales=[64, 80]).images_per_batch == 2
    assert made(batch_size=2, flip=True, scales=[64, 80]).images_per_batch == 1
    assert made(batch_size=8, view="whole").images_per_batch == 1


@pytest.mark.parametrize(
    ("cpuinfo", "precision"),
    [
        ("flags\t\t: fpu avx2 avx512f\n", "fp32"),
        ("flags\t\t: fpu avx512_bf16\n", "bf16"),
        ("flags\t\t: amx_bf16 amx_tile\n", "bf16"),
        ("Features\t: fp asimd bf16\n", "bf16"),
        ("", "fp32"),
    ],
)
def test_auto_precision_on_a_processor(
    cpuinfo: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CNNCODES_PRECISION", raising=False)
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(settings_module, "_CPUINFO", tmp_path / "cpuinfo")
    assert resolve_precision("auto", "cpu") == precision


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_the_environment_decides_what_auto_means_and_nothing_else(
    chosen: str, device: settings_module.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNCODES_PRECISION", chosen)
    assert resolve_precision("auto", device) == chosen
    for named in ("fp32", "bf16", "fp16"):
        assert resolve_precision(named, device) == named
    assert made(precision="auto").precision == chosen


@pytest.mark.parametrize("wrong", ["fp16", "auto", "BF16", "half"])
def test_another_precision_in_the_environment_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_PRECISION", wrong)
    with pytest.raises(UserError, match=rf"CNNCODES_PRECISION is '{wrong}'; allowed: fp32 or bf16, or not set"):
        resolve_precision("auto", "cpu")
    assert resolve_precision("bf16", "cpu") == "bf16", "where nothing is `auto`, nothing is asked"


def test_an_empty_precision_in_the_environment_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CNNCODES_PRECISION", raising=False)
    before = resolve_precision("auto", "cpu")
    monkeypatch.setenv("CNNCODES_PRECISION", "")
    assert resolve_precision("auto", "cpu") == before


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"no layer 'conv9_9'.*conv1_1"):
        made(layers=["conv9_9-avg"])
    with pytest.raises(UserError, match="at least 64 x 64 pixels, got 60 x 60"):
        made(layers=["fc6-avg"], crop=60).dim(num_classes=1000)
    with pytest.raises(UserError, match="device mps is not on this machine; allowed: auto"):
        made(device="mps")


def test_import_loads_no_torch() -> None:
    code = "import sys, pipeline.codes; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_more_codes_are_made_as_the_first_were_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = made(device="cpu").as_json()
    assert settings_here(one) == one
    assert settings_here(one, precision="bf16") == one | {"precision": "bf16"}
    assert settings_here(one, device="auto", precision="fp32")["device"] == "cpu"
    far = one | {"device": "mps", "precision": "fp16", "compile": True}
    monkeypatch.setenv("CNNCODES_PRECISION", "fp32")
    assert settings_here(far) == one | {"precision": "fp32"}
    assert "mps made these codes and is not here" in caplog.text
    assert settings_here(far, device="cpu", precision="bf16") == one | {"precision": "bf16"}
    with pytest.raises(UserError, match="device mps is not on this machine"):
        settings_here(one, device="mps")
    with pytest.raises(UserError, match=r"unknown precision 'fp8'.*auto, fp32, bf16, fp16"):
        settings_here(one, precision="fp8")
