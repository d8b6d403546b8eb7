"""STRATEGY: out/dataset, out/weights -> out/finetune/STRATEGY/ (metrics.json, curves, predictions, the model)."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.base.cache import cache_root
from pipeline.data.manifest import Manifest
from pipeline.nets.weights import read_canonical
from pipeline.strategies.run import run_strategy
from stages._run import item_of, run


def main() -> None:
    strategy = item_of("finetune", __doc__)
    run_strategy(
        strategy,
        Manifest.read("out/dataset"),
        read_canonical(Path("out/weights/weights.safetensors")),
        config.load(config.FinetuneParams),
        Path("out/finetune") / strategy,
        cache=cache_root(),
        memory_mb=config.load(config.CodesParams).memory_mb,
    )


if __name__ == "__main__":
    run(main)
