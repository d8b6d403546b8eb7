"""Random numbers from what they are for, never from what ran before: a resumed run draws the same ones."""

from __future__ import annotations

import hashlib


def seed_of(*purpose: object) -> int:
    """A 63-bit seed from the words of a purpose, such as (seed, repeat, epoch, image id)."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, purpose)).encode()).digest()[:8], "big") >> 1
