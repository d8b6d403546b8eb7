"""Numbers that may be missing: NaN in memory, null in JSON, which has no NaN."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, PlainSerializer, PlainValidator

Floats = NDArray[np.float64]


def _nan(value: Any) -> Any:
    return math.nan if value is None else value


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _array(value: Any) -> Floats:
    return np.array(value, dtype=np.float64)  # None is NaN


def _lists(value: Floats) -> Any:
    found = value.astype(object)
    found[np.isnan(value)] = None
    return found.tolist()


Number = Annotated[float, BeforeValidator(_nan), PlainSerializer(_null)]
Array = Annotated[Floats, PlainValidator(_array), PlainSerializer(_lists)]
