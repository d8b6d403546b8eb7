"""Scales, ticks, labels and escaping of the hand-written charts."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report import svg
from pipeline.report.section import percent_ticks

finite = st.floats(-1e6, 1e6)


@given(low=finite, length=st.floats(1e-3, 1e6), most=st.integers(1, 12))
def test_linear_ticks_are_round_rising_and_within(low: float, length: float, most: int) -> None:
    scale = svg.Scale(low, low + length, 0, 100)
    ticks = scale.ticks(most)
    slack = 1e-6 * (abs(low) + length)
    assert len(ticks) <= most + 1
    assert all(low - slack <= t <= low + length + slack for t in ticks)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    if steps:
        mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
        assert min(abs(mantissa - m) for m in (1, 2, 2.5, 5, 10)) < 1e-2


@given(low=st.floats(0, 0.9), length=st.floats(0.02, 1), most=st.integers(1, 12))
def test_ticks_of_shares_are_named_as_they_are(low: float, length: float, most: int) -> None:
    name = percent_ticks(low, low + length)
    for tick in svg.Scale(low, low + length, 0, 100).ticks(most):
        assert float(name(tick).split("\N{NARROW NO-BREAK SPACE}")[0]) == pytest.approx(100 * tick, abs=0.051)


@given(low=st.floats(1e-4, 1e6), factor=st.floats(1.01, 1e8), most=st.integers(2, 12))
def test_log_ticks_are_within_and_not_too_many(low: float, factor: float, most: int) -> None:
    ticks = svg.Scale(low, low * factor, 0, 100, log=True).ticks(most)
    assert len(ticks) <= most
    assert ticks == sorted(set(ticks))
    assert all(low * 0.999 <= t <= low * factor * 1.001 for t in ticks)


def test_a_scale_maps_its_ends_and_the_middle() -> None:
    assert [svg.Scale(0, 10, 50, 150)(v) for v in (0, 5, 10)] == [50, 100, 150]
    assert svg.Scale(1, 100, 0, 80, log=True)(10) == pytest.approx(40)


@given(values=st.lists(st.floats(0, 1), max_size=5))
def test_a_span_of_shares_holds_them_with_room(values: list[float]) -> None:
    low, high = svg.share_span(values)
    assert high - low >= 0.039
    assert low > -0.05 and high < 1.05
    assert all(low <= v <= high for v in values)


@pytest.mark.parametrize("values", [[], [3.0], [2.0, 2.0], [math.nan, 1.0]])
def test_a_span_is_never_empty(values: list[float]) -> None:
    low, high = svg.span(values)
    assert low < high
    assert all(low < v < high for v in values if not math.isnan(v))


def test_elements_escape_what_they_are_given() -> None:
    hostile = "</title><script>alert('x')</script>\" onload=\"y"
    made = svg.element("g", svg.element("title", hostile), data_name=hostile)
    root = ET.fromstring(made)
    assert root.attrib == {"data-name": hostile}
    assert root[0].text == hostile and len(root) == 1


def test_labels_of_points_cover_neither_dots_nor_each_other() -> None:
    chart = svg.Chart.sized(svg.WIDE, (0, 10), (0, 10))
    points = [(5.0, 5.0), (5.05, 5.1), (5.1, 5.0), (5.15, 4.9)]
    taken = [chart.box(*p) for p in points]
    for p in points:
        chart.label("conv5_2-avg + svm", *p, taken)
    texts = taken[len(points) :]
    assert texts
    assert not any(a.meets(b) for i, a in enumerate(taken) for b in texts if b is not a and (i >= 4 or a is not b))


@pytest.mark.parametrize("width", [svg.WIDE, svg.HALF, svg.NARROW])
def test_a_chart_is_well_formed_and_within_its_box(width: int) -> None:
    chart = svg.Chart.sized(width, (0, 1), (0, 1))
    chart.axes("x", "y", x_format=str, y_format=str)
    chart.dot(0.0, 0.0, "low", "c0", shape="wedge")
    chart.dot(1.0, 1.0, "high", "c0")
    root = ET.fromstring(chart.render("a & b"))
    assert root.attrib["aria-label"] == "a & b"
    dots = list(root.iter("circle"))
    assert all(0 <= float(d.attrib["cx"]) <= width and 0 <= float(d.attrib["cy"]) <= chart.height for d in dots)
