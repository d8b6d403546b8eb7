"""The interface of a hasher, and the one list of them."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.base.unfinished import NOTHING, SoFar
from pipeline.config.specs import MOST_BITS
from pipeline.hashing import check
from pipeline.hashing.check import Bits, Codes
from pipeline.hashing.dbn.hasher import Dbn
from pipeline.hashing.itq import Itq
from pipeline.hashing.learned import Learned
from pipeline.hashing.lsh import Lsh
from pipeline.hashing.median import Median
from pipeline.hashing.pca import Pca
from pipeline.hashing.sigmoid import Sigmoid
from pipeline.hashing.supervised import Supervised
from pipeline.hashing.topk import TopK


class Hasher(Protocol):
    """Codes to bits. A dataclass whose fields are what is asked for; `fit` learns the rest from the train split only.

    The same code gives the same bits, alone or in a batch. Bad codes raise UserError; use before `fit`, RuntimeError.
    """

    name: ClassVar[str]

    @property
    def nbits(self) -> int:
        """Length of a code, a multiple of 8; 0 where it follows from codes not seen yet."""
        ...

    def fit(self, codes: Codes, *, targets: NDArray[np.int64] | None = None, val: Codes | None = None) -> Self:
        """Learns from (n, d) codes, forgetting any earlier fit.

        targets: (n,) class numbers, -1 unlabelled; only supervised hashers read them. val: codes to stop early by.
        """
        ...

    def bits(self, codes: Codes) -> Bits:
        """(n, d) float -> (n, nbits) bool."""
        ...

    def params(self) -> dict[str, Any]:
        """What was asked for, as JSON."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned."""
        ...

    @classmethod
    def from_arrays(cls, params: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The inverse of `params` and `arrays`."""
        ...


# A bit a value of the codes, and a bit a direction that the codes must span.
_OF_EACH_VALUE, _OF_DIRECTIONS = (Sigmoid.name, Median.name), (Pca.name, Itq.name)

HASHERS: dict[str, type[Hasher]] = {h.name: h for h in (Sigmoid, TopK, Median, Lsh, Pca, Itq, Dbn, Learned, Supervised)}


def make(name: str, **params: Any) -> Hasher:
    """A hasher of `HASHERS`, not fitted. Raises UserError on an unknown name, parameter or type of a parameter."""
    if name not in HASHERS:
        raise UserError(f"unknown hasher {name!r}", allowed=list(HASHERS))
    defaults = HASHERS[name]().params()
    unknown = sorted(set(params) - set(defaults))
    if unknown:
        raise UserError(f"hasher {name} has no parameter {', '.join(unknown)}", allowed=list(defaults) or "none")
    wrong = [f"{key} = {value!r}" for key, value in params.items() if not _fits(value, defaults[key])]
    if wrong:
        kinds = ", ".join(f"{key}: {type(value).__name__}" for key, value in defaults.items())
        raise UserError(f"hasher {name} was given {', '.join(wrong)}", allowed=kinds)
    return HASHERS[name](**params)


def fit(
    hasher: Hasher,
    codes: Codes,
    *,
    targets: NDArray[np.int64] | None = None,
    val: Codes | None = None,
    so_far: SoFar = NOTHING,
) -> Hasher:
    """`Hasher.fit`, where a training by epochs goes on from `so_far`, which is of this very fit."""
    if isinstance(hasher, Learned | Supervised | Dbn):
        return hasher.fit(codes, targets=targets, val=val, so_far=so_far)
    return hasher.fit(codes, targets=targets, val=val)


def check_fit(hasher: Hasher, dim: int | None = None) -> None:
    """Raises UserError if no codes could be hashed so, or none of `dim` values: what `fit` would find out."""
    if hasher.name in _OF_EACH_VALUE:
        if dim is not None:
            check.code_length(dim, who=hasher.name)
        return
    if hasher.name == TopK.name:
        k = hasher.params()["k"]
        if k < 1 or (dim is not None and k > dim):
            raise UserError(f"topk was asked for k = {k}", allowed=f"1 to {dim or 'the dimension of the codes'}")
        return
    nbits = check.code_length(hasher.nbits, who=hasher.name)
    if nbits > MOST_BITS:
        raise UserError(f"{hasher.name} was asked for {nbits:,} bits", allowed=f"a multiple of 8 up to {MOST_BITS:,}")
    if hasher.name in _OF_DIRECTIONS and dim is not None and nbits > dim:
        raise UserError(
            f"{hasher.name} was asked for {nbits} bits of codes with {dim} values", allowed=f"at most {dim - dim % 8}"
        )


def check_enough(hasher: Hasher, images: int, *, classes: int) -> None:
    """Raises UserError if so many images, with labels of so many classes, are too few to fit it on."""
    nbits = hasher.nbits
    least = {Pca.name: nbits, Itq.name: nbits, Learned.name: nbits, Supervised.name: nbits}.get(hasher.name, 0) + 1
    if images < least:
        raise UserError(f"{hasher.name} of {nbits} bits can't be fitted on {images} images", allowed=f"{least} or more")
    if hasher.name == Supervised.name and classes < 2:
        raise UserError(f"supervised was given {classes} classes", allowed="two or more, by folders or a labels.csv")


def _fits(value: object, default: object) -> bool:
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)
