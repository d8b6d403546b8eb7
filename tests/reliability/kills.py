"""Commands that get SIGKILL, SIGTERM or SIGINT at a random time within their usual run, and are then run once more."""

from __future__ import annotations

import functools
import itertools
import random
import signal
from collections.abc import Iterable, Iterator

from tests.reliability.commands import COMMANDS, Command
from tests.reliability.registry import Draw
from tests.reliability.trial import killed

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}


def draws(seed: int, count: int | None, commands: Iterable[Command] = COMMANDS.values()) -> Iterator[Draw]:
    """Without end: command after command, in rounds whose order the seed gives."""
    rng = random.Random(seed)
    for round_ in itertools.count():
        shuffled = list(commands)
        rng.shuffle(shuffled)
        for command in shuffled:
            name, share = rng.choice(list(SIGNALS)), rng.random()
            test = functools.partial(killed, command, SIGNALS[name], share)
            yield Draw(f"{round_} {command.name} {name} {share:.3f}", test)
