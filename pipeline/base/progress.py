"""How far a long run is: a bar on a terminal, lines in a log otherwise."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

_LINE_EVERY_S = 30.0
# A pace of this long is told, of a quarter of the work too.
_TELLING_S = 2.0


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of images that were just done."""
    if sys.stderr.isatty():
        with _bar(total) as advance:
            yield advance
    else:
        yield _Lines(total).advance


def duration(seconds: float) -> str:
    """3700 -> "1 h 2 min", 75 -> "1 min 15 s", 4 -> "4 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Pace:
    """Says once how long all will take: what is past, and the rest at the pace since the first call, before which all
    warms up. `where`: what follows the time."""

    def __init__(self, total: float, where: str) -> None:
        self.total, self.where, self.done, self.calls = total, where, 0.0, 0
        self.started_s = self.warm_s = time.monotonic()
        self.warm_done = 0.0
        self.said = False

    def advance(self, work: float) -> None:
        """`work` was just done, of the total."""
        self.done += work
        self.calls += 1
        now_s = time.monotonic()
        if self.calls == 1:
            self.warm_s, self.warm_done = now_s, self.done
        elif self._tells() and (now_s - self.warm_s > _TELLING_S or self.done > self.total / 4):
            self.say()

    def _tells(self) -> bool:
        """The pace is known, and some work left."""
        return not self.said and self.calls > 2 and self.done < self.total

    def say(self) -> None:
        now_s = time.monotonic()
        warmed = self.done - self.warm_done
        # Where the first call was most of what is done, it has to do.
        since_s, done = (self.warm_s, warmed) if warmed > self.done / 2 else (self.started_s, self.done)
        left_s = (self.total - self.done) * (now_s - since_s) / done
        self.said = True
        log.info("expected time: about %s %s", duration(now_s - self.started_s + left_s), self.where)


class _Lines:
    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.started_s = self.said_s = time.monotonic()

    def advance(self, images: int) -> None:
        self.done += images
        now_s = time.monotonic()
        if now_s - self.said_s >= _LINE_EVERY_S or self.done >= self.total:
            self.said_s = now_s
            rate = self.done / max(now_s - self.started_s, 1e-9)
            left = duration((self.total - self.done) / rate)
            log.info("%d of %d images, %.1f images/s, %s left", self.done, self.total, rate, left)


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} images/s" if task.speed else "")

    columns = (BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("images", total=total)
        yield lambda images: bar.advance(task, images)
