"""Images that come and go: a change publishes a whole new generation, so that a search sees the old one or the new."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.base.writable import require_writable
from pipeline.codes.plan import check as check_codes
from pipeline.codes.settings import resolve_device
from pipeline.codes.weights_header import WeightsHeader
from pipeline.collection.about import absent
from pipeline.collection.encode import DECODER, Entries, encode, hasher_from, photos
from pipeline.collection.network import weights_file
from pipeline.collection.stated import require_collection, require_whole
from pipeline.config import MEMORY_MB, CodesParams, DatasetParams, validate
from pipeline.data.manifest import pixel_digest
from pipeline.data.sources import labels_csv
from pipeline.search import recall, save
from pipeline.workspace import preset

# What may be another for rows that are added: it changes the last digits of codes, not what they mean.
COMPUTED = ("device", "precision")


@dataclass
class Added:
    """What became of the images of a folder, by number; a file counts once. `known`: nothing changed, or its content is
    in the index by another path. `relabelled`: known, and the folder gives another label or split than before. `moved`:
    a known image was found elsewhere, where it no longer is at its old place. `replaced`: a known file with a new
    content, or one that this version of the decoder shows otherwise, whose old row is gone.
    """

    added: int = 0
    known: int = 0
    relabelled: int = 0
    moved: int = 0
    replaced: int = 0
    images: int = 0
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Change:
    """Positions among the new rows to add, rows to remove, where known rows are now (row -> new row's position), and
    what they are called now (row -> label, split)."""

    new: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    moved: dict[int, int] = field(default_factory=dict)
    named: dict[int, tuple[str, str]] = field(default_factory=dict)
    replaced: int = 0


def add(
    folder: str | Path,
    images: str | Path,
    *,
    dataset: Mapping[str, Any] | None = None,
    device: str | None = None,
    precision: str | None = None,
    memory_mb: int = MEMORY_MB,
) -> Added:
    """Adds the images of a folder; those that are there already cost nothing, the codes of others are made once.

    A content is there once, whatever paths lead to it. Known images take the label and split that the folder gives now;
    a folder below one that was indexed before gives those that the whole would. `dataset`: keys of that params section
    to change; `leave_out` adds to what the index was built with. `device`, `precision`: of the network, those of the
    index if None; with others the last digits of the new codes may differ, and the index says so (`also`).
    `memory_mb`: of images in flight; it is the machine's, so the index does not keep it. Raises UserError, with the
    index as it was, if another process changes it or the folder holds nothing readable.
    """
    folder = Path(folder)
    made_by = _made_by(folder)
    codes = _params_here(folder, made_by["params"], device=device, precision=precision, memory_mb=memory_mb)
    root, below = _root_of(os.path.abspath(images), made_by["roots"])
    chosen = dict(dataset or {})
    patterns = [*made_by["dataset"].get("leave_out", ()), *chosen.get("leave_out", ())]
    data = preset(
        DatasetParams,
        **{"source": "folder", "root": root, "val_share": 0.0, "test_share": 0.0, "repeats": 1},
        **{**made_by["dataset"], **chosen, "leave_out": patterns},
    )
    require_writable(folder)
    weights = weights_file(folder, made_by)
    check_codes(WeightsHeader.of(weights), codes)
    with photos(data, codes, weights, below=below) as found:
        for spec, about in made_by["codes"].items():
            _require_settings(folder, spec, about["settings"], found.codes[spec].settings)
        computed = _computed(next(iter(found.codes.values())).settings)
        with save.updating(folder) as saved:
            require_whole(folder, saved)
            about = {saved.made_by["short"]["hasher"]: saved.made_by["short"], **saved.made_by["long"]}
            hashers = {n: hasher_from(saved.files[f"{n}.h5"], a["fingerprint"], n) for n, a in about.items()}
            roots = list(dict.fromkeys([*saved.made_by["roots"], root]))
            rows = encode(found, hashers, saved.made_by, root=roots.index(root))
            return _apply(saved, rows, roots, computed)


def _root_of(images: str, roots: Sequence[str]) -> tuple[str, str]:
    """The folder that says what the images of a folder are called, and the part of it that is meant, "" for all of it.

    It is the nearest that gives labels, of the indexed ones that the folder lies in: by a labels.csv (which the folder
    itself may have too) or by class folders. A class folder alone gives none.
    """
    if not os.path.isdir(images):  # noqa: PTH112  listing it says what is wrong
        return images, ""
    parts = {root: _part(root, images) for root in dict.fromkeys([*roots, images])}  # of equal ones a known one first
    inside = sorted(((root, part) for root, part in parts.items() if part is not None), key=lambda one: len(one[1]))
    for root, part in inside:
        if labels_csv.find(Path(root)) or (root in roots and (part or _has_folders(root))):
            return root, part
    return inside[0]


def _has_folders(root: str) -> bool:
    with os.scandir(root) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)


def _part(root: str, folder: str) -> str | None:
    """The path of a folder below a root, "" for the root itself, None if it isn't below, by any link."""
    for above, own in ((root, folder), (os.path.realpath(root), os.path.realpath(folder))):
        if own == above:
            return ""
        if own.startswith(above.rstrip("/") + "/") and os.path.isdir(root):  # noqa: PTH112
            return own[len(above.rstrip("/")) + 1 :]
    return None


def remove(folder: str | Path, images: Sequence[str] = (), *, missing: bool = False) -> list[str]:
    """Removes images by id or by path, and with `missing` all whose file is gone; returns the ids.

    Raises UserError naming what is not in the index, with nothing removed.
    """
    folder = Path(folder)
    with save.updating(folder) as saved:
        require_whole(folder, saved)
        ids = [str(i) for i in saved.index.ids]
        paths = _paths(saved)
        gone = {i for i, p in zip(ids, paths, strict=True) if missing and absent(Path(p))}
        by_name: dict[str, list[str]] = {i: [i] for i in ids}
        for image_id, path in zip(ids, paths, strict=True):
            by_name.setdefault(path, []).append(image_id)
        wanted = [i if i in by_name else os.path.abspath(i) for i in images]
        unknown = [i for i, name in zip(images, wanted, strict=True) if name not in by_name]
        if unknown:
            shown = ", ".join(map(repr, unknown[:3])) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
            raise UserError(f"{shown} not in {folder}", allowed="ids or files that `cnncodes search` shows")
        gone |= {i for name in wanted for i in by_name[name]}
        if gone:
            saved.remove(np.array(sorted(gone)))
            measure(saved)
    return sorted(gone)


def measure(saved: save.Saved) -> None:
    """Keeps with an index what it finds of the true neighbours, unless it is exact."""
    if not saved.index.can.exact:
        saved.made_by = {**saved.made_by, "recall": recall.measured(saved.index).as_json()}


def _params_here(
    folder: Path, made: Mapping[str, Any], *, device: str | None, precision: str | None, memory_mb: int
) -> CodesParams:
    """The section `codes` that makes rows for an index. Raises UserError if its device is not here, naming the way."""
    named = {"device": device, "precision": precision}
    given = {key: value for key, value in named.items() if value is not None}
    params = validate(CodesParams, {**made, **given, "memory_mb": memory_mb}, where=f"{folder}: params")
    try:
        resolve_device(params.device)
    except UserError as e:
        if device is not None:
            raise
        raise UserError(f"{params.device} made the codes of {folder} and is not here", allowed="--device auto") from e
    return params


def _computed(settings: Mapping[str, Any]) -> dict[str, str]:
    """What may differ between rows of one index."""
    return {key: settings[key] for key in COMPUTED}


def _apply(saved: save.Saved, rows: Entries, roots: list[str], computed: dict[str, str]) -> Added:
    """Puts new rows into the index and says what came of them. `roots`: what the root numbers of both mean; `computed`:
    by what the new ones were.
    """
    saved.columns.setdefault(DECODER, np.ones(len(saved.index), dtype=np.int64))
    change = _compare(saved, rows, roots)
    columns, relabelled = saved.columns, len(change.named.keys() - change.moved.keys())
    if change.new or change.moved:
        saved.made_by = {**saved.made_by, "roots": roots}
    columns["path"] = _replaced(columns["path"], {r: str(rows.columns["path"][p]) for r, p in change.moved.items()})
    for row, position in change.moved.items():
        columns["root"][row] = rows.columns["root"][position]
    for i, name in enumerate(("label", "split")):
        columns[name] = _replaced(columns[name], {row: given[i] for row, given in change.named.items()})
    notes = []
    if change.gone:
        saved.remove(saved.index.ids[np.array(change.gone)])
    if change.new:
        new = rows.take(np.array(change.new, dtype=np.int64))
        ids = _free_ids(saved.index.ids, new.columns["sha256"])
        notes.append(saved.add(new.packed, ids, new.columns).note)
        first, also = _computed(next(iter(saved.made_by["codes"].values()))["settings"]), saved.made_by.get("also", [])
        if computed not in (first, *also):
            saved.made_by = {**saved.made_by, "also": [*also, computed]}
            notes.append(
                f"these were computed on {computed['device']} in {computed['precision']}, earlier ones on "
                f"{first['device']} in {first['precision']}: last digits may differ"
            )
    if change.new or change.gone:
        measure(saved)
    short = saved.made_by["short"]
    if len(saved.index) > 10 * short["fitted_on"]:
        notes.append(
            f"the short code was fitted on {short['fitted_on']} images: `cnncodes index` again would fit better"
        )
    done = Added(
        added=len(change.new) - change.replaced,
        relabelled=relabelled,
        moved=len(change.moved),
        replaced=len(change.gone),
        images=len(saved.index),
        note="; ".join(n for n in notes if n),
    )
    done.known = len(rows.ids) - done.added - done.relabelled - done.moved - done.replaced
    return done


def _compare(saved: save.Saved, rows: Entries, roots: Sequence[str]) -> _Change:
    """Which of the new rows are known, have moved, replace another or are new.

    A file is known by its path and pixels, else by its pixels: then it has moved if no file of these pixels is left
    at its old place, and otherwise is another path to the same image.
    """
    change, path_of = _Change(), _paths(saved)
    row_of_path = {path: row for row, path in enumerate(path_of)}
    paths, digests, known = _absolute(rows.columns, roots), _pixel_digests(rows.columns), _pixel_digests(saved.columns)
    own: dict[int, int] = {}  # row -> position of that very file
    others: list[int] = []
    edited: set[int] = set()
    for position, digest in enumerate(digests):
        row = row_of_path.get(paths[position])
        if row is not None and known[row] == digest:
            own[row] = position
            continue
        others.append(position)
        if row is not None:
            change.gone.append(row)
            edited.add(position)
    left: dict[str, list[int]] = defaultdict(list)
    for row in sorted(set(range(len(path_of))) - set(change.gone)):
        left[known[row]].append(row)
    copies: dict[int, list[int]] = defaultdict(list)
    # Of equal new files one with a label stands for the image.
    first: dict[str, int] = {}
    for position in sorted(others, key=lambda p: (rows.columns["label"][p] == "", p)):
        same = left[digests[position]]
        lost = [r for r in same if r not in own and r not in change.moved and absent(Path(path_of[r]))]
        if lost and position not in edited:
            change.moved[lost[0]] = position
        elif same:
            copies[same[0]].append(position)
        elif first.setdefault(digests[position], position) == position:
            change.new.append(position)
    change.new.sort()
    change.replaced = len(edited & set(change.new))
    change.named = _names(saved, rows, {**own, **change.moved}, copies)
    return change


def _pixel_digests(columns: Mapping[str, NDArray[Any]]) -> list[str]:
    """What names the pixels of each row, as in a manifest."""
    return list(map(pixel_digest, columns["sha256"].tolist(), columns[DECODER].tolist()))


def _names(
    saved: save.Saved, rows: Entries, own: Mapping[int, int], copies: Mapping[int, Sequence[int]]
) -> dict[int, tuple[str, str]]:
    """Row -> label and split, of rows for which the folder gives others than they have.

    `own`: row -> position of its file. `copies`: row -> positions of equal files, which give a label where its own file
    has none.
    """
    before = list(zip(saved.columns["label"].tolist(), saved.columns["split"].tolist(), strict=True))
    given = list(zip(rows.columns["label"].tolist(), rows.columns["split"].tolist(), strict=True))
    named = {}
    for row in own.keys() | copies.keys():
        now = given[own[row]] if row in own else before[row]
        if not now[0]:
            now = next((given[p] for p in copies.get(row, ()) if given[p][0]), now)
        if now != before[row]:
            named[row] = now
    return named


def _paths(saved: save.Saved) -> list[str]:
    """Where each image was when it was indexed, absolute."""
    return _absolute(saved.columns, saved.made_by["roots"])


def _absolute(columns: Mapping[str, NDArray[Any]], roots: Sequence[str]) -> list[str]:
    pairs = zip(columns["root"].tolist(), columns["path"].tolist(), strict=True)
    return [str(Path(roots[root]) / path) for root, path in pairs]


def _free_ids(taken: NDArray[np.str_], digests: NDArray[np.str_]) -> NDArray[np.str_]:
    """Ids of new images: the first 16 digits of the content, and the first ordinals that none has."""
    highest: Counter[str] = Counter()
    for image_id in taken.tolist():
        short, _, ordinal = image_id.rpartition("-")
        highest[short] = max(highest[short], int(ordinal) + 1)
    ids = []
    for digest in digests.tolist():
        ids.append(f"{digest[:16]}-{highest[digest[:16]]}")
        highest[digest[:16]] += 1
    return np.array(ids, dtype=np.str_)


def _replaced(values: NDArray[np.str_], texts: Mapping[int, str]) -> NDArray[np.str_]:
    """With the values of some rows changed; a string array would cut longer texts off."""
    longest = max([values.dtype.itemsize // 4, *map(len, texts.values())])
    wide = values.astype(f"U{longest}")
    for row, text in texts.items():
        wide[row] = text
    return wide


def _made_by(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = save.info(folder)["made_by"]
    require_collection(folder, about)
    return about


def _require_settings(folder: Path, spec: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises UserError, naming what differs, if new codes are not of the kind that the index holds."""
    differ = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k) and k not in COMPUTED)
    if differ:
        pairs = "; ".join(f"{k} {ours.get(k)!r}, not {theirs.get(k)!r}" for k in differ)
        raise UserError(f"{folder} was made from other codes of {spec} ({pairs})", see="`cnncodes index info`")
