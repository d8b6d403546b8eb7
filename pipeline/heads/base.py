"""What a head is, and the linear one that most of them are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.base.unfinished import NOTHING, Part, SoFar
from pipeline.heads.stream import Matrix


@dataclass(frozen=True)
class Targets:
    """Class numbers `y` (n,) of the training rows, of `k` classes, each with at least one row.

    `balanced`: classes weigh n / (k * their rows), which gives each class the same total.
    """

    y: NDArray[np.int64]
    k: int
    balanced: bool = False

    def class_weights(self) -> NDArray[np.float64]:
        """(k,) the factor on C of each class's rows."""
        if not self.balanced:
            return np.ones(self.k)
        return len(self.y) / (self.k * np.bincount(self.y, minlength=self.k))

    def first(self, n: int) -> Targets:
        return Targets(self.y[:n], self.k, self.balanced)


class Head(Protocol):
    """A fitted classifier of scaled codes. `HEADS` in the registry holds every kind.

    `unfinished` says how far from its optimum the fit was left, "" of one that got there.

    `rows_at_once`: how many rows `scores` is given where that takes long, None for all of them: the rows of a head that
    is one matrix product are rounded by their number.

    `parameter` is the setting chosen on validation, `C` or `k`; of settings that do equally well the first in
    `preferred` order is taken. `probabilities`: rows of `scores` are a distribution.
    """

    parameter: ClassVar[str]
    probabilities: ClassVar[bool]
    rows_at_once: ClassVar[int | None]

    @property
    def unfinished(self) -> str: ...

    @classmethod
    def fit(
        cls, rows: Matrix, targets: Targets, grid: Sequence[float], *, seed: int, so_far: SoFar = NOTHING
    ) -> list[Self]:
        """One head for each value of the setting, in the order of `grid`; work is shared between them.

        `so_far`: of this very fit, of which the rows, the targets, the grid and the seed are the same.
        """

    def scores(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled codes (b, d) -> (b, k); the largest names the class."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that `from_arrays` needs."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self: ...


@dataclass(frozen=True)
class LinearHead:
    """scores = codes W + b, with `weights` (d, k) and `intercepts` (k,) float32."""

    weights: NDArray[np.float32]
    intercepts: NDArray[np.float32]
    unfinished: str = ""

    parameter: ClassVar[str] = "C"
    probabilities: ClassVar[bool] = False
    rows_at_once: ClassVar[int | None] = None

    @classmethod
    def from_weights(cls, weights: NDArray[np.floating[Any]], unfinished: str = "") -> Self:
        """`weights` (d + 1, k), the intercepts last."""
        return cls(weights[:-1].astype(np.float32), weights[-1].astype(np.float32), unfinished)

    @classmethod
    def kept(cls, heads: Iterable[LinearHead], **more: NDArray[Any]) -> Part:
        """What `taken` makes heads of again, and arrays beside them."""
        arrays = dict(more)
        told = []
        for i, head in enumerate(heads):
            arrays |= {f"weights{i}": head.weights, f"intercepts{i}": head.intercepts}
            told.append(head.unfinished)
        return Part(arrays, {"unfinished": told})

    @classmethod
    def taken(cls, part: Part) -> list[Self]:
        """The heads of `kept`, in their order."""
        told = part.values["unfinished"]
        return [cls(part.arrays[f"weights{i}"], part.arrays[f"intercepts{i}"], words) for i, words in enumerate(told)]

    def scores(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        return codes @ self.weights + self.intercepts

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"weights": self.weights, "intercepts": self.intercepts}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        return cls(np.asarray(arrays["weights"]), np.asarray(arrays["intercepts"]))


def shortfall(gap: float, tol: float) -> str:
    """`unfinished` of a fit whose objective is up to `gap` above its optimum (relative), where `tol` was asked for."""
    return "" if gap <= tol else f"stopped up to {100 * gap:.1g} % above its optimum"


def softmax(scores: NDArray[np.floating[Any]]) -> NDArray[Any]:
    """Rows (n, k) -> rows that sum to 1."""
    shifted: NDArray[Any] = scores - scores.max(axis=1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=1, keepdims=True)
    return shifted
