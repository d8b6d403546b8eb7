"""Fingerprints of files of arrays: a formula for each kind of file, which stays as long as such files are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import json_files
from pipeline.base.versions import VERSIONS

Arrays = Mapping[str, NDArray[Any]]


def of_hashes(head: Mapping[str, Any], arrays: Arrays) -> str:
    """hasher.h5 and bits.h5."""
    return json_files.fingerprint({"version": VERSIONS["bits"], "head": dict(head), "arrays": _digests(arrays)})


def of_head(attributes: Mapping[str, Any], arrays: Arrays) -> str:
    """model.h5. Its version is among the attributes, and a dtype has its name: float32, where others have <f4."""
    return json_files.fingerprint({"attributes": dict(attributes), "arrays": _digests(arrays, dtype=str)})


def of_reference(head: Mapping[str, Any], rows: Arrays) -> str:
    """A reference of `cnncodes advise`."""
    return json_files.fingerprint({"version": VERSIONS["reference"], "head": dict(head), "rows": _digests(rows)})


def _digests(arrays: Arrays, *, dtype: Callable[[np.dtype[Any]], str] = lambda kind: kind.str) -> dict[str, list[Any]]:
    """Name -> dtype, shape, sha256 of the bytes in C order."""
    return {
        name: [dtype(a.dtype), list(a.shape), hashlib.sha256(np.ascontiguousarray(a).data).hexdigest()]
        for name, a in arrays.items()
    }
