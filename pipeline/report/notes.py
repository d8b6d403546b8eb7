"""What figures should be read with: how the settings were fitted to few images, and fits that stopped early."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.report.section import and_list

NAMED = 6  # names in a sentence; more are counted
MOST = 8  # sentences; more are counted


def shortened(names: Sequence[str]) -> str:
    """a, b and c; or the first few and how many more."""
    return and_list(names if len(names) <= NAMED else [*names[: NAMED - 1], f"{len(names) - NAMED + 1} more"])


def sentences(records: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[str]:
    """(name, its repeats in metrics.json) -> a sentence for each distinct note: of whom, and in how many splits."""
    splits: dict[str, dict[str, int]] = {}
    most = 0
    for name, repeats in records:
        most = max(most, len(repeats))
        for note in (note for repeat in repeats for note in repeat.get("notes", ())):
            of = splits.setdefault(note, {})
            of[name] = of.get(name, 0) + 1
    told = []
    for note, of in splits.items():
        low, high = min(of.values()), max(of.values())
        often = "" if low == most else f", in {low if low == high else f'{low} to {high}'} of {most} splits"
        told.append(f"{shortened(list(of))}: {note}{often}.")
    if len(told) > MOST:
        told = [*told[: MOST - 1], f"{len(told) - MOST + 1} more such notes stand in metrics.json."]
    return told
