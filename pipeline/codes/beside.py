"""What a folder of codes holds already, and what becomes of it when others are written there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.errors import UserError
from pipeline.codes.settings import Settings
from pipeline.codes.stated import INDEX, read_stated

# What tells the codes of one layer from those of another in one pass; all else must be equal to stay beside them.
_OF_A_SPEC = frozenset({"layer", "pooling", "pooling_settings", "sigmoid", "l2"})
_SHOWN = 3  # settings that differ, of a spec


def held(folder: Path) -> dict[str, dict[str, Any]]:
    """Spec -> settings of the codes below `folder`. What can't be read is left out: it is to be made again."""
    found = {}
    for path in sorted(folder.glob(f"*/{INDEX}")):
        try:
            stated = read_stated(path.parent)
        except UserError:
            continue
        found[stated.spec] = stated.settings
    return found


def differing(before: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Settings]) -> dict[str, str]:
    """Spec -> in what the codes that are there differ from those that are to come; of equal settings there is none."""
    new = next(iter(wanted.values())).as_json()
    told = {}
    for spec, own in before.items():
        keys = sorted(k for k in (own.keys() | new.keys()) - _OF_A_SPEC if own.get(k) != new.get(k))
        if keys:
            shown = [f"{key} {_short(own.get(key))}, not {_short(new.get(key))}" for key in keys[:_SHOWN]]
            told[spec] = "; ".join(shown) + ("; ..." if len(keys) > _SHOWN else "")
    return told


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:16]}..."
