"""A small network trained with labels: bits from which a linear layer can tell the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.base.unfinished import NOTHING, SoFar
from pipeline.hashing import check
from pipeline.hashing.check import Bits, Codes, Float32, Float64
from pipeline.hashing.exact import affine, signs, unit_rows
from pipeline.hashing.learned import reduce, signs_through
from pipeline.hashing.state import Stateful

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Supervised(Stateful):
    """Rows of length 1 -> components -> a hidden layer of ReLU units -> bits; each class draws its images to a centre.

    The centres are +-1 codes that lie half the bits apart, rows of a Hadamard matrix while they last and random codes
    after (Yuan et al. 2020, "Central Similarity Quantization"). Cross-entropy over the agreement of an image's bits
    with every centre / `temperature` asks for its own; signs pass gradients to the tanh under them. `dropout` leaves
    out a share of the components and of the hidden units.
    """

    nbits: int = 64
    components: int = 512
    hidden: int = 512
    temperature: float = 0.2
    dropout: float = 0.3
    epochs: int = 30
    batch: int = 256
    rate: float = 1e-3
    decay: float = 1e-4
    seed: int = 0
    name: ClassVar[str] = "supervised"

    def fit(
        self,
        codes: Codes,
        *,
        targets: NDArray[np.int64] | None = None,
        val: Codes | None = None,
        so_far: SoFar = NOTHING,
    ) -> Self:
        """Learns from the rows that have a label. `so_far`: of this very fit.

        Raises UserError without labels, of one class, or on too few rows.
        """
        import torch

        check.code_length(self.nbits, who=self.name)
        if not (0 <= self.dropout < 1 and self.temperature > 0 and min(self.hidden, self.epochs) >= 1):
            raise UserError(
                "supervised was given a parameter out of range",
                allowed="dropout within [0, 1), temperature above 0, hidden and epochs at least 1",
            )
        codes = check.codes(codes)
        if targets is None or len(targets) != len(codes):
            raise UserError("supervised needs a label for each code", allowed="targets, or an unsupervised hasher")
        labelled = targets >= 0
        classes, numbers = np.unique(targets[labelled], return_inverse=True)
        codes = check.training(codes[labelled], rows=self.nbits + 1, who=f"{self.name} of {self.nbits} bits")
        if len(classes) < 2:
            raise UserError(f"supervised was given {len(classes)} class", allowed="two classes or more")
        mean, directions, reduced = reduce(unit_rows(codes), self.components, who=self.name, seed=self.seed)
        aims = centres(len(classes), self.nbits, seed=self.seed)
        layers = self._train(
            torch.from_numpy(reduced), torch.from_numpy(numbers), torch.from_numpy(aims), so_far.part("training")
        )
        first = np.ascontiguousarray(directions @ layers[0], dtype=np.float32)
        self._arrays = {
            "weights0": first,
            "bias0": layers[1] - mean @ first.astype(np.float64),
            "weights1": layers[2].astype(np.float32),
            "bias1": layers[3],
        }
        return self

    def bits(self, codes: Codes) -> Bits:
        """(n, nbits) bool."""
        learned = self.arrays()
        unit = unit_rows(check.codes(codes, dim=len(learned["weights0"])))
        hidden: Float32 = np.maximum(affine(unit, learned["weights0"], learned["bias0"]), np.float32(0))
        return signs(hidden, learned["weights1"], learned["bias1"])

    def _train(self, rows: Tensor, numbers: Tensor, aims: Tensor, so_far: SoFar) -> list[Float64]:
        """Weights and bias of the hidden and the code layer."""
        import torch
        from torch.nn.functional import cross_entropy

        from pipeline.hashing.adam import Adam
        from pipeline.hashing.epochs import epochs

        generator = torch.Generator().manual_seed(self.seed)
        parameters = []
        for width, out in ((rows.shape[1], self.hidden), (self.hidden, self.nbits)):
            weights = torch.randn((width, out), generator=generator) * (2 / width) ** 0.5
            parameters += [weights.requires_grad_(), torch.zeros(out).requires_grad_()]
        named = {str(i): p for i, p in enumerate(parameters)}
        adam = Adam(named, decay=self.decay)

        def dropped(x: Tensor) -> Tensor:
            return x * (torch.rand(x.shape, generator=generator) >= self.dropout) / (1 - self.dropout)

        for epoch in epochs(self.epochs, named | adam.tensors(), generator, so_far):
            rate = self.rate * (1 - epoch / self.epochs)
            for index in torch.split(torch.randperm(len(rows), generator=generator), self.batch):
                hidden = torch.relu(dropped(rows[index]) @ parameters[0] + parameters[1])
                code = signs_through(dropped(hidden) @ parameters[2] + parameters[3])
                loss = cross_entropy(code @ aims.T / (self.nbits * self.temperature), numbers[index])
                gradients = torch.autograd.grad(loss, parameters)
                adam.step(gradients, rate)
        return [p.detach().double().numpy() for p in parameters]


def centres(classes: int, nbits: int, *, seed: int) -> Float32:
    """(classes, nbits) of +-1: rows of a Hadamard matrix and their opposites if nbits is a power of 2, then random.

    Any two of the first nbits rows differ in exactly half of the bits.
    """
    rng = np.random.default_rng(seed)
    rows = np.empty((0, nbits), dtype=np.float32)
    if nbits & (nbits - 1) == 0:
        hadamard = np.ones((1, 1), dtype=np.float32)
        while len(hadamard) < nbits:
            hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
        # Row 0 is constant; a random sign for each bit spares any class a centre of one value.
        rows = np.concatenate([hadamard, -hadamard]) * rng.choice(np.array([-1, 1], dtype=np.float32), nbits)
    extra = rng.choice(np.array([-1, 1], dtype=np.float32), (max(0, classes - len(rows)), nbits))
    return np.concatenate([rows, extra])[:classes]
