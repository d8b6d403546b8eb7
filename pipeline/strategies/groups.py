"""The per-layer table: which parameters are trained, how fast, with which optimiser and penalties.

Exact and complete: every parameter matches exactly one entry and every entry is used, else one error names them all.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.base.errors import UserError
from pipeline.config import TableEntry


@dataclass(frozen=True)
class Group:
    """Parameters of one entry that share everything. `layers` and `parameters` are in the model's order.

    `weight_decay` and `l1` are those that apply: 0 for biases and norms unless asked. `multiple` 0: never trained.
    """

    name: str
    layers: tuple[str, ...]
    parameters: tuple[str, ...]
    values: int
    multiple: float
    weight_decay: float
    l1: float
    optimiser: str
    from_epoch: int

    def trained(self, epoch: int) -> bool:
        return self.multiple > 0 and epoch >= self.from_epoch


def layer_of(parameter: str) -> str:
    """`LAYER.weight` -> `LAYER`."""
    return parameter.rpartition(".")[0]


def resolve(
    shapes: Mapping[str, tuple[int, ...]], table: Sequence[TableEntry], *, optimiser: str, decay_biases: bool
) -> list[Group]:
    """The groups of an optimiser for parameters name -> shape, in the table's order, weights before biases and norms.

    A pattern is a layer's name or a shell pattern for some. Biases and norms are the parameters of one dimension.
    Raises UserError that names every parameter without an entry, every one with several, and every unused entry.
    """
    matches = {name: [i for i, e in enumerate(table) if _matches(e, layer_of(name))] for name in shapes}
    _require_exact(matches, table)
    groups = []
    for i, entry in enumerate(table):
        own = [name for name, found in matches.items() if found == [i]]
        for suffix, names in (
            ("", [n for n in own if len(shapes[n]) > 1]),
            (" (biases and norms)", [n for n in own if len(shapes[n]) <= 1]),
        ):
            if not names:
                continue
            penalised = decay_biases or not suffix
            groups.append(
                Group(
                    name=_named(entry) + suffix,
                    layers=tuple(dict.fromkeys(layer_of(n) for n in names)),
                    parameters=tuple(names),
                    values=sum(_size(shapes[n]) for n in names),
                    multiple=entry.multiple,
                    weight_decay=entry.weight_decay if penalised else 0.0,
                    l1=entry.l1 if penalised else 0.0,
                    optimiser=entry.optimiser or optimiser,
                    from_epoch=entry.from_epoch,
                )
            )
    return groups


def as_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Plain values, for groups.json."""
    return [asdict(g) for g in groups]


def from_json(values: Sequence[dict[str, Any]]) -> list[Group]:
    """What `as_json` made plain."""
    return [Group(**{**g, "layers": tuple(g["layers"]), "parameters": tuple(g["parameters"])}) for g in values]


def describe(groups: Sequence[Group]) -> str:
    """The table as text, one line a group."""
    lines = [f"{'layers':<44} {'values':>12} {'multiple':>9} {'decay':>9} {'l1':>9}  optimiser  from epoch"]
    for g in groups:
        if g.multiple == 0:  # of the rest nothing applies
            lines.append(f"{g.name:<44} {g.values:>12,} {'frozen':>9}")
            continue
        lines.append(
            f"{g.name:<44} {g.values:>12,} {g.multiple:>9g} {g.weight_decay:>9g} {g.l1:>9g}  "
            f"{g.optimiser:<9}  {g.from_epoch}"
        )
    return "\n".join(lines)


def _require_exact(matches: Mapping[str, list[int]], table: Sequence[TableEntry]) -> None:
    problems = []
    unmatched = [name for name, found in matches.items() if not found]
    if unmatched:
        problems.append(f"no entry for {', '.join(unmatched)}")
    twice = [f"{n} ({' and '.join(_named(table[i]) for i in f)})" for n, f in matches.items() if len(f) > 1]
    if twice:
        problems.append(f"more than one entry for {'; '.join(twice)}")
    layers = {layer_of(name) for name in matches}
    unused = [p for e in table for p in e.layers if not any(fnmatch.fnmatchcase(layer, p) for layer in layers)]
    if unused:
        problems.append(f"no parameters for {', '.join(unused)}")
    if problems:
        raise UserError(
            f"the per-layer table doesn't fit the model: {' | '.join(problems)}",
            allowed="each parameter in exactly one entry, and every pattern used; the model's layers are "
            + ", ".join(dict.fromkeys(layer_of(n) for n in matches)),
        )


def _matches(entry: TableEntry, layer: str) -> bool:
    return any(fnmatch.fnmatchcase(layer, pattern) for pattern in entry.layers)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _named(entry: TableEntry) -> str:
    """Short, and no other entry's: none shares a layer with it."""
    return ", ".join(entry.layers) if len(entry.layers) < 3 else f"{entry.layers[0]} .. {entry.layers[-1]}"
