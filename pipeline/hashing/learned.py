"""One linear layer trained without labels, so that near neighbours share their bits and others do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.base.unfinished import NOTHING, Part, SoFar
from pipeline.hashing import check
from pipeline.hashing.check import Codes, Float32, Float64
from pipeline.hashing.exact import blocks, power_rows, unit_rows
from pipeline.hashing.linear import Linear
from pipeline.hashing.principal import principal

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 1024


@dataclass
class Learned(Linear):
    """Bits by which an image can tell its cosine neighbours from the rest of a batch.

    Rows are brought to sign(x) |x|^power and length 1 (`exact.power_rows`), centred, and reduced to their `components`
    leading principal components. A batch pairs each image with one of its `neighbours` nearest training images by
    cosine; both are seen with a share `dropout` of the components left out, and cross-entropy asks for the partner
    among the batch by bit agreement / `temperature` (InfoNCE, van den Oord et al. 2018, on hash codes as in CIBHash,
    Qiu et al. 2021, with neighbours in place of augmented images, which cached codes don't have). Telling all images of
    a batch apart takes bits that are balanced and differ from each other. Signs pass gradients straight to the tanh
    under them.

    Of several `rounds`, all but the last train a code of `teacher_bits`, whose Hamming neighbours are the next round's
    partners: they share a class more often than the cosine neighbours they were learned from.
    """

    power: float = 0.75
    components: int = 512
    neighbours: int = 20
    rounds: int = 2
    teacher_bits: int = 256
    temperature: float = 0.4
    dropout: float = 0.1
    epochs: int = 40
    batch: int = 256
    rate: float = 1e-3
    seed: int = 0
    name: ClassVar[str] = "learned"

    def fit(
        self,
        codes: Codes,
        *,
        targets: NDArray[np.int64] | None = None,
        val: Codes | None = None,
        so_far: SoFar = NOTHING,
    ) -> Self:
        """`so_far`: of this very fit. Raises UserError on fewer codes than bits, or no more than `neighbours`."""
        import torch

        check.code_length(self.nbits, who=self.name)
        if not (
            0 <= self.dropout < 1
            and self.temperature > 0
            and min(self.neighbours, self.epochs, self.rounds, self.teacher_bits) >= 1
        ):
            raise UserError(
                "learned was given a parameter out of range",
                allowed="dropout within [0, 1), temperature above 0, the counts at least 1",
            )
        least = max(self.nbits, self.neighbours) + 1
        unit = self._prepared(check.training(codes, rows=least, who=f"{self.name} of {self.nbits} bits"))
        mean, directions, reduced = reduce(unit, self.components, who=self.name, seed=self.seed)
        rows = torch.from_numpy(reduced)
        near = so_far.part("near0").once(lambda: Part({"near": nearest(reduced, self.neighbours)})).arrays["near"]
        for i in range(1, self.rounds):
            kept = so_far.part(f"near{i}")

            def partners(near: NDArray[np.int64] = near, kept: SoFar = kept) -> Part:
                weights, bias = self._train(rows, torch.from_numpy(near), self.teacher_bits, kept.part("training"))
                # The cosine of two codes of +-1 falls as their Hamming distance grows.
                taught = np.where(reduced @ weights + bias > 0, 1, -1).astype(np.float32)
                return Part({"near": nearest(taught, self.neighbours)})

            near = kept.once(partners).arrays["near"]
        weights, bias = self._train(rows, torch.from_numpy(near), self.nbits, so_far.part("training"))
        return self._through(mean, directions @ weights, bias)

    def _prepared(self, codes: Codes) -> Codes:
        return power_rows(codes, self.power)

    def _train(self, rows: Tensor, near: Tensor, nbits: int, so_far: SoFar) -> tuple[Float64, Float64]:
        import torch
        from torch.nn.functional import cross_entropy

        from pipeline.hashing.adam import Adam
        from pipeline.hashing.epochs import epochs

        generator = torch.Generator().manual_seed(self.seed)
        weights = torch.randn((rows.shape[1], nbits), generator=generator) / rows.shape[1] ** 0.5
        bias = torch.zeros(nbits)
        parameters = [weights.requires_grad_(), bias.requires_grad_()]
        named = {"weights": weights, "bias": bias}
        adam = Adam(named)

        def code(index: Tensor) -> Tensor:
            x = rows[index]
            kept = torch.rand(x.shape, generator=generator) >= self.dropout
            return signs_through(x * kept / (1 - self.dropout) @ weights + bias)

        for epoch in epochs(self.epochs, named | adam.tensors(), generator, so_far):
            rate = self.rate * (1 - epoch / self.epochs)
            for index in torch.split(torch.randperm(len(rows), generator=generator), self.batch):
                pick = torch.randint(near.shape[1], (len(index),), generator=generator)
                agreement = code(index) @ code(near[index, pick]).T / (nbits * self.temperature)
                partner = torch.arange(len(index))
                loss = cross_entropy(agreement, partner) + cross_entropy(agreement.T, partner)
                gradients = torch.autograd.grad(loss, parameters)
                adam.step(gradients, rate)
        return weights.detach().double().numpy(), bias.detach().double().numpy()


def signs_through(values: Tensor) -> Tensor:
    """+1 where a value is above 0, else -1; gradients are those of tanh (straight-through)."""
    import torch

    soft = torch.tanh(values)
    return soft + (torch.where(values > 0, 1.0, -1.0) - soft).detach()


def reduce(unit: Codes, components: int, *, who: str, seed: int) -> tuple[Float64, Float64, Float32]:
    """The mean (d,) of the rows, the map (d, k) to their leading components, and the rows' components (n, k).

    k is `components`, or as many as the rows can span; the components are scaled to a mean square of 1.
    """
    span = min(components, unit.shape[1], len(unit) - 1)
    mean, directions = principal(unit, span, who=who, seed=seed)
    rows = np.concatenate([(unit[part] - mean) @ directions for part in blocks(unit)])
    scale = float(np.sqrt(np.mean(rows**2))) or 1.0
    return mean, directions / scale, (rows / scale).astype(np.float32)


def nearest(rows: Float32, k: int) -> NDArray[np.int64]:
    """(n, d) -> (n, k): for each row the k others of the highest cosine, in no order."""
    unit = unit_rows(rows)
    near = np.empty((len(rows), k), dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        cosine = unit[start : start + _BLOCK] @ unit.T
        own = np.arange(len(cosine))
        cosine[own, start + own] = -np.inf
        near[start : start + _BLOCK] = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    return near
