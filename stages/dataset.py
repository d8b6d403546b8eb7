"""params.yaml: dataset -> out/dataset (manifest.csv, dataset.json, failures.csv, images/)."""

from __future__ import annotations

import functools
from pathlib import Path

from pipeline import config
from pipeline.data.build import build
from pipeline.data.mapped import require_labels
from stages._run import run


def main() -> None:
    known = functools.partial(require_labels, config.load(config.FinetuneParams))
    memory_mb = config.load(config.CodesParams).memory_mb
    build(config.load(config.DatasetParams), Path("out/dataset"), memory_mb=memory_mb, known=known)


if __name__ == "__main__":
    run(main)
