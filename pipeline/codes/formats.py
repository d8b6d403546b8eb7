"""Codes in other tools' formats, streamed: `FORMATS` is the whole set."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.base import disk, hdf5_files, json_files
from pipeline.base.errors import UserError
from pipeline.base.failing import place
from pipeline.codes.reader import Codes
from pipeline.nets import backbone

if TYPE_CHECKING:
    from pipeline.data.manifest import Manifest

_BLOCK_BYTES = 64 << 20

log = logging.getLogger(__name__)


def export(codes: Codes, *, to: str, path: str | Path, manifest: Manifest | None = None) -> list[Path]:
    """Writes codes as `to`, one of `FORMATS`, and returns the files written. Labels come from `manifest`.

    Raises UserError on an unknown format, an image that the manifest lacks, a missing extra, or a full disk.
    """
    if to not in FORMATS:
        raise UserError(f"unknown export format {to!r}", allowed=FORMATS)
    return FORMATS[to](codes, Path(path), manifest)


def _npy(codes: Codes, path: Path, manifest: Manifest | None) -> list[Path]:
    """`path`: (n, dim) rows. Beside it `<stem>.ids.npy`, and `<stem>.labels.npy` where there are labels: (n,) text."""
    path = path.with_suffix(".npy")
    disk.require_space(path.parent, len(codes) * codes.dim * codes.dtype.itemsize, what="the export")
    columns = {"ids": codes.ids}
    if manifest is not None and manifest.classes:
        columns["labels"] = manifest.labels[_manifest_rows(codes, manifest)]
    beside = [path.with_suffix(f".{name}.npy") for name in columns]
    with contextlib.ExitStack() as undo:
        for file in (path, *beside):
            if not file.exists():
                undo.callback(file.unlink, missing_ok=True)
        # All get their names at the end, the rows theirs last: while `path` is not there, nothing is.
        with contextlib.ExitStack() as writing:
            tmp, *others = [writing.enter_context(disk.atomic_path(file)) for file in (path, *beside)]
            for other, column in zip(others, columns.values(), strict=True):
                saved = io.BytesIO()  # numpy itself doesn't say why a file takes no more
                np.save(saved, column, allow_pickle=False)
                with place(other):
                    other.write_bytes(saved.getvalue())
            with place(tmp):
                rows = np.lib.format.open_memmap(tmp, mode="w+", dtype=codes.dtype, shape=(len(codes), codes.dim))
                done = 0
                for ids, block in codes.blocks(_block_rows(codes)):
                    rows[done : done + len(ids)] = block
                    done += len(ids)
                rows.flush()
        undo.pop_all()
    return [path, *beside]


def _parquet(codes: Codes, path: Path, manifest: Manifest | None) -> list[Path]:
    """Columns id, path and label (where a manifest is given), and codes: a fixed-size list of dim values."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError("parquet needs pyarrow", allowed="pip install 'cnn-codes[parquet]'") from None
    rows = None if manifest is None else _manifest_rows(codes, manifest)
    value_type = pa.float16() if codes.dtype == np.float16 else pa.float32()
    fields = [pa.field("id", pa.string())]
    if manifest is not None:
        fields += [pa.field("path", pa.string()), pa.field("label", pa.string())]
    fields.append(pa.field("codes", pa.list_(value_type, codes.dim)))
    about = {"spec": codes.spec, "settings": json_files.canonical(codes.settings), "fingerprint": codes.fingerprint}
    table_schema = pa.schema(fields, metadata=about)
    done = 0
    with disk.atomic_path(path) as tmp, pq.ParquetWriter(tmp, table_schema) as writer:
        for ids, block in codes.blocks(_block_rows(codes)):
            columns = [pa.array(ids.tolist())]
            if manifest is not None and rows is not None:
                here = rows[done : done + len(ids)]
                columns += [pa.array(manifest.paths[here].tolist()), pa.array(manifest.labels[here].tolist())]
            values = pa.array(block.reshape(-1), type=value_type)
            columns.append(pa.FixedSizeListArray.from_arrays(values, codes.dim))
            writer.write_table(pa.Table.from_arrays(columns, schema=table_schema))
            done += len(ids)
    return [path]


def _neon_hdf5(codes: Codes, path: Path, manifest: Manifest | None) -> list[Path]:
    """The layout of neon's HDF5Iterator: `input` (n, C*H*W) float32 with `lshape` and `mean`, `output` (n, 1) labels.

    `mean` is 0 a channel, so that nothing is taken away from codes. Without labels there is no `output`; where some
    images have one, the others are left out, since neon trains on every row.
    """
    shape, targets = _map_shape(codes), None
    kept = np.ones(len(codes), dtype=bool)
    if manifest is not None and manifest.classes:
        targets = manifest.targets[_manifest_rows(codes, manifest)]
        kept = targets >= 0
        if not kept.all():
            log.warning("%d of %d codes have no label and are left out of %s", np.sum(~kept), len(codes), path)
    disk.require_space(path.parent, int(kept.sum()) * codes.dim * 4, what="the export")
    with hdf5_files.new(path, digest=False) as f:
        data = f.create_dataset("input", shape=(int(kept.sum()), codes.dim), dtype=np.float32)
        data.attrs["lshape"] = np.array(shape, dtype=np.int64)
        data.attrs["mean"] = np.zeros(shape[0], dtype=np.float32)
        read = done = 0
        for ids, block in codes.blocks(_block_rows(codes)):
            rows = block[kept[read : read + len(ids)]]
            data[done : done + len(rows)] = rows
            read, done = read + len(ids), done + len(rows)
        f.create_dataset("ids", data=codes.ids[kept].astype("S"))
        if manifest is not None and targets is not None:
            output = f.create_dataset("output", data=targets[kept].astype(np.int32)[:, None])
            output.attrs["nclass"] = len(manifest.classes)
    return [path]


FORMATS: dict[str, Callable[[Codes, Path, Manifest | None], list[Path]]] = {
    "npy": _npy,
    "parquet": _parquet,
    "neon-hdf5": _neon_hdf5,
}


def _map_shape(codes: Codes) -> tuple[int, int, int]:
    """(C, H, W) of a flattened map, (dim, 1, 1) of any other code."""
    s = codes.settings
    if s.get("pooling") == "flatten" and s["crop"] is not None:
        c, h, w = backbone.find(s["arch"]).shape(s["layer"], s["crop"], s["crop"])
        if c * h * w == codes.dim:
            return c, h, w
    return codes.dim, 1, 1


def _manifest_rows(codes: Codes, manifest: Manifest) -> NDArray[np.int64]:
    """(n,) row of each code in the manifest. Raises UserError if one is not there."""
    at = np.searchsorted(manifest.ids, codes.ids)
    known = manifest.ids[np.minimum(at, len(manifest) - 1)] == codes.ids
    if not known.all():
        raise UserError(f"{int((~known).sum())} codes are of images that the dataset lacks", see="`dvc repro`")
    return at.astype(np.int64)


def _block_rows(codes: Codes) -> int:
    return max(1, _BLOCK_BYTES // (codes.dim * codes.dtype.itemsize))
