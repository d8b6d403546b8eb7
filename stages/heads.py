"""SPEC HEAD: out/dataset, out/codes/SPEC -> out/heads/SPEC-HEAD/ (metrics.json, predictions.h5, model.h5)."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import config
from pipeline.codes.reader import Codes
from pipeline.data.manifest import Manifest
from pipeline.heads.run import fit_head
from stages._run import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", help="e.g. conv5_3-avg")
    parser.add_argument("head", help="a name of heads.heads in params.yaml")
    args = parser.parse_args()
    fit_head(
        Codes.open(Path("out/codes") / args.spec),
        Manifest.read("out/dataset"),
        config.load(config.HeadsParams),
        args.head,
        Path("out/heads") / f"{args.spec}-{args.head}",
    )


if __name__ == "__main__":
    run(main)
