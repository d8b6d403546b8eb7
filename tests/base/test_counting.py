"""Numbers of things, as a person writes them."""

from __future__ import annotations

from pipeline.base.counting import counted, size


def test_one_and_several() -> None:
    assert [counted(n, "image") for n in (0, 1, 2, 1200)] == ["0 images", "1 image", "2 images", "1,200 images"]


def test_bytes_in_the_unit_that_suits_them() -> None:
    assert [size(n) for n in (999, 1536, 44_300_000, 5e12)] == ["999 B", "1.5 kB", "44.3 MB", "5.0 TB"]
