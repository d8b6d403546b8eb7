"""Quality of the hashes on a set of cached codes: mAP@k over seeds, with fit times.

    cnncodes extract photos --splits folders --size 96 --layers conv5_3-avg,pool5-flatten --out codes
    python -m bench.hashing codes --k 1000 --seeds 5 --specs itq16-conv5_3-avg,itq64-conv5_3-avg

Queries are the test images, the database is train and val; a hasher is fitted on train alone (with val to stop early
by), once a seed; `--on val` is for choosing settings, with train as the database. Relevant is what has the query's
label, AP@k is the sum of the precisions at the hits of the first k over their number, and ties count by expectation.
`cosine-CODES` is exact cosine on the floats. A line of JSON a spec.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.codes.reader import Codes
from pipeline.config import HashSpec
from pipeline.data.manifest import Manifest
from pipeline.hashing.base import make
from pipeline.hashing.dbn.hasher import Dbn
from pipeline.hashing.pack import pack
from pipeline.hashing.sigmoid import Sigmoid
from pipeline.retrieval.bits import balanced
from pipeline.retrieval.measures import by_class, mean_average_precision
from pipeline.retrieval.ranking import Classes, FloatRanking, HammingRanking
from pipeline.retrieval.sets import QuerySets, sets_of

BLOCK = 4096
SEEDLESS = ("cosine", "sigmoid", "topk", "median", "pca")
RADIUS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, help="what `cnncodes extract` wrote")
    parser.add_argument("--specs", required=True, type=lambda s: s.split(","), help="HASHER[NUMBER]-CODES, with commas")
    parser.add_argument("--settings", type=json.loads, default={}, help='of the hashers: {"dbn": {"hidden": []}}')
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--on", choices=["test", "val"], default="test", help="val: its first images are the queries")
    parser.add_argument("--every", type=int, default=1, help="with --on val: take each N-th training image")
    args = parser.parse_args()
    manifest = Manifest.read(args.workspace / "dataset")
    for name in args.specs:
        spec = HashSpec.parse(name)
        codes = Codes.open(args.workspace / "codes" / spec.codes.name)
        sets = sets_of(codes, manifest, max_queries=args.queries, seed=0)
        if args.on == "val":
            sets = on_val(sets, args.queries, args.every)
        seeds = 1 if spec.hasher in SEEDLESS else args.seeds
        rows = [measured(spec, codes, sets, args.settings, seed=seed, k=args.k) for seed in range(seeds)]
        print(json.dumps(summary(name, sets, rows)), flush=True)


def on_val(sets: QuerySets, queries: int, every: int) -> QuerySets:
    """For choosing settings: val asks, each N-th training image answers, and no test image is looked at."""
    train, asked = sets.train[::every], sets.val[:queries]
    return replace(sets, train=train, database=train, queries=asked, own=np.full(len(asked), -1))


def measured(
    spec: HashSpec, codes: Codes, sets: QuerySets, settings: dict[str, dict[str, Any]], *, seed: int, k: int
) -> dict[str, float]:
    """mAP@k and the like of one fit."""
    assert sets.targets is not None
    classes = Classes(sets.targets[sets.queries], sets.targets[sets.database])
    if spec.hasher == "cosine":
        ranking = FloatRanking.cosine(codes.rows(sets.queries), codes.rows(sets.database), sets.own)
        return {"map": mean_average_precision(ranking, classes, k=k)}
    hasher = make(spec.hasher, **settings.get(spec.hasher, {}), **spec.parameters)
    if spec.hasher not in SEEDLESS:
        hasher = make(spec.hasher, **hasher.params() | {"seed": seed})
    train = codes.rows(sets.train)
    start = time.perf_counter()
    hasher.fit(train, targets=sets.targets[sets.train], val=codes.rows(sets.val) if len(sets.val) else None)
    fit_s = time.perf_counter() - start
    del train
    bits = np.concatenate([pack(hasher.bits(rows)) for _, rows in codes.blocks(BLOCK)])
    start = time.perf_counter()
    figures, _ = by_class(
        HammingRanking(bits[sets.queries], bits[sets.database], sets.own), classes, k=k, radius=RADIUS
    )
    values = {
        "map": figures["map_at_k"],
        "map_all": figures["map_all"],
        "precision_within_2": figures["precision_within_radius"],
        "bits_balanced": balanced(bits[sets.database]),
        "nbits": float(hasher.nbits),
        "fit_s": fit_s,
        "evaluate_s": time.perf_counter() - start,
    }
    if isinstance(hasher, Dbn | Sigmoid):
        few, database = sets.queries[:1000], hasher.soft(codes.rows(sets.database))
        same = Classes(sets.targets[few], sets.targets[sets.database])
        soft = FloatRanking.euclidean(hasher.soft(codes.rows(few)), database, sets.own[:1000])
        cut = HammingRanking(bits[few], bits[sets.database], sets.own[:1000])
        values["map_unrounded_of_1000"] = mean_average_precision(soft, same, k=k)
        values["rounding_loss"] = values["map_unrounded_of_1000"] - mean_average_precision(cut, same, k=k)
    return values


def summary(name: str, sets: QuerySets, rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over the seeds, and the standard deviation of the mAP."""
    about = {"spec": name, "n_fit": len(sets.train), "n_database": len(sets.database), "n_queries": len(sets.queries)}
    means = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
    std = round(float(np.std([row["map"] for row in rows], ddof=1)), 4) if len(rows) > 1 else None
    return about | {"seeds": len(rows)} | means | {"map_std": std}


if __name__ == "__main__":
    main()
