"""dataset.root -> out/digests/files.csv: the sha256 of each file, in place of which DVC would copy the files."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.data.digests import write
from stages._run import run


def main() -> None:
    params = config.load(config.DatasetParams)
    file = Path("out/digests/files.csv")
    write(params.root, file, leave_out=params.leave_out, follow_links=params.follow_links)


if __name__ == "__main__":
    run(main)
