"""The ways to search a collection, and the codes that each of them needs.

Defaults are what measured best for codes that need no more than seconds of fitting (docs/architecture.md, collection).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import UserError

Kind = Literal["hamming", "cosine", "two-stage"]

# The short code, and what takes its place where there are too few images to learn from.
SHORT_HASHER, UNTRAINED_HASHER, SHORT_BITS = "itq", "lsh", 64
# Long codes: a bit a value of the flattened layer.
LONG_HASHERS: dict[str, dict[str, Any]] = {"topk": {"k": 256}, "sigmoid": {}}
COSINE, TWO_STAGE = "cosine", "two-stage"
# Neighbours that the short code proposes, for the float codes to put in order: at least so many, and so many a result.
SHORTLIST, SHORTLIST_FACTOR = 200, 10


@dataclass(frozen=True)
class Method:
    """How a query is answered: by Hamming distance, by cosine distance of the float codes, or by the second among the
    nearest of the first. `spec`: the codes that it takes. `nbits`: of its hash, 0 for none.
    """

    name: str
    kind: Kind
    spec: str
    nbits: int
    bytes_per_image: int

    @property
    def unit(self) -> str:
        """What its distances count."""
        return f"differing bits of {self.nbits:,}" if self.kind == "hamming" else "1 - cosine"

    def format(self, distance: float) -> str:
        """A distance as people read it."""
        return str(int(distance)) if self.kind == "hamming" else f"{distance:.3f}"

    def check_radius(self, radius: float) -> None:
        """Raises UserError unless `radius` is one of this method's distances."""
        if self.kind == "two-stage":
            raise UserError(
                f"a radius with method {self.name}, which orders a shortlist",
                allowed="a method that compares every image, such as cosine",
            )
        if self.kind == "cosine" and not 0 <= radius <= 2:
            raise UserError(f"radius {radius:g} of a cosine distance", allowed="0 to 2")
        if self.kind == "hamming" and not (0 <= radius <= self.nbits and radius == int(radius)):
            raise UserError(f"radius {radius:g} among codes of {self.nbits} bits", allowed=f"0 to {self.nbits}, whole")


def methods_of(made_by: Mapping[str, Any]) -> dict[str, Method]:
    """Name -> method, the default one first, from what the index says of itself."""
    short = made_by["short"]
    spec, nbits = short["spec"], short["nbits"]
    float_bytes = made_by["codes"][spec]["dim"] * (2 if made_by["codes"][spec]["dtype"] == "float16" else 4)
    found = [Method(n, "hamming", m["spec"], m["nbits"], m["nbits"] // 8) for n, m in made_by["long"].items()]
    found += [
        Method(COSINE, "cosine", spec, 0, float_bytes),
        Method(short["hasher"], "hamming", spec, nbits, nbits // 8),
        Method(TWO_STAGE, "two-stage", spec, nbits, nbits // 8 + float_bytes),
    ]
    return {m.name: m for m in found}


def choose(methods: Mapping[str, Method], name: str | None) -> Method:
    """The method of that name, the default one for None. Raises UserError naming those that the index has."""
    if name is None:
        return next(iter(methods.values()))
    if name not in methods:
        raise UserError(f"this index has no method {name!r}", allowed=methods, see="`cnncodes index info`")
    return methods[name]
