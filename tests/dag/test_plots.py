"""Every file that dvc.yaml names for `dvc plots` is there, whatever the results have."""

from __future__ import annotations

from pathlib import Path

from pipeline.dag import plots
from pipeline.dag.stages import PLOTS


def test_a_plot_without_values_is_a_header_and_others_stay(tmp_path: Path) -> None:
    there = tmp_path / PLOTS[0].file
    there.parent.mkdir(parents=True)
    there.write_text("depth,accuracy\n1,0.5\n")
    plots.complete(tmp_path)
    assert there.read_text() == "depth,accuracy\n1,0.5\n"
    for plot in PLOTS[1:]:
        assert (tmp_path / plot.file).read_text() == f"{plot.x},{plot.y}\n"
