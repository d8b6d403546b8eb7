"""State dicts of torch: their layouts, their wrappings, and files that carry code or are not whole."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts
from pipeline.nets.weights.check import check
from pipeline.nets.weights.foreign import torch_names
from pipeline.nets.weights.legacy import safetensors_file, torch_file


def in_torchvisions_layout(arch: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {ours: theirs for theirs, ours in torch_names(arch).items() if not theirs.startswith(("pre_", "head"))}
    return {names[name]: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("arch", sorted(set(facts.ARCHS) - {"tinyvgg"}))
def test_names_are_torchvisions_own_and_in_order(arch: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(arch, weights=None).state_dict()
    ours = [torch_names(arch)[name] for name in theirs if not name.endswith("num_batches_tracked")]
    assert ours == list(facts.tensor_shapes(arch))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_layouts_give_equal_weights(tmp_path: Path, tiny: dict[str, Tensor], suffix: str) -> None:
    torchvisions = in_torchvisions_layout("tinyvgg", tiny)
    timms = {k: t for k, t in torchvisions.items() if k.startswith("features")}
    timms |= {
        "pre_logits.fc1.weight": tiny["fc6.weight"].reshape(32, 16, 2, 2),
        "pre_logits.fc1.bias": tiny["fc6.bias"],
        "pre_logits.fc2.weight": tiny["fc7.weight"].reshape(32, 32, 1, 1),
        "pre_logits.fc2.bias": tiny["fc7.bias"],
        "head.fc.weight": tiny["fc8.weight"],
        "head.fc.bias": tiny["fc8.bias"],
    }
    for i, state in enumerate((torchvisions, timms, tiny)):
        path = tmp_path / f"{i}{suffix}"
        if suffix == ".pth":
            torch.save(state, path)
            read = torch_file.read(path)
        else:
            save_file(state, path)
            read = safetensors_file.read(path)
        whole = check("tinyvgg", read.named("tinyvgg"))
        assert list(whole) == list(tiny) and all(torch.equal(whole[k], tiny[k]) for k in tiny)


def test_norms_are_read_without_their_counters(tmp_path: Path) -> None:
    model = torchvision.models.vgg.make_layers([64, "M"], batch_norm=True)
    torch.save({f"features.{k}": t for k, t in model.state_dict().items()}, tmp_path / "w.pth")
    whole = check("vgg11_bn", torch_file.read(tmp_path / "w.pth").named("vgg11_bn"))
    assert list(whole) == list(facts.tensor_shapes("vgg11_bn", deepest="conv1_1"))


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_checkpoints_of_training_scripts(tmp_path: Path, tiny: dict[str, Tensor], nest: str, prefix: str) -> None:
    torch.save({nest: {prefix + k: t for k, t in tiny.items()}, "epoch": 3}, tmp_path / "w.pt")
    assert torch_file.read(tmp_path / "w.pt").named("tinyvgg").keys() == tiny.keys()


def test_unknown_names_stay_for_the_check_to_report(tmp_path: Path, tiny: dict[str, Tensor]) -> None:
    torch.save(tiny | {"layer4.0.conv1.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"unexpected: layer4\.0\.conv1\.weight"):
        check("tinyvgg", torch_file.read(tmp_path / "w.pth").named("tinyvgg"))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, tiny: dict[str, Tensor], zipped: bool) -> None:
    victim, path = tmp_path / "victim", tmp_path / "w.pth"
    torch.save(tiny | {"x": Evil(victim)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"w\.pth holds more than weights"):
        torch_file.read(path)
    assert not victim.exists()


def test_a_plain_pickle_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Evil(tmp_path / "victim")))
    with pytest.raises(UserError, match=r"w\.pth"):
        torch_file.read(tmp_path / "w.pth")
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("nested", [False, True])
def test_a_whole_module_is_refused(tmp_path: Path, nested: bool) -> None:
    module = torch.nn.Linear(2, 2)
    torch.save({"epoch": 1, "model": module} if nested else module, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"holds more than weights.*state dict"):
        torch_file.read(tmp_path / "w.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_files_cut_short_are_refused(tmp_path: Path, tiny: dict[str, Tensor], zipped: bool, keep: float) -> None:
    path = tmp_path / "w.pth"
    torch.save(tiny, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"w\.pth .*cut short"):
        torch_file.read(path)


@pytest.mark.parametrize("seed", range(30))
def test_damaged_pickles_never_raise_anything_else(tmp_path: Path, tiny: dict[str, Tensor], seed: int) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": tiny["fc7.bias"]}, path, _use_new_zipfile_serialization=False)
    data = bytearray(path.read_bytes())
    g = torch.Generator().manual_seed(seed)
    for position in torch.randint(len(data), (8,), generator=g).tolist():
        data[position] = int(torch.randint(256, (1,), generator=g))
    path.write_bytes(data)
    try:
        torch_file.read(path)
    except UserError as e:
        assert "w.pth" in str(e)


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {1: torch.zeros(1)}, torch.zeros(3)])
def test_content_that_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth holds"):
        torch_file.read(tmp_path / "w.pth")


class Settings:
    """An object of a training script's own."""

    def __init__(self) -> None:
        self.rate = 0.1


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_beside_the_weights_are_not_made(tmp_path: Path, tiny: dict[str, Tensor], zipped: bool) -> None:
    made: list[str] = []
    Settings.__setstate__ = lambda *_: made.append("made")  # type: ignore[attr-defined]
    path = tmp_path / "w.pth"
    beside = {"args": Settings(), "out": Path("a"), "best": np.float32(1), "seen": collections.defaultdict(list, a=[1])}
    torch.save({"net": tiny, **beside}, path, _use_new_zipfile_serialization=zipped)
    read = torch_file.read(path)
    assert all(torch.equal(read.named("tinyvgg")[k], t) for k, t in tiny.items())
    assert read.aside("tinyvgg").keys() == beside.keys() and not made


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_torchs_advice_to_load_unsafely_is_not_passed_on(tmp_path: Path, zipped: bool, protocol: int) -> None:
    for i, content in enumerate(
        (Evil(tmp_path / "victim"), torch.nn.Linear(2, 2), {"f": print}, {"a": torch.device("cpu")})
    ):
        path = tmp_path / f"{i}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
        with pytest.raises(UserError) as e:
            torch_file.read(path)
        assert str(e.value).startswith(str(path)) and "state_dict()" in str(e.value)
        for advice in ("weights_only", "safe_globals", "trust", "allowlist"):
            assert advice not in str(e.value)


def test_a_program_is_named_as_that(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(UserError, match="is a TorchScript archive, a program"):
        torch_file.read(tmp_path / "w.pt")
