"""Each call that writes, in each command, fails once: a full disk, a missing permission, a broken disk."""

from __future__ import annotations

import errno
import functools
import random
from collections.abc import Iterable, Iterator

from tests.reliability.commands import COMMANDS, Command
from tests.reliability.registry import Draw
from tests.reliability.runner import Fault
from tests.reliability.trial import faulty, world

# A disk that is full stays full; the others fail once.
ERRORS = {
    "ENOSPC": (errno.ENOSPC, True),
    "EACCES": (errno.EACCES, False),
    "EIO": (errno.EIO, False),
}
OPEN_ERRORS = {"EACCES": (errno.EACCES, False), "EIO": (errno.EIO, False)}
READ_ERRORS = {"EIO": (errno.EIO, False)}


def draws(seed: int, count: int | None, commands: Iterable[Command] = COMMANDS.values()) -> Iterator[Draw]:
    """Of calls that write. A sample takes as many of each command."""
    return _shuffled(seed, count, list(commands), reads=False)


def read_draws(seed: int, count: int | None, commands: Iterable[Command] = COMMANDS.values()) -> Iterator[Draw]:
    """Of calls that read."""
    return _shuffled(seed, count, list(commands), reads=True)


def _shuffled(seed: int, count: int | None, commands: list[Command], *, reads: bool) -> Iterator[Draw]:
    rng = random.Random(seed)
    rng.shuffle(commands)
    rest: list[Draw] = []
    for number, command in enumerate(commands):
        share = None if count is None else -(-count // (len(commands) - number))
        found = list(_draws(command, reads=reads))
        rng.shuffle(found)
        yield from found[:share]
        if count is not None:
            count -= min(len(found), share or 0)
            rest += found[share:]
    if count:  # the last commands had too few
        rng.shuffle(rest)
        yield from rest[:count]


def _draws(command: Command, *, reads: bool) -> Iterator[Draw]:
    calm = world().undisturbed(command)
    for nth, call in enumerate(calm.reads if reads else calm.writes, 1):
        errors = ERRORS if not reads else OPEN_ERRORS if call.startswith("open") else READ_ERRORS
        for name, (error, always) in errors.items():
            fault = Fault(nth, error=error, always=always, reads=reads)
            kind = call.partition(" ")[0]
            yield Draw(f"{command.name} {nth} {kind} {name}", functools.partial(faulty, command, fault))
