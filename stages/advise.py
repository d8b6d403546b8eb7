"""out/dataset, out/codes -> out/advise (metrics.json, layers.csv, curve.csv), before anything is measured on test."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.advice import reference
from pipeline.advice.run import advise, write
from pipeline.codes.reader import Codes
from pipeline.data.manifest import Manifest
from stages._run import run


def main() -> None:
    params = config.load(config.AdviseParams)
    known = params.reference_file
    record = advise(
        {spec: Codes.open(Path("out/codes") / spec) for spec in config.load(config.CodesParams).layers},
        Manifest.read("out/dataset"),
        params,
        config.load(config.HeadsParams),
        reference=reference.read(known) if known else None,
    )
    write(record, "out/advise")


if __name__ == "__main__":
    run(main)
