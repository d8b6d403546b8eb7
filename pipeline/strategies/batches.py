"""Batches of pixels or codes. What a batch holds is a function of seed, epoch and image: a resumed run has the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.base.seeds import seed_of
from pipeline.strategies.augment import centre
from pipeline.strategies.images import Images
from pipeline.strategies.rows_file import RowsFile

Batch = tuple[Tensor, Tensor]
Place = tuple[int, int]  # (epoch, position in the dataset)


class EpochSampler(Sampler[Place]):
    """Positions 0..n-1 with the epoch they are for; in an order of each epoch's own if `seed` is given.

    With a seed, a last batch of fewer than two images for each of `devices` is left out where there are more: batch
    norm can't be trained on one. `begun`: an epoch of which so many positions are passed over, for a run that goes on.
    """

    def __init__(self, n: int, batch_size: int, seed: int | None, devices: int = 1) -> None:
        self.n, self.seed, self.epoch = n, seed, 0
        self.begun = (0, 0)
        self.length = n if seed is None else _shuffled_length(n, batch_size, devices)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Place]:
        order = np.arange(self.n)
        if self.seed is not None:
            np.random.default_rng(seed_of(self.seed, "order", self.epoch)).shuffle(order)
        first = self.begun[1] if self.epoch == self.begun[0] else 0
        return ((self.epoch, int(i)) for i in order[first : self.length])


@dataclass(frozen=True)
class Steps:
    """How the `images` that an epoch shows make batches of `batch_size`, and `accumulate` of these a step; the last of
    either may be smaller."""

    images: int
    batch_size: int
    accumulate: int

    @property
    def per_epoch(self) -> int:
        return -(-self.images // (self.batch_size * self.accumulate))

    def images_of(self, index: int) -> int:
        """Images of the step that batch `index` of the epoch is part of."""
        whole = self.batch_size * self.accumulate
        return min(whole, self.images - index // self.accumulate * whole)


@dataclass(frozen=True)
class Part:
    """What process `rank` of `world` has of every batch: a run of its images; sizes differ by one at most."""

    rank: int
    world: int

    def of(self, batch: Sequence[Place]) -> Sequence[Place]:
        start = self._before(len(batch), self.rank)
        return batch[start : start + self.size(len(batch))]

    def size(self, n: int) -> int:
        return self._before(n, self.rank + 1) - self._before(n, self.rank)

    def _before(self, n: int, rank: int) -> int:
        return rank * (n // self.world) + min(rank, n % self.world)


class PartBatches(Sampler[list[Place]]):
    """The part of each batch of `sampler`; a batch that has none for this process is passed over."""

    def __init__(self, sampler: EpochSampler, batch_size: int, part: Part) -> None:
        self.sampler, self.batch_size, self.part = sampler, batch_size, part

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch_size)
        return (whole if self.part.size(self.batch_size) else 0) + (1 if self.part.size(rest) else 0)

    def __iter__(self) -> Iterator[list[Place]]:
        places = iter(self.sampler)
        while batch := list(islice(places, self.batch_size)):
            if own := self.part.of(batch):
                yield list(own)


class PixelRows(Dataset[Batch]):
    """Images of the cache, whole batches at a time: uint8 (B, 3, size, size) and class numbers (B,).

    `rows` (n,) of the manifest, `ids` their ids, `targets` their class numbers. `transform` is random and drawn from
    (seed, epoch, id); without one the centre is cut.
    """

    def __init__(
        self,
        images: Images,
        rows: NDArray[np.int64],
        ids: Sequence[str],
        targets: NDArray[np.int64],
        *,
        size: int,
        transform: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        self.images, self.at, self.ids = images, images.at[rows], ids
        self.targets = torch.from_numpy(targets)
        self.size, self.transform, self.seed = size, transform, seed

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, place: Place) -> Batch:
        return self.__getitems__([place])

    def __getitems__(self, places: Sequence[Place]) -> Batch:
        # (B, scale, scale, 3) seen as (B, 3, scale, scale): channels last in memory, as the network wants it.
        chosen = self.images.pixels[[self.at[i] for _, i in places]]
        images = torch.from_numpy(chosen).permute(0, 3, 1, 2)
        targets = self.targets[[i for _, i in places]]
        if self.transform is None:
            return centre(images, self.size), targets
        made = []
        for image, (epoch, i) in zip(images, places, strict=True):
            torch.default_generator.manual_seed(seed_of(self.seed, "image", epoch, self.ids[i]))
            made.append(self.transform(image))
        return torch.stack(made).contiguous(memory_format=torch.channels_last), targets


class CodeRows(Dataset[Batch]):
    """Codes (B, d) float32 and class numbers (B,), whole batches at a time.

    `codes` (1 + views, m, d), read by view and image: of each image's centre, then of its random views. `at` (n,): the
    image in `codes` of each. `view`: the one that is shown; None for one of the random ones, drawn from (seed, epoch,
    id).
    """

    def __init__(
        self,
        codes: RowsFile,
        at: NDArray[np.int64],
        ids: Sequence[str],
        targets: NDArray[np.int64],
        *,
        view: int | None = 0,
        seed: int = 0,
    ) -> None:
        self.codes, self.at, self.ids, self.targets = codes, at, ids, torch.from_numpy(targets)
        self.view, self.seed = view, seed

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, place: Place) -> Batch:
        return self.__getitems__([place])

    def __getitems__(self, places: Sequence[Place]) -> Batch:
        chosen = [i for _, i in places]
        views = [self._view_of(epoch, i) for epoch, i in places]
        return torch.from_numpy(self.codes[views, self.at[chosen]]), self.targets[chosen]

    def _view_of(self, epoch: int, i: int) -> int:
        if self.view is not None:
            return self.view
        return 1 + seed_of(self.seed, "view", epoch, self.ids[i]) % (len(self.codes) - 1)


Samples = PixelRows | CodeRows


def loader(
    rows: Samples,
    batch_size: int,
    *,
    seed: int | None = None,
    epoch: int = 0,
    workers: int = 0,
    pinned: bool = False,
    devices: int = 1,
) -> DataLoader[Batch]:
    """Batches in order, or with a seed in an order of each epoch's own. `epoch`: the first one.

    `devices`: how many processes will each take their part of a batch.
    """
    sampler = EpochSampler(len(rows), batch_size, seed, devices)
    sampler.set_epoch(epoch)
    return DataLoader(
        rows,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=_as_is,
        num_workers=workers,
        pin_memory=pinned,
        persistent_workers=workers > 0,
    )


def part_of(whole: DataLoader[Batch], part: Part) -> tuple[DataLoader[Batch], PartBatches]:
    """A process' loader of a `loader`'s batches, and what cuts them."""
    assert isinstance(whole.sampler, EpochSampler)
    assert whole.batch_size is not None
    parts = PartBatches(whole.sampler, whole.batch_size, part)
    own = DataLoader(
        whole.dataset,
        batch_sampler=parts,
        collate_fn=_as_is,
        num_workers=whole.num_workers,
        pin_memory=whole.pin_memory,
        persistent_workers=whole.num_workers > 0,
    )
    return own, parts


def begin_at(batches: DataLoader[Batch], epoch: int, done: int) -> None:
    """Has a `loader`'s or `part_of`'s batches of an epoch begin after the first `done`; its length stays."""
    if isinstance(batches.batch_sampler, PartBatches):
        sampler, size = batches.batch_sampler.sampler, batches.batch_sampler.batch_size
    else:
        assert isinstance(batches.sampler, EpochSampler)
        assert batches.batch_size is not None
        sampler, size = batches.sampler, batches.batch_size
    sampler.begun = (epoch, done * size)


def steps_of(n: int, batch_size: int, accumulate: int, devices: int = 1) -> Steps:
    """Of an epoch of training on `n` images."""
    return Steps(_shuffled_length(n, batch_size, devices), batch_size, accumulate)


def _shuffled_length(n: int, batch_size: int, devices: int) -> int:
    rest = n % batch_size
    return n - rest if n > batch_size and rest < 2 * devices else n


def _as_is(batch: Any) -> Any:
    """The rows already make whole batches."""
    return batch
