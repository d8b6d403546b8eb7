"""From the store to `out/codes/<spec>/`: canonical parts, a function of ids and settings alone.

Rows are sorted by id and cut by the leading bits of the id, so that an added image changes one part and not its
neighbours. Whatever order the store's shards were written in, the parts have the same bytes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import csv_files, disk, json_files
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.codes import part
from pipeline.codes.reader import Codes
from pipeline.codes.settings import Settings
from pipeline.codes.stated import INDEX, Stated, read_stated
from pipeline.codes.store import Digests, Store

PART_BYTES = 64 << 20
FAILURES = "failures.csv"


def export_parts(
    settings: Settings, store: Store, ids: NDArray[np.str_], digests: Digests, folder: Path
) -> Codes | None:
    """Writes the parts of one spec for images that all have rows, `ids` ascending, and codes.json last.

    Parts that are there with the same ids and settings stay as they are; parts that don't belong are removed. Returns
    None if the store turned out damaged on the way: its rows have to be made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, dict[str, Any]] = {}
    for number, rows in split(ids, store.dim * store.dtype.itemsize):
        name = f"part-{number:05d}.h5"
        checksum = _write_part(settings, store, ids[rows], digests[rows], folder / name)
        if checksum is None:
            return None
        parts[name] = {"rows": rows.stop - rows.start, "checksum": checksum}
    about = {
        "version": VERSIONS["codes"],
        "spec": settings.spec.name,
        "dim": store.dim,
        "dtype": settings.dtype,
        "rows": len(ids),
        "fingerprint": settings.key,
        "settings": settings.as_json(),
        "parts": parts,
    }
    if _stated(folder) != about:
        json_files.write(folder / INDEX, about)
    for stale in {p.name for p in folder.glob("part-*.h5")} - parts.keys():
        (folder / stale).unlink()
    _clear_leftovers(folder)
    return Codes.open(folder)


def split(ids: NDArray[np.str_], row_bytes: int) -> list[tuple[int, slice]]:
    """(part number, its rows) of ascending ids: 2^b parts by the leading b bits, b the least with about 64 MB a part.

    Parts without rows are left out.
    """
    bits = max(0, (len(ids) * row_bytes - 1) // PART_BYTES).bit_length()
    if not len(ids):
        return []
    numbers = np.array([int(str(i)[:16], 16) >> (64 - bits) for i in ids], dtype=np.int64)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    stops = [*starts[1:], len(ids)]
    return [(int(numbers[a]), slice(int(a), int(b))) for a, b in zip(starts, stops, strict=True)]


def remove_other_specs(out: Path, keep: Sequence[str]) -> None:
    """Removes codes that are no longer asked for; a folder that holds anything else is not touched."""
    for index in sorted(out.glob(f"*/{INDEX}")):
        folder = index.parent
        if folder.name not in keep:
            _clear_leftovers(folder)
        if folder.name not in keep and all(p.name == INDEX or p.match("part-*.h5") for p in folder.iterdir()):
            shutil.rmtree(folder)


def write_failures(out: Path, failures: Mapping[str, tuple[str, str]]) -> None:
    """`failures`: id -> (path, reason). The file is there, with its header alone, when nothing failed."""
    rows = ((i, *failures[i]) for i in sorted(failures))
    disk.write_text(out / FAILURES, csv_files.text([("id", "path", "reason"), *rows]))
    disk.clear_leftovers(out, FAILURES)


def _stated(folder: Path) -> dict[str, Any] | None:
    """What a folder says of itself, None if nothing that can be read."""
    try:
        return read_stated(folder).model_dump()
    except UserError:
        return None


def _clear_leftovers(folder: Path) -> None:
    for pattern in ("part-*.h5", INDEX):
        disk.clear_leftovers(folder, pattern)


def info(folder: str | Path) -> dict[str, Any]:
    """What codes are in `out/codes/<spec>`, how they were made, and whether they are whole: every byte is read.

    Keys: spec, images, dim, dtype, bytes, fingerprint, settings, whole, problem ("" when whole).
    """
    folder = Path(folder)
    stated = read_stated(folder)
    problems = [problem for name in stated.parts if (problem := _problem(folder, name, stated))]
    return {
        "spec": stated.spec,
        "images": stated.rows,
        "dim": stated.dim,
        "dtype": stated.dtype,
        "bytes": sum(p.stat().st_size for p in folder.glob("part-*.h5")),
        "fingerprint": stated.fingerprint,
        "settings": stated.settings,
        "whole": not problems,
        "problem": "; ".join(problems),
    }


def _problem(folder: Path, name: str, stated: Stated) -> str:
    try:
        part.checked_ids(folder, name, stated)
    except UserError as e:
        return e.what
    return ""


def _write_part(settings: Settings, store: Store, ids: NDArray[np.str_], digests: Digests, path: Path) -> str | None:
    """The part's checksum, None if the store turned out damaged."""
    names = ids.astype("S")
    # An id tells the file; of pixels that the decoder shows otherwise than in its first version, their digest as well.
    shown_otherwise = digests[digests.astype("S16") != names.astype("S16")]
    content = hashlib.sha256(settings.key.encode() + names.tobytes() + shown_otherwise.tobytes()).hexdigest()
    if (found := part.checksum_if_fresh(path, content)) is not None:
        return found
    codes = store.read(digests)
    if codes is None:
        return None
    return part.write(path, names, codes, spec=settings.spec.name, settings=settings.as_json(), content=content)
