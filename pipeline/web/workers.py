"""Threads for what takes long, apart from the event loop, with a bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from pipeline.web.problems import Problem

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """`threads` calls run at once, `waiting` more may wait, any beyond are refused. For one event loop."""

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        self.name = name
        self._most = threads + waiting
        self._taken = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the call returns or raises. Raises Problem if too much waits already."""
        if self._taken >= self._most:
            raise Problem(503, f"too much waits for {self.name} already; try again soon", retry_s=2)
        self._taken += 1
        future = self._pool.submit(call, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._taken -= 1

    def close(self) -> None:
        """What waits is dropped; what runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
