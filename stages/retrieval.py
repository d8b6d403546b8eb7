"""NAME: out/dataset, out/codes -> out/retrieval/NAME/ (metrics.json, curve.csv, training.csv, hasher.h5, bits.h5)."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import config
from pipeline.data.manifest import Manifest
from pipeline.retrieval.run import run_spec
from stages._run import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", help="a name of retrieval.specs in params.yaml, e.g. itq64-conv5_3-avg")
    spec = config.HashSpec.parse(parser.parse_args().spec)
    params = config.load(config.RetrievalParams)
    run_spec(spec, Path("out/codes"), Manifest.read("out/dataset"), params, Path("out/retrieval") / spec.name)


if __name__ == "__main__":
    run(main)
