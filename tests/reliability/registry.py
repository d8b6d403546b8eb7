"""The parts of the reliability run: each a name, and a function that yields independent, seeded draws.

To add one: a function that yields draws, and a line in `PARTS`.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Draw:
    """One trial. `name` tells it from all others of its part, and is the same whenever the seed is."""

    name: str
    run: Callable[[], str | None]  # None, or a sentence that says what is wrong

    def wrong(self) -> str | None:
        """What `run` returns; a trial that ends in an exception of its own is wrong too."""
        try:
            return self.run()
        except Exception as e:  # noqa: BLE001  the other draws go on
            return f"{type(e).__name__} in the trial itself: {e}"


@dataclass(frozen=True)
class Part:
    """`where`: "module:function", called with the seed and the count, which yields draws; all there are if the count
    is None. `count`: that of `make reliability`.
    """

    name: str
    where: str
    count: int | None
    about: str

    def draws(self, seed: int, count: int | None) -> Iterator[Draw]:
        """At most `count` draws, all of them if None."""
        module, _, function = self.where.partition(":")
        found: Iterator[Draw] = getattr(importlib.import_module(module), function)(seed, count)
        return itertools.islice(found, count)


PARTS = {
    part.name: part
    for part in (
        Part("faults", "tests.reliability.faults:draws", None, "each call that writes fails once, in each command"),
        Part("reads", "tests.reliability.faults:read_draws", 1000, "calls that read fail once"),
        Part("kills", "tests.reliability.kills:draws", 1000, "commands killed at a random time, then run once more"),
        Part("images", "tests.reliability.images:draws", 20_000, "images of every format, changed at random"),
        Part("weights", "tests.reliability.weights:draws", 1000, "weights of every format, changed at random"),
        Part("mutants", "tests.reliability.mutants:draws", 1000, "index, head and codes folders with a changed file"),
        Part("sets", "tests.reliability.sets:draws", 1000, "HDF5 data sets, changed at random"),
        Part("hostile", "tests.reliability.hostile:draws", None, "files and folders that were made to do harm"),
    )
}
