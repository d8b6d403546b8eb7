"""Each call that writes, in each command, fails once: a full disk, a missing permission, a broken disk."""

from __future__ import annotations

import errno
import functools
import random
from collections.abc import Iterator

from tests.reliability.commands import COMMANDS, Command
from tests.reliability.registry import Draw
from tests.reliability.runner import Fault
from tests.reliability.trial import faulty, world

# A disk that is full stays full; the others fail once.
ERRORS = {
    "ENOSPC": (errno.ENOSPC, False),
    "full": (errno.ENOSPC, True),
    "EACCES": (errno.EACCES, False),
    "EIO": (errno.EIO, False),
}
READ_ERRORS = {"EACCES": (errno.EACCES, False), "EIO": (errno.EIO, False)}


def draws(seed: int, count: int | None) -> Iterator[Draw]:
    """All of them, in an order that the seed gives. A sample shorter than the whole counts only some commands' calls."""
    rng = random.Random(seed)
    commands = list(COMMANDS.values())
    rng.shuffle(commands)
    if count is None:
        for command in commands:
            found = list(_draws(command))
            rng.shuffle(found)
            yield from found
        return
    # Of a sample: as many of each command.
    each = -(-count // len(commands))
    for command in commands:
        found = list(_draws(command))
        yield from rng.sample(found, min(each, len(found)))


def _draws(command: Command) -> Iterator[Draw]:
    calm = world().undisturbed(command)
    for calls, errors, reads in ((calm.writes, ERRORS, False), (calm.reads, READ_ERRORS, True)):
        for nth in range(1, len(calls) + 1):
            for name, (error, always) in errors.items():
                fault = Fault(nth, error=error, always=always, reads=reads)
                kind = "read" if reads else "write"
                yield Draw(f"{command.name} {kind} {nth} {name}", functools.partial(faulty, command, fault))
