"""One spelling for names that look the same."""

from __future__ import annotations

import pytest

from pipeline.data.spelling import spelled


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("cat", "cat"),
        (" cat\t", "cat"),
        ("cat\n", "cat"),
        ("big \u00a0 cat", "big cat"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufeffcat\u200b", "cat"),
        ("\u1100\u1161", "\uac00"),
        ("Cat", "Cat"),
        ("día 🐕", "día 🐕"),
        (" \u00a0", ""),
        ("", ""),
    ],
)
def test_what_looks_the_same_is_the_same(written: str, read: str) -> None:
    assert spelled(written) == read == spelled(read)
