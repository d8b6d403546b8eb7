"""Images to rows of a collection: codes from the store or the network, bits of every hasher, and what is known of them.

The short code is the index itself; long codes and float codes are columns beside it, so that one generation of the
index on disk holds them all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import folders
from pipeline.base.cache import working_folder
from pipeline.base.errors import UserError
from pipeline.base.failing import place, reading
from pipeline.config import CodesParams, DatasetParams
from pipeline.hashing.base import Hasher
from pipeline.hashing.pack import pack
from pipeline.hashing.save import read_hasher, write_hasher

if TYPE_CHECKING:
    from pipeline.codes import Codes
    from pipeline.data.manifest import Manifest
    from pipeline.data.sources import Record

log = logging.getLogger(__name__)

# The column of the decoder's version that each image's pixels are of; an index that has none was made by the first.
DECODER = "decoder"
# Codes that are in memory at once, for hashing.
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Photos:
    """The images of a folder with their codes. `manifest` rows and `codes` rows are the same images, sorted by id.

    `unpacked`: whether the images lie in a folder that ends with the context, since their source has no files of them.
    """

    manifest: Manifest
    codes: Mapping[str, Codes]
    unpacked: bool


@dataclass(frozen=True)
class Entries:
    """Rows as `search.save.Saved.add` takes them."""

    ids: NDArray[np.str_]
    packed: NDArray[np.uint8]
    columns: dict[str, NDArray[Any]]

    def take(self, at: NDArray[np.int64]) -> Entries:
        return Entries(self.ids[at], self.packed[at], {name: values[at] for name, values in self.columns.items()})


@contextmanager
def photos(
    data: DatasetParams,
    codes: CodesParams,
    weights: Path,
    *,
    below: str | None = None,
    known: Callable[[Sequence[Record]], None] | None = None,
) -> Iterator[Photos]:
    """The images below `data.root` and their codes, new ones computed; the codes can be read inside the context only.

    `below`, `known`: as of `data.build`. `weights`: the canonical file. Images that can't be read are left out with a
    warning; `data.build.kept_failures` of the folder lists them. Raises UserError if there are none at all.
    """
    from pipeline.codes import extract
    from pipeline.data.build import build

    with working_folder() as work:
        to = work / "dataset"
        asked: dict[str, Any] = {"below": below, "known": known, "memory_mb": codes.memory_mb}
        manifest = build(data, to, labels_needed=False, fleeting=True, **asked)
        unpacked = manifest.root.is_relative_to(work)
        yield Photos(manifest, extract(manifest, weights, codes, work / "codes"), unpacked)


def codes_column(spec: str) -> str:
    """The name of the column of float codes."""
    return f"codes {spec}"


def encode(found: Photos, hashers: Mapping[str, Hasher], made_by: Mapping[str, Any], *, root: int) -> Entries:
    """Rows of all images that have codes. `root`: the number of the manifest's root among those of the collection."""
    short = found.codes[made_by["short"]["spec"]]
    if not len(short):
        raise UserError("none of the images could be read", see="the warnings above")
    manifest, ids = found.manifest, short.ids
    at = np.searchsorted(manifest.ids, ids)
    columns: dict[str, NDArray[Any]] = {
        "path": manifest.paths[at],
        "root": np.full(len(ids), root, np.int32),
        "label": manifest.labels[at],
        "split": manifest.splits[0][at],
        "sha256": manifest.sha256[at],
        DECODER: manifest.decoder_versions[at],
    }
    for spec in made_by["layers"]:
        columns[codes_column(spec)] = found.codes[spec].rows(slice(None))
    for name, long in made_by["long"].items():
        columns[name] = _packed(hashers[name], found.codes[long["spec"]])
    return Entries(ids, _packed(hashers[made_by["short"]["hasher"]], short), columns)


def _packed(hasher: Hasher, codes: Codes) -> NDArray[np.uint8]:
    """(n, nbits/8)."""
    rows = max(1, _BLOCK_BYTES // (codes.dim * 4))
    return np.concatenate([pack(hasher.bits(block)) for _, block in codes.blocks(rows)])


def hasher_bytes(hasher: Hasher, settings: dict[str, Any]) -> tuple[bytes, str]:
    """A fitted hasher's file, and its fingerprint."""
    with folders.scratch() as folder:
        mark = write_hasher(folder / "hasher.h5", hasher, settings=settings)
        with reading(folder / "hasher.h5") as file:
            return file.read(), mark


def hasher_from(data: bytes, fingerprint: str, name: str) -> Hasher:
    """The inverse of `hasher_bytes`. Raises UserError if it is not the one that the index names."""
    with folders.scratch() as folder:
        path = folder / f"{name}.h5"
        with place(path):
            path.write_bytes(data)
        fitted = read_hasher(path)
    if fitted.fingerprint != fingerprint or fitted.hasher.name != name:
        raise UserError(f"the index holds another hasher than the {name} that made its bits", see="`cnncodes index`")
    return fitted.hasher
