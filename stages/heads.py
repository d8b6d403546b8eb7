"""SPEC-HEAD: out/dataset, out/codes/SPEC -> out/heads/SPEC-HEAD/ (metrics.json, predictions.h5, model.h5)."""

from __future__ import annotations

from pathlib import Path

from pipeline import config
from pipeline.base.cache import cache_root
from pipeline.codes.reader import Codes
from pipeline.data.manifest import Manifest
from pipeline.heads.run import fit_head
from stages._run import item_of, run


def main() -> None:
    name = item_of("heads", __doc__)
    spec, _, head = name.rpartition("-")
    fit_head(
        Codes.open(Path("out/codes") / config.LayerSpec.parse(spec).name),
        Manifest.read("out/dataset"),
        config.load(config.HeadsParams),
        head,
        Path("out/heads") / name,
        cache=cache_root(),
    )


if __name__ == "__main__":
    run(main)
