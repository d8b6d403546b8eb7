"""stages/*.py and what they import -> out/code.json: stage -> digest of its code, in place of a dep for each file.

It runs before all others, so that a wrong params.yaml is refused before DVC makes way for results in folders that it
names."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.base import disk
from pipeline.dag.closure import Closure
from pipeline.sections import Sections
from stages._run import run


def main() -> None:
    # All sections together, so that a mistake in what runs last is told first.
    Sections.load()
    closure = Closure(Path())
    digests = {stage: closure.digest(stage) for stage in closure.stages}
    disk.write_text(Path("out/code.json"), json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    run(main)
