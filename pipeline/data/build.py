"""The dataset stage as one call: source -> full check -> splits -> manifest, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import posixpath
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline.base import disk, folders, json_files, stopping
from pipeline.base.cache import cache_root
from pipeline.base.counting import counted
from pipeline.base.errors import UserError
from pipeline.base.failing import place
from pipeline.config import MEMORY_MB, DatasetParams
from pipeline.data import splits
from pipeline.data.broken import by_reason, none_allowed, share_allowed
from pipeline.data.manifest import FAILURES, IMAGES, SPLITS, Failure, Limits, Manifest, printable, write_failures
from pipeline.data.memory import Facts, Memory
from pipeline.data.room import Room
from pipeline.data.sources import SOURCES, Listing, Record
from pipeline.data.spelling import spelled
from pipeline.data.verify import verify

log = logging.getLogger(__name__)

_SHOWN = 3  # classes that a warning shows
_NAMED = 6  # suffixes


def build(
    params: DatasetParams,
    out: str | Path,
    *,
    labels_needed: bool = True,
    fleeting: bool = False,
    below: str | None = None,
    memory_mb: int = MEMORY_MB,
    known: Callable[[Sequence[Record]], None] | None = None,
) -> Manifest:
    """Makes the folder `out` (manifest.csv, dataset.json, failures.csv, images/) anew and returns its manifest.

    With `labels_needed` a labelled set must have two classes or more, each with images for every split that is cut;
    without, small classes stay in train. Images without a label among others are kept as that. `below`: only the images
    in that folder of the source, "" for all of them, which join others and so need no training images of their own.
    Images that are checked at once share `memory_mb`; one that needs more is a failure. `known` is given what the
    source lists (paths, labels, splits) before the first image is opened, and may raise UserError.

    Raises UserError before anything of an earlier `out` is touched; failures.csv is written all the same, to `out` if
    it holds no dataset, else to `kept_failures`. That is where it goes at any rate if `out` is `fleeting`, a folder
    that ends with the command.
    """
    out = Path(out)
    with place(out):
        folders.put_back(out)
    _require_ours(out)
    new_parent = not out.parent.exists()
    partial = out.with_name(f".{out.name}.partial")
    failures: list[Failure] = []
    to = kept_failures(params.root) if fleeting or (out / "dataset.json").is_file() else out
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        (partial / IMAGES).mkdir(parents=True)
        with stopping.says(lambda: _told(partial / IMAGES)):
            listing = _below(SOURCES[params.source](params, partial / IMAGES), below or "")
            listing = listing._replace(
                records=_in_one_spelling(listing.records), classes=tuple(map(spelled, listing.classes))
            )
            failures.extend(f for f in listing.left_out if not _is(listing.root / f.path, partial))
            if known is not None:
                known(listing.records)
            whole = _check(params, listing, failures, Room(memory_mb))
        failures_csv = (to if fleeting else out) / FAILURES
        _judge(failures, whole=len(whole), params=params, listed_in=failures_csv)
        manifest = _describe(params, listing, whole, failures, labels_needed=labels_needed, whole_set=below is None)
        limits = Limits(
            max_failed_share=params.max_failed_share,
            on_error=params.on_error,
            broken=sum(f.kind == "broken" for f in failures),
            lost=sum(f.is_image for f in failures),
            kept=str(to / FAILURES) if fleeting else "",
        )
        dataclasses.replace(manifest, limits=limits).write(partial, failures)
        folders.put(partial, out)
        if listing.root == partial / IMAGES:
            _moved(partial / IMAGES, out / IMAGES)
        if fleeting:
            write_failures(to, failures)
    except UserError as e:
        if not failures:
            raise
        write_failures(to, failures)
        raise UserError(e.what, allowed=e.allowed, see=" and ".join(filter(None, [str(to / FAILURES), e.see]))) from e
    except OSError as e:
        disk.raise_if_disk(e, out)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if new_parent and not out.exists():
            with contextlib.suppress(OSError):  # something else is in it by now, or it could not even be made
                out.parent.rmdir()
    return Manifest.read(out)


def _moved(images: Path, to: Path) -> None:
    """Unpacked images were hashed where they lay before."""
    with contextlib.closing(Memory(cache_root() / "files.sqlite")) as memory:
        memory.move(os.path.abspath(images), os.path.abspath(to))


def _told(images: Path) -> str:
    """What a stop leaves of images that a source draws or unpacks, in words."""
    if not any(images.iterdir()):
        return ""
    return "of images that are unpacked or drawn none is kept: the same command begins with them again"


def _below(listing: Listing, folder: str) -> Listing:
    """What of a listing lies in a folder of it, "" for all. Raises UserError if nothing does."""
    if not folder:
        return listing
    records = [r for r in listing.records if r.path.startswith(f"{folder}/")]
    if not records:
        raise UserError(
            f"{listing.root / folder} holds no images, or none that {listing.root} lists",
            allowed="a folder of images; those of a folder with a labels.csv stand in it",
        )
    left_out = [f for f in listing.left_out if f.path.startswith(f"{folder}/")]
    return listing._replace(records=records, left_out=left_out)


def kept_failures(root: str | Path) -> Path:
    """The folder in the cache with the failures.csv of a set whose command has no folder of its own for it."""
    return cache_root() / "failures" / json_files.fingerprint(os.path.abspath(root))[:16]


def _require_ours(out: Path) -> None:
    """Refuses to replace a folder that this function did not make."""
    ours = out.is_dir() and ((out / "dataset.json").is_file() or {p.name for p in out.iterdir()} <= {FAILURES})
    if out.exists() and not ours:
        raise UserError(
            f"{out} exists and holds no dataset", allowed="a new folder, or one that was made by this command"
        )


def _is(path: Path, folder: Path) -> bool:
    return path.name == folder.name and path.exists() and path.samefile(folder)


def _check(params: DatasetParams, listing: Listing, failures: list[Failure], room: Room) -> list[tuple[Record, Facts]]:
    """The images of a listing that are whole. What is not one is added to `failures`."""
    if not listing.records:
        raise UserError(f"dataset.root: {params.root} holds no images", allowed="a folder of images", see="README.md")
    paths, whole = [r.path for r in listing.records], []
    checking = verify(listing.root, paths, max_pixels=params.max_pixels, room=room, links=listing.links)
    with contextlib.closing(checking) as checked:
        for record, result in zip(listing.records, checked, strict=True):
            if isinstance(result, Failure):
                failures.append(result)
            else:
                whole.append((record, result))
    return whole


def _describe(
    params: DatasetParams,
    listing: Listing,
    whole: list[tuple[Record, Facts]],
    failures: Sequence[Failure],
    *,
    labels_needed: bool,
    whole_set: bool,
) -> Manifest:
    """Names and splits the images that are whole."""
    _warn_of_lost_classes(listing.records, whole, failures)
    ids = _ids([(facts.sha256, record.path) for record, facts in whole])
    order = sorted(range(len(ids)), key=ids.__getitem__)
    ids = [ids[i] for i in order]
    whole = [whole[i] for i in order]
    records, sha256 = [record for record, _ in whole], [facts.sha256 for _, facts in whole]
    _check_labels(records, labels_needed=labels_needed)
    labels = [r.label for r in records]
    given = [r.split for r in records]
    if whole_set:
        splits.require_train(given)
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
        numbered=listing.classes,
    )
    counts = ", ".join(f"{len(manifest.rows(s))} {s}" for s in SPLITS)
    lost = sum(f.is_image for f in failures)
    log.info("%d images (%s) of %d classes; %d failed", len(ids), counts, len(manifest.classes), lost)
    return manifest


def _ids(files: Sequence[tuple[str, str]]) -> list[str]:
    """(sha256, path) -> the first 16 digits and an ordinal, in order of path, among files that share them."""
    ids = [""] * len(files)
    seen: Counter[str] = Counter()
    for i in sorted(range(len(files)), key=files.__getitem__):
        short = files[i][0][:16]
        ids[i] = f"{short}-{seen[short]}"
        seen[short] += 1
    return ids


def _judge(failures: Sequence[Failure], *, whole: int, params: DatasetParams, listed_in: Path) -> None:
    """Logs what is left out, a line a kind. Raises UserError if no image is whole, too many are broken, or none may be.

    Only what is broken counts against `max_failed_share`: of photographs in formats that aren't read there is often
    another copy that is (RAW and JPEG), an image too large for this machine's share of memory says nothing of the
    others, nor do other files.
    """
    of: dict[str, list[Failure]] = defaultdict(list)
    for failure in failures:
        of[failure.kind].append(failure)
    broken, unread, large = of["broken"], of["unread_format"], of["too_large"]
    if of["left_out"]:
        log.info("left out: %d files and folders (%s)", len(of["left_out"]), by_reason(of["left_out"]))
    if of["not_followed"]:
        log.warning("%d links are not followed: %s", len(of["not_followed"]), by_reason(of["not_followed"]))
    if of["not_an_image"]:
        suffixes = Counter(posixpath.splitext(f.path)[1].lower() or "no suffix" for f in sorted(of["not_an_image"]))
        shown = ", ".join(f"{n} x {suffix}" for suffix, n in suffixes.most_common(_NAMED))
        log.info("beside the images: %s (%s)", counted(len(of["not_an_image"]), "other file"), shown)
    lost_images = [*broken, *unread, *large]
    total = whole + len(lost_images)
    lost = f"{len(lost_images)} of {total} files can't be used ({by_reason(lost_images)})"
    if not whole:
        came = lost if total else f"none of its {len(failures)} files is an image ({by_reason(failures)})"
        raise UserError(
            f"dataset.root: {params.root} holds no readable images: {came}", see="dataset.source in params.yaml"
        )
    if params.on_error == "fail" and lost_images:
        raise none_allowed(lost)
    if unread:
        log.warning("%d of %d photographs are of formats that aren't read: %s", len(unread), total, by_reason(unread))
    if large:
        log.warning("%d of %d images are too large: %s", len(large), total, by_reason(large))
    came = f"{len(broken)} of {total} files can't be used ({by_reason(broken)})"
    if len(broken) > params.max_failed_share * (whole + len(broken)):
        raise share_allowed(came, params.max_failed_share)
    if broken:
        log.warning("%s", came)
    if failures:
        log.info("%s lists them", listed_in)


def _in_one_spelling(records: Sequence[Record]) -> list[Record]:
    """With labels and groups that look the same made the same; the log says which classes that joined."""
    one = {text: spelled(text) for text in {r.label for r in records} | {r.group for r in records}}
    written: dict[str, set[str]] = defaultdict(set)
    for label in {r.label for r in records} - {""}:
        written[one[label]].add(label)
    joined = [" and ".join(map(repr, sorted(labels))) for _, labels in sorted(written.items()) if len(labels) > 1]
    if joined:
        log.warning("%s: one class, since they look the same", "; ".join(joined[:_SHOWN]))
    alike: dict[str, list[str]] = defaultdict(list)
    for label in sorted(written):
        alike[label.casefold()].append(label)
    if capitals := [" and ".join(map(repr, labels)) for labels in alike.values() if len(labels) > 1]:
        log.warning("%s: classes that differ in capitals alone", "; ".join(capitals[:_SHOWN]))
    return [r._replace(label=one[r.label], group=one[r.group]) for r in records]


def _check_labels(records: Sequence[Record], *, labels_needed: bool) -> None:
    """Says how many have no label, where others have one. Raises UserError if they are `labels_needed` and of one
    class.
    """
    bare = [r.path for r in records if not r.label]
    labelled = len(records) - len(bare)
    if bare and labelled:
        log.warning(
            "%d of %d images have no label, the first %s: heads neither learn from them nor are tested on them",
            len(bare),
            len(records),
            min(bare),
        )
    classes = {r.label for r in records} - {""}
    if labels_needed and len(classes) == 1:
        which = f"{labelled} images" if not bare else f"{labelled} of {len(records)} images that have a label"
        raise UserError(
            f"all {which} are of one class, {min(classes)!r}",
            allowed="two classes or more, or images straight in the folder for a set without labels",
        )


def _warn_of_lost_classes(
    listed: Sequence[Record], whole: Sequence[tuple[Record, Facts]], failures: Sequence[Failure]
) -> None:
    """A folder of other files alone is no class."""
    failed = {f.path for f in failures if f.is_image}
    lost = sorted({r.label for r in listed if printable(r.path) in failed} - {r.label for r, _ in whole} - {""})
    if lost:
        log.warning("%d class(es) have no readable image and are left out: %s", len(lost), ", ".join(lost[:10]))


def _warn_of_copies(labels: Sequence[str], given: Sequence[str], groups: Sequence[str], sha256: Sequence[str]) -> None:
    labelled = [sha if label else "" for label, sha in zip(labels, sha256, strict=True)]
    if copies := splits.across(labels, labelled):
        log.warning("%d image(s) are there more than once, under different labels", copies)
    if copies := splits.across(given, sha256):
        log.warning("%d image(s) stand on more than one side of the source's own splits", copies)
    if copies := splits.across(given, groups):
        log.warning("%d group(s) stand on more than one side of the source's own splits", copies)
