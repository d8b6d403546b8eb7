"""params.yaml: dataset -> out/dataset (manifest.csv, dataset.json, failures.csv, images/)."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.data.build import build
from pipeline.sections import Sections
from stages._run import run


def main() -> None:
    # All of params.yaml, so that a mistake in what comes last is told first.
    sections = Sections.load()
    data, memory_mb = config.load(config.DatasetParams), sections.codes.memory_mb
    build(data, Path("out/dataset"), memory_mb=memory_mb, known=sections.require_labels)


if __name__ == "__main__":
    run(main)
