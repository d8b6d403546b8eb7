"""Numbers of things, as a person writes them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """(1, "image") -> "1 image", (1200, "image") -> "1,200 images"."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def size(count_bytes: float) -> str:
    """1536 -> '1.5 kB', in powers of 1000 as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count_bytes) < 1000:
            return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1000
    return f"{count_bytes:.1f} TB"
