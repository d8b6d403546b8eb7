"""From an image file to its neighbours, warm, against the network's forward pass alone.

    python -m bench.query --size 224

A JPEG of 500 x 375 is decoded, goes through VGG-16 (random weights, whose speed is the same) to conv5_3, is hashed to
64 bits and searched for among 1,000,000 others by the exact index; at most 20 ms more than the pass alone. The two take
turns, and the difference is the median over pairs.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.codes import Embedder
from pipeline.codes.settings import resolve
from pipeline.codes.weights_header import WeightsHeader
from pipeline.config import CodesParams, WeightsParams
from pipeline.hashing.lsh import Lsh
from pipeline.hashing.pack import pack
from pipeline.nets import backbone
from pipeline.nets.weights import Weights, random
from pipeline.nets.weights.preprocessings import TORCHVISION
from pipeline.search import make
from pipeline.search.kernels import warm
from pipeline.workspace import preset

K = 10
UNCOUNTED = 2  # pairs before those that count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=224, help="side in pixels of the network's input")
    parser.add_argument("--pairs", type=int, default=25)
    args = parser.parse_args()
    warm()
    found = measured(args.rows, args.size, args.pairs, np.random.default_rng(0))
    print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in found.items()}))


def measured(rows: int, size: int, pairs: int, rng: np.random.Generator) -> dict[str, Any]:
    arch = preset(WeightsParams).arch
    layer = backbone.find(arch).short
    weights = Weights.make(arch, random.tensors(arch, 0), TORCHVISION, {"source": "random:0"})
    header = WeightsHeader.of(weights)
    params = preset(CodesParams, layers=[f"{layer}-avg"], crop=size, scales=[size], batch_size=1)
    spec = resolve(params, arch=header.arch, weights_sha256=header.sha256, normalisation=header.normalisation)
    settings = spec[f"{layer}-avg"].as_json()
    embedder = Embedder(weights, settings)
    pixels = np.kron(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8), np.ones((25, 25, 1), np.uint8))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    hasher = Lsh(nbits=64).fit(rng.random((100, embedder.dim), np.float32))
    index = make("exact", 64)
    index.add(rng.integers(0, 256, (rows, 8), dtype=np.uint8), np.array([f"{i:07d}" for i in range(rows)]))
    network = backbone.of(weights).runner([layer], device="cpu", precision="fp32")
    x = torch.zeros((1, 3, size, size)).contiguous(memory_format=torch.channels_last)

    def from_file() -> None:
        index.search(pack(hasher.bits(embedder([out.getvalue()]))), K)

    def forward() -> None:
        with torch.inference_mode():
            network(x)

    times: dict[str, list[float]] = {"file": [], "forward": []}
    for round_ in range(UNCOUNTED + pairs):
        for name, work in (("file", from_file), ("forward", forward)):
            start = time.perf_counter()
            work()
            if round_ >= UNCOUNTED:
                times[name].append(1000 * (time.perf_counter() - start))
    over = [a - b for a, b in zip(times["file"], times["forward"], strict=True)]
    return {
        "rows": rows,
        "size": size,
        "pairs": pairs,
        "file_ms": statistics.median(times["file"]),
        "forward_ms": statistics.median(times["forward"]),
        "over_forward_ms": statistics.median(over),
        "over_forward_ms_quartiles": [round(float(q), 2) for q in np.quantile(over, [0.25, 0.75])],
    }


if __name__ == "__main__":
    main()
