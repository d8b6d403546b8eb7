"""Where this project keeps what can be made again: the code store, the memory of hashed files, fetched wheels."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """`$CNNCODES_CACHE`, else `.cnncodes` in the current folder, as an absolute path. Not created here."""
    return Path(os.environ.get("CNNCODES_CACHE") or ".cnncodes").absolute()
