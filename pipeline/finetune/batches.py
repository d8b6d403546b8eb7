"""Batches of pixels or codes. What a batch holds is a function of seed, epoch and image: a resumed run has the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.finetune.augment import centre
from pipeline.finetune.images import Images
from pipeline.finetune.seeds import seed_of

Batch = tuple[Tensor, Tensor]
Place = tuple[int, int]  # (epoch, position in the dataset)


class EpochSampler(Sampler[Place]):
    """Positions 0..n-1 with the epoch they are for; in an order of each epoch's own if `seed` is given.

    A last batch of a single image is left out where there are more: batch norm can't be trained on it.
    """

    def __init__(self, n: int, batch_size: int, seed: int | None) -> None:
        self.n, self.seed, self.epoch = n, seed, 0
        self.length = n if seed is None else _shuffled_length(n, batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Place]:
        order = np.arange(self.n)
        if self.seed is not None:
            np.random.default_rng(seed_of(self.seed, "order", self.epoch)).shuffle(order)
        return ((self.epoch, int(i)) for i in order[: self.length])


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
        chosen = np.stack([self.images.pixels[self.at[i]] for _, i in places])
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

    `codes` (1 + views, m, d): of each image's centre, then of its random views. `at` (n,): the row of `codes` of each.
    `view`: the one that is shown; None for one of the random ones, drawn from (seed, epoch, id).
    """

    def __init__(
        self,
        codes: NDArray[np.float32],
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


Rows = PixelRows | CodeRows


def loader(
    rows: Rows, batch_size: int, *, seed: int | None = None, epoch: int = 0, workers: int = 0, pinned: bool = False
) -> DataLoader[Batch]:
    """Batches in order, or with a seed in an order of each epoch's own. `epoch`: the first one."""
    sampler = EpochSampler(len(rows), batch_size, seed)
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


def batches_of(n: int, batch_size: int) -> int:
    """Batches an epoch of training."""
    return -(-_shuffled_length(n, batch_size) // batch_size)


def _shuffled_length(n: int, batch_size: int) -> int:
    return n - 1 if n > batch_size > 1 and n % batch_size == 1 else n


def _as_is(batch: Any) -> Any:
    """The rows already make whole batches."""
    return batch
