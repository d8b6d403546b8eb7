"""The one reader of codes: rows by position, by id or in blocks, never all of them at once unless asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.codes.part import checked_ids, opened
from pipeline.codes.stated import Stated, read_stated


@dataclass(frozen=True)
class _FileParts:
    """Parts on disk. A file is opened for each read, so a reader may cross processes and threads."""

    folder: Path
    stated: Stated
    starts: NDArray[np.int64]  # (parts + 1,) first row of each part, then n

    def read(self, index: NDArray[np.int64], out: NDArray[Any]) -> None:
        names = list(self.stated.parts)
        part_of = np.searchsorted(self.starts, index, side="right") - 1
        for number in np.unique(part_of):
            wanted = np.flatnonzero(part_of == number)
            rows = index[wanted] - self.starts[number]
            with opened(self.folder, names[number], self.stated) as f:
                out[wanted] = _take(f["codes"], rows)

    def checksums(self) -> list[str]:
        return [part.checksum for part in self.stated.parts.values()]


@dataclass(frozen=True)
class _MemoryPart:
    codes: NDArray[Any]

    def checksums(self) -> list[str]:
        return [hashlib.sha256(np.ascontiguousarray(self.codes).data).hexdigest()]

    def read(self, index: NDArray[np.int64], out: NDArray[Any]) -> None:
        np.take(self.codes, index, axis=0, out=out)


@dataclass(frozen=True)
class Codes:
    """Codes of one spec in id order. Made by `open` or `from_arrays`."""

    spec: str
    dim: int
    dtype: np.dtype[Any]
    settings: dict[str, Any]
    fingerprint: str
    ids: NDArray[np.str_]
    _rows: _FileParts | _MemoryPart

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def open(cls, folder: str | Path) -> Codes:
        """The codes in `out/codes/<spec>`.

        Every part is checked, once as long as its file stays as it is. Raises UserError if codes are missing, not what
        codes.json says, or of a version that is not known.
        """
        folder = Path(folder)
        stated = read_stated(folder)
        parts = [checked_ids(folder, name, stated) for name in stated.parts]
        ids = np.concatenate([np.empty(0, dtype="S1"), *parts]).astype(str)
        if (ids[1:] <= ids[:-1]).any():
            raise UserError(f"{folder} has ids that repeat or are out of order", see="run the extraction again")
        return cls(
            spec=stated.spec,
            dim=stated.dim,
            dtype=np.dtype(stated.dtype),
            settings=stated.settings,
            fingerprint=stated.fingerprint,
            ids=ids,
            _rows=_FileParts(folder, stated, np.cumsum([0, *map(len, parts)], dtype=np.int64)),
        )

    @classmethod
    def from_arrays(
        cls, ids: Sequence[str] | NDArray[np.str_], codes: NDArray[Any], *, spec: str, settings: Mapping[str, Any]
    ) -> Codes:
        """Codes (n, d) float16 or float32 in memory; rows are put in id order. Raises UserError on ids that repeat."""
        names = np.asarray(ids, dtype=str)
        if codes.ndim != 2 or len(codes) != len(names):
            raise UserError(f"{len(names)} ids do not fit codes of shape {codes.shape}", allowed="(n, d)")
        if codes.dtype not in (np.float16, np.float32):
            raise UserError(f"codes of type {codes.dtype}", allowed="float16, float32")
        if len(np.unique(names)) != len(names):
            raise UserError("an id repeats among the codes")
        order = np.argsort(names)
        settings = dict(settings)
        return cls(
            spec=spec,
            dim=codes.shape[1],
            dtype=codes.dtype,
            settings=settings,
            fingerprint=json_files.fingerprint(settings),
            ids=names[order],
            _rows=_MemoryPart(codes[order]),
        )

    def content(self) -> str:
        """64 hex digits of settings, ids and rows; those on disk are not read for it."""
        ids = hashlib.sha256("\n".join(self.ids.tolist()).encode()).hexdigest()
        return json_files.fingerprint({"settings": self.fingerprint, "ids": ids, "rows": self._rows.checksums()})

    def rows(self, index: NDArray[np.int64] | slice) -> NDArray[Any]:
        """(len(index), dim) in the order asked; negative positions and masks are refused (IndexError)."""
        at = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index, dtype=np.int64)
        if at.ndim != 1 or (len(at) and (at.min() < 0 or at.max() >= len(self))):
            raise IndexError(f"rows must be positions from 0 to {len(self) - 1}")
        out = np.empty((len(at), self.dim), dtype=self.dtype)
        if len(at):
            self._rows.read(at, out)
        return out

    def by_id(self, ids: Sequence[str] | NDArray[np.str_]) -> NDArray[Any]:
        """(len(ids), dim) in the order asked. Raises UserError naming ids that are missing."""
        return self.rows(self.positions(ids))

    def positions(self, ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int64]:
        """(len(ids),) row of each id. Raises UserError naming ids that are missing."""
        asked = np.asarray(ids, dtype=str)
        if not len(asked):
            return np.empty(0, dtype=np.int64)
        at = np.searchsorted(self.ids, asked)
        found = np.zeros(len(asked), dtype=bool)
        if len(self):
            found = self.ids[np.minimum(at, len(self) - 1)] == asked
        if not found.all():
            missing = asked[~found]
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise UserError(
                f"{len(missing)} of {len(asked)} images have no codes of {self.spec}: {shown}",
                see="failures.csv beside the codes",
            )
        return at.astype(np.int64)

    def blocks(self, rows: int) -> Iterator[tuple[NDArray[np.str_], NDArray[Any]]]:
        """(ids, codes) of at most `rows` rows at a time, in id order."""
        for start in range(0, len(self), rows):
            stop = min(start + rows, len(self))
            yield self.ids[start:stop], self.rows(slice(start, stop))


def _take(codes: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray[Any]:
    """(len(rows), dim) in the order asked.

    HDF5 reads runs of neighbours fast and scattered rows slowly, so rows that lie close together are read as one run.
    """
    ordered, inverse = np.unique(rows, return_inverse=True)
    breaks = np.flatnonzero(np.diff(ordered) > _MAX_GAP) + 1
    out = np.empty((len(ordered), codes.shape[1]), dtype=codes.dtype)
    done = 0
    for run in np.split(ordered, breaks):
        block = codes[run[0] : run[-1] + 1]
        out[done : done + len(run)] = block[run - run[0]]
        done += len(run)
    return out[inverse]


# Rows that are read for nothing between two wanted ones, rather than reading twice.
_MAX_GAP = 8
