"""The procedure for choosing hyperparameters: each step's verdict, what it saw, and what to draw of it."""

from __future__ import annotations

from pipeline.figures.computed import Computed
from pipeline.figures.inputs import Inputs
from pipeline.figures.records.training import Checked, Step
from pipeline.strategies.sanity import step
from pipeline.strategies.sanity.panel import panel


def compute(inputs: Inputs) -> Computed | None:
    found = tuple(
        Checked(name, step.verdict(steps), tuple(map(_step, steps))) for name, steps in inputs.sanity.items() if steps
    )
    return Computed(found, {"sanity": {one.strategy: one.verdict for one in found}}) if found else None


def _step(one: step.Step) -> Step:
    return Step(one.name, one.verdict, one.seen, one.advice, one.curve, panel(one))
