"""From the store to `out/codes/<spec>/`: canonical parts, a function of ids and settings alone.

Rows are sorted by id and cut by the leading bits of the id, so that an added image changes one part and not its
neighbours. Whatever order the store's shards were written in, the parts have the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import schema
from pipeline.codes.reader import INDEX, Codes, read_index
from pipeline.codes.settings import Settings
from pipeline.codes.store import Digests, Rows, Store
from pipeline.errors import UserError

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
        "version": schema.VERSIONS["codes"],
        "spec": settings.spec.name,
        "dim": store.dim,
        "dtype": settings.dtype,
        "rows": len(ids),
        "fingerprint": settings.key,
        "settings": settings.as_json(),
        "parts": parts,
    }
    if not (folder / INDEX).is_file() or schema.read_json(folder / INDEX) != about:
        schema.write_json(folder / INDEX, about)
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
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("id", "path", "reason"))
    rows.writerows((i, *failures[i]) for i in sorted(failures))
    schema.write_text(out / FAILURES, text.getvalue())
    schema.clear_leftovers(out, FAILURES)


def _clear_leftovers(folder: Path) -> None:
    for pattern in ("part-*.h5", INDEX):
        schema.clear_leftovers(folder, pattern)


def info(folder: str | Path) -> dict[str, Any]:
    """What codes are in `out/codes/<spec>`, how they were made, and whether they are whole: every byte is read.

    Keys: spec, images, dim, dtype, bytes, fingerprint, settings, whole, problem ("" when whole).
    """
    folder = Path(folder)
    about = read_index(folder)
    problems = [p for name, part in about["parts"].items() if (p := _part_problem(folder / name, part["checksum"]))]
    return {
        "spec": about["spec"],
        "images": about["rows"],
        "dim": about["dim"],
        "dtype": about["dtype"],
        "bytes": sum(p.stat().st_size for p in folder.glob("part-*.h5")),
        "fingerprint": about["fingerprint"],
        "settings": about["settings"],
        "whole": not problems,
        "problem": "; ".join(problems),
    }


def _write_part(settings: Settings, store: Store, ids: NDArray[np.str_], digests: Digests, path: Path) -> str | None:
    """The part's checksum, None if the store turned out damaged."""
    names = ids.astype("S")
    # An id tells the file; of pixels that the decoder shows otherwise than in its first version, their digest as well.
    shown_otherwise = digests[digests.astype("S16") != names.astype("S16")]
    content = hashlib.sha256(settings.key.encode() + names.tobytes() + shown_otherwise.tobytes()).hexdigest()
    if (found := _checksum_if_fresh(path, content)) is not None:
        return found
    codes = store.read(digests)
    if codes is None:
        return None
    checksum = _checksum(names, codes)
    with schema.atomic_path(path) as tmp, schema.hdf5(tmp, "w") as f:
        f.attrs["version"] = schema.VERSIONS["codes"]
        f.attrs["spec"] = settings.spec.name
        f.attrs["dim"] = store.dim
        f.attrs["fingerprint"] = settings.key
        f.attrs["settings"] = schema.canonical_json(settings.as_json())
        f.attrs["content"] = content
        f.attrs["checksum"] = checksum
        f.create_dataset("ids", data=names)
        f.create_dataset("codes", data=codes)
    return checksum


def _checksum_if_fresh(path: Path, content: str) -> str | None:
    """The stated checksum of a part of these ids and settings, None if there is none."""
    try:
        with schema.hdf5(path) as f:
            return str(f.attrs["checksum"]) if f.attrs["content"] == content else None
    except (OSError, KeyError):
        return None


def _part_problem(path: Path, checksum: str) -> str:
    try:
        with schema.hdf5(path) as f:
            if f.attrs["checksum"] == checksum == _checksum(f["ids"][()], f["codes"][()]):
                return ""
    except PermissionError as e:
        raise UserError(f"no permission to read {path}") from e
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as e:
        return f"{path.name} cannot be read ({' '.join(str(e).split())})"
    return f"{path.name} does not match its checksum"


def _checksum(names: NDArray[np.bytes_], codes: Rows) -> str:
    """64 hex digits: sha256 of the ids' bytes, then the rows' bytes, in C order."""
    sha = hashlib.sha256(names.tobytes())
    sha.update(np.ascontiguousarray(codes).view(np.uint8).data)
    return sha.hexdigest()
