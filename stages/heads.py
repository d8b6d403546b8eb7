"""out/dataset, out/codes -> out/heads/SPEC-HEAD/ (metrics.json, predictions.h5, model.h5) of each spec and head.

Those that are there, of the same codes, params and code, stay. With a name, SPEC-HEAD alone is made."""

from __future__ import annotations

import functools
from pathlib import Path

from pipeline import config
from pipeline.base.cache import cache_root
from pipeline.base.items import Item
from pipeline.codes.reader import Codes
from pipeline.data.manifest import Manifest
from pipeline.heads.run import fit_head, require_grids, what_decides
from stages._run import code_of, run, run_items


def main() -> None:
    params, manifest = config.load(config.HeadsParams), Manifest.read("out/dataset")
    require_grids(manifest, params)

    def item(name: str) -> Item:
        spec, _, head = name.rpartition("-")
        codes = Codes.open(Path("out/codes") / config.LayerSpec.parse(spec).name)
        fit = functools.partial(fit_head, codes, manifest, params, head, cache=cache_root())
        return Item({"head": head, "code": code_of("heads"), **what_decides(codes, manifest, params)}, fit)

    layers = config.load(config.CodesParams).layers
    run_items("heads", [f"{layer}-{head}" for layer in layers for head in params.heads], item, __doc__)


if __name__ == "__main__":
    run(main)
