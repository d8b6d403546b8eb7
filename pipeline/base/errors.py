"""What ends a command early: a problem that the user can mend, or a signal. `front` turns both into words."""

from __future__ import annotations

import signal
from collections.abc import Iterable


class UserError(Exception):
    """A problem that the user can mend, said in three parts.

    `what` came, what is `allowed` (a phrase, or the allowed values), and where to `see` more.
    """

    def __init__(self, what: str, *, allowed: str | Iterable[object] = "", see: str = "") -> None:
        self.what = what
        self.allowed = allowed if isinstance(allowed, str) else ", ".join(str(a) for a in allowed)
        self.see = see
        parts = [what]
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        if see:
            parts.append(f"see {see}")
        super().__init__("; ".join(parts))


class RefusedError(UserError):
    """What the machine refused, such as space or a right (`failing`), or a damaged file of ours. No reason to skip one
    thing and go on: what was skipped counts as done."""


class Stopped(KeyboardInterrupt):
    """A signal that asks the program to end, such as SIGTERM. It is handled as Ctrl-C is, so that all is tidied up.

    Whoever knows what is kept says so with `add_note`, of any KeyboardInterrupt that passes; the notes are shown.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)
