"""Results so far, a line of JSON a draw, so that a run that was stopped goes on where it was. Several processes may add
to a file: each line is one write."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.reliability.registry import Draw


class State:
    """Of one seed. Lines of other seeds in the same file are left alone; one that was cut short counts for nothing."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed
        self.found: dict[tuple[str, str], dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["seed"] == seed:
                self.found[row["part"], row["draw"]] = row

    def tried(self, part: str, draws: Iterator[Draw]) -> Iterator[dict[str, Any]]:
        """The result of each draw: {"seed", "part", "draw", "wrong" (null or a sentence), "s"}; runs those that are
        new, and those that were wrong."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for draw in draws:
            row = self.found.get((part, draw.name))
            if row is None or row["wrong"]:
                start = time.monotonic()
                wrong = draw.wrong()
                took_s = round(time.monotonic() - start, 3)
                row = {"seed": self.seed, "part": part, "draw": draw.name, "wrong": wrong, "s": took_s}
                self.found[part, draw.name] = row
                with self.path.open("ab", buffering=0) as file:
                    file.write(("\n" * self._is_cut() + json.dumps(row) + "\n").encode())
            yield row

    def _is_cut(self) -> bool:
        """Whether the file's last line has no end, since its process was killed."""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 1))
            return size > 0 and file.read() != b"\n"


def counts(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each part: {"draws", "wrong", "s"}."""
    draws = Counter(row["part"] for row in rows)
    wrong = Counter(row["part"] for row in rows if row["wrong"])
    return {
        part: {"draws": n, "wrong": wrong[part], "s": round(sum(r["s"] for r in rows if r["part"] == part), 1)}
        for part, n in draws.items()
    }
