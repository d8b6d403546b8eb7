"""The layer tables: a contract, pinned in full."""

from __future__ import annotations

import pytest
import torch
import torchvision

from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts
from pipeline.nets.vgg.network import Network

FC = "fc6:4096x1x1 fc7:4096x1x1 fc8:1000x1x1 prob:1000x1x1"
# Every layer after its ReLU, in order, with C x H x W at the native size.
PINNED = {
    "vgg11": "conv1_1:64x224x224 pool1:64x112x112 conv2_1:128x112x112 pool2:128x56x56 "
    "conv3_1:256x56x56 conv3_2:256x56x56 pool3:256x28x28 conv4_1:512x28x28 conv4_2:512x28x28 pool4:512x14x14 "
    f"conv5_1:512x14x14 conv5_2:512x14x14 pool5:512x7x7 {FC}",
    "vgg13": "conv1_1:64x224x224 conv1_2:64x224x224 pool1:64x112x112 "
    "conv2_1:128x112x112 conv2_2:128x112x112 pool2:128x56x56 "
    "conv3_1:256x56x56 conv3_2:256x56x56 pool3:256x28x28 conv4_1:512x28x28 conv4_2:512x28x28 pool4:512x14x14 "
    f"conv5_1:512x14x14 conv5_2:512x14x14 pool5:512x7x7 {FC}",
    "vgg16": "conv1_1:64x224x224 conv1_2:64x224x224 pool1:64x112x112 "
    "conv2_1:128x112x112 conv2_2:128x112x112 pool2:128x56x56 "
    "conv3_1:256x56x56 conv3_2:256x56x56 conv3_3:256x56x56 pool3:256x28x28 "
    "conv4_1:512x28x28 conv4_2:512x28x28 conv4_3:512x28x28 pool4:512x14x14 "
    f"conv5_1:512x14x14 conv5_2:512x14x14 conv5_3:512x14x14 pool5:512x7x7 {FC}",
    "vgg19": "conv1_1:64x224x224 conv1_2:64x224x224 pool1:64x112x112 "
    "conv2_1:128x112x112 conv2_2:128x112x112 pool2:128x56x56 "
    "conv3_1:256x56x56 conv3_2:256x56x56 conv3_3:256x56x56 conv3_4:256x56x56 pool3:256x28x28 "
    "conv4_1:512x28x28 conv4_2:512x28x28 conv4_3:512x28x28 conv4_4:512x28x28 pool4:512x14x14 "
    f"conv5_1:512x14x14 conv5_2:512x14x14 conv5_3:512x14x14 conv5_4:512x14x14 pool5:512x7x7 {FC}",
    "alexnet": "conv1:64x55x55 pool1:64x27x27 conv2:192x27x27 pool2:192x13x13 conv3:384x13x13 conv4:256x13x13 "
    f"conv5:256x13x13 pool5:256x6x6 {FC}",
    "tinyvgg": "conv1_1:4x64x64 conv1_2:4x64x64 pool1:4x32x32 conv2_1:6x32x32 conv2_2:6x32x32 pool2:6x16x16 "
    "conv3_1:8x16x16 conv3_2:8x16x16 conv3_3:8x16x16 pool3:8x8x8 "
    "conv4_1:12x8x8 conv4_2:12x8x8 conv4_3:12x8x8 pool4:12x4x4 "
    "conv5_1:16x4x4 conv5_2:16x4x4 conv5_3:16x4x4 pool5:16x2x2 fc6:32x1x1 fc7:32x1x1 fc8:1000x1x1 prob:1000x1x1",
}
PINNED |= {f"{name}_bn": PINNED[name] for name in ("vgg11", "vgg13", "vgg16", "vgg19")}
TORCHVISION = sorted(set(facts.ARCHS) - {"tinyvgg"})


def test_every_architecture_is_pinned() -> None:
    assert set(facts.ARCHS) == set(PINNED)


@pytest.mark.parametrize("arch", PINNED)
def test_names_and_shapes(arch: str) -> None:
    side = facts.native_size(arch)
    found = []
    for name in facts.names(arch):
        if name.endswith(".pre"):
            post = name.removesuffix(".pre")
            assert facts.shape(arch, name, side, side) == facts.shape(arch, post, side, side)
        else:
            found.append(f"{name}:{'x'.join(map(str, facts.shape(arch, name, side, side)))}")
    assert " ".join(found) == PINNED[arch]


@pytest.mark.parametrize("arch", PINNED)
def test_a_pre_activation_comes_just_before_every_layer_with_a_relu_and_no_other(arch: str) -> None:
    expected = []
    for entry in PINNED[arch].split():
        name = entry.split(":")[0]
        if name.startswith(("conv", "fc6", "fc7")):
            expected.append(f"{name}.pre")
        expected.append(name)
    assert list(facts.names(arch)) == expected


@pytest.mark.parametrize("arch", TORCHVISION)
def test_tensor_shapes_are_torchvisions(arch: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(arch, weights=None).state_dict()
    shapes = [tuple(t.shape) for name, t in theirs.items() if not name.endswith("num_batches_tracked")]
    assert list(facts.tensor_shapes(arch).values()) == shapes


@pytest.mark.parametrize("arch", PINNED)
def test_the_network_has_exactly_the_tensors_of_the_table(arch: str) -> None:
    with torch.device("meta"):
        state = Network(arch, num_classes=7).state_dict()
    assert {k: tuple(t.shape) for k, t in state.items()} == facts.tensor_shapes(arch, num_classes=7)
    assert list(state) == list(facts.tensor_shapes(arch))


# Published: Simonyan and Zisserman's stacks of 3 x 3, computed by many; AlexNet's by Araujo et al. 2019, table 1.
@pytest.mark.parametrize(
    ("arch", "layer", "stride", "field"),
    [
        ("vgg16", "conv1_1", 1, 3),
        ("vgg16", "conv3_1", 4, 24),
        ("vgg16", "conv5_3", 16, 196),
        ("vgg16", "pool5", 32, 212),
        ("vgg16", "fc6", 32, 404),
        ("vgg19", "pool5", 32, 268),
        ("alexnet", "conv2", 8, 51),
        ("alexnet", "conv5", 16, 163),
        ("alexnet", "pool5", 32, 195),
    ],
)
def test_strides_and_receptive_fields(arch: str, layer: str, stride: int, field: int) -> None:
    found = facts.require(arch, layer)
    assert (found.stride, found.receptive_field) == (stride, field)


def test_receptive_field_is_what_one_value_depends_on() -> None:
    torch.set_num_threads(1)
    network = Network("tinyvgg", deepest="conv3_2")
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.1)  # all positive: no ReLU blocks a path
    # A pooling passes the gradient to its largest value alone, so count the rows that matter to any of many images.
    images = torch.rand(24, 3, 48, 48, generator=torch.Generator().manual_seed(0), requires_grad=True)
    network(images, ["conv3_2.pre"])["conv3_2.pre"][:, 0, 6, 6].sum().backward()
    assert images.grad is not None
    rows = images.grad.abs().sum((0, 1, 3)) > 0
    assert int(rows.sum()) == facts.require("tinyvgg", "conv3_2").receptive_field


@pytest.mark.parametrize("size", [(64, 64), (65, 79), (67, 130)])
@pytest.mark.parametrize("arch", ["tinyvgg", "alexnet"])
def test_shape_is_that_of_the_forward_pass(arch: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = Network(arch, deepest="pool5")
        values = network(torch.empty(2, 3, *size), facts.names(arch)[: facts.names(arch).index("pool5") + 1])
    for name, value in values.items():
        assert tuple(value.shape) == (2, *facts.shape(arch, name, *size))


def test_a_wrong_layer_lists_the_right_ones() -> None:
    with pytest.raises(UserError) as e:
        facts.require("vgg16", "conv5_4")
    assert "vgg16 has no layer 'conv5_4'" in str(e.value)
    assert "conv5_3, pool5, fc6, fc7, fc8, prob" in str(e.value) and ".pre" in str(e.value)


@pytest.mark.parametrize("layer", ["fc8.pre", "prob.pre", "pool5.pre", "", "conv1_1.pre.pre"])
def test_layers_without_a_relu_have_no_pre_activation(layer: str) -> None:
    with pytest.raises(UserError, match="has no layer"):
        facts.require("vgg16", layer)


def test_a_wrong_architecture_lists_the_right_ones() -> None:
    with pytest.raises(UserError, match=r"unknown architecture 'resnet50'.*vgg11_bn"):
        facts.names("resnet50")


def test_fc_layers_below_the_native_size_are_refused() -> None:
    with pytest.raises(UserError, match="fc6 of vgg16 needs images of at least 224 x 224 pixels, got 223 x 300"):
        facts.shape("vgg16", "fc6", 223, 300)
    assert facts.shape("vgg16", "fc6", 224, 300) == (4096, 1, 3)


def test_an_image_too_small_for_a_layer_is_refused() -> None:
    assert facts.shape("vgg16", "pool5", 32, 32) == (512, 1, 1)
    with pytest.raises(UserError, match="pool5 of vgg16 has no value for an image of 31 x 64 pixels"):
        facts.shape("vgg16", "pool5", 31, 64)


def test_tensors_stop_at_the_deepest() -> None:
    assert list(facts.tensor_shapes("vgg11_bn", deepest="conv2_1.pre"))[-1] == "bn2_1.running_var"
    assert list(facts.tensor_shapes("vgg16", deepest="pool1"))[-1] == "conv1_2.bias"


def test_deepest_of() -> None:
    assert facts.deepest_of("vgg16", ["pool1", "conv5_1.pre", "conv5_1", "conv4_3"]) == "conv5_1"
    with pytest.raises(UserError, match="no layer is asked for"):
        facts.deepest_of("vgg16", [])


# -- variants: other fc layers, said by the name alone


def test_a_variants_name_says_its_fc_layers() -> None:
    name = "vgg16-64px-fc256-128"
    assert facts.find(name).name == name and facts.native_size(name) == 64
    assert facts.names(name) == facts.names("vgg16")
    shapes = facts.tensor_shapes(name, num_classes=5)
    assert shapes["fc6.weight"] == (256, 512 * 2 * 2)
    assert (shapes["fc7.weight"], shapes["fc8.weight"]) == ((128, 256), (5, 128))
    own = {n: s for n, s in facts.tensor_shapes("vgg16").items() if n.startswith("conv")}
    assert {n: s for n, s in shapes.items() if n.startswith("conv")} == own
    assert facts.shape(name, "fc7", 64, 64) == (128, 1, 1)
    assert facts.shape(name, "fc6", 96, 64) == (256, 2, 1)
    with pytest.raises(UserError, match="at least 64 x 64"):
        facts.shape(name, "fc7", 63, 64)
    assert facts.find("vgg11_bn-32px-fc8-4").batch_norm


def test_variant_names_what_it_changes() -> None:
    for base in ("vgg16", "alexnet", "tinyvgg"):
        same = facts.find(base)
        widths = tuple(op.channels for op in same.ops if op.name in ("fc6", "fc7"))
        assert facts.variant(base, same.native_size, widths) == base  # type: ignore[arg-type]
    assert facts.variant("vgg16", 32, (4096, 4096)) == "vgg16-32px-fc4096-4096"
    # A tuned network that is tuned again: of its base, not of its name.
    again = facts.variant("vgg16-32px-fc12-10", 64, (8, 4))
    assert again == "vgg16-64px-fc8-4"
    assert facts.variant(again, 224, (4096, 4096)) == "vgg16"


@pytest.mark.parametrize(
    "name",
    [
        "vgg17-64px-fc8-8",
        "vgg16-64px",
        "vgg16-064px-fc8-8",
        "vgg16-64px-fc08-8",
        "vgg16-64px-fc0-8",
        "vgg16-64px-fc8-8 ",
        "vgg16-64px-fc8-8\n",
        "vgg16-32px-fc8-8-64px-fc8-8",
        "VGG16-64px-fc8-8",
        "vgg16-\N{ARABIC-INDIC DIGIT SIX}4px-fc8-8",
        "vgg16-64px-fc9999999-8",
    ],
)
def test_other_names_are_no_variants(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown architecture .*BASE-SIDEpx-fcWIDTH-WIDTH"):
        facts.find(name)


def test_a_variant_has_one_name_and_a_map_for_fc6() -> None:
    with pytest.raises(UserError, match="vgg16-224px-fc4096-4096 is vgg16"):
        facts.find("vgg16-224px-fc4096-4096")
    with pytest.raises(UserError, match="pool5 of vgg16 has no value for an image of 31 x 31"):
        facts.variant("vgg16", 31, (8, 8))
    with pytest.raises(UserError, match="pool5 of vgg16 has no value for an image of 31 x 31"):
        facts.find("vgg16-31px-fc8-8")
