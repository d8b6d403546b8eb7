"""params.yaml: dataset -> out/dataset (manifest.csv, dataset.json, failures.csv, images/)."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.data.build import build
from stages._run import run


def main() -> None:
    memory_mb = config.load(config.CodesParams).memory_mb
    build(config.load(config.DatasetParams), Path("out/dataset"), memory_mb=memory_mb)


if __name__ == "__main__":
    run(main)
