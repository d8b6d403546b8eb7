"""Everything that was measured -> out/report: the comparison page and its numbers."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.report import build
from stages._run import run


def main() -> None:
    codes = config.load(config.CodesParams)
    build(
        Path("out"),
        config.load(config.ReportParams),
        heads=config.load(config.HeadsParams),
        specs=codes.layers,
        retrieval=config.load(config.RetrievalParams).specs,
        strategies=config.load(config.FinetuneParams).run,
        sanity=config.load(config.SanityParams).strategies,
    )


if __name__ == "__main__":
    run(main)
