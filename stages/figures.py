"""Everything that was measured -> out/figures: what the page shows, in numbers and thumbnails."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.figures.run import compute
from stages._run import run


def main() -> None:
    codes = config.load(config.CodesParams)
    compute(
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
