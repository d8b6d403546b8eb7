"""The deep belief network as a hasher (Salakhutdinov and Hinton 2009; Krizhevsky and Hinton 2011)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.base.unfinished import NOTHING, SoFar
from pipeline.hashing import check
from pipeline.hashing.check import Bits, Codes, Float32
from pipeline.hashing.exact import affine, blocks, sigmoid, signs
from pipeline.hashing.sigmoid import soft_codes
from pipeline.hashing.state import Stateful

if TYPE_CHECKING:
    from pipeline.hashing.dbn.run import Record

_HELD_OUT = 0.1  # of the training codes where no val is given
_WITHIN = 10.0  # standard deviations
Rounding = Callable[[Float32, Bits], dict[str, float]]


@dataclass
class Dbn(Stateful):
    """A stack of restricted Boltzmann machines, unrolled, fine-tuned and cut at the code layer; bit = p > 0.5.

    visible: `bernoulli` on the soft codes tanh(x / 2) in [0, 1] of unnormalised codes, or `gaussian` on codes
    standardised by each dimension's mean and deviation. hidden: widths of the layers between input and code. The other
    fields are those of `train.Pretraining` and `train.Finetuning`. device: `auto`, `cpu` or `cuda`.
    """

    nbits: int = 64
    visible: str = "bernoulli"
    hidden: list[int] = field(default_factory=lambda: [512])
    seed: int = 0
    batch: int = 100
    rbm_epochs: int = 5
    rbm_rate: float = 0.05
    rbm_gaussian_rate: float = 5e-4
    rbm_decay: float = 2e-4
    rbm_scale: float = 0.01
    epochs: int = 20
    rate: float = 1e-3
    input_noise: float = 0.1
    code_noise: float = 10.0
    balance: float = 1.0
    decorrelate: float = 0.1
    patience: int = 4
    device: str = "auto"
    name: ClassVar[str] = "dbn"
    history: list[Record] = field(default_factory=list, init=False, repr=False, compare=False)

    def fit(
        self,
        codes: Codes,
        *,
        targets: NDArray[np.int64] | None = None,
        val: Codes | None = None,
        so_far: SoFar = NOTHING,
        rounding: Rounding | None = None,
        watch: Callable[[Record], None] | None = None,
    ) -> Self:
        """Trains; without `val`, on all but a tenth of the codes, by whose error it stops early.

        so_far: of this very fit, from which a killed one goes on to the bytes of an undisturbed one. rounding: given
        the held-out rows' unrounded code and bits after each epoch, returns what to log of them, such as the mAP of
        both. watch: told each record of `history`. Raises UserError on fewer rows than bits.
        """
        import torch

        from pipeline.hashing.dbn import train
        from pipeline.hashing.dbn.run import Run

        self._check()
        codes = check.training(codes, rows=self.nbits + 1, who=f"{self.name} of {self.nbits} bits")
        held = None if val is None else check.codes(val, dim=codes.shape[1])
        if held is None:
            order = np.random.default_rng(self.seed).permutation(len(codes))
            cut = max(1, round(_HELD_OUT * len(codes)))
            codes, held = codes[np.sort(order[cut:])], codes[np.sort(order[:cut])]
        if len(held) == 0:
            raise UserError(f"{self.name} was given no val codes", allowed="one or more, or val=None")
        self._arrays = self._scaling(codes)
        device = torch.device(_device(self.device))
        run = Run(self.seed, device, so_far, watch)
        # float16 halves the memory, and its rounding is far below the noise that is added.
        seen, kept = (torch.from_numpy(self._visible(c).astype(np.float16)).to(device) for c in (codes, held))
        evaluate = None if rounding is None else lambda code: rounding(code.cpu().numpy(), code.cpu().numpy() > 0.5)
        pre = train.Pretraining(
            self.rbm_epochs, self.batch, self.rbm_rate, self.rbm_gaussian_rate, self.rbm_decay, self.rbm_scale
        )
        fine = train.Finetuning(
            self.epochs,
            self.batch,
            self.rate,
            self.input_noise,
            self.code_noise,
            self.balance,
            self.decorrelate,
            self.patience,
        )
        with torch.no_grad():
            stack = train.pretrain(seen, kept, [*self.hidden, self.nbits], visible=self.visible, how=pre, run=run)
            net = train.finetune(seen, kept, stack, how=fine, run=run, evaluate=evaluate)
        for i, (weights, bias) in enumerate(net.encoder):
            self._arrays[f"weights{i}"] = np.ascontiguousarray(weights.cpu().numpy())
            self._arrays[f"bias{i}"] = bias.cpu().numpy().astype(np.float64)
        self.history = run.history
        return self

    def bits(self, codes: Codes) -> Bits:
        """(n, nbits) bool."""
        last = len(self.hidden)
        hidden = self._hidden(codes)
        return signs(hidden, self._arrays[f"weights{last}"], self._arrays[f"bias{last}"])

    def soft(self, codes: Codes) -> Float32:
        """(n, nbits) in [0, 1]: the code before it is rounded."""
        last = len(self.hidden)
        hidden = self._hidden(codes)
        return sigmoid(affine(hidden, self._arrays[f"weights{last}"], self._arrays[f"bias{last}"]))

    def _check(self) -> None:
        check.code_length(self.nbits, who=self.name)
        if self.visible not in _SCALED:
            raise UserError(f"dbn was asked for {self.visible!r} visible units", allowed=list(_SCALED))
        if any(width < 1 for width in self.hidden) or min(self.batch, self.rbm_epochs, self.epochs) < 1:
            raise UserError("dbn's hidden widths, batch and epochs must be positive")

    def _scaling(self, codes: Codes) -> dict[str, NDArray[Any]]:
        mean, square = np.zeros(codes.shape[1]), np.zeros(codes.shape[1])
        for rows in blocks(codes):
            mean += codes[rows].sum(axis=0, dtype=np.float64) / len(codes)
        for rows in blocks(codes):
            square += ((codes[rows] - mean) ** 2).sum(axis=0) / len(codes)
        deviation = np.sqrt(square)
        # A dimension that never changes says nothing: any deviation leaves it at 0.
        return {"mean": mean, "deviation": np.where(deviation > 0, deviation, 1.0)}

    def _visible(self, codes: Codes) -> Float32:
        return _SCALED[self.visible](codes, self._arrays["mean"], self._arrays["deviation"])

    def _hidden(self, codes: Codes) -> Float32:
        """(n, d) -> the input of the code layer (n, last hidden width)."""
        learned = self.arrays()
        values = self._visible(check.codes(codes, dim=len(learned["mean"])))
        for i in range(len(self.hidden)):
            values = sigmoid(affine(values, learned[f"weights{i}"], learned[f"bias{i}"]))
        return values


def _soft(codes: Codes, _mean: NDArray[Any], _deviation: NDArray[Any]) -> Float32:
    return soft_codes(codes)


def _standardised(codes: Codes, mean: NDArray[Any], deviation: NDArray[Any]) -> Float32:
    """(x - mean) / deviation within +-_WITHIN: one rare outlier must not decide a whole code."""
    result = np.empty(codes.shape, dtype=np.float32)
    for rows in blocks(codes):
        result[rows] = np.clip((codes[rows] - mean) / deviation, -_WITHIN, _WITHIN)
    return result


_SCALED: dict[str, Callable[[Codes, NDArray[Any], NDArray[Any]], Float32]] = {
    "bernoulli": _soft,
    "gaussian": _standardised,
}


def _device(wanted: str) -> str:
    import torch

    found = {"cpu": True, "cuda": torch.cuda.is_available()}
    if wanted == "auto":
        return "cuda" if found["cuda"] else "cpu"
    if not found.get(wanted, False):
        raise UserError(f"device {wanted!r} is not here", allowed=["auto", *(d for d, here in found.items() if here)])
    return wanted
