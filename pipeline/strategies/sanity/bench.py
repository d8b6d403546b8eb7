"""What every step of the procedure looks at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.config import SanityParams
from pipeline.heads.sets import Sets
from pipeline.strategies import checkpoints
from pipeline.strategies.losses import guessing
from pipeline.strategies.prepared import Place, Prepared, prepared, run_key


@dataclass(frozen=True)
class Bench:
    """A strategy to be checked on the images of the first split."""

    place: Place
    sets: Sets
    how: SanityParams

    @property
    def chance(self) -> float:
        """The loss of a classifier that knows nothing, before it is trained: all classes are alike."""
        return guessing(self.place.params.loss, [1] * len(self.place.manifest.classes))

    @property
    def guess(self) -> float:
        """The loss of one that has learned how many images each class has, and no more."""
        counts = np.bincount(self.sets.y_train, minlength=len(self.place.manifest.classes))
        return guessing(self.place.params.loss, counts.tolist())

    @property
    def runs(self) -> Path:
        """Where short runs keep their checkpoints until all steps are done."""
        sets = [rows.tolist() for rows in (self.sets.train, self.sets.val)]
        key = json_files.fingerprint(
            {"run": run_key(self.place, 0), "how": self.how.model_dump(mode="json"), "sets": sets}
        )
        return self.place.cache / checkpoints.FOLDER / f"sanity-{key[:32]}"

    def ready(self) -> Prepared:
        """Raises UserError if the strategy trains nothing, or doesn't fit."""
        made = prepared(self.place, [self.sets], 0)
        if made.training is None:
            raise UserError(f"strategy {self.place.name} trains nothing", allowed="a strategy that does")
        return made

    def bare(self) -> Bench:
        """The same without augmentation, dropout and smoothing of labels."""
        strategy = self.place.strategy.model_copy(update={"augment": []})
        params = self.place.params.model_copy(update={"dropout": 0.0, "label_smoothing": 0.0})
        return replace(self, place=replace(self.place, strategy=strategy, params=params))
