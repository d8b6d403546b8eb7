"""The page is drawn from the folder of figures alone: nothing is lost on the way, nothing else is read or loaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.figures.inputs import read_inputs
from pipeline.figures.records.files import Figures, write
from pipeline.figures.run import COMPUTE, figures_of
from pipeline.report import build
from pipeline.report.page import SECTIONS, write_report
from pipeline.strategies.outputs import write_predictions
from pipeline.strategies.sanity.step import write as write_sanity
from tests.report.conftest import SPECS
from tests.report.test_page import Page, digest
from tests.report.test_sanity import STEPS, write_tuned
from tests.report.test_strategies import STRATEGIES, add_val_scores, write_strategy
from tests.report.world import heads_params, make_hashes, report_params
from tests.test_imports import ROOT

HASHES = ("cosine-pool5-flatten", "lsh16-pool5-flatten", "itq8-conv5_2-avg")


@pytest.fixture(scope="module")
def figures(advised: Path, tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """Figures of all stages' results; there are no copies."""
    out = tmp_path_factory.mktemp("all") / "out"
    shutil.copytree(advised, out)
    add_val_scores(out / "heads", dict.fromkeys(SPECS, 0.5))
    before = read_inputs(out, report_params(), heads=heads_params(), specs=SPECS)
    manifest, test = before.manifest, before.manifest.rows("test", 0)
    make_hashes(out, manifest, HASHES)
    for name in STRATEGIES:
        write_strategy(out / "finetune", name, classes=len(manifest.classes))
        answers = np.eye(len(manifest.classes), dtype=np.float32)[manifest.targets[test]]
        rows = [(manifest.ids[test], manifest.targets[test], answers)]
        write_predictions(out / "finetune" / name / "predictions.csv", manifest.classes, rows)
    write_sanity("cnn", STEPS, out / "sanity/cnn")
    write_tuned(out, manifest)
    params = report_params(learning_curve=[0.5, 1.0])
    wanted = {"specs": SPECS, "retrieval": HASHES, "strategies": list(STRATEGIES), "sanity": ["cnn"]}
    return figures_of(read_inputs(out, params, heads=heads_params(), **wanted))


def test_the_figures_are_all_there(figures: Figures) -> None:
    assert [name for name in COMPUTE if getattr(figures, name) is None] == ["copies"]


def test_the_page_of_the_folder_is_that_of_the_figures(figures: Figures, tmp_path: Path) -> None:
    write_report(figures, tmp_path / "straight")
    write(figures, tmp_path / "out/figures")
    page = build(tmp_path / "out")
    assert digest(page.parent) == digest(tmp_path / "straight")
    assert [i for i in Page(page).ids if i in SECTIONS] == [n for n in SECTIONS if n != "copies"]
    metrics = json_files.read(tmp_path / "out/figures/metrics.json")
    assert metrics == json_files.read(page.parent / "metrics.json") and metrics["advice"] and metrics["best_hash"]


def test_drawing_loads_nothing_heavy(figures: Figures, tmp_path: Path) -> None:
    """As the stage does it, with every section."""
    write(figures, tmp_path / "out/figures")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    code = (
        "import sys; from stages import report; report.main();"
        "print([m for m in ('torch', 'sklearn', 'h5py', 'scipy', 'faiss', 'PIL') if m in sys.modules])"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "out/report/index.html").is_file()


def test_without_figures_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"figures\.json does not exist"):
        build(tmp_path)
