"""The one exception that is the user's to mend: the command line turns it into a sentence and exit code 2."""

from __future__ import annotations

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
