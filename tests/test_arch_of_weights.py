"""Which architecture is meant where none is named: the weights file's own, and a clear word where that can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import transfer
from pipeline.base.errors import UserError
from pipeline.nets.weights import WEIGHT_READERS, random, read_canonical, write_canonical
from pipeline.workspace import canonical_weights, network
from tests.nets.weights.test_sources import write
from tests.pictures import draw_classes
from tests.strategies import world

SETTINGS = {"size": 32, "scale": 36, "epochs": 1, "repeats": 1, "batch_size": 8, "device": "cpu", "widths": [12, 10]}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("suffix", WEIGHT_READERS)
def test_a_files_layers_tell_it(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"w{suffix}", random.tensors("tinyvgg", 0, num_classes=5))
    source, view = network(None, str(path))
    assert (source.arch, source.source, view) == ("tinyvgg", "file", {})


def test_another_architecture_than_the_files_is_refused_when_its_layers_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", random.tensors("tinyvgg", 0, num_classes=5))
    source, _ = network("alexnet", str(path))
    with pytest.raises(UserError, match=r"w\.pth holds weights of tinyvgg by its layers; allowed: .*not alexnet"):
        canonical_weights(source, tmp_path)


def test_a_fault_of_the_right_architecture_is_told_itself(tmp_path: Path) -> None:
    variant = "tinyvgg-32px-fc12-10"
    for arch in ("tinyvgg", variant):
        tensors = random.tensors(arch, 0, num_classes=5)
        tensors["conv1_1.bias"][0] = torch.nan
        source, _ = network(arch, str(write(tmp_path / "w.pth", tensors)))
        with pytest.raises(UserError, match=r"not whole weights of .*holding NaN or infinity: conv1_1.bias"):
            canonical_weights(source, tmp_path)


def test_weights_with_a_name_are_vgg16_unless_another_is_named() -> None:
    for name in ("demo", "torchvision:IMAGENET1K_V1", "random:0"):
        assert network(None, name)[0].arch == "vgg16"
        assert network("vgg19", name)[0].arch == "vgg19"


def test_a_canonical_file_is_not_contradicted(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_canonical(world.weights(), path)
    assert network(None, str(path))[0].arch == "tinyvgg"
    with pytest.raises(UserError, match=r"w\.safetensors holds weights of tinyvgg, not vgg16; allowed: tinyvgg"):
        network("vgg16", str(path))


def test_what_can_not_be_told_is_said(tmp_path: Path) -> None:
    first = {n: t for n, t in random.tensors("vgg13", 0, num_classes=2).items() if n.startswith("conv1")}
    torch.save(first, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"may be of vgg13, vgg16, vgg19.*allowed: --arch"):
        network(None, str(tmp_path / "w.pth"))
    with pytest.raises(UserError, match="neither a known name nor a file"):
        network(None, "vgg_16")
    with pytest.raises(UserError, match="no weights file at"):
        network(None, str(tmp_path / "none.pth"))


@pytest.mark.network
@pytest.mark.one_precision  # what a file of weights says of itself
@pytest.mark.parametrize("head", ["gap", "vgg"])
def test_a_tuned_network_is_tuned_on_without_a_word_of_its_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    """Colours, then the same colours again from the tuned network's file: its convolutions come along."""
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    draw_classes(tmp_path / "photos", per_class=8)
    own: dict[str, Any] = {"strategies": ["finetune"], "settings": SETTINGS | {"head": head}}
    transfer.finetune(tmp_path / "photos", out=tmp_path / "one", arch="tinyvgg", weights="random:0", **own)
    model = tmp_path / "one/finetune/finetune/model.safetensors"
    record = transfer.finetune(tmp_path / "photos", out=tmp_path / "two", weights=str(model), **own)["finetune"]
    assert (tmp_path / "two/weights/weights.safetensors").read_bytes() == model.read_bytes()
    tuned = read_canonical(tmp_path / "two/finetune/finetune/model.safetensors")
    assert tuned.arch == read_canonical(model).arch == ("tinyvgg" if head == "gap" else "tinyvgg-32px-fc12-10")
    assert set(record["renewed"]) == ({"classifier"} if head == "gap" else {"fc8"})
    with pytest.raises(UserError, match="holds weights of tinyvgg"):
        transfer.finetune(tmp_path / "photos", out=tmp_path / "three", arch="vgg16", weights=str(model), **own)
    assert not (tmp_path / "three").exists()
