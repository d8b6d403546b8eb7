"""Networks of torchvision and timm: their values are the library's own, and what they can't do is one sentence."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.base.errors import UserError
from pipeline.codes.embedder import Embedder
from pipeline.codes.settings import resolve
from pipeline.codes.weights_header import WeightsHeader
from pipeline.config import CodesParams, WeightsParams
from pipeline.data import views
from pipeline.nets import backbone
from pipeline.nets import weights as nets_weights
from pipeline.nets.modules import weights as library_weights
from pipeline.nets.weights import Weights
from pipeline.workspace import preset

# Architecture -> (side of the input, specs).
SMALL = {
    "torchvision:resnet50": (64, ["layer1.0.conv2-avg", "layer3-avg", "layer4-flatten"]),
    "timm:tf_efficientnet_lite0": (64, ["blocks.2-avg", "bn2-avg"]),
    "torchvision:mobilenet_v3_small": (64, ["features.4-avg", "features-max", "classifier.0-avg"]),
    "torchvision:convnext_tiny": (64, ["features.1.0-avg", "features.5-avg"]),
    "torchvision:swin_t": (64, ["features.1.1-avg", "features.3-flatten"]),
    "timm:vit_tiny_patch16_224": (64, ["blocks.3.attn-avg", "blocks.11-cls", "norm-patchavg"]),
    "timm:vit_small_patch14_dinov2.lvd142m": (56, ["blocks.5-patchavg", "norm-cls", "norm-flatten"]),
    "torchvision:regnet_y_400mf": (64, ["stem-avg", "trunk_output.block3-avg"]),
}


def made(arch: str, source: str = "random:0", *, file: str = "-") -> Weights:
    return nets_weights.resolve(WeightsParams(arch=arch, source=source, file=file), Path("unused"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three noisy photographs of odd sizes: wide, tall, and smaller than the input."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    found = []
    for i, size in enumerate([(173, 116), (101, 190), (61, 53)]):
        pixels = Image.fromarray(rng.integers(0, 256, (13, 17, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        pixels.save(folder / f"{i}.png")
        found.append(folder / f"{i}.png")
    return found


def library_transform(arch: str, side: int, scale: int, image: Image.Image) -> Tensor:
    """The library's own transform for a network's weights, at another size."""
    library, _, name = arch.partition(":")
    if library == "timm":
        import timm
        from timm.data import create_transform, resolve_data_config

        config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        config |= {"input_size": (3, side, side), "crop_pct": side / scale}
        return create_transform(**config, is_training=False)(image)
    from torchvision import models
    from torchvision.transforms._presets import ImageClassification

    own = models.get_model_weights(name).DEFAULT.transforms()
    preset = ImageClassification(
        crop_size=side, resize_size=scale, mean=own.mean, std=own.std, interpolation=own.interpolation
    )
    return preset(image)


def hooked(module: nn.Module, layers: list[str], x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for layer in layers:
        module.get_submodule(layer).register_forward_hook(
            lambda _, __, y, layer=layer: found.__setitem__(layer, y.detach().clone())
        )
    with torch.inference_mode():
        module(x)
    return found


def pooled_by_hand(value: Tensor, pooling: str, layer: backbone.Layer, *, channels_last: bool) -> Tensor:
    if value.ndim == 3:
        return {
            "cls": lambda: value[:, 0],
            "avg": lambda: value[:, layer.prefix :].mean(1),
            "patchavg": lambda: value[:, layer.prefix :].mean(1),
            "flatten": lambda: value[:, layer.prefix :].transpose(1, 2).flatten(1),
        }[pooling]()
    if value.ndim == 2:
        return value
    maps = value.permute(0, 3, 1, 2) if channels_last else value
    return {
        "avg": lambda: maps.mean((2, 3)),
        "max": lambda: maps.amax((2, 3)),
        "flatten": lambda: maps.flatten(1),
    }[pooling]()


LARGE = ("torchvision:resnet50", "torchvision:convnext_tiny", "torchvision:swin_t")


@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=[pytest.mark.slow] if arch in LARGE else []) for arch in SMALL]
)
def test_codes_are_a_plain_forward_on_the_librarys_transform(arch: str, photos: list[Path]) -> None:
    side, specs = SMALL[arch]
    scale = side + 10
    weights = made(arch)
    header = WeightsHeader.of(weights)
    params = preset(
        CodesParams, layers=specs, crop=side, scales=[scale], precision="fp32", device="cpu", dtype="float32",
        batch_size=2,
    )  # fmt: skip
    settings = resolve(
        params, arch=arch, weights_sha256=header.sha256, normalisation=header.normalisation,
        resampling=header.resampling, geometry=header.geometry,
    )  # fmt: skip
    found = Embedder(weights, *[s.as_json() for s in settings.values()]).every(photos)

    about = backbone.find(arch)
    module = about.library.build(about.name)  # type: ignore[attr-defined]
    module.load_state_dict(dict(weights.tensors), strict=False)
    images = [library_transform(arch, side, scale, Image.open(path).convert("RGB")) for path in photos]
    wanted = hooked(module, [s.layer for s in settings.values()], torch.stack(images))
    for name, s in settings.items():
        layer = about.require(s.layer)
        value = wanted[s.layer]
        last = value.ndim == 4 and value.shape[-1] == layer.channels != value.shape[1]
        expected = pooled_by_hand(value, s.pooling, layer, channels_last=last).numpy()
        assert found[name].shape == expected.shape == (3, s.dim(num_classes=1000)), name
        assert np.abs(found[name] - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max()), name


def test_the_view_is_torchvisions_to_the_pixel() -> None:
    from torchvision.transforms import v2

    rng = np.random.default_rng(1)
    for width, height in [(640, 427), (427, 640), (333, 500), (97, 64), (50, 300)]:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for filter_ in ("bilinear", "bicubic"):
            (ours,) = views.make(
                pixels, view="crop", crop=57, scales=[64], flip=False, resampling=f"pillow-{filter_}",
                geometry="torchvision",
            )  # fmt: skip
            resize = v2.Resize(64, v2.InterpolationMode(filter_))
            theirs = np.asarray(v2.CenterCrop(57)(resize(Image.fromarray(pixels))))
            gap = np.abs(ours.astype(int) - theirs.astype(int))
            assert gap.max() == 0, (width, height, filter_)


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="resnet50") as told:
        backbone.find("torchvision:resnet5")
    assert told.value.allowed.count(",") == 2
    with pytest.raises(UserError, match="vit_tiny_patch16_224"):
        backbone.find("timm:vit_tiny_patch16_22")
    with pytest.raises(UserError, match="layer3") as told:
        backbone.find("torchvision:resnet18").require("layr3")
    assert "cnncodes layers" in str(told.value)


def test_a_size_that_it_cannot_take_is_told_with_sizes_that_it_can() -> None:
    with pytest.raises(UserError, match=r"can't take images of 100 x 100 pixels.*squares of .*224 pixels"):
        backbone.find("torchvision:vit_b_16").shape("encoder", 100, 100)
    about = backbone.find("timm:vit_tiny_patch16_224")
    assert about.shape("norm", 64, 96) == (1 + 4 * 6, 192)
    with pytest.raises(UserError, match="100 x 100"):
        about.shape("norm", 100, 100)


def test_poolings_of_tokens_are_refused_on_maps() -> None:
    from pipeline.nets import pooling

    with pytest.raises(UserError, match="no tokens"):
        pooling.require("cls", backbone.find("torchvision:resnet18").require("layer3"))
    with pytest.raises(UserError, match="no class token"):
        pooling.require("cls", backbone.Layer("x", "block", 3, None, None, tokens=True))


def test_random_weights_are_of_their_seed_alone() -> None:
    torch.manual_seed(5)
    one = made("torchvision:resnet18", "random:1")
    state = torch.get_rng_state()
    assert made("torchvision:resnet18", "random:1").sha256 == one.sha256 != made("torchvision:resnet18").sha256
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("form", ["state.pth", "checkpoint.pth", "state.safetensors"])
def test_a_file_gives_the_same_weights(form: str, tmp_path: Path) -> None:
    weights = made("torchvision:resnet18")
    state = dict(weights.tensors) | {"bn1.num_batches_tracked": torch.tensor(3)}
    path = tmp_path / form
    if form == "checkpoint.pth":
        torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}, "epoch": 3}, path)
    elif form == "state.pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    assert made("torchvision:resnet18", "file", file=str(path)).sha256 == weights.sha256


@pytest.mark.parametrize("wrong", ["missing", "shape", "nan", "unexpected"])
def test_a_file_that_does_not_fit_is_refused(wrong: str, tmp_path: Path) -> None:
    state = dict(made("torchvision:resnet18").tensors)
    name = "layer2.0.conv1.weight"
    match wrong:
        case "missing":
            del state[name]
        case "shape":
            state[name] = state[name][:3].clone()
        case "nan":
            state[name] = state[name] * torch.nan
        case _:
            name = "layer9.weight"
            state[name] = torch.ones(3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=name):
        made("torchvision:resnet18", "file", file=str(tmp_path / "w.pth"))


def test_a_classifier_may_have_other_classes(tmp_path: Path) -> None:
    module = backbone.find("torchvision:resnet18").library.build("resnet18", num_classes=7)  # type: ignore[attr-defined]
    torch.save(module.state_dict(), tmp_path / "w.pth")
    weights = made("torchvision:resnet18", "file", file=str(tmp_path / "w.pth"))
    runner = backbone.of(weights).runner(["fc"], device="cpu", precision="fp32")
    with torch.inference_mode():
        assert runner(torch.zeros(1, 3, 64, 64))["fc"].shape == (1, 7, 1, 1)
    assert weights.num_classes == 7


def test_a_canonical_file_says_its_view_and_its_resampling(tmp_path: Path) -> None:
    weights = made("timm:vit_tiny_patch16_224")
    nets_weights.write_canonical(weights, tmp_path / "w.safetensors")
    header = WeightsHeader.of(tmp_path / "w.safetensors")
    assert (header.resampling, header.geometry) == ("pillow-bicubic", "torchvision")
    assert weights.provenance["codes"] == {"crop": 224, "scales": [248]}
    assert nets_weights.read_canonical(tmp_path / "w.safetensors").sha256 == weights.sha256
    about = json.loads(json.dumps(dict(weights.provenance)))
    assert about["source"] == "random:0"


def test_pretrained_weights_without_a_network_are_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import timm

    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    params = WeightsParams(arch="torchvision:resnet18", source="pretrained", file="-")
    with pytest.raises(UserError, match=r"can't download .*resnet18"):
        nets_weights.resolve(params, tmp_path)
    about = backbone.find("timm:vit_tiny_patch16_224")
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match="timm can't get the weights"):
        library_weights.resolve(about, WeightsParams(arch=about.arch, source="pretrained", file="-"), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no weights 'nothing'"):
        made("torchvision:resnet18", "pretrained:nothing")


def test_pretrained_weights_are_the_entrys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = dict(made("torchvision:resnet18").tensors)

    def given(_: str, path: str, **__: object) -> None:
        torch.save(state, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", given)
    params = WeightsParams(arch="torchvision:resnet18", source="pretrained", file="-")
    weights = nets_weights.resolve(params, tmp_path)
    assert weights.sha256 == made("torchvision:resnet18").sha256
    assert weights.classes is not None and weights.classes[282] == "tiger cat"


def test_without_timm_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "timm":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(UserError, match=r"cnn-codes\[timm\]"):
        backbone.find("timm:resnet26").layers()


def test_layers_are_listed_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.cli.app import app

    app(["layers", "--arch", "timm:vit_small_patch14_dinov2.lvd142m", "--size", "56", "--json"], standalone_mode=False)
    listed = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in listed["layers"]}
    assert listed["size"] == 56 and list(rows).index("blocks.0.attn") < list(rows).index("blocks.0")
    assert rows["blocks.11"]["shape"] == rows["norm"]["shape"] == [17, 384] and rows["norm"]["bytes_avg"] == 768


def test_what_comes_after_the_codes(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extraction at the weights' own view, heads, an index and advice; training is refused in one sentence."""
    from pipeline.advice.rule import top_half
    from pipeline.collection import Collection, build
    from pipeline.strategies.strategies import Task, prepare
    from pipeline.workspace import compare, extract

    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for i in range(16):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8))
        pixels.save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png")
    arch, layers = "torchvision:shufflenet_v2_x0_5", ["stage3-avg", "conv5-avg"]
    how = {"precision": "fp32", "device": "cpu"}
    run = extract(tmp_path / "photos", out=tmp_path / "codes", layers=layers, arch=arch, weights="random:0", codes=how)
    made_as = run.codes("stage3").settings
    assert (made_as["crop"], made_as["scales"], made_as["geometry"]) == (224, [256], "torchvision")
    assert compare(run, heads=["svm"]).is_file()
    small = how | {"crop": 32, "scales": [32]}
    found = build(tmp_path / "photos", tmp_path / "my.index", arch=arch, weights="random:0", dataset={}, codes=small)
    assert isinstance(found, Collection)
    answer = found.search(tmp_path / "photos" / "a" / "0.png", k=3)
    assert answer.neighbours[0].distance == 0
    assert top_half(arch).startswith("stage3")
    with pytest.raises(UserError, match="can't be trained here"):
        from types import SimpleNamespace

        strategy = SimpleNamespace(kind="finetune", table=[])
        prepare(Task(strategy, None, made(arch), ["a", "b"], 0))  # type: ignore[arg-type]


def test_the_demos_names_become_timms() -> None:
    from pipeline.nets.weights import lite0_demo

    about = backbone.find("timm:tf_efficientnet_lite0")
    one = torch.zeros(1)
    theirs = dict.fromkeys(
        ["_conv_stem.weight", "_bn0.running_var", "_blocks.0._bn1.bias", "_blocks.5._bn0.weight", "_fc.bias"], one
    )
    wanted = ["conv_stem.weight", "bn1.running_var", "blocks.0.0.bn1.bias", "blocks.3.0.bn1.weight", "classifier.bias"]
    found = list(lite0_demo.renamed(theirs))
    assert found == wanted and set(found) <= set(about.tensors())
