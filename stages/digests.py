"""dataset.root -> out/digests/files.csv: the sha256 of each file, in place of which DVC would copy the files."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.data.digests import write
from stages._run import run


def main() -> None:
    params = config.load(config.DatasetParams)
    write(params.root, Path("out/digests/files.csv"), leave_out=params.leave_out)


if __name__ == "__main__":
    run(main)
