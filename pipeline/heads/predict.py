"""Labels of new images by a trained head. Their codes are made exactly as the stored ones were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.errors import UserError
from pipeline.config import MEMORY_MB

# Images whose codes are in memory at once.
_BLOCK = 256


def predict(
    head: str | Path,
    images: Sequence[str | Path],
    *,
    weights: str | Path | None = None,
    top: int = 3,
    device: str | None = None,
    precision: str | None = None,
    memory_mb: int = MEMORY_MB,
    follow_links: bool = False,
) -> list[dict[str, Any]]:
    """Labels of new images by a trained head: `{"image", "classes": [{"label", "score"}, ...]}`, best first; of one
    that can't be read `{"image", "error"}`, which says why.

    `head`: a folder `heads/<spec>-<head>` or its model.h5. `images`: files, and folders for all images below them, in
    which links out of it are passed by unless `follow_links`. `weights`: the canonical file; found in the head's
    workspace if not given. `device`, `precision`: of the network, those of the head's codes if None; with others scores
    may differ in their last digits. `memory_mb`: of images in flight. Scores are probabilities where the head has them,
    margins otherwise; `probabilities` says which. Raises UserError if the weights are not those of the codes that the
    head was trained on, or none of the images can be read.
    """
    from pipeline.codes import Codes, Embedder
    from pipeline.codes.settings import settings_here
    from pipeline.data.asked import files_of, require_some
    from pipeline.data.room import Room
    from pipeline.heads.model import Model
    from pipeline.heads.model import predict as score

    path = Path(head) / "model.h5" if Path(head).is_dir() else Path(head)
    if not path.exists():
        is_folder = Path(head).is_dir()
        raise UserError(
            f"{head} holds neither a head nor a tuned network" if is_folder else f"{head} does not exist",
            allowed="a head's folder, CODES/heads/LAYER-avg-svm (with model.h5), or a tuned network's, "
            "TUNED/finetune/STRATEGY (with head.safetensors)",
            see="`cnncodes predict --help`",
        )
    model, asked = Model.load(path), files_of(images, follow_links=follow_links)
    settings = settings_here(model.codes_settings, device=device, precision=precision)
    embedder = Embedder(_weights_beside(path, weights), settings, room=Room(memory_mb))
    answers: list[dict[str, Any]] = []
    failures: dict[int, str] = {}
    for start in range(0, len(asked.files), _BLOCK):
        block = asked.files[start : start + _BLOCK]
        rows, unread = embedder.readable(block, open_file=asked.open)
        failures |= {start + i: why for i, why in unread.items()}
        ids = [f"{i:08d}" for i in range(len(block))]
        codes = Codes.from_arrays(ids, rows[model.spec], spec=model.spec, settings=settings)
        _, scores = score(model, codes)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        answers += [
            {"image": str(image), "error": unread[i]}
            if i in unread
            else {
                "image": str(image),
                "probabilities": model.head.probabilities,
                "classes": [{"label": model.classes[c], "score": float(scores[i, c])} for c in order[i]],
            }
            for i, image in enumerate(block)
        ]
    require_some(asked.files, failures)
    return answers


def _weights_beside(model: Path, weights: str | Path | None) -> Path:
    """The given file, or `weights/weights.safetensors` in the workspace of heads/<spec>-<head>/model.h5."""
    found = Path(weights) if weights else model.absolute().parent.parent.parent / "weights" / "weights.safetensors"
    if not found.is_file():
        raise UserError(
            f"no weights file at {found}",
            allowed="the canonical file that made the codes (--weights)",
            see="README.md",
        )
    return found
