"""Images that come and go: a change publishes a whole new generation, so that a search sees the old one or the new."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.collection.collection import require_collection
from pipeline.collection.encode import DECODER, Rows, encode, hasher_from, photos
from pipeline.collection.network import weights_file
from pipeline.config import CodesParams, DatasetParams, validate
from pipeline.data.manifest import pixel_digest
from pipeline.errors import UserError
from pipeline.index import save
from pipeline.workspace import preset


@dataclass
class Added:
    """What became of the images of a folder, by number. `moved`: the file of a known image was found elsewhere, where
    it no longer is at its old place. `replaced`: a known file with a new content, or one that this version of the decoder
    shows otherwise, whose old row is gone.
    """

    added: int = 0
    known: int = 0
    moved: int = 0
    replaced: int = 0
    images: int = 0
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Change:
    """Positions among the new rows to add, ids to remove, and where known rows are now: row -> new row's position."""

    new: list[int] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    moved: dict[int, int] = field(default_factory=dict)
    known: int = 0


def add(folder: str | Path, images: str | Path) -> Added:
    """Adds the images of a folder; those that are there already cost nothing, the codes of others are made once.

    Raises UserError, with the index as it was, if another process changes it or the folder holds nothing readable.
    """
    folder = Path(folder)
    made_by = _made_by(folder)
    codes = validate(CodesParams, made_by["params"], where=f"{folder}: params")
    root = os.path.abspath(images)  # noqa: PTH100  no symlink is resolved
    data = preset(
        DatasetParams,
        **{"source": "folder", "root": root, "val_share": 0.0, "test_share": 0.0, "repeats": 1},
        **made_by["dataset"],
    )
    with photos(data, codes, lambda: weights_file(folder, made_by)) as found:
        for spec, about in made_by["codes"].items():
            _require_settings(folder, spec, about["settings"], found.codes[spec].settings)
        with save.updating(folder) as saved:
            require_collection(folder, saved.made_by)
            about = {saved.made_by["short"]["hasher"]: saved.made_by["short"], **saved.made_by["long"]}
            hashers = {n: hasher_from(saved.files[f"{n}.h5"], a["fingerprint"], n) for n, a in about.items()}
            roots = saved.made_by["roots"]
            if root not in roots:
                saved.made_by = {**saved.made_by, "roots": [*roots, root]}
            rows = encode(found, hashers, saved.made_by, root=saved.made_by["roots"].index(root))
            return _apply(saved, rows)


def remove(folder: str | Path, images: Sequence[str] = (), *, missing: bool = False) -> list[str]:
    """Removes images by id or by path, and with `missing` all whose file is gone; returns the ids.

    Raises UserError naming what is not in the index, with nothing removed.
    """
    folder = Path(folder)
    with save.updating(folder) as saved:
        require_collection(folder, saved.made_by)
        ids = [str(i) for i in saved.index.ids]
        paths = _paths(saved)
        gone = {i for i, p in zip(ids, paths, strict=True) if missing and not os.path.lexists(p)}
        by_name: dict[str, list[str]] = {i: [i] for i in ids}
        for image_id, path in zip(ids, paths, strict=True):
            by_name.setdefault(path, []).append(image_id)
        wanted = [i if i in by_name else os.path.abspath(i) for i in images]  # noqa: PTH100
        unknown = [i for i, name in zip(images, wanted, strict=True) if name not in by_name]
        if unknown:
            shown = ", ".join(map(repr, unknown[:3])) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
            raise UserError(f"{shown} not in {folder}", allowed="ids or files that `cnncodes search` shows")
        gone |= {i for name in wanted for i in by_name[name]}
        if gone:
            saved.remove(np.array(sorted(gone)))
    return sorted(gone)


def _apply(saved: save.Saved, rows: Rows) -> Added:
    """Puts new rows into the index and says what came of them."""
    saved.columns.setdefault(DECODER, np.ones(len(saved.index), dtype=np.int64))
    change = _compare(saved, rows)
    for row, position in change.moved.items():
        for name in ("path", "label"):
            saved.columns[name] = _replaced(saved.columns[name], row, str(rows.columns[name][position]))
        saved.columns["root"][row] = rows.columns["root"][position]
    notes = []
    if change.gone:
        saved.remove(np.array(change.gone))
    if change.new:
        new = rows.take(np.array(change.new, dtype=np.int64))
        ids = _free_ids(saved.index.ids, new.columns["sha256"])
        notes.append(saved.add(new.packed, ids, new.columns).note)
    short = saved.made_by["short"]
    if len(saved.index) > 10 * short["fitted_on"]:
        notes.append(
            f"the short code was fitted on {short['fitted_on']} images: `cnncodes index` anew would fit better"
        )
    return Added(
        added=len(change.new) - len(change.gone),
        known=change.known,
        moved=len(change.moved),
        replaced=len(change.gone),
        images=len(saved.index),
        note="; ".join(n for n in notes if n),
    )


def _compare(saved: save.Saved, rows: Rows) -> _Change:
    """Which of the new rows are known, have moved, replace another or are new. A file is known by path and pixels."""
    roots = saved.made_by["roots"]
    path_of = _paths(saved)
    row_of_path = {path: row for row, path in enumerate(path_of)}
    rows_of_digest: dict[str, list[int]] = {}
    known = _pixel_digests(saved.columns)
    for row, digest in enumerate(known):
        rows_of_digest.setdefault(digest, []).append(row)
    change = _Change()
    for position, digest in enumerate(_pixel_digests(rows.columns)):
        path = str(Path(roots[rows.columns["root"][position]]) / str(rows.columns["path"][position]))
        same = row_of_path.get(path)
        if same is not None and known[same] == digest:
            change.known += 1
            continue
        lost = [r for r in rows_of_digest.get(digest, []) if r not in change.moved and not os.path.lexists(path_of[r])]
        if same is None and lost:
            change.moved[lost[0]] = position
            continue
        if same is not None:
            change.gone.append(str(saved.index.ids[same]))
        change.new.append(position)
    return change


def _pixel_digests(columns: Mapping[str, NDArray[Any]]) -> list[str]:
    """What names the pixels of each row, as in a manifest."""
    return list(map(pixel_digest, columns["sha256"].tolist(), columns[DECODER].tolist()))


def _paths(saved: save.Saved) -> list[str]:
    """Where each image was when it was indexed, absolute."""
    roots = [Path(r) for r in saved.made_by["roots"]]
    pairs = zip(saved.columns["root"].tolist(), saved.columns["path"].tolist(), strict=True)
    return [str(roots[root] / path) for root, path in pairs]


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


def _replaced(values: NDArray[np.str_], row: int, text: str) -> NDArray[np.str_]:
    """With one value changed; a string array would cut a longer text off."""
    wide = values.astype(f"U{max(len(text), values.dtype.itemsize // 4)}")
    wide[row] = text
    return wide


def _made_by(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = save.info(folder)["made_by"]
    require_collection(folder, about)
    return about


def _require_settings(folder: Path, spec: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises UserError, naming what differs, if new codes are not of the kind that the index holds."""
    differ = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))
    if differ:
        pairs = "; ".join(f"{k} {ours.get(k)!r}, not {theirs.get(k)!r}" for k in differ)
        raise UserError(f"{folder} was made from other codes of {spec} ({pairs})", see="`cnncodes index info`")
