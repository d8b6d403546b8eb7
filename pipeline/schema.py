"""What every file on disk has in common: canonical JSON, fingerprints, and a write that is whole or absent.

Fresh means that a fingerprint matches, never that a file exists. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline import held, plain_json
from pipeline.errors import UserError
from pipeline.failing import place, reading, told

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
    "checkpoint": 1,
    "figures": 1,
    "unfinished": 1,
}


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN is refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: Any) -> str:
    """64 hex digits: sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """64 hex digits: sha256 of a file's bytes."""
    with reading(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; on success it is synced and renamed over `path`, on failure removed.

    The name keeps the suffix of `path`. What killed runs left of such names goes. Raises UserError if the disk is full
    or the folder can't be written.
    """
    path = Path(path)
    tmp: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_left(path)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{path.suffix}", dir=path.parent)
        tmp = Path(name)
        # mkstemp makes files 0600; a result is as readable as any other file of the user's.
        os.fchmod(fd, 0o666 & ~_umask())
        os.close(fd)
        with held.held(tmp):
            yield tmp
            sync(tmp)
            tmp.replace(path)
        sync(path.parent)
    except Exception as e:  # libraries have classes of their own for what the system refuses
        raise_if_disk(e, path)
        raise
    finally:
        if tmp is not None:
            tmp.unlink(missing_ok=True)


def _clear_left(path: Path) -> None:
    """Removes what killed runs left of `path`; those that are killed while this process lives leave it to the next."""
    names = _temporaries(os.path.abspath(path.parent))
    held.remove_abandoned(path.parent / name for name in names if name.startswith(f".{path.name}."))


@functools.lru_cache(maxsize=1024)
def _temporaries(folder: str) -> tuple[str, ...]:
    """Temporary names in a folder when this process first writes there: to list it at each write would take too long
    where there are many files."""
    return tuple(path.name for path in Path(folder).glob(".*.????????.tmp*"))


def clear_leftovers(folder: Path, pattern: str) -> None:
    """Removes the temporary files that killed runs of `atomic_path` left beside names that match `pattern`.

    Only for a folder with one writer: another one's unfinished file would go as well.
    """
    for leftover in folder.glob(f".{pattern}.*.tmp*"):
        leftover.unlink(missing_ok=True)


def clear_abandoned(folder: Path, pattern: str) -> None:
    """As `clear_leftovers`, where there may be several writers: what a living one is at stays."""
    held.clear_abandoned(folder, f".{pattern}.????????.tmp*")


def raise_if_disk(error: Exception, path: str | Path) -> None:
    """Raises UserError if `error` is a refusal of the machine (`failing`) that has to do with `path`."""
    if not isinstance(error, UserError) and (mendable := told(error, path)) is not None:
        raise mendable from error


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False, allow_nan=False) + "\n")


def write_last_json(path: str | Path, value: Any) -> None:
    """As `write_json`: the last file of a folder that has one writer, so that what killed ones left can go."""
    write_json(path, value)
    clear_leftovers(Path(path).parent, "*")


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
        if path.stat().st_size > plain_json.MOST_BYTES:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes", allowed=f"{plain_json.MOST_BYTES:,} of JSON")
        return plain_json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UserError(f"{path} can't be read: {(e.strerror or str(e)).lower()}") from None
    except ValueError as e:
        raise UserError(f"{path} is not JSON ({e}); it may have been cut short") from None


def small_text(path: str | Path) -> str:
    """The first lines of a file. Raises UserError if it is not a regular file."""
    state(path)
    with reading(path) as file:
        return file.read(_LINES_BYTES).decode("utf-8", "replace")


_LINES_BYTES = 4096


def hdf5(
    path: str | Path | BytesIO, mode: Literal["r", "w"] = "r", *, theirs: bool = False, where: object = None
) -> h5py.File:
    """An HDF5 file, opened without HDF5's own lock, which network file systems may lack.

    None is needed: what is read never changes, and what is written has a name of its own until it is whole.

    What is read was checked, once as long as the file stays as it is: its bytes against the digest that it states
    (`new_hdf5`) before HDF5 sees them, then that it is plain (`plain_hdf5`). `theirs`: the file may be another
    program's, which may begin with any block of bytes and hold text of any length, and is looked through by another
    process first (`tried_hdf5`). `where`: how to call what has no path of its own.

    Raises UserError if the file is not plain, or the environment insists on the lock where there is none; OSError if it
    is missing, cut short, changed or no HDF5 file.
    """
    if mode == "w":
        return _open_hdf5(path, mode)
    if isinstance(path, BytesIO):
        _require_plain(path, len(path.getbuffer()), where, theirs=theirs)
        return _open_hdf5(path, mode)
    now = state(path)
    if (now, theirs) not in _plain:
        _require_digest(path, theirs=theirs)
        _require_plain(path, now[2], path, theirs=theirs)
        if state(path) == now and is_settled(now):
            _plain.add((now, theirs))
    return _open_hdf5(path, mode)


@contextlib.contextmanager
def new_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """An HDF5 file to fill, whole or not there (`atomic_path`), whose first 512 bytes state the sha256 of the others.

    HDF5 leaves such a block to its user and looks for its own content behind it. Raises UserError as `atomic_path`.
    """
    with atomic_path(path) as tmp:
        with _open_hdf5(tmp, "w", userblock_size=_DIGEST_BYTES) as file:
            yield file
        state_digest(tmp)


def state_digest(path: str | Path) -> None:
    """Fills the first 512 bytes of a file of `new_hdf5`'s layout."""
    with Path(path).open("r+b") as file:
        file.seek(_DIGEST_BYTES)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        file.write(_digest_block(digest))


def states_digest(path: str | Path) -> bool:
    """Whether an HDF5 file states the digest of its bytes; those of earlier versions don't."""
    with reading(path) as file:
        return file.read(len(_DIGEST_MARK)) == _DIGEST_MARK


_DIGEST_MARK = b"cnncodes-sha256 "
_DIGEST_BYTES = 512  # the least that HDF5 allows
_HDF5_MARK = b"\x89HDF\r\n\x1a\n"
# Files that were checked in this process: a state as `state` has it, and whether they may be another program's.
_plain: set[tuple[tuple[int, ...], bool]] = set()


def _open_hdf5(path: str | Path | BytesIO, mode: str, **settings: Any) -> h5py.File:
    import h5py

    if mode == "w" and not isinstance(path, BytesIO):
        from pipeline.written_hdf5 import WrittenHdf5

        return WrittenHdf5(path, **settings)
    with _lock_told(path):
        return h5py.File(path, mode, locking=False, **settings)


@contextlib.contextmanager
def _lock_told(path: object) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if "unable to lock file" in str(e):
            raise UserError(
                f"HDF5 can't lock {path}: its file system has no locks, and HDF5_USE_FILE_LOCKING asks for them",
                allowed="HDF5_USE_FILE_LOCKING=FALSE, or the variable unset",
            ) from e
        raise


def _require_plain(path: str | Path | BytesIO, file_bytes: int, where: object, *, theirs: bool) -> None:
    if theirs:
        from pipeline.tried_hdf5 import require_read

        with _lock_told(path):
            require_read(path, file_bytes, where)
        return
    from pipeline.plain_hdf5 import require_plain

    with _open_hdf5(path, "r") as file:
        require_plain(file, file_bytes, where, texts=False)


def _require_digest(path: str | Path, *, theirs: bool) -> None:
    """Raises OSError unless a file has the digest that it states, or states none and is an HDF5 file."""
    with reading(path) as file:
        block = file.read(_DIGEST_BYTES)
        if block.startswith(_HDF5_MARK) or (theirs and not block.startswith(_DIGEST_MARK)):
            return
        if block != _digest_block(hashlib.file_digest(file, "sha256").hexdigest()):
            raise OSError("its bytes do not match the digest that it states")


def is_settled(found: tuple[int, ...]) -> bool:
    """Whether a change of a file in this `state` would show in it: one within a tick of the last has the same times."""
    return not 0 <= time.time_ns() - found[-1] < _TICK_NS


# Of the clocks of file systems, with some to spare.
_TICK_NS = 100_000_000


def _digest_block(digest: str) -> bytes:
    return (_DIGEST_MARK + digest.encode() + b"\n").ljust(_DIGEST_BYTES, b"\0")


def state(path: str | Path) -> tuple[int, int, int, int, int]:
    """What changes when a regular file does: device, number, size, times. Raises UserError if it is none."""
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is not a file", allowed="a regular file")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
        with place(path):
            os.fsync(fd)
    finally:
        os.close(fd)
