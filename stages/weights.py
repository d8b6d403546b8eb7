"""Stage `weights`: the named weights -> one canonical safetensors file in out/weights."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.base.cache import cache_root
from pipeline.nets.weights import resolve, write_canonical
from stages._run import run


def main() -> None:
    params = config.load(config.WeightsParams)
    write_canonical(resolve(params, cache_root()), Path("out/weights/weights.safetensors"))


if __name__ == "__main__":
    run(main)
