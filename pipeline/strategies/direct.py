"""Direct use: the source network as it is, its classes mapped to the target's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.data.spelling import spelled
from pipeline.nets import backbone
from pipeline.nets.weights import Weights
from pipeline.strategies.model import Classifier

# A target class without source classes never has more.
_FLOOR = 1e-12
# Classes whose map is told in words; all are in the file of the head.
_TOLD = 10


class Direct(Classifier):
    """A target class's probability is the sum of its source classes', shared out over the mapped ones.

    `logits` are the logarithms of these, so that their softmax gives them back.
    """

    def __init__(self, weights: Weights, labels: Mapping[str, Sequence[str]], classes: Sequence[str], *, size: int):
        """Raises UserError if the weights have no classifier or no class names, or the images are too small."""
        super().__init__(weights.preprocessing, size)
        about = backbone.find(weights.arch)
        self.base = backbone.of(weights).trunk(about.logits)
        about.shape(about.logits, size, size)
        self.classes = tuple(classes)
        self.labels = label_map(labels, classes, source_classes(weights))
        self.net = self.base.module
        position = {name: i for i, name in enumerate(source_classes(weights))}
        shares = torch.zeros(len(position), len(classes))  # (source classes, k)
        for column, target in enumerate(classes):
            for source in self.labels.get(target, ()):
                shares[position[source], column] = 1.0
        self.shares: Tensor
        self.register_buffer("shares", shares, persistent=False)

    def told(self) -> str:
        """The map in words: `cat by tabby + Egyptian cat; none for dog, which is never named`."""
        by = [f"{target} by {' + '.join(self.labels[target])}" for target in self.classes if self.labels.get(target)]
        none = [target for target in self.classes if not self.labels.get(target)]
        more = [f"and {len(by) - _TOLD} more"] if len(by) > _TOLD else []
        return "; ".join([*by[:_TOLD], *more, *([f"none for {', '.join(none)}, never named"] if none else [])])

    def body(self, images: Tensor) -> Tensor:
        return self.base(images).mean(dim=(2, 3))

    def top(self, codes: Tensor) -> Tensor:
        mapped = codes.float().softmax(dim=1) @ self.shares
        return (mapped / mapped.sum(dim=1, keepdim=True).clamp(min=_FLOOR)).clamp(min=_FLOOR).log()


def source_classes(weights: Weights) -> tuple[str, ...]:
    """The names of the classes that the classifier tells apart. Raises UserError if the weights don't say them."""
    if weights.classes is None:
        raise UserError(
            "strategy direct needs the names of the source's classes, which these weights don't hold",
            allowed="torchvision:NAME, or a file with a .json beside it that lists `classes`",
        )
    return weights.classes


def label_map(
    labels: Mapping[str, Sequence[str]], targets: Sequence[str], sources: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Target class -> its source classes: as given, or if `labels` is empty those of the same name.

    Raises UserError naming every unknown class and every source class that is given to two targets.
    """
    found = {spelled(t): tuple(s) for t, s in labels.items()} if labels else propose(targets, sources)
    unknown_targets = sorted(set(found) - set(targets))
    unknown_sources = sorted({s for mapped in found.values() for s in mapped} - set(sources))
    every = [s for mapped in found.values() for s in mapped]
    twice = sorted({s for s in every if every.count(s) > 1})
    problems = [
        f"{what} {', '.join(names[:10])}"
        for what, names in (
            ("unknown target classes", unknown_targets),
            ("unknown source classes", unknown_sources),
            ("source classes of two targets", twice),
        )
        if names
    ]
    if problems:
        allowed = f"target classes {', '.join(sorted(targets)[:_TOLD])}{', ...' if len(targets) > _TOLD else ''}"
        raise UserError(
            f"the label map has {'; '.join(problems)}", allowed=f"{allowed}; each source class at most once"
        )
    if not any(found.values()):
        raise UserError(
            "no target class has the name of a source class",
            allowed="a map in the strategy's `labels`: {target class: [source class, ...]}",
        )
    return found


def propose(targets: Sequence[str], sources: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Target class -> source classes one of whose names (they are listed with commas) is the same but for case, spaces
    and punctuation, or ends in it as a word: `cat` gets `tabby, tabby cat`."""
    found: dict[str, tuple[str, ...]] = {}
    for target in targets:
        wanted = _words(target)
        same = tuple(s for s in sources if any(wanted and _ends_in(_words(n), wanted) for n in s.split(",")))
        if same:
            found[target] = same
    return found


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.casefold())


def _ends_in(words: list[str], end: list[str]) -> bool:
    return words[-len(end) :] == end
