"""Stage `codes`: every layer's codes of every image, from one pass; what the store holds is not made again."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.codes import extract
from pipeline.data.manifest import Manifest
from stages._run import run


def main() -> None:
    extract(
        Manifest.read("out/dataset"),
        Path("out/weights/weights.safetensors"),
        config.load(config.CodesParams),
        Path("out/codes"),
    )


if __name__ == "__main__":
    run(main)
