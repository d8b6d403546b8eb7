"""What a stop by Ctrl-C, SIGTERM or SIGKILL costs: about half a minute's work; and who says what is kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

# How much work may be in memory alone, with some to spare for the writing and for what is under way.
KEEP_EVERY_S = 30.0
GOES_ON = "the same command goes on from there"
# Of what takes long and keeps what is done, where nothing within knows more: while it loads, and between its parts.
KEPT = f"what was done before is kept; {GOES_ON}"
# Of the time, at most, that may go into keeping: where a write is slow, it is done less often.
_MOST_SHARE = 0.1


class Timer:
    """Says when it is time to write what is done. `written` is told after each write how long that took."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()
        self._took_s = 0.0

    def is_due(self) -> bool:
        return time.monotonic() - self._last_s >= max(KEEP_EVERY_S, self._took_s / _MOST_SHARE)

    def written(self, took_s: float = 0.0) -> None:
        self._last_s, self._took_s = time.monotonic(), took_s


@contextlib.contextmanager
def says(kept: Callable[[], str], *, also: bool = False) -> Iterator[None]:
    """Adds to a KeyboardInterrupt (`errors.Stopped` is one) that passes a note of what is kept; "" adds none.

    The innermost speaks: it knows best what is lost; one that says something else speaks `also`. `kept` is asked after
    what is inside has tidied up.
    """
    try:
        yield
    except KeyboardInterrupt as e:
        if (also or not getattr(e, "__notes__", ())) and (note := kept()):
            e.add_note(note)
        raise
