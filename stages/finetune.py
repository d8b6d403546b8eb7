"""Stage `finetune`: one named strategy on the dataset, over its repeats -> out/finetune/<name>."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import config
from pipeline.cache import cache_root
from pipeline.data.manifest import Manifest
from pipeline.finetune.params import FinetuneParams
from pipeline.finetune.run import run_strategy
from pipeline.nets.weights import read_canonical
from stages._run import run


def main() -> None:
    (name,) = sys.argv[1:]
    run_strategy(
        name,
        Manifest.read("out/dataset"),
        read_canonical(Path("out/weights/weights.safetensors")),
        config.load(FinetuneParams),
        Path("out/finetune") / name,
        cache=cache_root(),
    )


if __name__ == "__main__":
    run(main)
