"""out/figures -> out/report: the comparison page and its numbers."""

from __future__ import annotations

from pathlib import Path

from pipeline.dag import plots
from pipeline.report import build
from stages._run import run


def main() -> None:
    build(Path("out"))
    plots.complete(Path())


if __name__ == "__main__":
    run(main)
