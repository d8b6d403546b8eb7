"""Which images are searched, which are searched for, and what counts as an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.codes.reader import Codes
from pipeline.data.manifest import Manifest

Ints = NDArray[np.int64]
REPEAT = 0  # the first of the random splits


@dataclass(frozen=True)
class QuerySets:
    """Rows of the codes, ascending. `train` fits the hasher; `database` is train and val.

    `own` (queries,) is each query's place in the database, -1 where it is not in it. `targets` (codes,) are class
    numbers, None without labels.
    """

    train: Ints
    val: Ints
    database: Ints
    queries: Ints
    own: Ints
    targets: Ints | None
    protocol: Literal["test", "leave one out"]

    @property
    def answers(self) -> int:
        """The images that any query is ranked against: the database without the query itself."""
        return len(self.database) - int((self.own >= 0).any())


def sets_of(codes: Codes, manifest: Manifest, *, max_queries: int, seed: int) -> QuerySets:
    """Queries are the test images of the first split; without any, each database image is a query among the others.

    Of more than `max_queries` a sample is drawn by `seed`. Images without codes are left out, and in a labelled set
    those without a label, since nobody can say what answers them. Raises UserError if no training image has codes, or
    nothing is left to answer a query.
    """
    known = np.isin(manifest.ids, codes.ids)
    if manifest.classes:
        known &= manifest.targets >= 0
    at = np.full(len(manifest), -1, dtype=np.int64)
    at[known] = codes.positions(manifest.ids[known])
    train, val, test = (at[manifest.rows(s, REPEAT)] for s in ("train", "val", "test"))
    train, val, test = (np.sort(rows[rows >= 0]) for rows in (train, val, test))
    database = np.sort(np.concatenate([train, val]))
    if not len(train) or len(database) < 2:
        raise UserError(
            f"{len(train)} training images have codes of {codes.spec}, of {len(database)} in the database",
            allowed="at least one, and two in the database",
            see="dataset.test_share in params.yaml",
        )
    queries = test if len(test) else database
    if len(queries) > max_queries:
        queries = np.sort(np.random.default_rng(seed).choice(queries, max_queries, replace=False))
    place = np.minimum(np.searchsorted(database, queries), len(database) - 1)
    own = np.where(database[place] == queries, place, -1)
    targets: Ints | None = None
    if manifest.classes:
        targets = np.full(len(codes), -1, dtype=np.int64)
        targets[at[known]] = manifest.targets[known]
    return QuerySets(train, val, database, queries, own, targets, "test" if len(test) else "leave one out")
