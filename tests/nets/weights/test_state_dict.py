"""State dicts as training scripts save them: the weights are found, what else there is stands in the account."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline.base.errors import UserError
from pipeline.nets.weights import Weights
from pipeline.nets.weights.convert import convert
from pipeline.nets.weights.preprocessings import TORCHVISION
from pipeline.nets.weights.sources import from_file, open_file
from tests.nets.weights.test_torch_file import in_torchvisions_layout

PREFIXES = [
    "", "module.", "_orig_mod.", "_orig_mod.module.", "model.module.", "net.", "encoder.", "backbone.", "a.b.c.d."
]  # fmt: skip


@pytest.fixture
def state(tiny: dict[str, Tensor]) -> dict[str, Tensor]:
    return in_torchvisions_layout("tinyvgg", tiny)


@pytest.fixture
def sha256(tiny: dict[str, Tensor]) -> str:
    return Weights.make("tinyvgg", tiny, TORCHVISION, {}).sha256


def put(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def module(tiny: dict[str, Tensor]) -> nn.Module:
    """With these weights under torchvision's names."""
    made = nn.Module()
    for name, tensor in in_torchvisions_layout("tinyvgg", tiny).items():
        *path, leaf = name.split(".")
        inner = made
        for part in path:
            inner = getattr(inner, part, None) or (inner.add_module(part, nn.Module()), getattr(inner, part))[1]
        inner.register_parameter(leaf, nn.Parameter(tensor.clone()))
    return made


def account(path: Path, **how: Any) -> dict[str, str]:
    """What `convert` took of the file, and of what it took nothing: name -> why."""
    return {entry.name: entry.why for entry in convert(path, **how).account if entry.outcome != "copied"}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".ckpt", ".pth.tar", ".safetensors"])
def test_any_common_prefix(tmp_path: Path, state: dict[str, Tensor], sha256: str, prefix: str, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(put(prefix, state), path)
    assert from_file(path, "tinyvgg").sha256 == sha256
    assert convert(path).weights.sha256 == sha256 and not account(path)


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model", "net", "weights", "ema_state_dict", "a"])
def test_any_nesting(tmp_path: Path, state: dict[str, Tensor], sha256: str, nest: str, prefix: str) -> None:
    path = tmp_path / "w.pth"
    torch.save({nest: put(prefix, state), "epoch": 3, "best": torch.tensor(0.9)}, path)
    assert from_file(path, "tinyvgg").sha256 == sha256
    assert account(path).keys() == {"best", "epoch"}
    assert from_file(path, "tinyvgg").provenance["part"] == f"{nest}.{prefix}".rstrip(".")


def test_dicts_in_dicts_and_a_dict_that_holds_itself(tmp_path: Path, tiny: dict[str, Tensor], sha256: str) -> None:
    nested: dict[str, Any] = {}
    for name, tensor in tiny.items():
        layer, part = name.split(".")
        nested.setdefault(layer, {})[part] = tensor
    nested["again"] = [nested, nested]
    torch.save({"runs": [{"net": nested}]}, tmp_path / "w.pt")
    assert from_file(tmp_path / "w.pt", "tinyvgg").sha256 == sha256


def test_convolutions_saved_alone_and_wrapped_alone(tmp_path: Path, state: dict[str, Tensor], sha256: str) -> None:
    alone = {name.removeprefix("features."): t for name, t in state.items() if name.startswith("features.")}
    torch.save(put("encoder.", alone), tmp_path / "alone.pth")
    assert list(from_file(tmp_path / "alone.pth", "tinyvgg").tensors)[-1].startswith("conv5")
    # The ImageNet example of PyTorch wraps `features` of VGG and AlexNet alone.
    wrapped = {name.replace("features.", "features.module."): t for name, t in state.items()}
    torch.save({"arch": "tinyvgg", "state_dict": wrapped}, tmp_path / "wrapped.pth.tar")
    assert from_file(tmp_path / "wrapped.pth.tar", "tinyvgg").sha256 == sha256


def test_averaged_models(tmp_path: Path, tiny: dict[str, Tensor], sha256: str) -> None:
    torch.save(AveragedModel(module(tiny)).state_dict(), tmp_path / "w.pth")
    assert from_file(tmp_path / "w.pth", "tinyvgg").sha256 == sha256
    assert list(account(tmp_path / "w.pth")) == ["n_averaged"]


def test_an_optimiser_beside(tmp_path: Path, tiny: dict[str, Tensor], sha256: str) -> None:
    model = module(tiny)
    optimiser = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    made = {
        "model": model.state_dict(),
        "optimizer": optimiser.state_dict(),
        "args": Namespace(lr=0.1, out=Path("runs")),
        "best_acc1": np.float64(0.9),
        "curve": np.arange(3.0),
        "conf": OmegaConf.create({"lr": 0.1, "layers": [1, 2]}),
    }
    torch.save(made, tmp_path / "w.pth")
    assert from_file(tmp_path / "w.pth", "tinyvgg").sha256 == sha256
    assert account(tmp_path / "w.pth").keys() == {"step", "optimizer", "args", "best_acc1", "curve", "conf"}


def test_lightnings_own_checkpoint(tmp_path: Path, tiny: dict[str, Tensor], sha256: str) -> None:
    class Task(lightning.LightningModule):
        def __init__(self, width: int = 3, where: Path = Path("runs")) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = module(tiny)

        def training_step(self, *_: Any) -> Tensor:
            return 0 * sum(p.sum() for p in self.parameters())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.0)

    trainer = lightning.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Task(), torch.utils.data.DataLoader(torch.zeros(2, 1)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    weights = from_file(tmp_path / "last.ckpt", "tinyvgg")
    assert weights.sha256 == sha256 and weights.provenance["part"] == "state_dict.model"
    assert {"optimizer_states", "hyper_parameters", "epoch"} <= account(tmp_path / "last.ckpt").keys()


def test_two_sets_of_weights_are_for_the_user_to_choose_from(tmp_path: Path, state: dict[str, Tensor]) -> None:
    averaged = {name: tensor * 0.5 for name, tensor in state.items()}
    path = tmp_path / "w.pth"
    torch.save({"state_dict": put("module.", state), "state_dict_ema": put("module.", averaged), "epoch": 1}, path)
    choice = r"2 sets of weights of tinyvgg: state_dict\.module, state_dict_ema\.module; allowed: .*--part"
    for read in (lambda: from_file(path, "tinyvgg"), lambda: convert(path)):
        with pytest.raises(UserError, match=choice):
            read()
    for part, scale in (("state_dict", 1), ("state_dict_ema", 0.5), ("state_dict_ema.module", 0.5)):
        done = convert(path, part=part)
        assert torch.equal(done.weights.tensors["fc8.bias"], state["classifier.6.bias"] * scale)
        assert done.weights.provenance["part"] == f"{part.removesuffix('.module')}.module"
    assert "state_dict_ema" in account(path, part="state_dict")
    with pytest.raises(
        UserError, match=r"no weights in 'ema'; allowed: what leads to some: state_dict, state_dict_ema"
    ):
        convert(path, part="ema")


def test_the_whole_file_may_be_one_of_them(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """As of a network that trains against a slower copy of its own."""
    path = tmp_path / "w.pth"
    torch.save(state | put("target.", {name: tensor * 0.5 for name, tensor in state.items()}), path)
    with pytest.raises(UserError, match=r"2 sets of weights of tinyvgg: \., target;"):
        from_file(path, "tinyvgg")
    for part, scale in ((".", 1), ("target", 0.5)):
        assert torch.equal(convert(path, part=part).weights.tensors["fc8.bias"], state["classifier.6.bias"] * scale)


def test_the_same_weights_twice_are_one(tmp_path: Path, state: dict[str, Tensor], sha256: str) -> None:
    """A module that two others share is saved under both."""
    shared = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    torch.save(put("vgg.", state) | shared, tmp_path / "w.pth")
    assert from_file(tmp_path / "w.pth", "tinyvgg").sha256 == sha256
    assert account(tmp_path / "w.pth") == {"features": "the same values as vgg"}
    torch.save({"last": state, "best": state}, tmp_path / "v.pth")
    assert from_file(tmp_path / "v.pth", "tinyvgg").sha256 == sha256


def test_another_network_beside_is_left(tmp_path: Path, state: dict[str, Tensor], sha256: str) -> None:
    decoder = {
        "decoder.0.weight": torch.ones(4, 3, 3, 3),
        "decoder.0.bias": torch.ones(4),
        "decoder.3.weight": torch.ones(2),
    }
    torch.save({"encoder": put("encoder.", state), "decoder": decoder}, tmp_path / "w.pth")
    assert from_file(tmp_path / "w.pth", "tinyvgg").sha256 == sha256
    assert account(tmp_path / "w.pth") == {"decoder": "it lies beside the weights, which are in encoder.encoder"}


def test_strange_tensors_among_the_weights_are_never_dropped_in_silence(
    tmp_path: Path, state: dict[str, Tensor], tiny: dict[str, Tensor]
) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state_dict": put("model.", state) | {"loss.weight": torch.ones(5)}}, path)
    with pytest.raises(
        UserError, match=r"unexpected: state_dict\.loss\.weight; allowed: what `cnncodes weights convert"
    ):
        from_file(path, "tinyvgg")
    assert account(path) == {"state_dict.loss.weight": "tinyvgg has no such tensor"}
    # One layer under two names, with other values.
    torch.save(state | {"fc8.weight": tiny["fc8.weight"] + 1}, path)
    with pytest.raises(UserError, match=r"unexpected: another fc8\.weight"):
        from_file(path, "tinyvgg")


def test_numbers_of_other_types_are_no_copies(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": state, "b": {name: tensor.double() for name, tensor in state.items()}}, path)
    with pytest.raises(UserError, match="2 sets of weights"):
        from_file(path, "tinyvgg")


def test_of_no_known_names_all_is_strange(tmp_path: Path) -> None:
    torch.save(
        {"model": {"layer1.conv.weight": torch.ones(3, 3)}, "optimizer": {"a": torch.ones(1)}}, tmp_path / "w.pth"
    )
    assert list(open_file(tmp_path / "w.pth").named("vgg16")) == ["model.layer1.conv.weight"]
