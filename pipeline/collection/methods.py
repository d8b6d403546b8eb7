"""The ways to search a collection, and the codes that each of them needs.

Defaults are what measured best for codes that need no more than seconds of fitting (docs/architecture.md, collection).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.base.errors import UserError
from pipeline.config import POOLINGS

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
    nearest of the first. `spec`: the codes that it takes. `nbits`: of its hash, 0 for none. `layers`: the codes that it
    can be asked on, `spec` among them, and the bytes an image that each takes. `index`: the kind of index that finds
    its nearest bits.
    """

    name: str
    kind: Kind
    spec: str
    nbits: int
    layers: Mapping[str, int]
    index: str = "exact"

    @property
    def bytes_per_image(self) -> int:
        """What a search reads of each image."""
        return self.layers[self.spec]

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


def methods_of(made_by: Mapping[str, Any], index: str) -> dict[str, Method]:
    """Name -> method, the default one first, from what the index says of itself, and its kind."""
    short = made_by["short"]
    first, nbits = short["spec"], short["nbits"]
    value_bytes = {"float16": 2, "float32": 4}
    floats = {s: made_by["codes"][s]["dim"] * value_bytes[made_by["codes"][s]["dtype"]] for s in made_by["layers"]}
    long = made_by["long"].items()
    found = [Method(n, "hamming", m["spec"], m["nbits"], {m["spec"]: m["nbits"] // 8}) for n, m in long]
    found += [
        Method(COSINE, "cosine", first, 0, floats),
        Method(short["hasher"], "hamming", first, nbits, {first: nbits // 8}, index),
        Method(TWO_STAGE, "two-stage", first, nbits, {s: nbits // 8 + size for s, size in floats.items()}, index),
    ]
    found.sort(key=lambda method: method.name != made_by.get("default"))
    return {m.name: m for m in found}


def choose(methods: Mapping[str, Method], name: str | None, layer: str | None = None) -> Method:
    """The method of that name on those codes: for None, the default method of those that can take the codes, and its
    own codes. `layer` may leave the pooling out where that names one. Raises UserError naming those that there are.
    """
    if name is not None and name not in methods:
        raise UserError(f"this index has no method {name!r}", allowed=methods, see="`cnncodes index info`")
    candidates = list(methods.values()) if name is None else [methods[name]]
    if layer is None:
        return candidates[0]
    specs = list(dict.fromkeys(spec for method in candidates for spec in method.layers))
    spec = _spec(specs, layer)
    if spec is None:
        whose = "this index" if name is None else f"method {name} of this index"
        raise UserError(f"{whose} has no layer {layer!r}", allowed=specs, see="`cnncodes index info`")
    return replace(next(m for m in candidates if spec in m.layers), spec=spec)


def _spec(specs: Sequence[str], layer: str) -> str | None:
    """The one among `specs` that `layer` names, whole or without its pooling; one without -sigmoid and -l2 first."""
    plain = {f"{layer}-{pooling}" for pooling in POOLINGS}
    found = (
        [s for s in specs if s == layer]
        or [s for s in specs if s in plain]
        or [s for s in specs if s.partition("-")[0] == layer]
    )
    return found[0] if len(found) == 1 else None
