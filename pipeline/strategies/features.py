"""The codes of a frozen body, computed once and kept in the cache: a head then trains in seconds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.base import disk, json_files
from pipeline.base.progress import Pace
from pipeline.strategies.batches import PixelRows, begin_at, loader
from pipeline.strategies.filling import filling
from pipeline.strategies.images import Images
from pipeline.strategies.model import Classifier, autocast
from pipeline.strategies.rows_file import RowsFile

log = logging.getLogger(__name__)

FOLDER = "finetune-codes"


@dataclass(frozen=True)
class Views:
    """Random views of each image beside its centre: `count` of them by `transform`, which `names` says in words."""

    count: int
    names: tuple[str, ...]
    transform: Callable[[Tensor], Tensor]
    seed: int


def codes_of(
    body: Classifier,
    images: Images,
    rows: NDArray[np.int64],
    ids: Sequence[str],
    *,
    views: Views | None,
    dim: int,
    made_by: str,
    precision: str,
    device: str,
    batch_size: int,
    cache: Path,
) -> RowsFile:
    """(1 + views, len(rows), dim) float32 codes of the manifest's `rows`: of the centre, then of each view.

    `made_by` names the body's weights, `ids` the images, which a view is drawn by.
    """
    key = json_files.fingerprint(
        {
            "body": made_by,
            "images": images.key,
            "at": images.at[rows].tolist(),
            "size": body.size,
            "precision": precision,
            "device": device,
            "batch_size": batch_size,
            "dim": dim,
            "views": None if views is None else [views.count, list(views.names), views.seed, list(ids)],
        }
    )
    path = cache / FOLDER / f"{key}.npy"
    if not path.is_file():
        shape = (1 + (views.count if views else 0), len(rows), dim)
        disk.require_space(path.parent, int(np.prod(shape)) * 4, what=f"codes of {len(rows)} images")
        log.info("computing the frozen part's codes of %d images, views of each: %d", len(rows), shape[0])
        pace = Pace(shape[0] * len(rows), "for these codes")
        what = "codes of the frozen part"
        with filling(path, shape, np.float32, what=what, axes=2) as out:
            for view in range(out.done // len(rows), shape[0]):
                data = PixelRows(
                    images,
                    rows,
                    ids,
                    np.zeros(len(rows), dtype=np.int64),
                    size=body.size,
                    transform=views.transform if views and view else None,
                    seed=views.seed if views else 0,
                )
                batches = loader(data, batch_size, epoch=view)
                begin_at(batches, view, out.done % len(rows) // batch_size)
                with torch.inference_mode(), autocast(device, precision):
                    for pixels, _ in batches:
                        codes = body.body(body.normalise(pixels.to(device)))
                        out.append(codes.float().cpu().numpy())
                        pace.advance(len(codes))
            out.finish(path)
    return RowsFile(path, axes=2)
