"""The parts of the reliability run: each a name, and a function that yields independent, seeded draws.

To add one: a module with `draws(seed, count)`, and a line in `PARTS`.
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
    """`module` has `draws(seed, count) -> Iterator[Draw]`, of all draws there are if `count` is None.

    The first draws are the same whatever the count, so that a sample is a part of the whole. `count`: that of
    `make reliability`.
    """

    name: str
    module: str
    count: int | None
    about: str

    def draws(self, seed: int, count: int | None) -> Iterator[Draw]:
        """At most `count` draws, all of them if None."""
        found: Iterator[Draw] = importlib.import_module(self.module).draws(seed, count)
        return itertools.islice(found, count)


PARTS = {
    part.name: part
    for part in (
        Part("faults", "tests.reliability.faults", None, "each call that writes fails once, in each command"),
        Part("kills", "tests.reliability.kills", 1000, "commands that are killed at a random time, then run once more"),
        Part("images", "tests.reliability.images", 20_000, "images of every format, changed at random"),
        Part("weights", "tests.reliability.weights", 1000, "weights of every format, changed at random"),
        Part("mutants", "tests.reliability.mutants", 1000, "index, head and codes folders with a changed file"),
        Part("sets", "tests.reliability.sets", 1000, "HDF5 data sets, changed at random"),
        Part("hostile", "tests.reliability.hostile", None, "files and folders that were made to do harm"),
    )
}
