"""A searchable collection: everything that a query needs, in one folder.

    my.index/weights/<sha256>.safetensors   the network, written once
    my.index/current.json, gen-.../         the index with its columns and hashers (index/save.py)

What is opened is one generation, all of it in memory; changes by others show in the next `open`.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline import schema
from pipeline.collection.encode import hasher_from
from pipeline.collection.find import Finder, Query, Rows
from pipeline.collection.methods import COSINE, Method, choose, methods_of
from pipeline.errors import UserError
from pipeline.hashing.base import Hasher
from pipeline.index import save
from pipeline.index.base import check_k, require_rows

if TYPE_CHECKING:
    from pipeline.codes import Embedder
    from pipeline.nets.weights import Weights

log = logging.getLogger(__name__)

WEIGHTS = "weights"
DEFAULT_K = 12


@dataclass(frozen=True)
class Neighbour:
    """`distance`: bits for Hamming methods, 1 - cosine for the others. `path` is where the image was when indexed."""

    rank: int
    id: str
    path: Path
    label: str
    split: str
    distance: float

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "path": str(self.path)}


@dataclass(frozen=True)
class Answer:
    """Neighbours of one query in the order of (distance, id). `nearest`: the distance of the nearest image that the
    radius left out, if it left out all.
    """

    method: Method
    neighbours: tuple[Neighbour, ...]
    nearest: float | None = None


class Collection:
    """An open index. Searches may come from several threads; images are embedded one query at a time."""

    def __init__(self, folder: Path, saved: save.Saved, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.made_by = saved.made_by
        self.methods: dict[str, Method] = methods_of(saved.made_by)
        self._saved = saved
        self._embedders: dict[str, Embedder] = {}
        self._embedding = threading.Lock()

    @classmethod
    def open(cls, folder: str | Path) -> Collection:
        """Raises UserError if it is no collection, cut short, changed by other hands or of another version."""
        folder = Path(folder)
        # Looked up first: if it changes before the load, `is_current` says so and nothing is missed.
        fingerprint = save.info(folder)["fingerprint"]
        return cls(folder, load(folder), fingerprint)

    def __len__(self) -> int:
        return len(self._saved.index)

    @property
    def ids(self) -> NDArray[np.str_]:
        """(n,) sorted."""
        return self._saved.index.ids

    @property
    def labels(self) -> NDArray[np.str_]:
        """(n,) in the order of ids, "" for none."""
        return self._saved.columns["label"]

    @property
    def splits(self) -> NDArray[np.str_]:
        """(n,) in the order of ids."""
        return self._saved.columns["split"]

    def row(self, image_id: str) -> int:
        """Raises UserError if no image has that id."""
        at = int(np.searchsorted(self.ids, image_id))
        if at == len(self) or self.ids[at] != image_id:
            raise UserError(f"no image of {self.folder} has the id {image_id!r}", see="`cnncodes search --json`")
        return at

    def file(self, row: int) -> Path:
        """Where the image was when it was indexed."""
        columns = self._saved.columns
        return Path(self.made_by["roots"][columns["root"][row]]) / str(columns["path"][row])

    def digest(self, row: int) -> str:
        """sha256 of the image's file when it was indexed."""
        return str(self._saved.columns["sha256"][row])

    def random(self, seed: int | None = None) -> str:
        """The id of some image, the same for the same seed. Raises UserError if there is none."""
        require_rows(len(self))
        return str(self.ids[np.random.default_rng(seed).integers(len(self))])

    def is_current(self) -> bool:
        """Whether the folder still holds what was opened."""
        return bool(save.info(self.folder)["fingerprint"] == self.fingerprint)

    def search(
        self,
        image: str | Path | bytes,
        *,
        k: int | None = None,
        radius: float | None = None,
        method: str | None = None,
        label: str | None = None,
        split: str | None = None,
    ) -> Answer:
        """Neighbours of an image file, or of its bytes, which need not be in the collection; if it is, it comes first.

        k: 12 if None, fewer where there are fewer, all of them with a radius. radius: only images within it, itself
        included. label, split: only images that have it. Raises UserError if the image can't be read, or as `Index`.
        """
        chosen = choose(self.methods, method)
        rows = self._selected(label, split)
        self._check(chosen, k, radius, len(rows))
        row = self._known(image)
        query = Query(row=row) if row >= 0 else Query(self.embed(image, chosen.spec))
        return self._answer(chosen, query, rows, k=k, radius=radius)

    def search_id(
        self,
        image_id: str,
        *,
        k: int | None = None,
        radius: float | None = None,
        method: str | None = None,
        label: str | None = None,
        split: str | None = None,
    ) -> Answer:
        """As `search`, from an image of the collection, which is not among its own neighbours. Needs no network."""
        chosen = choose(self.methods, method)
        own = self.row(image_id)
        rows = self._selected(label, split)
        count = len(rows) - int(own in rows)
        self._check(chosen, k, radius, count)
        return self._answer(chosen, Query(row=own, left_out=own), rows, k=k, radius=radius)

    def embed(self, image: str | Path | bytes, spec: str) -> NDArray[Any]:
        """(1, d) codes of an image. Raises UserError if it can't be read.

        It goes through the network alone, where the collection's went in batches padded to one size: its float32
        values may differ from theirs in the last digits, and cost a batch less time.
        """
        with self._embedding:
            if spec not in self._embedders:
                self._embedders[spec] = self._embedder(spec)
            return self._embedders[spec]([image])

    def packed(self, name: str) -> NDArray[np.uint8]:
        """(n, nbits/8) bits of a Hamming method, in the order of ids."""
        if name == self.made_by["short"]["hasher"]:
            return self._saved.index.packed
        return self._saved.columns[name]

    def check_parts(self) -> None:
        """Raises UserError unless network and hashers are those that made the codes."""
        _ = self._weights, self._hashers

    def _embedder(self, spec: str) -> Embedder:
        from pipeline.codes import Embedder

        return Embedder(self._weights, self._settings_here(spec))

    @cached_property
    def _weights(self) -> Weights:
        from pipeline.nets.weights import read_canonical

        weights = read_canonical(weights_file(self.folder, self.made_by))
        if weights.sha256 != self.made_by["weights"]["sha256"]:
            raise UserError(f"{self.folder} holds other weights than those that made its codes", see="`cnncodes index`")
        return weights

    def _settings_here(self, spec: str) -> dict[str, Any]:
        """The settings of the codes for one image, on the processor where the device that made them is not here."""
        from pipeline.codes.settings import resolve_device, resolve_precision

        settings: dict[str, Any] = self.made_by["codes"][spec]["settings"] | {"images_per_batch": 1}
        try:
            resolve_device(settings["device"])
        except UserError:
            log.warning("%s made these codes and is not here: distances may differ slightly", settings["device"])
            return settings | {"device": "cpu", "precision": resolve_precision("auto", "cpu"), "compile": False}
        return settings

    @cached_property
    def _hashers(self) -> Mapping[str, Hasher]:
        about = {self.made_by["short"]["hasher"]: self.made_by["short"], **self.made_by["long"]}
        return {n: hasher_from(self._saved.files[f"{n}.h5"], a["fingerprint"], n) for n, a in about.items()}

    @cached_property
    def _finder(self) -> Finder:
        short = self.made_by["short"]["hasher"]
        packed = {name: self.packed(name) for name in (short, *self.made_by["long"])}
        return Finder(self.ids, self._saved.columns[COSINE], packed, short, lambda name: self._hashers[name])

    def _selected(self, label: str | None, split: str | None) -> Rows:
        """Rows that have the label and the split. Raises UserError if none has."""
        kept = np.ones(len(self), bool)
        for name, wanted, values in (("label", label, self.labels), ("split", split, self.splits)):
            if wanted is not None:
                kept &= values == wanted
                if not kept.any():
                    raise UserError(f"no image has the {name} {wanted!r}", allowed=np.unique(values)[:20].tolist())
        return np.flatnonzero(kept)

    def _check(self, method: Method, k: int | None, radius: float | None, count: int) -> None:
        require_rows(len(self))
        if k is not None:
            check_k(k, count)
        if radius is not None:
            method.check_radius(radius)

    def _answer(self, method: Method, query: Query, rows: Rows, *, k: int | None, radius: float | None) -> Answer:
        # Of all rows but one, the first k are among the first k + 1 of all: no rows need be copied.
        extra = int(query.left_out in rows)
        count = len(rows) - extra
        if not count:
            return Answer(method, ())
        if radius is None:
            k = k or min(DEFAULT_K, count)
            distances, found = query.answers(*self._finder.nearest(method, query, rows, k + extra))
            return self._listed(method, distances[:k], found[:k])
        distances, found = query.answers(*self._finder.within(method, query, rows, radius))
        if len(found):
            return self._listed(method, distances[:k], found[:k])
        nearest, _ = query.answers(*self._finder.nearest(method, query, rows, 1 + extra))
        return Answer(method, (), nearest=nearest[0].item())

    def _listed(self, method: Method, distances: NDArray[Any], rows: Rows) -> Answer:
        return Answer(
            method,
            tuple(
                Neighbour(
                    rank=rank,
                    id=str(self.ids[row]),
                    path=self.file(row),
                    label=str(self.labels[row]),
                    split=str(self.splits[row]),
                    distance=distance,
                )
                for rank, (distance, row) in enumerate(zip(distances.tolist(), rows.tolist(), strict=True), start=1)
            ),
        )

    def _known(self, image: str | Path | bytes) -> int:
        """The first row of an image with the same bytes, -1 if there is none: its codes are here, without a network."""
        try:
            data = image if isinstance(image, bytes) else Path(image).read_bytes()
        except OSError:
            return -1  # said when the image is to be decoded
        digest = hashlib.sha256(data).hexdigest()
        row = int(np.searchsorted(self.ids, digest[:16]))
        while row < len(self) and str(self.ids[row]).startswith(digest[:16]):
            if self.digest(row) == digest:
                return row
            row += 1
        return -1


def load(folder: Path) -> save.Saved:
    """A collection's index. Raises UserError as `Collection.open`."""
    saved = save.load(folder)
    require_collection(folder, saved.made_by)
    return saved


def require_collection(folder: Path, made_by: Mapping[str, Any]) -> None:
    """Raises UserError if an index is not that of a collection, or of another version."""
    if "short" not in made_by:
        raise UserError(f"{folder} is an index of bare codes", allowed="a folder made by `cnncodes index`")
    if made_by["version"] != schema.VERSIONS["collection"]:
        what = f"{folder} is a collection of version {made_by['version']}"
        raise UserError(what, allowed=[schema.VERSIONS["collection"]], see="`cnncodes index`, which makes it again")


def weights_file(folder: Path, made_by: Mapping[str, Any]) -> Path:
    """Where the collection's network lies."""
    return folder / WEIGHTS / f"{made_by['weights']['sha256']}.safetensors"
