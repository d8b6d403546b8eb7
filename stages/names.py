"""params.yaml -> out/names/checked.txt, before DVC makes way for results in folders that params.yaml names."""

from __future__ import annotations

from pathlib import Path

from pipeline import schema
from stages._run import run


def main() -> None:
    # `run` has checked params.yaml. Always the same text: what depends on it runs after it, but never because of it.
    schema.write_text(Path("out/names/checked.txt"), "checked\n")


if __name__ == "__main__":
    run(main)
