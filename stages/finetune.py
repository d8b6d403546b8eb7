"""STRATEGY: out/dataset, out/weights -> out/finetune/STRATEGY/ (metrics.json, curves, predictions, the model)."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import config
from pipeline.cache import cache_root
from pipeline.data.manifest import Manifest
from pipeline.finetune.run import run_strategy
from pipeline.nets.weights import read_canonical
from stages._run import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("strategy", help="a name of finetune.strategies in params.yaml")
    args = parser.parse_args()
    run_strategy(
        args.strategy,
        Manifest.read("out/dataset"),
        read_canonical(Path("out/weights/weights.safetensors")),
        config.load(config.FinetuneParams),
        Path("out/finetune") / args.strategy,
        cache=cache_root(),
        memory_mb=config.load(config.CodesParams).memory_mb,
    )


if __name__ == "__main__":
    run(main)
