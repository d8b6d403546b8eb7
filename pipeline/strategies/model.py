"""A network that is tuned: the trunk of an architecture, and a new head on it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.base.errors import UserError
from pipeline.nets import backbone
from pipeline.nets.backbone import GAP, Head
from pipeline.nets.weights import Preprocessing, Weights


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[None]:
    """Products in the block are those of `precision`, fp32 or bf16.

    For a forward pass alone, never around a step: torch casts a weight once a block, and would go on with what the
    weight was before it moved.
    """
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")


class GapHead(nn.Module):
    """Global average pooling, dropout, one linear layer (Lin et al. 2014)."""

    def __init__(self, channels: int, k: int, *, dropout: float) -> None:
        super().__init__()
        self.codes_dim = channels
        self.widths: tuple[int, ...] = ()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, k)

    def codes(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3))

    def logits(self, codes: Tensor) -> Tensor:
        return self.classifier(self.dropout(codes))  # type: ignore[no-any-return]


class Normalise(nn.Module):
    """(B, 3, H, W) uint8 RGB -> float32 in the weights' channel order: (x * scale - mean) / std."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.flip(1) if self.preprocessing.channels == "bgr" else pixels
        y = (x.float() * self.preprocessing.scale - self.mean) / self.std
        return y.contiguous(memory_format=torch.channels_last)


class Classifier(nn.Module):
    """What every strategy trains. `parts` hold the parameters: a name is canonical without the part's own.

    `body`: preprocessed images (B, 3, size, size) -> codes (B, d); `top`: codes -> logits (B, k).
    """

    def __init__(self, preprocessing: Preprocessing, size: int) -> None:
        super().__init__()
        self.size = size
        self.normalise = Normalise(preprocessing)

    def body(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def top(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, size, size) uint8 RGB -> logits (B, k)."""
        return self.top(self.body(self.normalise(pixels)))

    def canonical(self) -> dict[str, nn.Parameter]:
        """Canonical name -> parameter, in the model's order."""
        return {name.partition(".")[2]: p for name, p in self.named_parameters()}

    def canonical_state(self) -> dict[str, Tensor]:
        """Canonical name -> parameter or buffer."""
        return {name.partition(".")[2]: t.detach() for name, t in self.state_dict().items()}


class TrunkClassifier(Classifier):
    """`arch` up to the layer below its classifier (`trunk`), and a `head`: `gap`, or one of the architecture's own."""

    def __init__(
        self,
        arch: str,
        preprocessing: Preprocessing,
        *,
        size: int,
        head: str,
        widths: Sequence[int],
        dropout: float,
        k: int,
    ) -> None:
        """Raises UserError if images of `size` are too small, or there is no such head."""
        super().__init__(preprocessing, size)
        self.arch, self.head_kind = arch, head
        about = backbone.find(arch)
        if head != GAP and head not in about.heads:
            raise UserError(f"{arch} has no head {head!r}", allowed=[GAP, *about.heads], see="finetune.model.head")
        self.last = about.top
        channels = about.shape(self.last, size, size)[0]
        self.base = about.trunk(self.last)
        self.trunk = self.base.module
        self.head: Head = (
            GapHead(channels, k, dropout=dropout)
            if head == GAP
            else about.head(head, size=size, widths=widths, k=k, dropout=dropout)
        )
        self.codes_dim = self.head.codes_dim
        # The architecture that trunk and head are together, where the head is of its kind.
        self.whole_arch = about.with_head(head, size=size, widths=widths) if head != GAP else None

    def body(self, images: Tensor) -> Tensor:
        return self.head.codes(self.base(images))

    def top(self, codes: Tensor) -> Tensor:
        return self.head.logits(codes)


def initialise(model: nn.Module, how: str, seed: int) -> None:
    """New values for every parameter: kernels normal, He et al. 2015 (equation 10) or uniform, Glorot and Bengio 2010
    (equation 16); biases 0; norms the identity.

    The last layer's kernel is normal with deviation 0.001: unscaled activations make long codes, and the first
    loss is to be near ln(k).
    """
    generator = torch.Generator().manual_seed(seed)
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                if module is last:
                    module.weight.normal_(0.0, 0.001, generator=generator)
                elif how == "he":
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                else:
                    nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                # Not by reset_parameters: the norms of `nets` have no counter of batches, which it would reset.
                for tensor, value in (
                    (module.weight, 1.0),
                    (module.bias, 0.0),
                    (module.running_mean, 0.0),
                    (module.running_var, 1.0),
                ):
                    assert tensor is not None
                    tensor.fill_(value)


def import_fitting(model: Classifier, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Copies the layers whose tensors all fit by name and shape; layer -> why it was left as it is, for the others.

    A layer is taken or left as one: a bias of another kernel means nothing.
    """
    own = model.canonical_state()
    renewed: dict[str, str] = {}
    for name, tensor in own.items():
        layer = name.rpartition(".")[0]
        if name not in tensors:
            renewed.setdefault(layer, f"the weights have no {name}")
        elif tensors[name].shape != tensor.shape:
            renewed.setdefault(
                layer, f"{name} of the weights is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            if name.rpartition(".")[0] not in renewed:
                tensor.copy_(tensors[name])
    return renewed


def require_trunk(weights: Weights, last: str) -> None:
    """Raises UserError if the weights don't hold all convolutions."""
    needed = backbone.find(weights.arch).tensors(last)
    missing = [name for name in needed if name not in weights.tensors]
    if missing:
        raise UserError(
            f"the weights of {weights.arch} lack {', '.join(missing)}", allowed=f"weights that hold all up to {last}"
        )
