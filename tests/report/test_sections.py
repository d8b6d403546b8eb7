"""What the sections compute, against definitions."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base import csv_files
from pipeline.config import LayerSpec
from pipeline.dag.stages import PLOTS
from pipeline.figures import codes_map as map_of
from pipeline.figures import confusion as confused
from pipeline.figures.inputs import Inputs
from pipeline.figures.records.files import Figures
from pipeline.figures.records.runs import Comparison
from pipeline.figures.runs import predictions
from pipeline.report.section import Section, and_list, percent, seconds, size, spread
from pipeline.report.sections import depth, grid, result, tradeoff
from pipeline.report.sections import figures as table
from pipeline.report.styles import legend, mark_class
from tests.report.world import report_params

places = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=30)


@given(points=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_pareto_front_by_its_definition(points: list[tuple[int, int]]) -> None:
    costs, gains = [float(c) for c, _ in points], [float(g) for _, g in points]
    front = tradeoff.pareto(costs, gains)
    beaten = {
        i
        for i, j in itertools.permutations(range(len(points)), 2)
        if costs[j] <= costs[i] and gains[j] >= gains[i] and points[j] != points[i]
    }
    assert {points[i] for i in front} == {points[i] for i in set(range(len(points))) - beaten}
    assert [costs[i] for i in front] == sorted({costs[i] for i in front})


@given(points=places)
def test_no_two_pictures_share_a_place(points: list[tuple[float, float]]) -> None:
    cells, columns, rows = map_of.snap(np.array(points))
    assert len({tuple(c) for c in cells.tolist()}) == len(points)
    assert cells.min() >= 0 and cells[:, 0].max() < columns and cells[:, 1].max() < rows


def test_pictures_keep_to_their_side_of_the_map() -> None:
    cells, columns, _ = map_of.snap(np.array([(0.0, 0.0), (0.0, 1.0), (10.0, 0.0), (10.0, 1.0)]))
    assert cells[:2, 0].max() < columns / 2 <= cells[2:, 0].min()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_map_is_the_same_every_time_and_keeps_clusters_apart(method: str) -> None:
    random = np.random.default_rng(0)
    rows = np.concatenate([random.normal(c, 0.1, (20, 8)) for c in np.eye(8)[:2] * 5]).astype(np.float16)
    params = report_params(map_method=method)
    flat = map_of.embed(rows, params)
    assert flat.shape == (40, 2)
    assert np.array_equal(flat, map_of.embed(rows, params))
    between = np.linalg.norm(flat[:20].mean(axis=0) - flat[20:].mean(axis=0))
    assert between > 2 * max(flat[:20].std(), flat[20:].std())


@pytest.mark.parametrize("shape", [(4, 1), (4, 3), (5, 600)])
def test_the_map_takes_few_and_thin_codes(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).random(shape, dtype=np.float32)
    for method in ("pca", "tsne"):
        flat = map_of.embed(rows, report_params(map_method=method))
        assert flat.shape == (shape[0], 2) and np.isfinite(flat).all()


def test_worst_pairs_leave_out_the_diagonal_and_what_never_happened() -> None:
    matrix = np.array([[90, 1, 0], [4, 50, 4], [0, 0, 7]])
    assert confused.worst_pairs(matrix, 10) == [(1, 0), (1, 2), (0, 1)]
    assert confused.worst_pairs(matrix, 1) == [(1, 0)]


def test_a_matrix_of_many_classes_is_cut_to_the_worst() -> None:
    matrix = np.diag(np.full(130, 5))
    matrix[100, 7] = 3
    shown = confused._shown(matrix)
    assert len(shown) == confused.WORST_CLASSES
    assert {7, 100} <= set(shown.tolist()) and list(shown) == sorted(shown)
    assert list(confused._shown(np.diag(np.ones(100, dtype=np.int64)))) == list(range(100))


def test_what_a_value_sees_is_shown_where_it_is_known(figures: Figures) -> None:
    def html(known: Figures) -> str:
        section = grid.build(known)
        assert section is not None
        return str(section.html)

    unknown = tuple(replace(layer, receptive_field=None) for layer in figures.about.layers)
    blind = html(replace(figures, about=replace(figures.about, layers=unknown)))
    assert "sees, px" in html(figures) and "receptive field" in html(figures)
    assert "sees, px" not in blind and "receptive field" not in blind and "None" not in blind
    assert blind.count("<td") == html(figures).count("<td") - len(figures.about.codes) - 1


def test_every_confusion_is_in_the_csv(inputs: Inputs, figures: Figures) -> None:
    assert inputs.comparison is not None
    rows = list(csv.DictReader(io.StringIO(figures.tables["confusions.csv"])))
    best = inputs.comparison.best
    wrong = sum(int((~predictions(inputs.root / "heads", best, r).correct).sum()) for r in range(5))
    assert sum(int(row["times"]) for row in rows) == wrong
    answers = list(csv.DictReader(io.StringIO(figures.tables["plots/confusion.csv"])))
    assert np.mean([a["actual"] == a["predicted"] for a in answers]) == pytest.approx(best.mean("accuracy"))


def test_mistakes_fall_in_sureness(figures: Figures) -> None:
    rows = list(csv.DictReader(io.StringIO(figures.tables["mistakes.csv"])))
    margins = [float(r["score_of_predicted"]) - float(r["score_of_true"]) for r in rows]
    assert margins == sorted(margins, reverse=True) and margins[-1] >= 0
    assert all(r["true"] != r["predicted"] for r in rows)


def test_the_table_has_the_same_figures_as_the_runs(inputs: Inputs, figures: Figures) -> None:
    section = table.build(figures)
    assert section is not None
    rows = list(csv.DictReader(io.StringIO(section.files["table.csv"])))
    assert len(rows) == len(inputs.runs) == 12
    for row, run in zip(rows, inputs.runs, strict=True):
        assert (row["spec"], row["head"]) == (run.spec.name, run.head)
        assert float(row["accuracy_mean"]) == pytest.approx(np.mean([r["accuracy"] for r in run.repeats]), rel=1e-5)
        assert float(row["accuracy_std"]) == pytest.approx(run.values("accuracy").std(ddof=1), rel=1e-4)
        assert (row["log_loss_mean"] == "") == (run.head != "softmax")
    repeats = list(csv.DictReader(io.StringIO(section.files["per_repeat.csv"])))
    assert len(repeats) == 60


def test_metrics_are_the_best_ones(inputs: Inputs, figures: Figures) -> None:
    metrics = figures.metrics
    top = max(inputs.runs, key=lambda r: r.mean("accuracy"))
    assert (metrics["best"]["codes"], metrics["best"]["head"]) == (top.spec.name, top.head)
    assert metrics["best"]["accuracy"] == pytest.approx(top.mean("accuracy"), abs=1e-6)
    assert metrics["best"]["std"] == pytest.approx(top.std("accuracy"), abs=1e-6)
    by_head = {h: max(r.mean("accuracy") for r in inputs.runs if r.head == h) for h in ("svm", "softmax", "knn")}
    assert metrics["best_accuracy"] == pytest.approx(by_head, abs=1e-6)
    assert metrics["images"] == 160


def test_layers_come_in_the_order_of_the_network(figures: Figures) -> None:
    assert figures.about.specs == ("conv4_3-avg", "conv5_2-avg", "pool5-flatten", "pool5-avg-l2")
    section = depth.build(figures)
    assert section is not None
    rows = list(csv.DictReader(io.StringIO(section.files["plots/depth.csv"])))
    order = [r["layer"] for r in rows]
    assert [k for k, _ in itertools.groupby(order)] == ["conv4_3", "conv5_2", "pool5"]


@pytest.mark.parametrize(("build", "name"), [(depth.build, "depth"), (tradeoff.build, "tradeoff")])
def test_what_dvc_plots_draws_has_its_columns_whatever_heads_are_chosen_by(
    build: Callable[[Figures], Section | None], name: str, figures: Figures
) -> None:
    board = figures.comparison
    assert board is not None
    other = replace(figures, comparison=replace(board, metric="mean_class_recall"))
    file = f"plots/{name}.csv"
    columns = [set(csv.DictReader(io.StringIO(section.files[file])).fieldnames or ()) for section in
               (build(figures), build(other)) if section is not None]  # fmt: skip
    plot = next(p for p in PLOTS if p.file.endswith(file))
    assert len(columns) == 2
    assert all({plot.x, plot.y} <= found for found in columns) and "mean_class_recall" in columns[1]


def test_one_cell_is_best_in_the_table(figures: Figures) -> None:
    section = grid.build(figures)
    assert section is not None and figures.comparison is not None
    assert section.html.count('class="mark-best"') == 1
    noise = section.html.split("<tbody>")[1].split("</tbody>")[0].count('class="mark-noise"')
    assert noise == len(figures.comparison.within_noise)


@pytest.mark.parametrize(
    ("others", "tied", "said"),
    [
        (0, 0, "No other combination was tried."),
        (1, 0, "The other one is not within noise of it."),
        (1, 1, "The other one, a + svm, is within noise of it."),
        (3, 0, "None of the other 3 is within noise of it."),
        (3, 1, "Among the other 3, one is within noise of it: a + svm."),
        (3, 2, "Among the other 3, 2 are within noise of it: a + svm and b + svm."),
        (3, 3, "All 3 others are within noise of it: a + svm, b + svm and c + svm."),
    ],
)
def test_what_is_within_noise_reads_well(others: int, tied: int, said: str) -> None:
    names = [SimpleNamespace(name=f"{letter} + svm") for letter in "abcd"]
    board = SimpleNamespace(runs=names[: others + 1], within_noise=names[:tied], test="t")
    assert result._noise(cast(Comparison, board)) == said


def test_figures_in_words() -> None:
    thin = "\N{NARROW NO-BREAK SPACE}"
    assert percent(0.1234) == f"12.3{thin}%"
    assert percent(float("nan")) == "–"
    assert [size(v) for v in (8, 1024, 50_176, 2.5e9)] == ["8 B", "1.02 kB", "50.2 kB", "2.5 GB"]
    assert [seconds(v) for v in (0.0123, 0.9999, 12.34, 1234)] == ["12.3 ms", "1 s", "12.3 s", "1,234 s"]
    assert spread(0.5, 0.012) == "50.0 ± 1.2"
    assert spread(0.5, float("nan")) == "50.0"
    assert [and_list(w) for w in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_csv_quotes_and_empties() -> None:
    assert csv_files.table(["a", "b"], [['x,"y"', float("nan")], [None, 0.5]]) == 'a,b\n"x,""y""",""\n,0.5\n'


def test_what_was_done_to_codes_is_told_by_their_marks(figures: Figures) -> None:
    board = figures.comparison
    assert board is not None
    suffixes = ["", "-l2", "-sigmoid", "-sigmoid-l2"]
    runs = tuple(replace(board.best, spec=LayerSpec.parse(f"pool5-flatten{suffix}")) for suffix in suffixes)
    alone = replace(figures, comparison=replace(board, runs=runs))
    entries = legend(alone)
    told = [words for _, words in entries[-4:]]
    assert told == ["flatten", "flatten, L2-normalised", "flatten, sigmoid", "flatten, sigmoid, L2-normalised"]
    assert len({str(sample) for sample, _ in entries[-4:]}) == 4
    assert len({mark_class(alone, run) for run in runs}) == 4
    section = depth.build(replace(figures, comparison=replace(board, runs=(*board.runs, *runs))))
    assert section is not None and "flatten, sigmoid, L2-normalised" in section.html
