"""The network: every asked layer from one forward pass that stops at the deepest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.base.errors import UserError
from pipeline.nets.vgg import facts
from pipeline.nets.vgg.facts import PRE, Op
from pipeline.nets.weights.record import Weights, held_layers, require_held


class _Norm(nn.BatchNorm2d):
    """Batch norm whose state is the four canonical tensors: it counts no batches."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.num_batches_tracked = None

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        # Without the version torch takes the state for an old one and adds the counter that this class leaves out.
        super()._load_from_state_dict(state_dict, prefix, {**local_metadata, "version": self._version}, *rest)


class Network(nn.Module):
    """An architecture whose parameters have canonical names, e.g. `conv1_1.weight`, and whose layers can be asked for.

    `deepest` cuts off what lies beyond that layer, so that its parameters cost no memory. Parameters begin as torch's
    own modules begin; `Network.of` takes trained ones.
    """

    def __init__(self, arch: str, *, num_classes: int = facts.IMAGENET_CLASSES, deepest: str | None = None) -> None:
        """Raises UserError on an unknown architecture or layer."""
        super().__init__()
        self.arch = arch
        self.deepest = deepest or facts.names(arch)[-1]
        self.num_classes = num_classes
        self.ops = facts.ops_until(arch, self.deepest)
        self._order = facts.names(arch)
        shapes = facts.tensor_shapes(arch, deepest=self.deepest, num_classes=num_classes)
        for op in self.ops:
            if op.kind == "conv":
                out, channels, *_ = shapes[f"{op.name}.weight"]
                self.add_module(op.name, nn.Conv2d(channels, out, op.kernel, op.stride, op.padding))
                if facts.find(arch).batch_norm:
                    self.add_module(op.norm_name, _Norm(out))
            elif op.kind == "fc":
                out, inputs = shapes[f"{op.name}.weight"]
                self.add_module(op.name, nn.Linear(inputs, out))

    @classmethod
    def of(cls, weights: Weights, *, deepest: str | None = None) -> Network:
        """The network of some weights up to `deepest` (the last layer they hold without one), in eval mode.

        Its parameters share memory with `weights.tensors`. Raises UserError if the weights stop before `deepest`.
        """
        deepest = require_held(weights, deepest) if deepest else held_layers(weights)[-1]
        with torch.device("meta"):
            network = cls(weights.arch, num_classes=weights.num_classes, deepest=deepest)
        network.load_state_dict({name: weights.tensors[name] for name in network.state_dict()}, assign=True)
        return network.eval()

    def forward(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """(B, 3, H, W) preprocessed images, in the weights' channel order -> layer name -> (B, C, h, w), as asked.

        fc layers are maps too: 1 x 1 at the native size, larger for larger images, where they are applied as
        convolutions. Nothing returned shares memory with another layer or with `x`.

        Raises UserError on a layer that the architecture or this cut of it doesn't have, and on fc layers of images
        below the native size.
        """
        wanted = self._check(x, layers)
        values: dict[str, Tensor] = {}
        for op in self.ops:
            x = self._step(op, x, wanted, values)
            if len(values) == len(wanted):
                break
        return {name: values[name] for name in layers}

    def _check(self, x: Tensor, asked: Iterable[str]) -> set[str]:
        wanted = set(asked)
        deepest = facts.deepest_of(self.arch, sorted(wanted))
        if self._order.index(deepest) > self._order.index(self.deepest):
            raise UserError(f"this network was cut at {self.deepest}, so it has no {deepest}")
        facts.shape(self.arch, deepest, x.shape[-2], x.shape[-1])
        return wanted

    def _step(self, op: Op, x: Tensor, wanted: set[str], values: dict[str, Tensor]) -> Tensor:
        """Applies one step, puts what is wanted of it into `values`, and returns its value."""
        if op.kind == "pool":
            x = F.max_pool2d(x, op.kernel, op.stride)
        elif op.kind == "prob":
            x = F.softmax(x, dim=1)
        else:
            x = self._conv(op, x) if op.kind == "conv" else self._fc(op, x)
            pre = op.name + PRE
            if op.relu and pre in wanted:
                # The returned value must stay what it is: an in-place ReLU would overwrite it.
                values[pre] = x
                x = F.relu(x)
            elif op.relu:
                x = F.relu(x, inplace=True)
        if op.name in wanted:
            values[op.name] = x
        return x

    def _conv(self, op: Op, x: Tensor) -> Tensor:
        x = self.get_submodule(op.name)(x)
        return self.get_submodule(op.norm_name)(x) if hasattr(self, op.norm_name) else x

    def _fc(self, op: Op, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, O, h - k + 1, w - k + 1): the product with every k x k window of the map."""
        fc = self.get_submodule(op.name)
        assert isinstance(fc, nn.Linear)
        if x.shape[-2:] == (op.kernel, op.kernel):
            return fc(x.flatten(1))[:, :, None, None]  # type: ignore[no-any-return]
        kernel = fc.weight.view(fc.out_features, -1, op.kernel, op.kernel)  # (O, C*k*k) -> (O, C, k, k)
        return F.conv2d(x, kernel, fc.bias)


class UpTo(nn.Module):
    """A network whose one output is a layer's value."""

    def __init__(self, network: Network, layer: str) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w)."""
        found: Tensor = self.network(images, (self.layer,))[self.layer]
        return found
