"""Bytes changed at random, as a bad disk, a broken copy or a stranger would."""

from __future__ import annotations

import random
from collections.abc import Callable


def mutated(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done, in a word, and other bytes than `data`, which isn't empty."""
    while True:
        name = rng.choice(list(_KINDS))
        changed = _KINDS[name](bytearray(data), rng)
        if changed != data:
            return name, bytes(changed)


def _flip(data: bytearray, rng: random.Random) -> bytearray:
    data[_near_the_start(data, rng)] ^= 1 << rng.randrange(8)
    return data


def _bytes(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.randint(1, 8)):
        data[_near_the_start(data, rng)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return data


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


def _take_out(data: bytearray, rng: random.Random) -> bytearray:
    start, end = _piece(data, rng)
    del data[start:end]
    return data


def _insert(data: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randint(1, 64))
    return data


def _repeat(data: bytearray, rng: random.Random) -> bytearray:
    start, end = _piece(data, rng)
    data[end:end] = data[start:end] * rng.randint(1, 4)
    return data


def _swap(data: bytearray, rng: random.Random) -> bytearray:
    """Two pieces beside one another, such as two chunks."""
    start, end = _piece(data, rng)
    if end - start < 2:
        return data
    middle = rng.randrange(start + 1, end)
    return data[:start] + data[middle:end] + data[start:middle] + data[end:]


def _blank(data: bytearray, rng: random.Random) -> bytearray:
    start, end = _piece(data, rng)
    data[start:end] = bytes([rng.choice((0, 255))]) * (end - start)
    return data


def _piece(data: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + 1 + int(rng.expovariate(1 / 64)))


def _near_the_start(data: bytearray, rng: random.Random) -> int:
    """Half of them where headers mostly are."""
    return rng.randrange(min(len(data), 256) if rng.random() < 0.5 else len(data))


_KINDS: dict[str, Callable[[bytearray, random.Random], bytearray]] = {
    "flip": _flip,
    "bytes": _bytes,
    "cut": _cut,
    "take-out": _take_out,
    "insert": _insert,
    "repeat": _repeat,
    "swap": _swap,
    "blank": _blank,
}
