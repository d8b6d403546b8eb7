"""The page that compares several networks on the same images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.base import csv_files, disk
from pipeline.figures.records.networks import Networks
from pipeline.figures.records.runs import METRICS, Run
from pipeline.report.page import asset
from pipeline.report.section import Section, and_list, count, percent, render, seconds, size, spread
from pipeline.report.sections.grid import TESTS, cell
from pipeline.report.sections.tradeoff import BYTES, Cost, chart
from pipeline.report.svg import MARKERS, swatch

# Colours of the palette; further networks share them.
_COLOURS = 6
_SHAPES = ("circle", *MARKERS)
_TABLE = "networks.csv"


def write_networks(found: Networks, out: Path) -> Path:
    """Writes index.html and the table as CSV into `out`; returns the page."""
    sections = {
        "result": _result(found),
        "combinations": _table(found),
        "cost": _cost(found),
        "method": _method(found),
    }
    files = {name: text for section in sections.values() for name, text in section.files.items()}
    for name, text in files.items():
        disk.write_text(out / name, text)
    page = render(
        "page.html",
        title=f"Networks on {found.images}",
        subtitle="Which network, which layer and which head suit these images, as measured.",
        sections=sections,
        files=sorted(files),
        style=asset("page.css"),
        script=asset("page.js"),
    )
    disk.write_text(out / "index.html", page)
    disk.clear_leftovers(out, "*")
    return out / "index.html"


def _result(found: Networks) -> Section:
    board = found.comparison
    best, metric = board.best, board.metric
    best_of = {one.name: next((r for r in found.best_first if r.network == one.name), None) for one in found.networks}
    tiles = [
        (name, percent(run.mean(metric)), f"{run.spec.name} with {run.head}")
        for name, run in sorted(best_of.items(), key=lambda pair: -(pair[1].mean(metric) if pair[1] else 0.0))
        if run is not None
    ]
    html = render(
        "networks_result.html",
        best=best,
        metric=METRICS[metric].title,
        value=spread(best.mean(metric), best.std(metric)),
        repeats=len(best.repeats),
        noise=_noise(found),
        cheaper=_cheaper(found),
        tiles=tiles,
        images=found.count,
        classes=found.classes,
    )
    return Section("Result", html)


def _noise(found: Networks) -> str:
    """Which networks can't be told from the winner's, as a sentence."""
    board = found.comparison
    if board.test == "none":
        return "Fewer than five splits can't tell whether the others differ from it by more than noise."
    others = [one.name for one in found.networks if one.name != board.best.network]
    tied = [name for name in others if any(run.network == name for run in board.within_noise)]
    if not others:
        return ""
    if not tied:
        return f"No layer of {and_list(others)} comes within noise of it."
    return f"{and_list(tied)} {'comes' if len(tied) == 1 else 'come'} within noise of it."


def _cheaper(found: Networks) -> str:
    """The quickest one that is as good, as far as can be told."""
    board = found.comparison
    best_s = found.seconds_per_image(board.best)
    timed = [(found.seconds_per_image(run), run) for run in board.within_noise]
    quicker = [(took, run) for took, run in timed if took is not None and best_s is not None and took < best_s]
    if not quicker or best_s is None:
        return ""
    took, run = min(quicker, key=lambda pair: pair[0])
    return (
        f"As good, as far as these splits can tell, and quicker: {run.codes} with {run.head}, at {seconds(took)} an "
        f"image where the best takes {seconds(best_s)}."
    )


def _table(found: Networks) -> Section:
    board = found.comparison
    rows, lines = [], []
    for run in found.best_first:
        mean, sd = run.mean(board.metric), run.std(board.metric)
        took, p = found.seconds_per_image(run), board.p[board.runs.index(run)]
        rows.append(
            {
                "network": run.network,
                "spec": run.spec.name,
                "head": run.head,
                "cell": cell(board, run),
                "seconds": "" if took is None else seconds(took),
                "bytes": size(run.bytes_per_code),
            }
        )
        numbers: list[Any] = [mean, "" if math.isnan(sd) else sd, len(run.repeats), "" if p is None else p]
        lines.append([run.network, run.spec.name, run.head, *numbers, "" if took is None else took, run.bytes_per_code])
    header = ["network", "layer", "head", board.metric, "sd", "n", "p", "seconds_per_image", "bytes"]
    html = render(
        "networks_table.html",
        rows=rows,
        metric=METRICS[board.metric].title,
        repeats=len(board.best.repeats),
        board=board,
        test=TESTS[board.test].format(repeats=len(board.best.repeats)),
    )
    return Section("Networks, layers and heads", html, files={_TABLE: csv_files.table(header, lines)})


def _cost(found: Networks) -> Section:
    board = found.comparison
    names = [one.name for one in found.networks]
    heads = list(dict.fromkeys(run.head for run in board.runs))

    def look(run: Run) -> tuple[str, str]:
        return f"c{names.index(run.network) % _COLOURS}", _SHAPES[heads.index(run.head) % len(_SHAPES)]

    charts: list[tuple[str, str, Markup]] = []
    if all(found.seconds_per_image(run) is not None for run in board.runs):
        charts.append(
            (
                "by time",
                "Seconds an image: reading, decoding and a pass of the network to that layer, on a log scale",
                chart(board, look, Cost(lambda run: found.seconds_per_image(run) or 0.0, "seconds an image", seconds)),
            )
        )
    charts.append(("by size", "Bytes a code, on a log scale", chart(board, look, BYTES)))
    legend = [(swatch(f"c{i % _COLOURS}"), name) for i, name in enumerate(names)]
    legend += [(swatch("ink", shape=_SHAPES[i % len(_SHAPES)]), head) for i, head in enumerate(heads)]
    return Section("Cost", render("networks_cost.html", charts=charts, legend=legend))


def _method(found: Networks) -> Section:
    networks = []
    for one in found.networks:
        settings = next(iter(one.settings.values()))
        facts = [
            ("architecture", one.arch),
            ("weights", one.source or "not stated"),
            ("sha256 of the weights", str(settings["weights_sha256"])[:16]),
            ("images seen at", ", ".join(f"{side} px" for side in one.sides)),
            ("computed in", f"{settings['precision']} on {settings['device']}"),
            ("kept as", str(settings["dtype"])),
            ("folder", one.folder),
        ]
        networks.append((one.name, facts))
    data = [("images", count(found.count)), ("classes", count(found.classes)), ("timed on", f"{found.timed} images")]
    html = render("networks_method.html", networks=networks, data=[*data, ("machine", found.machine)])
    return Section("How it was made", html)
