"""The section on advice: from a record as the stage writes it, set against made-up measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.manifest import Manifest
from pipeline.figures.advice import read_advice
from pipeline.figures.inputs import read_inputs
from pipeline.figures.run import figures_of
from pipeline.report.sections import advice
from tests.report.conftest import SPECS
from tests.report.world import heads_params, report_params


def test_the_section_sets_advice_against_the_measurements(advised: Path) -> None:
    inputs = read_inputs(advised, report_params(), heads=heads_params(), specs=SPECS)
    figures = figures_of(inputs)
    section = advice.build(figures)
    assert section is not None and inputs.advice is not None and figures.advice is not None
    found = figures.advice.outcome
    assert found is not None and found.head == "svm" and found.advised == inputs.advice["spec"]
    first = {run.spec.name: run.repeats[0]["accuracy"] for run in inputs.runs if run.head == "svm"}
    assert found.lag == pytest.approx(max(first.values()) - first[inputs.advice["spec"]])
    assert figures.metrics["advice"]["codes"] == inputs.advice["spec"]
    rows = section.files["advice.csv"].splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == list(inputs.by_depth)
    assert inputs.advice["says"]["do"].split(",")[0] in section.html


def test_advice_on_other_codes_or_images_is_left_out(advised: Path, world: Path) -> None:
    manifest = Manifest.read(world / "dataset")
    assert read_advice(world / "advise", manifest, SPECS) is None
    assert read_advice(advised / "advise", manifest, SPECS) is not None
    assert read_advice(advised / "advise", manifest, SPECS[:2]) is None
    inputs = read_inputs(world, report_params(), heads=heads_params(), specs=SPECS)
    assert advice.build(figures_of(inputs)) is None
