"""Is the advised layer good? `python -m bench.advice FOLDER --per-class 10,50,all --repeats 10 > table.md`

FOLDER is a workspace (`out`, or what `cnncodes extract` made). A repeat draws its training images anew, a fifth of them
val; where the set has a test split of its own it stays, else a quarter of the images is test, drawn anew as well.
Advice sees train and val; then a linear SVM on every spec's codes, its C chosen on val, is measured on test. The regret
of a repeat is its best test accuracy less the advised codes'; the repeat agrees if that is at most 2 points, or no more
than noise (McNemar's exact test, level .05). "Behind the best" compares with the one spec that is best on average over
the repeats, paired: mean, standard deviation, and p of Student's t that the advice is behind it. The last column is how
far behind it one would be, on average, by the layer that stands highest in one measure alone: the expected accuracy
(cross-validated), k-NN, LogME, the H-score.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_1samp
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.advice.run import advise
from pipeline.codes.reader import Codes
from pipeline.config import AdviseParams, HeadsParams
from pipeline.data import splits
from pipeline.data.manifest import Manifest
from pipeline.heads.select import choose, rows_of, score
from pipeline.heads.sets import sets_of
from pipeline.metrics.classify import predicted
from pipeline.metrics.significance import mcnemar_exact
from pipeline.workspace import Workspace, preset

Answers = dict[str, NDArray[np.bool_]]

VAL, TEST = 0.2, 0.25
MEASURES = ("expected", "knn", "logme", "h_score")
COLUMNS = (
    "images a class",
    "n train + val",
    "n test",
    "advised",
    "agree",
    "mean regret",
    "sd",
    "largest",
    "best on average",
    "behind it",
    "sd",
    "p",
    f"behind it by {', '.join(MEASURES)} alone",
)


class Trial(NamedTuple):
    """Of one repeat: the advised spec, the one that stands highest in each of MEASURES, every spec's test accuracy,
    McNemar's p of the advised against the best, and what was said."""

    advised: str
    alone: dict[str, str]
    accuracies: dict[str, float]
    p: float
    said: str

    @property
    def regret(self) -> float:
        return max(self.accuracies.values()) - self.accuracies[self.advised]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-class", default="all", help="training and val images a class, with commas; or all")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    space = Workspace.open(args.folder)
    codes = {spec: space.codes(spec) for spec in space.specs()}
    manifest = space.manifest()
    heads = preset(HeadsParams, heads=["svm"])
    print(f"| {' | '.join(COLUMNS)} |")
    print("|" + "---|" * len(COLUMNS))
    for size in args.per_class.split(","):
        trials, drawn, measured = [], manifest, {}
        for repeat in range(args.repeats):
            drawn = draw(manifest, None if size == "all" else int(size), seed=args.seed + repeat)
            # Where all images are taken, repeats differ in what advice draws of them, and are measured once.
            drawn_key = drawn.ids.tobytes() + (drawn.splits[0] == "test").tobytes()
            if drawn_key not in measured:
                measured[drawn_key] = measure(codes, drawn, heads)
            trials.append(trial(codes, drawn, heads, measured[drawn_key], seed=args.seed + repeat))
        print(line(size, drawn, trials), flush=True)


def draw(manifest: Manifest, per_class: int | None, *, seed: int) -> Manifest:
    """One split: the set's own test images or a quarter, and so many of the others for train and val, by class.

    Images that are in no split of the repeat lose their label.
    """
    if "test" in manifest.from_source:
        test = manifest.splits[0] == "test"
    else:
        test = np.zeros(len(manifest), dtype=bool)
        test[cut(manifest, np.arange(len(manifest)), TEST, seed)] = True
    rest = np.flatnonzero(~test)
    y = manifest.targets[rest]
    if per_class is not None:
        random = np.random.default_rng(seed)
        rest = np.concatenate([random.permutation(rest[y == c])[:per_class] for c in np.unique(y)])
    split = np.where(test, "test", "train").astype("U5")
    split[cut(manifest, np.sort(rest), VAL, seed)] = "val"
    labels = manifest.labels.copy()
    used = test.copy()
    used[rest] = True
    keep = np.flatnonzero(used)
    columns = ("ids", "paths", "groups", "sha256", "widths", "heights")
    taken = {name: getattr(manifest, name)[keep] for name in columns}
    return dataclasses.replace(manifest, **taken, labels=labels[keep], splits=split[None, keep])


def cut(manifest: Manifest, rows: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """A share of `rows` by class; what shares a group or its bytes stays together."""
    units = splits.unite(manifest.groups[rows].tolist(), manifest.sha256[rows].tolist())
    strata = splits.stratify(manifest.ids[rows].tolist(), manifest.labels[rows].tolist(), units)
    return rows[splits.cut(strata, {"part": share}, seed=seed, repeat=0)["part"]]


def measure(codes: dict[str, Codes], manifest: Manifest, heads: HeadsParams) -> Answers:
    """spec -> which test images the SVM on its codes has right."""
    sets = {spec: sets_of(one, manifest, 0) for spec, one in codes.items()}
    k = len(manifest.classes)

    def right(spec: str) -> NDArray[np.bool_]:
        chosen = choose(codes[spec], sets[spec], k, head="svm", params=heads)
        scores = score(chosen.head, rows_of(codes[spec], sets[spec].test, chosen.scaling, heads), k)
        found: NDArray[np.bool_] = predicted(scores) == sets[spec].y_test
        return found

    with threadpool_limits(limits=1), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return dict(zip(codes, threads.map(right, codes), strict=True))


def trial(codes: dict[str, Codes], manifest: Manifest, heads: HeadsParams, answers: Answers, *, seed: int) -> Trial:
    record = advise(codes, manifest, preset(AdviseParams, seed=seed), heads)
    accuracies = {spec: float(answer.mean()) for spec, answer in answers.items()}
    best = max(accuracies, key=accuracies.__getitem__)
    p = mcnemar_exact(answers[record["spec"]], answers[best])
    alone = {m: max(record["layers"], key=lambda layer: layer[m])["spec"] for m in MEASURES}
    return Trial(record["spec"], alone, accuracies, p, f"{record['size']}, {record['likeness']}")


def line(size: str, manifest: Manifest, trials: list[Trial]) -> str:
    regrets = 100 * np.array([t.regret for t in trials])
    agree = sum(t.regret <= 0.02 or t.p > 0.05 for t in trials)
    means = {spec: float(np.mean([t.accuracies[spec] for t in trials])) for spec in trials[0].accuracies}
    best = max(means, key=means.__getitem__)
    behind = 100 * np.array([t.accuracies[best] - t.accuracies[t.advised] for t in trials])
    p = float(ttest_1samp(behind, 0.0, alternative="greater").pvalue) if behind.any() else 1.0
    chosen = sorted({t.advised for t in trials}, key=lambda spec: -sum(t.advised == spec for t in trials))
    names = ", ".join(f"{spec} {sum(t.advised == spec for t in trials)}" for spec in chosen)
    said = sorted({t.said for t in trials}, key=lambda words: -sum(t.said == words for t in trials))
    words = "; ".join(f"{w} {sum(t.said == w for t in trials)}" for w in said)
    lags = [100 * np.mean([t.accuracies[best] - t.accuracies[t.alone[m]] for t in trials]) for m in MEASURES]
    n_test = int((manifest.splits[0] == "test").sum())
    spread = f"{regrets.mean():.2f} | {regrets.std(ddof=1):.2f} | {regrets.max():.1f}"
    return (
        f"| {size} | {len(manifest) - n_test} | {n_test} | {names} ({words}) | {agree} of {len(trials)} "
        f"| {spread} | {best} {100 * means[best]:.1f} | {behind.mean():.2f} | {behind.std(ddof=1):.2f} | {p:.2f} "
        f"| {', '.join(f'{lag:.2f}' for lag in lags)} |"
    )


if __name__ == "__main__":
    main()
