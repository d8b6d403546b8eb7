"""Size and times of a file: whether it is the one that was read before."""

from __future__ import annotations

import os
from typing import NamedTuple, Self

# A file changed this shortly before it is read could change again within one tick of its time stamps.
TICK_NS = 50_000_000


class Stamp(NamedTuple):
    """`size` in bytes, times in nanoseconds since 1970."""

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_settled(self, now_ns: int) -> bool:
        """Whether a change after `now_ns` must show in the times."""
        return now_ns - max(self.mtime_ns, self.ctime_ns) > TICK_NS
