"""What every file on disk has in common: canonical JSON, fingerprints, and a write that is whole or absent.

Fresh means that a fingerprint matches, never that a file exists. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import UserError

if TYPE_CHECKING:
    import h5py

# One number per on-disk layout. A reader refuses a version it does not know.
VERSIONS = {
    "manifest": 1,
    "weights": 1,
    "codes": 1,
    "head": 1,
    "predictions": 1,
    "bits": 1,
    "index": 1,
    "run": 1,
    "collection": 2,
    "reference": 1,
    "classifier": 2,
}


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN is refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: Any) -> str:
    """64 hex digits: sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """64 hex digits: sha256 of a file's bytes."""
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; on success it is synced and renamed over `path`, on failure removed.

    The name keeps the suffix of `path`. Raises UserError if the disk is full or the folder can't be written.
    """
    path = Path(path)
    tmp: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{path.suffix}", dir=path.parent)
        tmp = Path(name)
        # mkstemp makes files 0600; a result is as readable as any other file of the user's.
        os.fchmod(fd, 0o666 & ~_umask())
        os.close(fd)
        yield tmp
        sync(tmp)
        tmp.replace(path)
        sync(path.parent)
    except OSError as e:
        raise_if_disk(e, path)
        raise
    finally:
        if tmp is not None:
            tmp.unlink(missing_ok=True)


def clear_leftovers(folder: Path, pattern: str) -> None:
    """Removes the temporary files that killed runs of `atomic_path` left beside names that match `pattern`.

    Only for a folder with one writer: another one's unfinished file would go as well.
    """
    for leftover in folder.glob(f".{pattern}.*.tmp*"):
        leftover.unlink(missing_ok=True)


def raise_if_disk(error: OSError, path: str | Path) -> None:
    """Raises UserError if `error` means no space, no permission or no such place, which the user can mend.

    h5py hides the errno of a failed write inside its message, so the text is searched too.
    """
    text = str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text or f"errno = {errno.ENOSPC}" in text:
        raise UserError(f"no space left on the device while writing {path}", see="`cnncodes cache size`") from error
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        raise UserError(f"no permission to write {path}", allowed="a folder that you can write") from error
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP):
        raise UserError(
            f"can't write {path} ({os.strerror(error.errno)})", allowed="a folder that you can write"
        ) from error


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. Raises UserError naming the file if it is missing, not JSON or not a regular file."""
    path = Path(path)
    if not path.is_file():  # a pipe has no end, nor have some devices
        what = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UserError(f"{path} can't be read: {(e.strerror or str(e)).lower()}") from None
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is not JSON ({e}); it may have been cut short") from None


def hdf5(path: str | Path | BytesIO, mode: Literal["r", "w"] = "r") -> h5py.File:
    """An HDF5 file, opened without HDF5's own lock, which network file systems may lack.

    None is needed: what is read never changes, and what is written has a name of its own until it is whole. Raises
    UserError if the environment insists on the lock where there is none, else what h5py raises.
    """
    import h5py

    try:
        return h5py.File(path, mode, locking=False)
    except OSError as e:
        if "unable to lock file" in str(e):
            raise UserError(
                f"HDF5 can't lock {path}: its file system has no locks, and HDF5_USE_FILE_LOCKING asks for them",
                allowed="HDF5_USE_FILE_LOCKING=FALSE, or the variable unset",
            ) from e
        raise


def lacks_locks(error: OSError) -> bool:
    """Whether a lock was refused because the file system has none, as NFS and Lustre may, not because it is held."""
    return error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


def has_locks(folder: Path) -> bool:
    """Whether files in `folder` can be locked, tried on one that nobody else has."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if lacks_locks(e):
                return False
            raise
    return True


def require_space(folder: str | Path, need_bytes: int, *, what: str) -> None:
    """Raises UserError at once if `folder`'s disk has less than `need_bytes` and a reserve of 64 MiB free."""
    probe = Path(folder).absolute()
    while not probe.exists():
        probe = probe.parent
    free_bytes = shutil.disk_usage(probe).free
    if free_bytes < need_bytes + (64 << 20):
        raise UserError(
            f"{what} needs {need_bytes / 1e9:.2f} GB in {folder}, where {free_bytes / 1e9:.2f} GB are free",
            allowed="fewer layers, a pooling, float16, or another disk",
            see="`cnncodes cache size`",
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
