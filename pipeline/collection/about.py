"""What an index is, and whether it is whole."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.errors import UserError
from pipeline.collection.collection import Collection, load
from pipeline.collection.methods import methods_of
from pipeline.collection.network import weights_file
from pipeline.collection.stated import require_collection
from pipeline.data import listed
from pipeline.search import INDEXES, recall, save


def info(folder: str | Path) -> dict[str, Any]:
    """Plain values: images, the index of the short codes, methods (the default first), weights, settings, hashers,
    those left out and why, roots, bytes. Rows are read only where nobody has measured yet what the index finds.
    """
    folder = Path(folder)
    about = save.info(folder)
    made_by: Mapping[str, Any] = about["made_by"]
    require_collection(folder, made_by)
    weights = weights_file(folder, made_by)
    return {
        "images": about["count"],
        "fingerprint": about["fingerprint"],
        "methods": {m.name: _method(m) for m in methods_of(made_by, about["index"]).values()},
        "index": _index(folder, about),
        "weights": {**made_by["weights"], "bytes": weights.stat().st_size if weights.is_file() else 0},
        "index_bytes": sum(f["bytes"] for f in about["files"].values()),
        "short": made_by["short"],
        "long": made_by["long"],
        "left_out": made_by.get("left_out", {}),  # of an index made before hashes were left out
        "layers": made_by["layers"],
        "codes": made_by["codes"],
        "also": made_by.get("also", []),  # on what rows were computed that were added, where it is something else
        "roots": made_by["roots"],
    }


def verify(folder: str | Path, *, files: bool = False) -> list[str]:
    """What is wrong, in words, [] if nothing is: the index and the network read in full, every image's file looked for.

    `files`: reads them too, to see whether they are still what was indexed. Raises UserError if it is no index at all.
    """
    folder = Path(folder)
    save.info(folder)
    try:
        collection = Collection.open(folder)
    except UserError as e:
        return [str(e)]
    problems = []
    try:
        collection.check_parts()
    except UserError as e:
        problems.append(str(e))
    for row in range(len(collection)):
        path = collection.file(row)
        if why := absent(path):
            problems.append(f"{path}: {why}; see `cnncodes index remove --missing`")
        elif files:
            try:
                listed.require(path, collection.digest(row))
            except listed.ChangedError:
                problems.append(f"{path} changed since it was indexed; see `cnncodes index add`")
            except listed.ListedError as e:
                problems.append(f"{path}: {e}")
    return problems


def absent(path: Path) -> str:
    """Why there is no file at a path or where its links lead, "" if there is one."""
    try:
        return "" if stat.S_ISREG(path.stat().st_mode) else "no file any more"
    except OSError as e:
        what = (e.strerror or str(e)).lower()
        return f"a link to {path.readlink()}: {what}" if path.is_symlink() else what


def _index(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Recall is of the 10 nearest of stored images, against the exact answer (`search.recall`)."""
    exact = INDEXES[about["index"]].can.exact
    if exact:
        found: Mapping[str, Any] = recall.Recall(1.0, 0).as_json()
    else:
        found = about["made_by"].get("recall") or recall.measured(load(folder).index).as_json()
    return {"kind": about["index"], "settings": about["settings"], "exact": exact, **found}


def _method(method: Any) -> dict[str, Any]:
    about = {"unit": method.unit, "spec": method.spec, "bytes_per_image": method.bytes_per_image}
    return {**about, "layers": list(method.layers), "index": method.index}
