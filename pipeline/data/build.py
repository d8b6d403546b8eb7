"""The dataset stage as one call: source -> full check -> splits -> manifest, whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline import schema
from pipeline.config import DatasetParams
from pipeline.data import splits
from pipeline.data.manifest import IMAGES, SPLITS, Failure, Manifest
from pipeline.data.memory import Facts
from pipeline.data.sources import SOURCES, Listing, Record
from pipeline.data.verify import verify
from pipeline.errors import UserError

log = logging.getLogger(__name__)

_SHOWN = 3  # failures, of each kind, that an error or the log shows


def build(params: DatasetParams, out: str | Path, *, labels_needed: bool = True) -> Manifest:
    """Makes the folder `out` (manifest.csv, dataset.json, failures.csv, images/) anew and returns its manifest.

    With `labels_needed` a labelled set must have two classes or more, each with images for every split that is cut;
    without, labels that are missing in part are dropped and small classes stay in train. Raises UserError before
    anything of an earlier `out` is touched.
    """
    out = Path(out)
    _require_ours(out)
    new_parent = not out.parent.exists()
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        (partial / IMAGES).mkdir(parents=True)
        listing = SOURCES[params.source](params, partial / IMAGES)
        manifest, failures = _describe(params, listing, labels_needed=labels_needed)
        manifest.write(partial, failures)
        _replace(out, partial)
    except OSError as e:
        schema.raise_if_disk(e, out)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if new_parent and not out.exists():
            with contextlib.suppress(OSError):  # something else is in it by now, or it could not even be made
                out.parent.rmdir()
    return Manifest.read(out)


def _require_ours(out: Path) -> None:
    """Refuses to replace a folder that this function did not make."""
    if out.exists() and not (out.is_dir() and ((out / "dataset.json").is_file() or not any(out.iterdir()))):
        raise UserError(
            f"{out} exists and holds no dataset", allowed="a new folder, or one that was made by this command"
        )


def _replace(out: Path, partial: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _describe(params: DatasetParams, listing: Listing, *, labels_needed: bool) -> tuple[Manifest, list[Failure]]:
    """Checks every image of a listing, names and splits those that are whole."""
    if not listing.records:
        raise UserError(f"dataset.root: {params.root} holds no images", allowed="a folder of images", see="README.md")
    checked = verify(listing.root, [r.path for r in listing.records], max_pixels=params.max_pixels)
    whole: list[tuple[Record, Facts]] = []
    failures: list[Failure] = []
    for record, result in zip(listing.records, checked, strict=True):
        if isinstance(result, Failure):
            failures.append(result)
        else:
            whole.append((record, result))
    _judge(failures, total=len(listing.records), params=params)
    _warn_of_lost_classes(listing.records, whole)

    ids = _ids([(facts.sha256, record.path) for record, facts in whole])
    order = sorted(range(len(ids)), key=ids.__getitem__)
    ids = [ids[i] for i in order]
    whole = [whole[i] for i in order]
    records, sha256 = [record for record, _ in whole], [facts.sha256 for _, facts in whole]
    labels = _labels(records, labels_needed=labels_needed)
    given = [r.split for r in records]
    shares = {"val": params.val_share, "test": params.test_share}
    groups = [r.group for r in records]
    assigned = splits.assign(
        ids, labels, groups, sha256, given, shares=shares, repeats=params.repeats, seed=params.seed
    )
    if labels_needed:
        cut = [s for s in SPLITS[1:] if shares[s] > 0 and s not in given]
        splits.require_all(assigned, np.array(labels), splits.unite(groups, sha256), ["train", *cut])
    _warn_of_copies(labels, given, groups, sha256)
    manifest = Manifest(
        root=listing.root,
        source=params.source,
        ids=np.array(ids),
        paths=np.array([r.path for r in records]),
        labels=np.array(labels),
        groups=np.array(groups),
        sha256=np.array(sha256),
        widths=np.array([facts.width for _, facts in whole], dtype=np.int64),
        heights=np.array([facts.height for _, facts in whole], dtype=np.int64),
        splits=assigned,
        seed=params.seed,
        from_source=tuple(s for s in SPLITS if s in given),
        decoders=np.array([facts.decoder for _, facts in whole], dtype=np.int64),
    )
    counts = ", ".join(f"{len(manifest.rows(s))} {s}" for s in SPLITS)
    log.info("%d images (%s) of %d classes; %d failed", len(ids), counts, len(manifest.classes), len(failures))
    return manifest, failures


def _ids(files: Sequence[tuple[str, str]]) -> list[str]:
    """(sha256, path) -> the first 16 digits and an ordinal, in order of path, among files that share them."""
    ids = [""] * len(files)
    seen: Counter[str] = Counter()
    for i in sorted(range(len(files)), key=files.__getitem__):
        short = files[i][0][:16]
        ids[i] = f"{short}-{seen[short]}"
        seen[short] += 1
    return ids


def _judge(failures: list[Failure], *, total: int, params: DatasetParams) -> None:
    """Logs the failures. Raises UserError if they are all there is, too many, or not to be skipped."""
    if not failures:
        return
    paths_of: dict[str, list[str]] = defaultdict(list)
    for failure in sorted(failures):
        paths_of[failure.reason].append(failure.path)
    kinds = sorted(paths_of.items(), key=lambda item: (-len(item[1]), item[0]))
    text = "; ".join(f"{len(paths)} x {reason}: {', '.join(paths[:_SHOWN])}" for reason, paths in kinds[:_SHOWN])
    share = len(failures) / total
    came = f"{len(failures)} of {total} files can't be used ({text})"
    if len(failures) == total:
        raise UserError(
            f"dataset.root: {params.root} holds no readable images: {came}", see="dataset.source in params.yaml"
        )
    if params.on_error == "fail":
        raise UserError(came, allowed="none, since dataset.on_error is fail; skip leaves them out")
    if share > params.max_failed_share:
        raise UserError(came, allowed=f"a share of {params.max_failed_share:g} (dataset.max_failed_share)")
    log.warning("%s; failures.csv lists them", came)


def _labels(records: Sequence[Record], *, labels_needed: bool) -> list[str]:
    """Every row's label. Raises UserError if `labels_needed` and only some rows, or only one class, are there."""
    labels = [r.label for r in records]
    bare = [r.path for r in records if not r.label]
    if bare and len(bare) < len(labels):
        came = f"{len(bare)} of {len(labels)} images have no label, the first {min(bare)}"
        if labels_needed:
            raise UserError(came, allowed="a label for each image (a class folder), or none at all")
        log.warning("%s: all are taken as unlabelled", came)
        return [""] * len(labels)
    if labels_needed and not bare and len(set(labels)) == 1:
        raise UserError(
            f"all {len(labels)} images are of one class, {labels[0]!r}",
            allowed="two classes or more, or images straight in the folder for a set without labels",
        )
    return labels


def _warn_of_lost_classes(listed: Sequence[Record], whole: Sequence[tuple[Record, Facts]]) -> None:
    lost = sorted({r.label for r in listed} - {r.label for r, _ in whole} - {""})
    if lost:
        log.warning("%d class(es) have no readable image and are left out: %s", len(lost), ", ".join(lost[:10]))


def _warn_of_copies(labels: Sequence[str], given: Sequence[str], groups: Sequence[str], sha256: Sequence[str]) -> None:
    if copies := splits.across(labels, sha256):
        log.warning("%d image(s) are there more than once, under different labels", copies)
    if copies := splits.across(given, sha256):
        log.warning("%d image(s) stand on more than one side of the source's own splits", copies)
    if copies := splits.across(given, groups):
        log.warning("%d group(s) stand on more than one side of the source's own splits", copies)
