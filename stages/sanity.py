"""STRATEGY: out/dataset, out/weights -> out/sanity/STRATEGY (metrics.json, curves.json): may it be trained so?"""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.base.cache import cache_root
from pipeline.data.manifest import Manifest
from pipeline.nets.weights import read_canonical
from pipeline.strategies.sanity.run import check
from pipeline.strategies.sanity.step import write
from stages._run import item_of, run


def main() -> None:
    name = item_of("sanity", __doc__)
    steps = check(
        name,
        Manifest.read("out/dataset"),
        read_canonical(Path("out/weights/weights.safetensors")),
        config.load(config.FinetuneParams),
        config.load(config.SanityParams),
        cache=cache_root(),
        memory_mb=config.load(config.CodesParams).memory_mb,
    )
    write(name, steps, Path("out/sanity") / name)


if __name__ == "__main__":
    run(main)
