"""The memory that images in flight may take together: who finds no room waits, in order, until others are done."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config import MEMORY_MB

MEBIBYTE = 1 << 20


class NoRoomError(Exception):
    """What needs more than the whole room; `str()` says so in words, with both numbers."""


class Room:
    """So many bytes for several threads. Nobody who is inside may ask for more: that could wait for ever."""

    def __init__(self, memory_mb: int = MEMORY_MB) -> None:
        self.memory_mb = memory_mb
        self.total_bytes = memory_mb * MEBIBYTE
        self._used_bytes = 0
        self._queue: deque[Place] = deque()
        self._changed = threading.Condition()

    def place(self, *, first: bool = False) -> Place:
        """A place at the end of the queue, or before all others; the queue moves on when it has entered or left."""
        with self._changed:
            place = Place(self)
            if first:
                self._queue.appendleft(place)
            else:
                self._queue.append(place)
            return place

    @contextmanager
    def hold(self, need_bytes: int, *, first: bool = False) -> Iterator[None]:
        """Waits for room and keeps it as long as the block runs. Raises NoRoomError."""
        place = self.place(first=first)
        try:
            place.enter(need_bytes)
            yield
        finally:
            place.leave()

    def require(self, need_bytes: int, *, beside_bytes: int = 0) -> None:
        """Raises NoRoomError if something does not fit beside what is always there, however long it waits."""
        if need_bytes + beside_bytes > self.total_bytes:
            beside = f" beside {_megabytes(beside_bytes)} of batches" if beside_bytes else ""
            raise NoRoomError(
                f"needs {_megabytes(need_bytes)} of memory{beside}, "
                f"more than codes.compute.memory_mb ({self.memory_mb})"
            )


class Place:
    """One turn in a room's queue, used once: `enter`, then `leave`. Made by `Room.place`."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held_bytes = 0
        self._left = False

    def enter(self, need_bytes: int) -> bool:
        """Waits for its turn and for room; False if `leave` was called meanwhile. Raises NoRoomError."""
        room = self._room
        room.require(need_bytes)
        with room._changed:
            room._changed.wait_for(
                lambda: self._left or (room._queue[0] is self and room._used_bytes + need_bytes <= room.total_bytes)
            )
            if self._left:
                return False
            room._queue.popleft()
            room._used_bytes += need_bytes
            self._held_bytes = need_bytes
            room._changed.notify_all()
            return True

    def leave(self) -> None:
        """Gives back what it holds, or its turn. Once more does nothing."""
        room = self._room
        with room._changed:
            if self._left:
                return
            self._left = True
            if self in room._queue:
                room._queue.remove(self)
            room._used_bytes -= self._held_bytes
            room._changed.notify_all()


def _megabytes(count_bytes: int) -> str:
    return f"{-(-count_bytes // MEBIBYTE):,} MB"
