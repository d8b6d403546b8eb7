"""The expected time, by a clock that the test moves."""

from __future__ import annotations

import logging

import pytest

from pipeline.base import progress
from pipeline.base.progress import Pace


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO)
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records]


def run(clock: Clock, pace: Pace, seconds: list[float], each: float = 10) -> None:
    for s in seconds:
        clock.now_s += s
        pace.advance(each)


def test_the_first_part_warms_up_and_is_past(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    run(clock, Pace(100, "here"), [5.0] + [1.0] * 9)
    assert said(caplog) == ["expected time: about 14 s here"], "5 + 9 s, said once"


def test_it_waits_for_a_pace_that_can_be_told(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    pace = Pace(1000, "here")
    run(clock, pace, [0.1, 0.1, 0.1, 0.1])
    assert said(caplog) == []
    run(clock, pace, [1.0] * 20)
    assert len(said(caplog)) == 1


def test_where_the_first_part_is_most_of_it_it_counts(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    pace = Pace(120, "here")
    run(clock, pace, [10.0], each=30)
    run(clock, pace, [2.0], each=10)
    pace.say()
    assert said(caplog) == ["expected time: about 36 s here"], "40 of 120 in 12 s"


def test_nothing_is_expected_of_what_is_done(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    run(clock, Pace(36, "here"), [1.0, 1.0, 1.0], each=12)
    assert said(caplog) == []
