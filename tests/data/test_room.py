"""Who finds no room waits in order; nobody waits for ever."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.data.room import MEBIBYTE, NoRoomError, Room


def test_what_is_held_at_once_never_exceeds_the_room() -> None:
    room, lock = Room(16), threading.Lock()
    held = most = 0

    def use(need: int) -> None:
        nonlocal held, most
        with room.hold(need * MEBIBYTE):
            with lock:
                held += need
                most = max(most, held)
            time.sleep(0.001)
            with lock:
                held -= need

    threads = [threading.Thread(target=use, args=(1 + i % 16,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most <= 16 and most > 8 and held == 0


def test_places_are_served_in_order() -> None:
    """A small one behind a large one waits too: images that come first are needed first."""
    room = Room(16)
    first, large, small = room.place(), room.place(), room.place()
    assert first.enter(10 * MEBIBYTE)
    order: list[str] = []

    def enter(name: str, place: object, need: int) -> None:
        assert place.enter(need * MEBIBYTE)  # type: ignore[attr-defined]
        order.append(name)

    threads = [
        threading.Thread(target=enter, args=("small", small, 2)),
        threading.Thread(target=enter, args=("large", large, 12)),
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    assert order == []
    first.leave()
    for thread in threads:
        thread.join(10)
    assert sorted(order) == ["large", "small"]


def test_who_comes_first_waits_for_those_inside_alone() -> None:
    room = Room(16)
    full, waiting = room.place(), room.place()
    assert full.enter(16 * MEBIBYTE)
    first = room.place(first=True)
    full.leave()
    assert first.enter(16 * MEBIBYTE)
    first.leave()
    assert waiting.enter(16 * MEBIBYTE)


def test_a_place_that_is_left_frees_the_queue_and_its_own_thread() -> None:
    room = Room(16)
    full, waiting, behind = room.place(), room.place(), room.place()
    assert full.enter(16 * MEBIBYTE)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(waiting.enter(1)))
    thread.start()
    waiting.leave()
    thread.join(10)
    assert answers == [False]
    full.leave()
    full.leave()
    assert behind.enter(16 * MEBIBYTE)


def test_what_never_fits_is_said_with_both_numbers() -> None:
    room = Room(100)
    with (
        pytest.raises(NoRoomError, match=r"needs 1,001 MB of memory, more than codes.compute.memory_mb \(100\)"),
        room.hold(1000 * MEBIBYTE + 1),
    ):
        pass
    with pytest.raises(NoRoomError, match="needs 60 MB of memory beside 50 MB of batches"):
        room.require(60 * MEBIBYTE, beside_bytes=50 * MEBIBYTE)
    with room.hold(100 * MEBIBYTE):  # the one that was refused is not in the way
        pass
