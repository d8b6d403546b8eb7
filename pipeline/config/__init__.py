"""params.yaml, typed and closed: one model per section; an unknown key or a wrong type is an error.

Nothing that changes a result has a default in code: what a file leaves out is its preset's, and presets/base.yaml has
every key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.base.counting import counted
from pipeline.base.errors import UserError
from pipeline.config.advise import AdviseParams
from pipeline.config.assigned import assigned
from pipeline.config.base import S, Section, by_field, validate
from pipeline.config.codes import MEMORY_MB, CodesParams
from pipeline.config.dataset import DatasetParams
from pipeline.config.finetune import FinetuneParams, StrategyParams, TableEntry
from pipeline.config.heads import HeadsParams
from pipeline.config.index import IndexParams
from pipeline.config.layered import over, preset_section, read
from pipeline.config.report import ReportParams
from pipeline.config.retrieval import ApproximateIndex, RetrievalParams
from pipeline.config.sanity import SanityParams
from pipeline.config.specs import HASHER_NUMBERS, POOLINGS, HashSpec, LayerSpec
from pipeline.config.tuned import TunedParams
from pipeline.config.weights import WeightsParams
from pipeline.config.yaml12 import read_yaml

__all__ = [
    "HASHER_NUMBERS",
    "MEMORY_MB",
    "POOLINGS",
    "PRESET_SECTIONS",
    "SECTIONS",
    "AdviseParams",
    "ApproximateIndex",
    "CodesParams",
    "DatasetParams",
    "FinetuneParams",
    "HashSpec",
    "HeadsParams",
    "IndexParams",
    "LayerSpec",
    "ReportParams",
    "RetrievalParams",
    "S",
    "SanityParams",
    "Section",
    "StrategyParams",
    "TableEntry",
    "TunedParams",
    "WeightsParams",
    "assigned",
    "load",
    "load_all",
    "over",
    "preset_values",
    "read_params",
    "read_yaml",
    "validate",
]

SECTIONS: dict[str, type[Section]] = {
    "dataset": DatasetParams,
    "weights": WeightsParams,
    "codes": CodesParams,
    "heads": HeadsParams,
    "retrieval": RetrievalParams,
    "advise": AdviseParams,
    "finetune": FinetuneParams,
    "sanity": SanityParams,
    "tuned": TunedParams,
    "report": ReportParams,
}
# What commands have defaults for: `index` is of one that no stage does, so params.yaml has no such section.
PRESET_SECTIONS: dict[str, type[BaseModel]] = {**SECTIONS, "index": IndexParams}


def load(model: type[S], path: str | Path = "params.yaml") -> S:
    """The section of `model` in a params file over its preset.

    Raises UserError that names every bad key, what came, and what is allowed.
    """
    section = next(name for name, m in SECTIONS.items() if m is model)
    values, wrong = by_field(model, read(path, SECTIONS)[section])
    return validate(model, values, where=f"{path}: {section}", wrong=wrong)


def load_all(path: str | Path = "params.yaml") -> dict[str, Section]:
    """Every section of a params file. Raises UserError that names what is wrong in all of them together."""
    loaded, wrong = {}, []
    for name, model in SECTIONS.items():
        try:
            loaded[name] = load(model, path)
        except UserError as e:
            if e.allowed:  # of the file, not of a section
                raise
            wrong.append(e)
    if len(wrong) > 1:
        raise UserError("; ".join(e.what for e in wrong), see=wrong[0].see)
    if wrong:
        raise wrong[0]
    return loaded


def read_params(path: str | Path) -> dict[str, Any]:
    """The sections of a params file over its preset, as plain values by field. Raises UserError as `layered.read`, and
    on keys that groups don't have."""
    found, wrong = {}, []
    for name, values in read(path, SECTIONS).items():
        found[name], bad = by_field(SECTIONS[name], values)
        wrong += [f"{name}.{text}" for text in bad]
    if wrong:
        raise UserError(f"{path} has {counted(len(wrong), 'problem')}: {' | '.join(wrong)}", see="docs/params.md")
    return found


def preset_values() -> dict[str, Any]:
    """All sections of what commands do unless told otherwise, as plain values by field."""
    return {name: preset_section(name, model) for name, model in PRESET_SECTIONS.items()}
