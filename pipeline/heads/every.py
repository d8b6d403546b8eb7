"""All heads on all codes of one command: those that are there stay, and a stop costs the finished ones nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from pipeline.base import stopping
from pipeline.base.cache import cache_root
from pipeline.codes.reader import Codes
from pipeline.config import HeadsParams
from pipeline.data.manifest import Manifest
from pipeline.heads import finished
from pipeline.heads.run import fit_head, require_grids

log = logging.getLogger(__name__)


def fit_every(codes: Mapping[str, Codes], manifest: Manifest, params: HeadsParams, out: Path) -> None:
    """`fit_head` of each of `params.heads` on each of the codes, by their name, into `out`/NAME-HEAD. A head that is
    there and was trained on the same by the same settings is not trained again. Raises UserError."""
    require_grids(manifest, params)
    cache, done, total = cache_root(), 0, len(codes) * len(params.heads)

    def kept() -> str:
        return f"{done} of {total} heads are finished and kept; {stopping.GOES_ON}"

    with stopping.says(kept, also=True):
        for name, one in codes.items():
            for head in params.heads:
                folder = out / f"{name}-{head}"
                mark = finished.mark(one, manifest, params, head, folder)
                if finished.is_there(cache, mark, folder):
                    log.info("%s on %s is there", head, name)
                else:
                    log.info("%s on %s", head, name)
                    finished.forget(cache, mark)
                    fit_head(one, manifest, params, head, folder, cache=cache)
                    finished.remember(cache, mark, folder)
                done += 1
