"""Train, val and test: stratified, seeded, and a function of ids, labels and groups alone, never of names or order.

Rows that share a file's content or a group are one unit, which no cut parts. Units are ordered by a hash of the seed,
the repeat and the unit, so that adding images leaves most of the others where they were.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.base.errors import UserError
from pipeline.data.manifest import SPLITS, Strings


class Unit(NamedTuple):
    """Rows that stay together, and the least of their ids."""

    rows: list[int]
    key: str


def stratify(ids: Sequence[str], labels: Sequence[str], units: Sequence[int]) -> list[list[Unit]]:
    """The units of each class; `units` numbers the rows that stay together, as `unite` does.

    A unit of several classes counts as its most frequent one, of rows with a label where it has any.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, number in enumerate(units):
        members[number].append(row)
    strata: dict[str, list[Unit]] = defaultdict(list)
    for rows in members.values():
        label, key = labels[rows[0]], ids[rows[0]]
        if len(rows) > 1:
            votes = Counter(labels[r] for r in rows if labels[r]) or Counter({"": 1})
            label, key = min(votes, key=lambda name: (-votes[name], name)), min(ids[r] for r in rows)
        strata[label].append(Unit(rows, key))
    return list(strata.values())


def cut(
    strata: Sequence[Sequence[Unit]], shares: Mapping[str, float], *, seed: int, repeat: int
) -> dict[str, list[int]]:
    """Split -> rows: each stratum gives each split of `shares` its share; rows that are in none belong to train.

    Counts are exact where units are single rows (shares rounded half up, at least one a split as long as train keeps
    one); larger units come as near as whole units can.
    """
    result: dict[str, list[int]] = defaultdict(list)
    for stratum in strata:
        order = sorted(stratum, key=lambda unit: _rank(unit.key, seed, repeat))
        for split, dealt in _deal(order, shares).items():
            result[split].extend(row for unit in dealt for row in unit.rows)
    return result


def _rank(key: str, seed: int, repeat: int) -> bytes:
    return hashlib.blake2b(f"{seed} {repeat} {key}".encode(), digest_size=16).digest()


def _deal(units: Sequence[Unit], shares: Mapping[str, float]) -> dict[str, list[Unit]]:
    """Fills one split of `shares` after the other, in the order of `units`; the rest belongs to train.

    A unit is taken if it brings a split nearer to its share, so that a large one goes to train.
    """
    total = sum(len(u.rows) for u in units)
    wanted = [split for split, share in shares.items() if share > 0]
    dealt: dict[str, list[Unit]] = {}
    left = list(units)
    for i, split in enumerate(wanted):
        target = max(1, int(shares[split] * total + 0.5))
        spare = len(left) - (len(wanted) - i)  # train and each later split keep one unit at least
        filled = 0
        taken: list[Unit] = []
        rest: list[Unit] = []
        for unit in left:
            size = len(unit.rows)
            if len(taken) < spare and abs(filled + size - target) < abs(filled - target):
                taken.append(unit)
                filled += size
            else:
                rest.append(unit)
        if not taken and spare > 0:
            taken = [min(rest, key=lambda unit: len(unit.rows))]
            rest.remove(taken[0])
        dealt[split], left = taken, rest
    return dealt


def unite(*keys: Sequence[str]) -> list[int]:
    """Numbers rows so that two have the same number if a chain of shared values joins them; "" is no value."""
    parent = list(range(len(keys[0])))

    def top(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for column in keys:
        first: dict[str, int] = {}
        for row, value in enumerate(column):
            if value:
                parent[top(row)] = top(first.setdefault(value, row))
    return [top(row) for row in range(len(parent))]


def assign(
    ids: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str],
    sha256: Sequence[str],
    given: Sequence[str],
    *,
    shares: Mapping[str, float],
    repeats: int,
    seed: int,
) -> Strings:
    """(repeats, n) splits. `given` is the source's split of each row, or "" in all of them.

    Given splits are kept; those of `shares` that are missing among them are cut from train, each repeat anew. Raises
    UserError if the shares leave nothing for train.
    """
    if sum(shares.values()) >= 1:
        raise UserError(
            f"dataset.val_share and test_share add up to {sum(shares.values()):g}",
            allowed="less than 1, the rest is train",
        )
    have = set(given) - {""}
    open_rows = np.array([i for i, split in enumerate(given) if split in ("", "train")], dtype=np.int64)
    wanted = {split: share for split, share in shares.items() if split not in have}
    units = unite([groups[i] for i in open_rows], [sha256[i] for i in open_rows])
    strata = stratify([ids[i] for i in open_rows], [labels[i] for i in open_rows], units)
    result = np.tile(np.array([split or "train" for split in given], dtype="U5"), (repeats, 1))
    for repeat in range(repeats):
        for split, rows in cut(strata, wanted, seed=seed, repeat=repeat).items():
            result[repeat, open_rows[rows]] = split
    return result


def require_train(given: Sequence[str]) -> None:
    """Raises UserError if a source gives splits, and none of them is train."""
    have = sorted(set(given) - {""})
    if have and "train" not in have:
        raise UserError(f"the source gives the splits {have}, but no train", allowed=SPLITS)


def require_all(splits: Strings, labels: Strings, units: Sequence[int], needed: Sequence[str]) -> None:
    """Raises UserError that names every class which some needed split lacks in some repeat, with its counts.

    Unlabelled rows are one class if all are, else no split needs them.
    """
    short = []
    for label in np.unique(labels[labels != ""] if np.any(labels != "") else labels):
        rows = np.flatnonzero(labels == label)
        if any(not np.all(np.any(splits[:, rows] == split, axis=1)) for split in needed):
            apart = len({units[r] for r in rows.tolist()})
            short.append(f"{label or 'the set'!s} ({len(rows)} image{'s' * (len(rows) > 1)}, {apart} kept apart)")
    if short:
        more = f" and {len(short) - 10} more" if len(short) > 10 else ""
        raise UserError(
            f"too few images for {', '.join(needed)}: {', '.join(short[:10])}{more}",
            allowed=f"at least {len(needed)} a class that share no group and no content, or a share of 0",
            see="dataset.val_share and dataset.test_share in params.yaml",
        )


def across(splits: Sequence[str], keys: Sequence[str]) -> int:
    """How many values of `keys` (but "") stand on more than one side of a split."""
    sides: dict[str, set[str]] = defaultdict(set)
    for split, key in zip(splits, keys, strict=True):
        if key:
            sides[key].add(split)
    return sum(len(s) > 1 for s in sides.values())
