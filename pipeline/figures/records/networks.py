"""Several networks on the same images, as `cnncodes compare A B --out FOLDER` compares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.figures.records.runs import Comparison, Run


@dataclass(frozen=True)
class ComparedNetwork:
    """`name`: in the comparison. `settings`: spec -> everything that its codes depend on. `seconds_per_image`: spec ->
    what a pass of the network for these codes alone takes, decoding included; None if it couldn't be timed."""

    name: str
    arch: str
    folder: str
    source: str
    settings: Mapping[str, Mapping[str, Any]]
    seconds_per_image: Mapping[str, float | None]

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels of the side, the shorter one of whole images, at which its codes saw the images."""
        found = (int(one["crop"] or min(one["scales"])) for one in self.settings.values())
        return tuple(sorted(set(found)))


@dataclass(frozen=True)
class Networks:
    """`images`: what they are called. `timed`: how many images the seconds are the median of, `machine`: where."""

    images: str
    count: int
    classes: int
    networks: tuple[ComparedNetwork, ...]
    comparison: Comparison
    timed: int
    machine: str

    def seconds_per_image(self, run: Run) -> float | None:
        found = next(one for one in self.networks if one.name == run.network)
        return found.seconds_per_image[run.spec.name]

    @property
    def best_first(self) -> tuple[Run, ...]:
        """By the metric; of equal ones the smaller code, as the best is chosen."""
        metric = self.comparison.metric
        return tuple(sorted(self.comparison.runs, key=lambda r: (-r.mean(metric), r.bytes_per_code)))
