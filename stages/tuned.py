"""out/finetune/STRATEGY, out/weights, out/dataset -> out/tuned: codes, heads and hashes of the tuned network.

Those of its source are in out/tuned/source, and out/tuned/metrics.json has both side by side."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.data.manifest import Manifest
from pipeline.tuned import Protocol, measure
from stages._run import run


def main() -> None:
    params = config.load(config.TunedParams)
    measure(
        Path("out/finetune") / params.strategy,
        Path("out/weights/weights.safetensors"),
        Manifest.read("out/dataset"),
        Protocol(
            params,
            config.load(config.CodesParams),
            config.load(config.HeadsParams),
            config.load(config.RetrievalParams),
        ),
        Path("out/tuned"),
    )


if __name__ == "__main__":
    run(main)
