"""Ctrl-C, SIGTERM and their like leave Lightning's loop as they came.

Lightning puts its own handler before that of SIGTERM, which in several processes waits for the others, and turns a
KeyboardInterrupt into the exit code 1 without a word.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

import lightning.pytorch as L


class AsTheyCame(L.Callback):
    """`passing` goes around a trainer's `fit` that has this among its callbacks."""

    def __init__(self) -> None:
        self._handlers = {n: h for n in (signal.SIGINT, signal.SIGTERM) if (h := signal.getsignal(n)) is not None}
        self._stop: KeyboardInterrupt | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning's handlers are there by now; it takes them away itself at the end."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            self._stop = exception

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        try:
            yield
        except SystemExit:
            if self._stop is not None:
                raise self._stop from None
            raise
        finally:
            self._restore()

    def _restore(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
