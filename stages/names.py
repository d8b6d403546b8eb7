"""params.yaml -> out/names/checked.txt, before DVC makes way for results in folders that params.yaml names."""

from __future__ import annotations

from pathlib import Path

from pipeline import schema
from pipeline.sections import Sections
from stages._run import run


def main() -> None:
    # All sections together, so that a mistake in what runs last is told first.
    Sections.load()
    # Always the same text: what depends on it runs after it, but never because of it.
    schema.write_text(Path("out/names/checked.txt"), "checked\n")


if __name__ == "__main__":
    run(main)
