"""What the advice says of more images, against curves whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pipeline.advice.words import _growth


def record(before: tuple[int, float, float], last: tuple[int, float, float]) -> dict[str, Any]:
    points = [{"n": n, "accuracy": a, "se": se} for n, a, se in (before, last)]
    gain = (last[1] - before[1]) / math.log2(last[0] / before[0])
    return {"spec": "pool5-avg", "doubling": gain, "layers": [{"spec": "pool5-avg", "curve": points}]}


@pytest.mark.parametrize(
    ("before", "last", "says"),
    [
        ((500, 0.60, 0.005), (1000, 0.66, 0.005), "gained 6.0 points a doubling (± 0.7): more images would still help"),
        ((500, 0.80, 0.002), (1000, 0.803, 0.002), "gained 0.3 points a doubling (± 0.3): more images alone would"),
        ((500, 0.80, 0.002), (1000, 0.79, 0.002), "lost 1.0 points a doubling (± 0.3): more images alone would"),
        ((50, 0.60, 0.04), (100, 0.63, 0.04), "gained 3.0 points a doubling (± 5.7), which is too noisy to tell"),
        ((250, 0.60, 0.002), (1000, 0.62, 0.002), "gained 1.0 points a doubling (± 0.1): more images alone would"),
    ],
)
def test_more_images(before: tuple[int, float, float], last: tuple[int, float, float], says: str) -> None:
    assert says in _growth(record(before, last))
