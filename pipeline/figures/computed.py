"""What is computed of a subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Computed:
    """`record`: a field of `records.files.Figures`. `metrics`: figures for metrics.json. `tables`: file name -> CSV."""

    record: Any
    metrics: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
