"""HDF5 files: ours state their digest, and what is read is checked before HDF5 sees it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.base.failing import reading

if TYPE_CHECKING:
    import h5py


def opened(path: str | Path | BytesIO, *, theirs: bool = False, where: object = None) -> h5py.File:
    """An HDF5 file to read, opened without HDF5's own lock, which network file systems may lack.

    None is needed: what is read never changes, and what is written has a name of its own until it is whole.

    It was checked, once as long as the file stays as it is: its bytes against the digest that it states
    (`new`) before HDF5 sees them, then that it is plain (`plain_hdf5`). `theirs`: the file may be another
    program's, which may begin with any block of bytes and hold text of any length, and is looked through by another
    process first (`tried_hdf5`). `where`: how to call what has no path of its own.

    Raises UserError if the file is not plain, or the environment insists on the lock where there is none; OSError if it
    is missing, cut short, changed or no HDF5 file.
    """
    if isinstance(path, BytesIO):
        _require_plain(path, len(path.getbuffer()), where, theirs=theirs)
        return _open(path, "r")
    now = disk.state(path)
    if (now, theirs) not in _plain:
        _require_digest(path, theirs=theirs)
        _require_plain(path, now[2], path, theirs=theirs)
        if disk.state(path) == now and disk.is_settled(now):
            _plain.add((now, theirs))
    return _open(path, "r")


@contextlib.contextmanager
def new(path: str | Path | BytesIO, *, digest: bool = True) -> Iterator[h5py.File]:
    """An HDF5 file to fill, whole or absent (`disk.atomic_path`), whose first 512 bytes state the sha256 of the others.

    HDF5 leaves such a block to its user and looks for its own content behind it. `digest` False: without the block, as
    other programs have it, and files whose sha256 stands elsewhere; so is what goes to memory.

    Raises UserError as `disk.atomic_path`.
    """
    if isinstance(path, BytesIO):
        with _open(path, "w") as file:
            yield file
        return
    with disk.atomic_path(path) as tmp:
        with _open(tmp, "w", userblock_size=_DIGEST_BYTES if digest else 0) as file:
            yield file
        if digest:
            state_digest(tmp)


def state_digest(path: str | Path) -> None:
    """Fills the first 512 bytes of a file of `new`'s layout."""
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


def _open(path: str | Path | BytesIO, mode: str, **settings: Any) -> h5py.File:
    import h5py

    if mode == "w" and not isinstance(path, BytesIO):
        from pipeline.base.written_hdf5 import WrittenHdf5

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
        from pipeline.base.tried_hdf5 import require_read

        with _lock_told(path):
            require_read(path, file_bytes, where)
        return
    from pipeline.base.plain_hdf5 import require_plain

    with _open(path, "r") as file:
        require_plain(file, file_bytes, where, texts=False)


def _require_digest(path: str | Path, *, theirs: bool) -> None:
    """Raises OSError unless a file has the digest that it states, or states none and is an HDF5 file."""
    with reading(path) as file:
        block = file.read(_DIGEST_BYTES)
        if block.startswith(_HDF5_MARK) or (theirs and not block.startswith(_DIGEST_MARK)):
            return
        if block != _digest_block(hashlib.file_digest(file, "sha256").hexdigest()):
            raise OSError("its bytes do not match the digest that it states")


def _digest_block(digest: str) -> bytes:
    return (_DIGEST_MARK + digest.encode() + b"\n").ljust(_DIGEST_BYTES, b"\0")
