"""NAME: out/dataset, out/codes -> out/retrieval/NAME/ (metrics.json, curve.csv, training.csv, hasher.h5, bits.h5)."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.base.cache import cache_root
from pipeline.data.manifest import Manifest
from pipeline.retrieval.run import run_spec
from stages._run import item_of, run


def main() -> None:
    spec = config.HashSpec.parse(item_of("retrieval", __doc__))
    params = config.load(config.RetrievalParams)
    # DVC deletes a stage's outs before it runs: what a killed run goes on from lies in the cache.
    checkpoints = cache_root() / "hash-training" / spec.name
    out = Path("out/retrieval") / spec.name
    manifest = Manifest.read("out/dataset")
    run_spec(spec, Path("out/codes"), manifest, params, out, checkpoints=checkpoints, cache=cache_root())


if __name__ == "__main__":
    run(main)
