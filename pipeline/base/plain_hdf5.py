"""What an HDF5 file may hold to be read here: its own arrays, in its own bytes, and no more than these can be.

The HDF5 library follows what a file says: values that lie in any other file, views made of other files, links, plugins
that unpack, sizes of any number. All of it is looked up before a value is read. What the library itself makes of broken
bytes this can't mend: a file that states its digest is checked against it before it is opened
(`hdf5_files.opened`), another program's is looked through first by a process that has an end (`tried_hdf5`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import h5py
from h5py import h5a, h5d, h5o, h5s, h5t, h5z

from pipeline.base.budget import FREE_BYTES, UNPACKED_OF_A_BYTE
from pipeline.base.errors import UserError

Object: TypeAlias = "h5py.Group | h5py.Dataset"

MAX_OBJECTS = 10_000
MAX_DEPTH = 32
MAX_ATTRIBUTES = 1_000  # of one object
MAX_ATTRIBUTE_BYTES = 16 << 20
MAX_CHUNK_BYTES = 256 << 20
# What texts of any length may come to where each could be as long as all that the file holds beside its arrays.
MAX_TEXT_BYTES = 1 << 30

# Those that h5py brings along: others are code that is looked for on the machine.
_FILTERS = {
    h5z.FILTER_DEFLATE,
    h5z.FILTER_SHUFFLE,
    h5z.FILTER_FLETCHER32,
    h5z.FILTER_SZIP,
    h5z.FILTER_SCALEOFFSET,
    h5z.FILTER_LZF,
}
_PLACES = {h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED}


def require_plain(file: h5py.File, file_bytes: int, where: object, *, texts: bool) -> None:
    """Raises UserError unless every group, dataset and attribute is plain, and OSError if HDF5 can't tell.

    file_bytes: length of the file. where: how to call it. texts: whether datasets may hold texts of any length.
    """
    try:
        objects_ = list(objects(file, where))
        datasets = [o for o in objects_ if isinstance(o, h5py.Dataset)]
        for dataset in datasets:
            _require_own(dataset, where, texts=texts)
            _require_size(dataset, file_bytes, where)
        stated = sum(_bytes(dataset) for dataset in datasets)
        if stated > FREE_BYTES + UNPACKED_OF_A_BYTE * file_bytes:
            raise _too_much(where, "its arrays", stated, file_bytes)
        beside = _beside(datasets, file_bytes)
        for found in objects_:
            _require_attributes(found, beside, where)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as e:
        raise OSError(f"HDF5 can't read what it holds: {' '.join(str(e).split())[:200]}") from e


def objects(file: h5py.File, where: object) -> Iterator[Object]:
    """Every group and dataset by every link that leads to it. Groups that hold one another are refused."""
    waiting: list[tuple[h5py.Group, int]] = [(file, 0)]
    groups = {h5o.get_info(file.id).addr}
    count = 0
    while waiting:
        group, depth = waiting.pop()
        yield group
        count += len(group)
        if count > MAX_OBJECTS or depth > MAX_DEPTH:
            raise UserError(
                f"{where} holds more than is read", allowed=f"{MAX_OBJECTS} groups and datasets, {MAX_DEPTH} deep"
            )
        for name in group:
            at = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UserError(f"{where} keeps {at} in another file, or behind a link", allowed="plain datasets")
            found = group[name]
            if isinstance(found, h5py.Dataset):
                yield found
                continue
            if not isinstance(found, h5py.Group):
                raise UserError(f"{where} holds {at}, which is neither a group nor a dataset")
            address = h5o.get_info(found.id).addr
            if address in groups:
                raise UserError(f"{where} holds the group {at} in several places", allowed="each group once")
            groups.add(address)
            waiting.append((found, depth + 1))


def _require_own(dataset: h5py.Dataset, where: object, *, texts: bool) -> None:
    """Raises UserError unless the values are numbers or text that lie in this file, packed as h5py itself can."""
    plist = dataset.id.get_create_plist()
    if plist.get_layout() not in _PLACES or plist.get_external_count() or dataset.is_virtual:
        raise UserError(f"{where} keeps {dataset.name} in another file", allowed="values in the file itself")
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if not _FILTERS.issuperset(filters) or len(set(filters)) != len(filters):
        raise UserError(
            f"{where} packs {dataset.name} by the filters {filters}",
            allowed="gzip, lzf, szip, scale-offset, shuffle and fletcher32, each once",
        )
    endless = h5py.check_string_dtype(dataset.dtype)
    if dataset.dtype.kind not in "biufcS" and not (texts and endless is not None):
        raise UserError(f"{where}: {dataset.name} holds {dataset.dtype}", allowed="numbers or text of a fixed length")


def _require_size(dataset: h5py.Dataset, file_bytes: int, where: object) -> None:
    chunked = dataset.chunks is not None
    most = FREE_BYTES + (UNPACKED_OF_A_BYTE * file_bytes if chunked else file_bytes)
    if _bytes(dataset) > most:
        raise _too_much(where, dataset.name, _bytes(dataset), file_bytes)
    if chunked and (size := math.prod(dataset.chunks) * dataset.dtype.itemsize) > min(most, MAX_CHUNK_BYTES):
        raise UserError(
            f"{where} keeps {dataset.name} in chunks of {size:,} bytes", allowed=f"at most {MAX_CHUNK_BYTES:,}"
        )


def _require_attributes(found: Object, beside: int, where: object) -> None:
    count, texts = h5a.get_num_attrs(found.id), 0
    if count > MAX_ATTRIBUTES:
        raise UserError(f"{where}: {found.name} has {count} attributes", allowed=f"at most {MAX_ATTRIBUTES}")
    for i in range(count):
        attribute = h5a.open(found.id, index=i)
        space = attribute.get_space()
        values = 0 if space.get_simple_extent_type() == h5s.NULL else math.prod(attribute.shape)
        type_ = attribute.get_type()
        if values * type_.get_size() > MAX_ATTRIBUTE_BYTES:
            raise UserError(f"{where}: an attribute of {found.name} is larger than {MAX_ATTRIBUTE_BYTES:,} bytes")
        if _is_endless(type_):
            texts += values
    # A single text can be no longer than the file; many can all be the same one.
    if texts > 1 and texts * beside > MAX_TEXT_BYTES:
        raise UserError(
            f"{where}: {found.name} has {texts} attributes or texts in them, of {texts * beside:,} bytes at most",
            allowed=f"{MAX_TEXT_BYTES:,} bytes, or text of a fixed length",
        )


def endless_attributes(found: Object) -> list[str]:
    """The names of its attributes with texts, or other values, of any length."""
    return [name for name in found.attrs if _is_endless(found.attrs.get_id(name).get_type())]


def _is_endless(type_: h5t.TypeID) -> bool:
    text = type_.get_class() == h5t.STRING and type_.is_variable_str()
    return bool(text or type_.detect_class(h5t.VLEN))


def _beside(datasets: list[h5py.Dataset], file_bytes: int) -> int:
    """At most so many bytes of a file are texts of any length: those that no array lies in."""
    stored = {h5o.get_info(d.id).addr: int(d.id.get_storage_size()) for d in datasets}
    return max(0, file_bytes - sum(stored.values()))


def _bytes(dataset: h5py.Dataset) -> int:
    """As an array in memory."""
    return 0 if dataset.shape is None else math.prod(dataset.shape) * dataset.dtype.itemsize


def _too_much(where: object, what: str, stated: int, file_bytes: int) -> UserError:
    return UserError(
        f"{where} states {stated:,} bytes for {what} and has {file_bytes:,} itself",
        allowed=f"{UNPACKED_OF_A_BYTE} times its own length where it is packed, its own length where it is not",
    )
