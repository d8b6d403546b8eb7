"""The codes of a frozen body, computed once and kept in the cache: a head then trains in seconds."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import schema
from pipeline.finetune.batches import PixelRows, loader
from pipeline.finetune.images import Images
from pipeline.finetune.model import Classifier
from pipeline.finetune.predict import autocast

log = logging.getLogger(__name__)

FOLDER = "finetune-codes"


def codes_of(
    body: Classifier,
    images: Images,
    rows: NDArray[np.int64],
    *,
    dim: int,
    made_by: str,
    precision: str,
    device: str,
    batch_size: int,
    cache: Path,
) -> NDArray[np.float32]:
    """(len(rows), dim) codes of the manifest's `rows`, mapped into memory. `made_by` names the body's weights."""
    key = schema.fingerprint(
        {
            "body": made_by,
            "images": images.key,
            "at": images.at[rows].tolist(),
            "size": body.size,
            "precision": precision,
            "device": device,
            "batch_size": batch_size,
            "dim": dim,
        }
    )
    path = cache / FOLDER / f"{key}.npy"
    if not path.is_file():
        schema.require_space(path.parent, len(rows) * dim * 4, what=f"codes of {len(rows)} images")
        log.info("computing the frozen part's codes of %d images", len(rows))
        data = PixelRows(images, rows, [""] * len(rows), np.zeros(len(rows), dtype=np.int64), size=body.size)
        with schema.atomic_path(path) as tmp:
            out = np.lib.format.open_memmap(tmp, mode="w+", dtype=np.float32, shape=(len(rows), dim))
            start = 0
            with torch.inference_mode(), autocast(device, precision):
                for pixels, _ in loader(data, batch_size):
                    codes = body.body(body.normalise(pixels.to(device)))
                    out[start : start + len(codes)] = codes.float().cpu().numpy()
                    start += len(codes)
            out.flush()
            del out
    mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return mapped
