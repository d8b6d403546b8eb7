"""out/dataset, out/codes -> out/retrieval/NAME/ of each hash.

In each are metrics.json, curve.csv, training.csv, hasher.h5 and bits.h5. Those that are there, of the same codes,
params and code, stay. With a name that hash alone is made."""

from __future__ import annotations

import functools
from pathlib import Path

from pipeline import config
from pipeline.base.cache import cache_root
from pipeline.base.items import Item
from pipeline.data.manifest import Manifest
from pipeline.retrieval.run import run_spec, what_decides
from stages._run import code_of, run, run_items


def main() -> None:
    params, manifest, codes = config.load(config.RetrievalParams), Manifest.read("out/dataset"), Path("out/codes")

    def item(name: str) -> Item:
        spec = config.HashSpec.parse(name)
        make = functools.partial(run_spec, spec, codes, manifest, params, cache=cache_root())
        return Item({"code": code_of("retrieval"), **what_decides(spec, codes, manifest, params)}, make)

    run_items("retrieval", params.specs, item, __doc__)


if __name__ == "__main__":
    run(main)
