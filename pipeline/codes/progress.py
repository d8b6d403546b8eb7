"""How far a long run is: a bar on a terminal, lines in a log otherwise."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

_LINE_EVERY_S = 30.0


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
