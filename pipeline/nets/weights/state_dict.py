"""State dicts as training scripts save them: nested, beside an optimiser, under prefixes, several in one file.

All tensors of a file are looked at under one dotted name each, whatever of it is a key of a dict and whatever a name in
a state dict: `state_dict` -> `module.features.0.weight` is `state_dict.module.features.0.weight`. The weights are those
under the prefix, here `state_dict.module`, below which most layers of the architecture are found by name and shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.base.budget import OBJECT_BYTES, Budget
from pipeline.base.errors import UserError
from pipeline.nets.weights.foreign import WHOLE, known_names, ours_of, shapes_of
from pipeline.nets.weights.match import fitting, num_classes_of
from pipeline.nets.weights.record import Preprocessing

# Dicts in dicts; what is deeper holds no weights that a training script saved.
_MOST_DEPTH = 8
# To find out what a tensor is of each architecture's.
_TENSOR_STEPS = 50
# What torch puts into names where it wraps a module, of which `features` alone may be one: `features.module.0.weight`.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


@dataclass(frozen=True)
class StateDict:
    """`tensors`: those of a file by their dotted names; `homes`: the dotted name of the dict that each lies in, "" for
    the file itself. `extras`: keys of the file without a tensor below. `part`: which of `parts` to give, None if one.
    """

    tensors: dict[str, Tensor]
    preprocessing: Preprocessing | None
    homes: Mapping[str, str] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    part: str | None = None

    @classmethod
    def of(cls, content: Mapping[Any, Any], preprocessing: Preprocessing | None, budget: Budget) -> StateDict:
        """Of whatever nested dicts and lists a file holds. Raises TooMuchError where the names are out of proportion
        to its length, or the tensors are, as views of a few values can be."""
        found = []
        for name, tensor, home in _walk(content, "", _MOST_DEPTH, set()):
            # Each part of a name may be where a prefix ends.
            budget.work(_TENSOR_STEPS + (name.count(".") + 1) ** 2)
            budget.make(OBJECT_BYTES + len(name) + tensor.numel() * tensor.element_size())
            found.append((name, tensor, home))
        holding = {name.partition(".")[0] for name, _, _ in found}
        extras = tuple(str(key) for key in content if str(key).partition(".")[0] not in holding)
        return cls({n: t for n, t, _ in found}, preprocessing, {n: home for n, _, home in found}, extras)

    def named(self, arch: str) -> dict[str, Tensor]:
        """The weights under canonical names. A tensor beside them in their own dict keeps its name, for the check."""
        chosen, *_ = self._groups(arch)
        strangers = {name: self.tensors[name] for name in self._strangers(arch, chosen)}
        return chosen.tensors | {f"another {n}" if n in chosen.tensors else n: t for n, t in strangers.items()}

    def shapes(self, arch: str) -> dict[str, tuple[int, ...]]:
        return shapes_of(self.named(arch))

    def own(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    def parts(self, arch: str) -> tuple[str, ...]:
        return tuple(group.where for group in self._groups(arch))

    def aside(self, arch: str) -> dict[str, str]:
        chosen, *rivals = self._groups(arch)
        ours = known_names(arch)
        used = {*chosen.theirs.values(), *self._strangers(arch, chosen)}
        elsewhere = {name: rival.where for rival in rivals for name in rival.theirs.values()}
        left: dict[str, str] = {}
        for name, tensor in self.tensors.items():
            if name in used:
                continue
            if tensor.ndim == 0:
                left[name.rpartition(".")[2]] = "a number alone, such as a count of steps, is not a weight"
            elif name in elsewhere:
                left[elsewhere[name]] = f"fits as well as {chosen.where}, which was taken"
            elif self._is_copy(ours, chosen, name):
                left[_apart(name, chosen.prefix)] = f"the same values as {chosen.where}"
            else:
                left[_apart(name, chosen.prefix)] = f"it lies beside the weights, which are in {chosen.where}"
        return left | dict.fromkeys(self.extras, "it holds no weights")

    def _groups(self, arch: str) -> list[_Group]:
        """The weights, and what else could be meant by them: at least half as many layers fit, with other values.

        `part` chooses one of them. Raises UserError if it is none.
        """
        best, *others = self._all_groups(arch)
        if self.part is not None:
            below = [g for g in (best, *others) if g.where == self.part or g.where.startswith(f"{self.part}.")]
            if not below:
                tops = dict.fromkeys(name.partition(".")[0] for name in self.tensors)
                raise UserError(
                    f"there are no weights in {self.part!r}", allowed=f"what leads to some: {', '.join(tops)}"
                )
            return below[:1]
        found = [best]
        for group in others:
            inside = any(set(group.theirs.values()) <= set(one.theirs.values()) for one in found)
            if not inside and 2 * group.fits >= best.fits > 0 and not group.equals(best):
                found.append(group)
        return found

    def _all_groups(self, arch: str) -> list[_Group]:
        """One for each prefix below which a name is known, those first of which most layers fit, then most names are
        known, then that stand first; without any, the dict with the most values, all of it strange."""
        ours = known_names(arch)
        by_prefix: dict[str, dict[str, str]] = {}
        for name in self.tensors:
            for prefix, rest in splits(name):
                if rest in ours:
                    by_prefix.setdefault(prefix, {}).setdefault(ours[rest], name)
        # Of prefixes with the same names below them the longest, which comes last.
        different = {tuple(theirs.values()): prefix for prefix, theirs in by_prefix.items()}
        groups = [_Group.make(arch, prefix, by_prefix[prefix], self.tensors) for prefix in different.values()]
        groups.sort(key=lambda group: (-group.fits, -len(group.theirs)))
        return groups or [_Group(self._largest_home(), {}, {}, 0)]

    def _largest_home(self) -> str:
        sizes: dict[str, int] = {}
        for name, tensor in self.tensors.items():
            home = self.homes.get(name, "")
            sizes[home] = sizes.get(home, 0) + tensor.numel()
        return max(sizes, key=lambda home: sizes[home]) if sizes else ""

    def _strangers(self, arch: str, chosen: _Group) -> list[str]:
        """Names of tensors that lie in one dict with the weights, and are none of them. Numbers alone are counts."""
        homes = {self.homes.get(name, "") for name in chosen.theirs.values()} or {chosen.prefix}
        used, ours = set(chosen.theirs.values()), known_names(arch)
        return [
            name
            for name, tensor in self.tensors.items()
            if name not in used
            and self.homes.get(name, "") in homes
            and tensor.ndim > 0
            and not self._is_copy(ours, chosen, name)
        ]

    def _is_copy(self, ours: Mapping[str, str], chosen: _Group, name: str) -> bool:
        """Whether this is one of the weights under a second name: a module that two others share is saved twice."""
        twins = [chosen.theirs.get(ours[rest]) for _, rest in splits(name) if rest in ours]
        return any(twin is not None and _same(self.tensors[twin], self.tensors[name]) for twin in twins)


@dataclass(frozen=True)
class _Group:
    """Tensors below one prefix. `theirs`: canonical name -> dotted name; `tensors`: canonical name -> tensor in our
    layout; `fits`: how many layers of the architecture fit."""

    prefix: str
    theirs: dict[str, str]
    tensors: dict[str, Tensor]
    fits: int

    @classmethod
    def make(cls, arch: str, prefix: str, theirs: dict[str, str], tensors: Mapping[str, Tensor]) -> _Group:
        found = {ours: ours_of(ours, tensors[name]) for ours, name in theirs.items()}
        shapes = shapes_of(found)
        return cls(prefix, theirs, found, fitting(arch, shapes, num_classes=num_classes_of(shapes))[0])

    @property
    def where(self) -> str:
        return self.prefix or WHOLE

    def equals(self, other: _Group) -> bool:
        """Whether all that is here is there too, with the same values."""
        return all(name in other.tensors and _same(t, other.tensors[name]) for name, t in self.tensors.items())


def _walk(value: Any, prefix: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Tensor, str]]:
    """(dotted name, tensor, dotted name of the dict or list that holds it) of all tensors below `value`.

    `seen`: ids of what was looked into, since a file may hold a dict that holds itself.
    """
    seen.add(id(value))
    for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(inner, Tensor):
            yield name, inner, prefix
        elif isinstance(inner, Mapping | list | tuple) and depth and id(inner) not in seen:
            yield from _walk(inner, name, depth - 1, seen)


def splits(name: str) -> Iterator[tuple[str, str]]:
    """(prefix, rest) for each place where a prefix may end.

    a.b.c -> ("", a.b.c), (a, b.c), (a.b, c). What follows a prefix is without wrappers.
    """
    parts = name.split(".")
    for i in range(len(parts)):
        yield ".".join(parts[:i]), ".".join(part for part in parts[i:] if part not in _WRAPPERS)


def _apart(name: str, prefix: str) -> str:
    """The shortest beginning of a name that does not lead to the prefix too: model.ema of model.ema.x and model.net."""
    parts, others = name.split("."), prefix.split(".")
    shared = next((i for i, (part, other) in enumerate(zip(parts, others, strict=False)) if part != other), len(others))
    return ".".join(parts[: shared + 1])


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
