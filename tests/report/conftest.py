"""One made-up set of results for the tests that only read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.advice.run import advise, write
from pipeline.codes.reader import Codes
from pipeline.data.manifest import Manifest
from pipeline.figures.inputs import Inputs, read_inputs
from pipeline.figures.records.files import Figures
from pipeline.figures.run import figures_of
from tests.advice.world import params
from tests.report.world import heads_params, make_images, make_manifest, make_world, report_params

SPECS = ("conv4_3-avg", "conv5_2-avg", "pool5-flatten", "pool5-avg-l2")
CLASSES = ("<b>bold</b>", "Straße & Zug", "cat", '"quoted"')


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dataset/, codes/ and heads/ of 160 images in four classes whose names need escaping, in 5 splits."""
    folder = tmp_path_factory.mktemp("world")
    names = [f"image{i:03}.png" for i in range(160)]
    make_images(folder / "images", names)
    manifest = make_manifest(folder / "images", names, [CLASSES[i % 4] for i in range(160)])
    make_world(folder, manifest, SPECS)
    return folder


@pytest.fixture(scope="session")
def inputs(world: Path) -> Inputs:
    return read_inputs(world, report_params(), heads=heads_params(), specs=SPECS)


@pytest.fixture(scope="session")
def figures(inputs: Inputs) -> Figures:
    return figures_of(inputs)


@pytest.fixture(scope="session")
def advised(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`world` with the advice on it."""
    folder = tmp_path_factory.mktemp("advised") / "out"
    shutil.copytree(world, folder)
    codes = {spec: Codes.open(folder / "codes" / spec) for spec in SPECS}
    write(advise(codes, Manifest.read(folder / "dataset"), params(), heads_params()), folder / "advise")
    return folder
