"""Names that hold settings: of codes (`LAYER-avg`) and of hashes of codes (`itq64-LAYER-avg`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from pipeline.base.errors import UserError

POOLINGS = ("flatten", "avg", "max", "spp", "gem", "cls", "patchavg")
_SPEC = re.compile(
    rf"(?P<layer>[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*)-(?P<pooling>{'|'.join(POOLINGS)})(?P<sigmoid>-sigmoid)?(?P<l2>-l2)?"
)


class LayerSpec(BaseModel):
    """One kind of code: a layer, how its map is pooled, and what is then done to the row: first the sigmoid of each
    value (a soft code), then L2-normalisation."""

    model_config = ConfigDict(frozen=True)
    layer: str
    pooling: str
    sigmoid: bool = False
    l2: bool = False

    @classmethod
    def parse(cls, text: str, *, pooling: str = "") -> LayerSpec:
        """`LAYER-avg`, `LAYER-flatten-l2`, `LAYER-flatten-sigmoid`; a bare layer name takes `pooling`.

        Raises UserError on anything else. Whether the architecture has the layer is checked by `nets`.
        """
        if pooling and "-" not in text:
            text = f"{text}-{pooling}"
        match = _SPEC.fullmatch(text)
        if match is None:
            raise UserError(
                f"layer spec {text!r} is not LAYER-POOLING, with -sigmoid, -l2 or -sigmoid-l2 behind it or not",
                allowed=f"a layer name, then one of {', '.join(POOLINGS)}, e.g. LAYER-avg, LAYER-flatten-l2 or "
                "LAYER-flatten-sigmoid",
                see="`cnncodes layers`",
            )
        return cls(
            layer=match["layer"],
            pooling=match["pooling"],
            sigmoid=match["sigmoid"] is not None,
            l2=match["l2"] is not None,
        )

    @classmethod
    def named_in(cls, settings: Mapping[str, Any]) -> LayerSpec:
        """The spec of codes, from the record of how they were made, unchecked. Raises KeyError if that lacks it."""
        return cls.model_construct(
            layer=settings["layer"],
            pooling=settings["pooling"],
            sigmoid=settings.get("sigmoid", False),
            l2=settings["l2"],
        )

    @property
    def suffix(self) -> str:
        """What is done to the pooled row, as the name says it: "", -sigmoid, -l2 or -sigmoid-l2."""
        return ("-sigmoid" if self.sigmoid else "") + ("-l2" if self.l2 else "")

    @property
    def name(self) -> str:
        return f"{self.layer}-{self.pooling}{self.suffix}"


def _is_spec(text: str) -> str:
    try:
        LayerSpec.parse(text)
    except UserError as e:
        raise ValueError(str(e)) from None
    return text


Spec = Annotated[str, AfterValidator(_is_spec)]

# Hasher -> the parameter that the number in a spec's name sets, "" where it takes none. `cosine` keeps the floats.
HASHER_NUMBERS = {
    "cosine": "",
    "sigmoid": "",
    "topk": "k",
    "median": "",
    "lsh": "nbits",
    "pca": "nbits",
    "itq": "nbits",
    "dbn": "nbits",
    "learned": "nbits",
    "supervised": "nbits",
}
# A longer hash saves nothing: it is as long as the codes themselves, and fitting one takes bits x values.
MOST_BITS = 16_384
_HASH_SPEC = re.compile(r"(?P<hasher>[a-z]+)(?P<number>[1-9][0-9]{0,5})?-(?P<codes>.+)")


class HashSpec(BaseModel):
    """One way to search: a hasher, its number where it takes one, and the codes that it hashes."""

    model_config = ConfigDict(frozen=True)
    hasher: str
    number: int | None
    codes: LayerSpec

    @classmethod
    def parse(cls, text: str) -> HashSpec:
        """`itq64-LAYER-avg`, `topk256-LAYER-flatten`, `sigmoid-LAYER-flatten`, `cosine-LAYER-avg`.

        Raises UserError on anything else. Whether there are such codes is checked where they are read.
        """
        match = _HASH_SPEC.fullmatch(text)
        if match is None or match["hasher"] not in HASHER_NUMBERS:
            raise UserError(
                f"hash spec {text!r} is not HASHER[NUMBER]-LAYER-POOLING",
                allowed=f"one of {', '.join(HASHER_NUMBERS)}, then codes, e.g. itq64-LAYER-avg",
                see="docs/params.md",
            )
        sets, number = HASHER_NUMBERS[match["hasher"]], match["number"]
        if bool(sets) != bool(number):
            wanted = f"{match['hasher']}64-{match['codes']}, where 64 is {sets}" if sets else "no number after its name"
            raise UserError(f"hash spec {text!r} has {number or 'no number'} for {match['hasher']}", allowed=wanted)
        if sets == "nbits" and (int(number) % 8 or int(number) > MOST_BITS):
            allowed = f"a multiple of 8 up to {MOST_BITS:,}"
            raise UserError(f"hash spec {text!r} asks for {number} bits", allowed=allowed)
        codes = LayerSpec.parse(match["codes"])
        if match["hasher"] == "sigmoid" and codes.suffix:
            raise UserError(
                f"hash spec {text!r} would give bits of 0 alone: the hasher takes the sigmoid itself, of plain codes",
                allowed=f"sigmoid-{codes.layer}-{codes.pooling}",
            )
        return cls(hasher=match["hasher"], number=int(number) if number else None, codes=codes)

    @property
    def name(self) -> str:
        return f"{self.hasher}{self.number or ''}-{self.codes.name}"

    @property
    def parameters(self) -> dict[str, int]:
        """What the number sets, by the hasher's name for it."""
        return {} if self.number is None else {HASHER_NUMBERS[self.hasher]: self.number}


def _is_hash_spec(text: str) -> str:
    try:
        HashSpec.parse(text)
    except UserError as e:
        raise ValueError(str(e)) from None
    return text


HashSpecName = Annotated[str, AfterValidator(_is_hash_spec)]
