"""The SVM's path over 6 values of C against LinearSVC in a loop, on synthetic codes.

    python -m bench.svm # (4000, 25088), 100 classes: minutes for LinearSVC
    python -m bench.svm --rows 1000 --dim 4608 --classes 20 # a minute or so

Prints one line a C with both objectives (liblinear's, summed over classes, at the weights found) and the ratio of the
times. Ends with exit code 1 if an objective of ours is above liblinear's by more than 0.1 %.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.base import Targets
from pipeline.heads.scaling import Scaling
from pipeline.heads.stream import Matrix
from pipeline.heads.svm import svm_path

GRID = [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]


def synthetic_codes(n: int, d: int, k: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows like those of a late layer: a few hundred directions of falling variance, noise, ReLU, length 1."""
    generator = np.random.default_rng(seed)
    rank = min(400, d)
    directions = generator.standard_normal((rank, d), dtype=np.float32)
    directions /= np.sqrt(np.arange(1, rank + 1, dtype=np.float32))[:, None]
    y = np.arange(n) % k
    latent = 0.3 * generator.standard_normal((k, rank), dtype=np.float32)[y]
    latent += generator.standard_normal((n, rank), dtype=np.float32)
    x = latent @ directions * np.float32(3 / np.sqrt(rank)) - 1
    x += generator.standard_normal((n, d), dtype=np.float32)
    return Scaling("l2").apply(np.maximum(x, 0)), y


class Held:
    def __init__(self, x: NDArray[np.float32]) -> None:
        self.x = x

    def rows(self, index: NDArray[np.int64], /) -> NDArray[np.float32]:
        return self.x[index]


def objective(x: NDArray[np.float32], y: NDArray[np.int64], weights: NDArray[Any], c: float) -> float:
    """0.5 ||w||^2 + C sum max(0, 1 - y f)^2 summed over the classes; `weights` (d + 1, k)."""
    signs = np.where(y[:, None] == np.arange(weights.shape[1]), 1.0, -1.0)
    short = np.maximum(0, 1 - signs * (x @ weights[:-1].astype(np.float32) + weights[-1]))
    return float(0.5 * (weights**2).sum() + c * (short**2).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--dim", type=int, default=25088)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from sklearn.svm import LinearSVC

    x, y = synthetic_codes(args.rows, args.dim, args.classes, args.seed)
    print(f"rows {args.rows}, dim {args.dim}, classes {args.classes}, seed {args.seed}, {os.cpu_count()} cores")
    start = time.perf_counter()
    held = Matrix(Held(x), np.arange(len(x)), args.dim, Scaling("none"), memory_bytes=4 << 30)
    path = svm_path(held, Targets(y, args.classes), GRID)
    ours_s = time.perf_counter() - start
    print(f"path over {len(GRID)} C: {ours_s:.1f} s")
    worst, theirs_s = -np.inf, 0.0
    for c, weights in zip(GRID, path, strict=True):
        start = time.perf_counter()
        svm = LinearSVC(C=c).fit(x, y)
        took_s = time.perf_counter() - start
        theirs_s += took_s
        ours = objective(x, y, weights, c)
        theirs = objective(x, y, np.c_[svm.coef_, svm.intercept_].T, c)
        worst = max(worst, ours / theirs - 1)
        print(f"C {c:g}: objective {ours:.6g}, LinearSVC {theirs:.6g} ({ours / theirs - 1:+.1e}) in {took_s:.1f} s")
    print(f"LinearSVC {theirs_s:.1f} s, path {ours_s:.1f} s: {theirs_s / ours_s:.1f} times as fast; target 10")
    if worst > 1e-3:
        sys.exit(f"an objective is {worst:.2%} above liblinear's")


if __name__ == "__main__":
    main()
