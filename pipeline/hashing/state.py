"""What every hasher keeps alike: what was asked for as dataclass fields, what was learned as named arrays."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from pipeline.hashing import check


@dataclass
class Stateful:
    """`_arrays` is empty until `fit` or `from_arrays` filled it."""

    name: ClassVar[str]
    _arrays: dict[str, NDArray[Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def params(self) -> dict[str, Any]:
        """What was asked for, as JSON."""
        return {f.name: copy(getattr(self, f.name)) for f in fields(self) if f.init}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned. Raises RuntimeError before `fit`."""
        if not self._arrays:
            raise check.unfitted(self.name)
        return dict(self._arrays)

    @classmethod
    def from_arrays(cls, params: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """The inverse of `params` and `arrays`."""
        hasher = cls(**params)
        hasher._arrays = dict(arrays)
        return hasher
