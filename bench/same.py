"""What differs between two `out/` folders: the results of two commits, two machines or two precisions.

    python bench/same.py OUT_A OUT_B                      # ends with 1 if something differs
    python bench/same.py OUT_A OUT_B --tolerance 0.01 --skip 'report/*'

CSV, JSON, HDF5 and safetensors files are compared by what they say: names, values, attributes, shapes. Times, memory
and what names the machine are passed by. Files of other kinds (pages, pictures) are counted, not compared.

With a tolerance a number may be off by so much of the larger one, or so much where both are below 1; an array's number
by so much of the array's largest. Whole numbers and words in arrays and tables may differ in that share of places, and
numbers inside sentences, digests and versions of libraries are not compared: of rows that differ in their last digits
every digest is another one.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import math
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

# Names of keys, columns and attributes that hold a time, memory or the machine.
PASSED_BY = re.compile(r"_(s|ms)$|(^|_)seconds$|peak_memory|^(host|hostname|machine)$")
_DIGEST = re.compile(r"[0-9a-f]{32,64}")
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(e[+-]?\d+)?")
_SHOWN = 20  # differences a file
_DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "U8": "u1", "BF16": "<u2", "BOOL": "?", "I32": "<i4"}


@dataclass(frozen=True)
class Compare:
    """`tolerance` 0: all must be equal, but not the bits of a float's zero sign."""

    tolerance: float = 0.0

    def folders(self, a: Path, b: Path, skip: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
        """Lines that say what differs, and the names of the files that were not compared."""
        names = [{p.relative_to(f).as_posix() for p in f.rglob("*") if p.is_file()} for f in (a, b)]
        kept = [{n for n in one if not any(fnmatch.fnmatch(n, pattern) for pattern in skip)} for one in names]
        lines = [f"{name}: only in {a}" for name in sorted(kept[0] - kept[1])]
        lines += [f"{name}: only in {b}" for name in sorted(kept[1] - kept[0])]
        passed = []
        for name in sorted(kept[0] & kept[1]):
            if Path(name).suffix not in READERS:
                passed.append(name)
                continue
            found = [f"{name}: {line}" for line in self.files(a / name, b / name)]
            lines += found[:_SHOWN]
            if len(found) > _SHOWN:
                lines.append(f"{name}: and {len(found) - _SHOWN} more")
        return lines, passed

    def files(self, a: Path, b: Path) -> Iterator[str]:
        """Lines that say what differs between two files of one kind."""
        read = READERS[a.suffix]
        yield from self.values(read(a), read(b), "")

    def values(self, a: Any, b: Any, where: str) -> Iterator[str]:
        """The same of what `READERS` give: dicts, lists, arrays and plain values."""
        if isinstance(a, dict) and isinstance(b, dict):
            for name in sorted(a.keys() | b.keys(), key=str):
                here = f"{where}/{name}"
                if PASSED_BY.search(str(name)):
                    continue
                if name not in a or name not in b:
                    yield f"{here} is only in the {'second' if name not in a else 'first'}"
                else:
                    yield from self.values(a[name], b[name], here)
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                yield f"{where} has {len(a)} and {len(b)} values"
            else:
                for i, pair in enumerate(zip(a, b, strict=True)):
                    yield from self.values(*pair, f"{where}/{i}")
        elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            yield from self._arrays(a, b, where)
        elif not self._equal(a, b):
            yield f"{where or 'it'} is {_short(a)} and {_short(b)}"

    def _equal(self, a: Any, b: Any) -> bool:
        if isinstance(a, str) and isinstance(b, str):
            return a == b or (self.tolerance > 0 and _told(a) == _told(b))
        if _is_number(a) and _is_number(b):
            both_nan = math.isnan(a) and math.isnan(b)
            return bool(a == b or both_nan or abs(a - b) <= self.tolerance * max(1.0, abs(a), abs(b)))
        return bool(a == b)

    def _arrays(self, a: NDArray[Any], b: NDArray[Any], where: str) -> Iterator[str]:
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
            yield f"{where} is {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}"
            return
        if a.dtype.kind == "f":
            x, y = a.astype(np.float64), b.astype(np.float64)
            both = np.isfinite(x) & np.isfinite(y)
            largest = float(np.abs(x[both]).max(initial=0.0))
            far = np.abs(np.where(both, x, 0) - np.where(both, y, 0))
            apart = (far > self.tolerance * largest) | (~both & ~((x == y) | (np.isnan(x) & np.isnan(y))))
            if apart.any():
                most = f"by up to {far.max():.3g} where the largest is {largest:.3g}"
                yield f"{where}: {apart.sum()} of {a.size} values differ, {most}"
        elif (apart := a != b).any() and apart.mean() > self.tolerance:
            yield f"{where}: {apart.sum()} of {a.size} values differ"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_csv(path: Path) -> dict[str, Any]:
    """Columns by name: arrays of numbers where all are numbers or empty, else of words."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        return {"text": path.read_text(encoding="utf-8")}  # says in words that something was skipped
    return {name: _column(values) for name, values in zip(rows[0], zip(*rows[1:], strict=True), strict=False)} | {
        "(columns)": rows[0],
        "(rows)": len(rows) - 1,
    }


def _column(values: tuple[str, ...]) -> NDArray[Any]:
    try:
        return np.array([float(v) if v else np.nan for v in values])
    except ValueError:
        return np.array(values)


def read_hdf5(path: Path) -> dict[str, Any]:
    """Name -> array of each data set, and `NAME@` -> its attributes, JSON ones as values; `@` of the file."""
    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {"@": _attributes(file)}

        def take(name: str, one: Any) -> None:
            found[f"{name}@"] = _attributes(one)
            if isinstance(one, h5py.Dataset):
                found[name] = np.asarray(one[()])

        file.visititems(take)
    return found


def _attributes(one: Any) -> dict[str, Any]:
    return {name: _plain(value) for name, value in one.attrs.items()}


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return value


def read_safetensors(path: Path) -> dict[str, Any]:
    """Tensor by name, and what the metadata says; a file that says it was skipped, as its text."""
    data = path.read_bytes()
    length = struct.unpack_from("<Q", data)[0] if len(data) > 8 else len(data)
    if length > len(data) - 8:
        return {"text": data.decode(errors="replace")}
    header = json.loads(data[8 : 8 + length])
    found = {"@": {name: _plain(text) for name, text in header.pop("__metadata__", {}).items()}}
    for name, one in header.items():
        start, stop = (8 + length + at for at in one["data_offsets"])
        found[name] = np.frombuffer(data[start:stop], _DTYPES[one["dtype"]]).reshape(one["shape"])
    return found


READERS = {".json": read_json, ".csv": read_csv, ".h5": read_hdf5, ".safetensors": read_safetensors}


def _told(text: str) -> str:
    """A sentence without its numbers; a digest without its digits."""
    return _NUMBER.sub("#", _DIGEST.sub("DIGEST", text))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.0, help="0 if not given: all must be equal")
    parser.add_argument("--skip", action="append", default=[], metavar="PATTERN", help="files not to look at")
    args = parser.parse_args()
    for folder in (args.first, args.second):
        if not folder.is_dir():
            parser.error(f"{folder} is not a folder")
    lines, passed = Compare(args.tolerance).folders(args.first, args.second, tuple(args.skip))
    for line in lines:
        print(line)
    kinds = ", ".join(sorted({Path(name).suffix or name for name in passed}))
    print(
        f"{len(lines)} differences" + (f"; {len(passed)} files of other kinds not compared ({kinds})" if passed else "")
    )
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
