"""The network against torchvision's forward, against sliding windows, and against itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts
from pipeline.nets.vgg.network import Network
from pipeline.nets.weights import Preprocessing, Weights, random
from pipeline.nets.weights.foreign import torch_names

TORCHVISION = sorted(set(facts.ARCHS) - {"tinyvgg"})
PREPROCESSING = Preprocessing("rgb", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def lively(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random tensors without zeros or ones that would hide a mistake: biases, means, variances all differ."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            fan_in = torch.tensor(shape[1:]).prod().item()
            tensors[name] = (torch.rand(shape, generator=g) - 0.5) * (24 / fan_in) ** 0.5  # variance 2 / fan-in
        else:
            tensors[name] = torch.rand(shape, generator=g) + (0.5 if "weight" in name or "var" in name else -0.5)
    return tensors


def theirs(arch: str, tensors: dict[str, Tensor]) -> nn.Module:
    """torchvision's model, holding as much of it as there are tensors."""
    with torch.device("meta"):
        model = torchvision.models.get_model(arch, weights=None)
    names = {canonical: name for name, canonical in torch_names(arch).items() if not name.startswith(("pre_", "head"))}
    state = {names[name]: tensor for name, tensor in tensors.items()}
    counters = {name: torch.tensor(0) for name in model.state_dict() if name.endswith("num_batches_tracked")}
    missing, unexpected = model.load_state_dict(state | counters, strict=False, assign=True)
    assert not unexpected and all(name.startswith("classifier") for name in missing)
    return model.eval()


def their_values(arch: str, modules: nn.Sequential, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Layer name -> torchvision's value, cloned before the next in-place ReLU overwrites it."""
    names = iter(facts.names(arch))
    for i, module in enumerate(modules):
        x = module(x)
        followed_by_norm = i + 1 < len(modules) and isinstance(modules[i + 1], nn.BatchNorm2d)
        if not followed_by_norm:
            yield next(names), x.clone()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("arch", TORCHVISION)
@torch.inference_mode()
def test_convolutions_equal_torchvisions(arch: str) -> None:
    tensors = lively(facts.tensor_shapes(arch, deepest="pool5"))
    network = Network.of(Weights.make(arch, tensors, PREPROCESSING, {}))
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = dict(their_values(arch, theirs(arch, tensors).features, x))
    assert list(expected)[-1] == "pool5"
    found = network(x, list(expected))
    for name, value in expected.items():
        assert relative(found[name], value) < 1e-5, name


def equals_torchvision_up_to_fc8(arch: str) -> None:
    tensors = lively(facts.tensor_shapes(arch))
    network = Network.of(Weights.make(arch, tensors, PREPROCESSING, {}))
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    model = theirs(arch, tensors)
    expected = model(x)
    found = network(x, ["fc6", "fc7", "fc8", "prob"])
    fc6 = model.classifier[: 3 if arch == "alexnet" else 2](model.features(x).flatten(1))
    assert relative(found["fc6"].flatten(1), fc6) < 1e-5
    assert relative(found["fc8"].flatten(1), expected) < 1e-5
    assert relative(found["prob"].flatten(1), expected.softmax(1)) < 1e-5


@torch.inference_mode()
def test_alexnet_equals_torchvisions_up_to_fc8() -> None:
    equals_torchvision_up_to_fc8("alexnet")


@pytest.mark.slow
@pytest.mark.parametrize("arch", TORCHVISION)
@torch.inference_mode()
def test_all_equal_torchvisions_up_to_fc8(arch: str) -> None:
    equals_torchvision_up_to_fc8(arch)


@pytest.fixture(scope="module")
def tiny() -> Network:
    return Network.of(Weights.make("tinyvgg", lively(facts.tensor_shapes("tinyvgg")), PREPROCESSING, {}))


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def test_no_value_is_overwritten_by_a_later_step(tiny: Network, image: Tensor) -> None:
    before = image.clone()
    together = tiny(image, facts.names("tinyvgg"))
    assert torch.equal(image, before)
    for name in facts.names("tinyvgg"):
        assert torch.equal(together[name], tiny(image, [name])[name]), name


@torch.inference_mode()
def test_pre_activations_are_before_the_relu(tiny: Network, image: Tensor) -> None:
    values = tiny(image, facts.names("tinyvgg"))
    for name, value in values.items():
        if name.endswith(".pre"):
            assert (value < 0).any(), name
            assert torch.equal(F.relu(value), values[name.removesuffix(".pre")]), name


@torch.inference_mode()
def test_returned_values_share_no_memory(tiny: Network, image: Tensor) -> None:
    values = tiny(image, facts.names("tinyvgg"))
    pointers = [value.untyped_storage().data_ptr() for value in values.values()]
    assert len(set(pointers)) == len(pointers)
    assert image.untyped_storage().data_ptr() not in pointers


@torch.inference_mode()
def test_one_pass_that_stops_at_the_deepest(tiny: Network, image: Tensor) -> None:
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in tiny.named_children()
    ]
    values = tiny(image, ["conv2_2", "pool1", "conv1_1.pre"])
    for hook in hooks:
        hook.remove()
    assert called == ["conv1_1", "conv1_2", "conv2_1", "conv2_2"]
    assert list(values) == ["conv2_2", "pool1", "conv1_1.pre"]


@torch.inference_mode()
def test_fc_layers_of_larger_images_are_sliding_windows(tiny: Network) -> None:
    x = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(3))
    values = tiny(x, ["pool5", "fc6", "fc8", "prob"])
    assert values["pool5"].shape == (2, 16, 3, 4) and values["prob"].shape == (2, 1000, 2, 3)
    for i in range(2):
        for j in range(3):
            window = values["pool5"][:, :, i : i + 2, j : j + 2].flatten(1)
            fc6 = F.relu(window @ tiny.fc6.weight.T + tiny.fc6.bias)
            torch.testing.assert_close(values["fc6"][:, :, i, j], fc6, rtol=1e-4, atol=1e-5)
            fc7 = F.relu(fc6 @ tiny.fc7.weight.T + tiny.fc7.bias)
            fc8 = fc7 @ tiny.fc8.weight.T + tiny.fc8.bias
            torch.testing.assert_close(values["prob"][:, :, i, j], fc8.softmax(1), rtol=1e-4, atol=1e-6)


@torch.inference_mode()
def test_channels_last_gives_the_same(tiny: Network, image: Tensor) -> None:
    other = Network.of(Weights.make("tinyvgg", dict(tiny.state_dict()), PREPROCESSING, {}))
    other = other.to(memory_format=torch.channels_last)
    wide = F.interpolate(image, (64, 96))
    for x in (image, wide):
        found = other(x.to(memory_format=torch.channels_last), ["conv5_3", "fc6", "fc8"])
        for name, value in tiny(x, ["conv5_3", "fc6", "fc8"]).items():
            assert relative(found[name], value) < 1e-5


def test_fc_layers_below_the_native_size_are_refused(tiny: Network) -> None:
    with pytest.raises(UserError, match="fc6 of tinyvgg needs images of at least 64 x 64"):
        tiny(torch.zeros(1, 3, 63, 64), ["fc6"])


def test_a_cut_network_has_no_more_and_says_so(image: Tensor) -> None:
    network = Network("tinyvgg", deepest="conv2_1.pre")
    assert list(network.state_dict())[-1] == "conv2_1.bias"
    with pytest.raises(UserError, match=r"cut at conv2_1\.pre, so it has no conv2_1"):
        network(image, ["pool1", "conv2_1"])
    with pytest.raises(UserError, match="tinyvgg has no layer 'conv9_1'"):
        network(image, ["conv9_1"])


def test_weights_that_stop_early_make_a_network_up_to_there() -> None:
    tensors = random.tensors("tinyvgg", 0)
    held = {name: t for name, t in tensors.items() if name.startswith(("conv1", "conv2"))}
    weights = Weights.make("tinyvgg", held, PREPROCESSING, {"source": "part"})
    assert Network.of(weights).deepest == "pool2"
    assert Network.of(weights, deepest="conv1_1").deepest == "conv1_1"
    with pytest.raises(UserError, match=r"weights part of tinyvgg stop at pool2, so they have no fc7.*torchvision:"):
        Network.of(weights, deepest="fc7")


def test_batch_norm_trains_and_evaluates_like_torchs() -> None:
    arch = "vgg11_bn"
    tensors = lively(facts.tensor_shapes(arch, deepest="conv1_1"))
    network = Network.of(Weights.make(arch, {k: t.clone() for k, t in tensors.items()}, PREPROCESSING, {}))
    norm = nn.BatchNorm2d(64)
    norm.load_state_dict({k.split(".")[1]: t for k, t in tensors.items() if k.startswith("bn")}, strict=False)
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    conv = F.conv2d(x, tensors["conv1_1.weight"], tensors["conv1_1.bias"], padding=1)
    for mode in (True, False):
        network.train(mode)
        norm.train(mode)
        torch.testing.assert_close(network(x, ["conv1_1"])["conv1_1"], F.relu(norm(conv)))
    torch.testing.assert_close(network.state_dict()["bn1_1.running_mean"], norm.running_mean)
