"""A training step beside a bare one: `python -m bench.finetune out --strategy finetune --precisions fp32,bf16`

FOLDER is a workspace (`out`, or what `cnncodes extract` made). Ours is an epoch of `pipeline.strategies` over a number
of its training images: reading the cache of decoded images, augmentation, rates, Lightning's loop, everything but
validation and checkpoints. Bare is the least that trains the same layers: the same batches, already there, forward,
backward, clipping and the optimiser's step, fused as ours is. Rounds alternate; the ratio is bare time over ours, of
medians. A line of JSON a precision.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from pipeline.config import FinetuneParams
from pipeline.data.manifest import Manifest
from pipeline.heads.sets import Sets
from pipeline.nets.weights import read_canonical
from pipeline.strategies.prepared import Place, Prepared, place_of, prepared
from pipeline.strategies.sets import sets_of
from pipeline.strategies.train import Limits, fit
from pipeline.workspace import preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--strategy", default="finetune")
    parser.add_argument("--size", type=int, default=64, help="side of the network's input in pixels")
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precisions", default="fp32", help="fp32, bf16 or both with a comma")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    manifest = Manifest.read(args.folder / "dataset")
    weights = read_canonical(args.folder / "weights" / "weights.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        for precision in args.precisions.split(","):
            params = preset(
                FinetuneParams,
                size=args.size,
                scale=args.size + args.size // 8,
                max_train=args.images,
                batch_size=args.batch_size,
                epochs=1,
                precision=precision,
            )
            place = place_of(args.strategy, manifest, weights, params, Path(folder))
            sets = sets_of(manifest, place.images, 0, max_train=params.max_train, seed=params.seed)
            rounds = [(ours(place, sets), bare(place, sets)) for _ in range(args.rounds + 1)][1:]
            own_s, bare_s = (statistics.median(column) for column in zip(*rounds, strict=True))
            images = len(sets.train)
            print(
                json.dumps(
                    {
                        "strategy": args.strategy,
                        "size": args.size,
                        "images": images,
                        "batch_size": args.batch_size,
                        "rounds": args.rounds,
                        "precision": precision,
                        "device": place.device,
                        "ours_images_per_s": images / own_s,
                        "bare_images_per_s": images / bare_s,
                        "ratio": bare_s / own_s,
                        "ratios": [b / o for o, b in rounds],
                    }
                ),
                flush=True,
            )


def ready(place: Place, sets: Sets) -> Prepared:
    made = prepared(place, [sets], 0)
    if made.training is None or made.train is None or made.training.recipe.on_codes:
        raise SystemExit(f"{place.name} runs no network on pixels: choose a strategy that does, such as finetune")
    return made


def ours(place: Place, sets: Sets) -> float:
    """Seconds of an epoch."""
    made = ready(place, sets)
    assert made.training is not None and made.train is not None
    limits = Limits.of(place.params, device=place.device, alone=True)
    with tempfile.TemporaryDirectory() as folder:
        return fit(made.training, made.train, None, limits, folder=Path(folder), key="bench").train_s


def bare(place: Place, sets: Sets) -> float:
    """Seconds of the same steps on batches that are there."""
    made = ready(place, sets)
    assert made.training is not None and made.train is not None
    model, p = made.ready.model.train(), place.params
    trained = [x for x in model.parameters() if x.requires_grad]
    optimiser = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[p.optimiser](
        trained, lr=1e-4, fused=True
    )
    there = [(model.normalise(pixels.to(place.device)), y.to(place.device)) for pixels, y in made.train]
    started_s = time.perf_counter()
    for inputs, targets in there:
        optimiser.zero_grad()
        with torch.autocast(place.device, torch.bfloat16, enabled=place.precision == "bf16"):
            loss = torch.nn.functional.cross_entropy(model.top(model.body(inputs)), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, p.clip)
        optimiser.step()
    loss.item()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
