"""How many images of a set may be broken: some are when it is listed, others show it once their pixels are decoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.base.errors import UserError
from pipeline.data.manifest import Failure, Manifest, read_failures, write_failures

_SHOWN = 3  # paths, of each reason, that an error or the log shows
_NAMED = 6  # reasons


def by_reason(failures: Sequence[Failure]) -> str:
    """The most frequent reasons, each with how often, and some of the paths."""
    paths_of: dict[str, list[str]] = defaultdict(list)
    for failure in sorted(failures):
        paths_of[failure.reason].append(failure.path)
    reasons = sorted(paths_of.items(), key=lambda item: (-len(item[1]), item[0]))
    text = "; ".join(f"{len(paths)} x {reason}: {', '.join(paths[:_SHOWN])}" for reason, paths in reasons[:_NAMED])
    return text + (f"; and {len(reasons) - _NAMED} reasons more" if len(reasons) > _NAMED else "")


def none_allowed(lost: str, *, see: str = "") -> UserError:
    """`lost`: how many can't be used, in words."""
    return UserError(lost, allowed="none, since dataset.on_error is fail; skip leaves them out", see=see)


def share_allowed(lost: str, share: float, *, see: str = "") -> UserError:
    limit = f"a share of {share:g} (dataset.max_failed_share, --max-failed-share)"
    return UserError(lost, allowed=limit, see=see)


def require_few(manifest: Manifest, reasons: Mapping[int, str], *, see: Path | None = None) -> None:
    """What stage `dataset` would have said of images that turned out to be broken as they were decoded.

    `reasons`: row -> why it has no pixels. `see`: the file that lists them. Where the manifest goes away with the
    command, the list of what it leaves out has them too, and is what to see. Raises UserError if none may be broken,
    too many are, or all.
    """
    from pipeline.data.decode import is_broken

    limits = manifest.limits
    found = [Failure(str(manifest.paths[row]), reason) for row, reason in reasons.items() if is_broken(reason)]
    if limits is None or not found:
        return
    if limits.kept:
        kept = Path(limits.kept)
        write_failures(kept.parent, {*(read_failures(kept.parent) if kept.is_file() else ()), *found})
        see = kept
    where, total, words = str(see or ""), len(manifest) + limits.lost, by_reason(found)
    if limits.lost:
        words += f"; and {limits.lost} when they were listed"
    if len(found) == len(manifest):
        raise UserError(f"dataset.root: {manifest.root} holds no readable images: {words}", see=where)
    if limits.on_error == "fail":
        raise none_allowed(f"{len(found) + limits.lost} of {total} files can't be used ({words})", see=where)
    broken = len(found) + limits.broken
    if broken > limits.max_failed_share * (len(manifest) + limits.broken):
        raise share_allowed(f"{broken} of {total} files can't be used ({words})", limits.max_failed_share, see=where)
