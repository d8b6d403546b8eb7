"""The rule: from how many images there are, and how like the source's they are, to what to transfer and how.

Few images can train little beside a linear head, many can train the layers; where images are like the source's the top
codes fit as they are, where not the top is the source's own and earlier layers are more general (Yosinski, Clune,
Bengio and Lipson 2014; Razavian et al. 2014; the four cases are those of the course CS231n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.advice.measure import Scored
from pipeline.config import LayerSpec
from pipeline.nets import backbone

Size = Literal["small", "large"]
Likeness = Literal["alike", "different"]

NOISE = 2.0  # standard errors


@dataclass(frozen=True)
class Case:
    """`transfer`: `head` on frozen codes, or `finetune`. `kinds`: strategies of the stage `finetune` that do it.

    `do` and `otherwise` are the advice in words, with {spec} the advised codes, {half} the layer at which the top half
    begins, and {earlier} that the codes are not of the last layer, if so.
    """

    transfer: Literal["head", "finetune"]
    kinds: tuple[str, ...]
    do: str
    otherwise: str


RULE: Mapping[tuple[Size, Likeness], Case] = {
    ("small", "alike"): Case(
        "head",
        ("frozen",),
        "Keep the network as it is and train a linear head on {spec}.",
        "Tuning layers with so few images mostly learns them by heart.",
    ),
    ("large", "alike"): Case(
        "finetune",
        ("finetune", "gradual"),
        "Fine-tune the top half of the network, from {half} up, then all of it.",
        "A linear head on {spec} is the cheap way, and the one to beat.",
    ),
    ("small", "different"): Case(
        "head",
        ("frozen",),
        "Keep the network as it is and train a linear head on {spec}{earlier}.",
        "Where that is not enough, tune everything at a small rate.",
    ),
    ("large", "different"): Case(
        "finetune",
        ("finetune", "gradual"),
        "Tune all layers, starting from the source's weights.",
        "A linear head on {spec} is the cheap way, and the one to beat.",
    ),
}


@dataclass(frozen=True)
class Depth:
    """How the codes separate the classes by depth: `best` of all codes, `top` of the deepest layer's, and how far the
    top lags. `leader` has the highest expected accuracy, and `level` with it are those within noise of it, `best` among
    them. `alike` is None where all codes are of one layer, which tells nothing of depth."""

    leader: Scored
    level: tuple[Scored, ...]
    best: Scored
    top: Scored
    lag: float
    lag_se: float
    allowed: float
    alike: bool | None


def leader_of(found: Sequence[Scored], hopes: Mapping[str, float]) -> Scored:
    """The highest expected accuracy; of equal ones the shortest codes, then the first in `found`."""
    return max(found, key=lambda layer: (hopes[layer.spec], -layer.dim))


def level_with(leader: Scored, found: Sequence[Scored], hopes: Mapping[str, float]) -> tuple[Scored, ...]:
    """The leader and what is expected within two standard errors of it, in the order of `found`."""
    return tuple(layer for layer in found if hopes[leader.spec] - hopes[layer.spec] <= NOISE * layer.behind(leader)[1])


def preferred(level: Sequence[Scored], hopes: Mapping[str, float]) -> Scored:
    """Of codes that cross-validation can't tell apart those that stand highest in all measures together.

    A Borda count of the expected accuracy, k-NN, LogME and the H-score: each errs in its own way, so that together they
    are steadier than the accuracy on a few images (docs/results.md, Advice). A tie goes to the expected accuracy.
    """
    measures = [
        [hopes[layer.spec] for layer in level],
        [layer.knn for layer in level],
        [layer.logme for layer in level],
        [layer.h_score for layer in level],
    ]
    votes = {layer.spec: sum(sum(other < m[i] for other in m) for m in measures) for i, layer in enumerate(level)}
    return max(level, key=lambda layer: (votes[layer.spec], hopes[layer.spec], -layer.dim))


def by_depth(found: Sequence[Scored], hopes: Mapping[str, float], *, arch: str, points: float) -> Depth:
    """The top is as good as the best unless it lags by more than `points` and by more than two standard errors."""

    def best_of(some: Sequence[Scored]) -> tuple[Scored, tuple[Scored, ...], Scored]:
        leader = leader_of(some, hopes)
        level = level_with(leader, some, hopes)
        return leader, level, preferred(level, hopes)

    leader, level, best = best_of(found)
    layer_of = {layer.spec: LayerSpec.parse(layer.spec).layer for layer in found}
    deepest = backbone.deepest_of(backbone.find(arch), layer_of.values())
    at_top = [layer for layer in found if layer_of[layer.spec] == deepest]
    top = best if best in at_top else best_of(at_top)[2]
    se = top.behind(best)[1]
    lag = hopes[best.spec] - hopes[top.spec]
    allowed = max(points, NOISE * se)
    alike = None if len(set(layer_of.values())) == 1 else lag <= allowed
    return Depth(leader, level, best, top, lag, se, allowed, alike)


def top_half(arch: str) -> str:
    """The first convolution, or block, of the upper half of an architecture's."""
    steps = backbone.steps(backbone.find(arch))
    return steps[min((len(steps) + 1) // 2, len(steps) - 1)]
