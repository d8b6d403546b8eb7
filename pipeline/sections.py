"""What the sections of params.yaml say of one another, and what stands in them for later stages to make sense of.

The first stage asks, so that a mistake in what comes last is told before an image is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.base.counting import counted
from pipeline.base.errors import UserError
from pipeline.hashing import base as hashing
from pipeline.nets import backbone
from pipeline.search import INDEXES, make

# Any length that every index takes: settings that a length of code does not fit skip the index, which is no mistake.
_NBITS = 64


@dataclass(frozen=True)
class Sections:
    """All sections of a params file, each valid alone."""

    weights: config.WeightsParams
    codes: config.CodesParams
    retrieval: config.RetrievalParams
    finetune: config.FinetuneParams
    sanity: config.SanityParams
    tuned: config.TunedParams

    @classmethod
    def load(cls, path: str | Path = "params.yaml") -> Sections:
        """Raises UserError on a section that is bad or missing, and on all that does not fit together, in one."""
        read = {name: config.load(model, path) for name, model in config.SECTIONS.items()}
        found: Any = {name: read[name] for name in cls.__dataclass_fields__}
        sections = cls(**found)
        if problems := list(sections._problems()):
            raise UserError(
                f"{path} has {counted(len(problems), 'problem')}: {' | '.join(problems)}", see="docs/params.md"
            )
        return sections

    def _problems(self) -> Iterator[str]:
        for spec in self.codes.layers:
            yield from _told("codes.layers", self._require_layer, spec, self._side)
        for spec in self.tuned.layers:  # a layer that the tuned network lacks is left out in words
            yield from _told("tuned.layers", self._require_layer, spec, None)
        for spec in self.retrieval.specs:
            yield from _told(f"retrieval, {spec}", self._require_hasher, config.HashSpec.parse(spec))
        for index, settings in self.retrieval.approximate.items():
            yield from _told(f"retrieval.approximate.{index}", _require_names, index, settings)
        allowed = [backbone.GAP, *backbone.find(self.weights.arch).heads]
        if self.finetune.head not in allowed:
            yield f"finetune.model.head is {self.finetune.head!r}, allowed: {', '.join(allowed)}"
        strategies = self.finetune.strategies
        for name in self.finetune.run:
            if below := strategies[name].below:
                yield from _told(f"finetune.strategies.{name}.below", backbone.find(self.weights.arch).require, below)
        named = f"allowed: {', '.join(strategies)}"
        if unknown := [name for name in self.sanity.strategies if name not in strategies]:
            yield f"sanity.strategies names {unknown}, {named}"
        if self.tuned.strategy not in strategies:
            yield f"tuned.strategy is {self.tuned.strategy!r}, {named}"

    @property
    def _side(self) -> int:
        return min(self.codes.scales) if self.codes.view == "whole" else self.codes.crop

    def _require_layer(self, text: str, side: int | None) -> None:
        layer = config.LayerSpec.parse(text).layer
        known = backbone.find(self.weights.arch)
        known.require(layer)
        if side is not None:
            known.shape(layer, side, side)

    def _require_hasher(self, spec: config.HashSpec) -> None:
        if spec.hasher != "cosine":
            settings = self.retrieval.settings.get(spec.hasher, {}) | spec.parameters
            hashing.check_fit(hashing.make(spec.hasher, **settings))


def _require_names(index: str, settings: dict[str, int]) -> None:
    """Raises UserError on settings that the index doesn't have, or lacks."""
    import inspect

    wanted = list(inspect.signature(INDEXES[index]).parameters)[1:]
    if sorted(settings) != sorted(wanted):
        make(index, _NBITS, **settings)


def _told(where: str, check: Callable[..., object], *args: object) -> Iterator[str]:
    try:
        check(*args)
    except UserError as e:
        yield f"{where}: {e}"
