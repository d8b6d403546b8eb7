"""Where this project keeps what can be made again: the code store, the memory of hashed files, fetched wheels."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.base import disk, folders, held

# Folder of the cache -> what training keeps there; `pipeline.strategies`, `unfinished` and `heads.finished` write them.
TRAINING = {
    "finetune-images": "decoded images",
    "finetune-codes": "codes of frozen parts",
    "finetune-runs": "checkpoints",
    "finetune-done": "what was finished",
    "heads-done": "heads that were finished",
    "unfinished": "what stopped runs found",
}


def cache_root() -> Path:
    """`$CNNCODES_CACHE`, else `.cnncodes` in the current folder, as an absolute path. Not created here.

    A stage may run in a temporary copy of the project (`dvc exp run --temp`): there DVC tells where the project is.
    """
    project = Path(os.environ.get("DVC_ROOT") or ".")
    return Path(os.environ.get("CNNCODES_CACHE") or project / ".cnncodes").absolute()


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """A folder in the cache that goes away at the end; those that killed runs left go now.

    Raises UserError if the cache can't be written.
    """
    work = cache_root() / "work"
    try:
        work.mkdir(parents=True, exist_ok=True)
        held.clear_abandoned(work, "*")
        with folders.scratch(work) as made, held.held(made):
            yield made
    except OSError as e:
        disk.raise_if_disk(e, work)
        raise


def training_sizes(root: Path) -> list[dict[str, Any]]:
    """What training keeps, in the form of `codes.store_sizes`; `images` is None."""
    found = []
    for name, what in TRAINING.items():
        # A checkpoint may have two names.
        files = {(s.st_dev, s.st_ino): s.st_size for s in (p.stat() for p in (root / name).rglob("*") if p.is_file())}
        if files:
            found.append({"key": name, "name": what, "images": None, "bytes": sum(files.values())})
    return found


def training_gc(root: Path) -> int:
    """Removes what training keeps, checkpoints too: a run that was killed begins anew. Returns bytes freed."""
    freed: int = sum(row["bytes"] for row in training_sizes(root))
    for name in TRAINING:
        shutil.rmtree(root / name, ignore_errors=True)
    return freed
