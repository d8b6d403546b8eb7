"""A searchable collection: everything that a query needs, in one folder.

    my.index/weights/<sha256>.safetensors   the network, written once
    my.index/current.json, gen-.../         the index with its columns and hashers (index/save.py)

What is opened is one generation, all of it in memory; changes by others show in the next `open`.
"""

from __future__ import annotations

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
from pipeline.collection.methods import COSINE, SHORTLIST, SHORTLIST_FACTOR, Method, choose, methods_of
from pipeline.errors import UserError
from pipeline.hashing.base import Hasher
from pipeline.hashing.pack import pack
from pipeline.index import INDEXES, save
from pipeline.index.base import State, check_k, require_rows
from pipeline.index.cosine import Cosine
from pipeline.index.rerank import TwoStage

if TYPE_CHECKING:
    from pipeline.codes import Embedder
    from pipeline.index.base import PackedIndex
    from pipeline.nets.weights import Weights

log = logging.getLogger(__name__)

WEIGHTS = "weights"
DEFAULT_K = 12
Rows = NDArray[np.int64]


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
        """Neighbours of an image file, or of its bytes, that need not be in the collection.

        k: 12 if None, fewer where there are fewer, all of them with a radius. radius: only images within it, itself
        included. label, split: only images that have it. Raises UserError if the image can't be read, or as `Index`.
        """
        chosen = choose(self.methods, method)
        rows = self._selected(label, split)
        self._check(chosen, k, radius, len(rows))
        code = self.embed(image, chosen.spec)
        return self._answer(chosen, code, rows, k=k, radius=radius)

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
        return self._answer(chosen, own, rows, k=k, radius=radius)

    def embed(self, image: str | Path | bytes, spec: str) -> NDArray[Any]:
        """(1, d) codes of an image, made as those of the collection were. Raises UserError if it can't be read."""
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
        """The settings of the codes, on this machine's processor where the device that made them is not here."""
        from pipeline.codes.settings import resolve_device, resolve_precision

        settings: dict[str, Any] = self.made_by["codes"][spec]["settings"]
        try:
            resolve_device(settings["device"])
        except UserError:
            log.warning("%s made these codes and is not here: distances may differ slightly", settings["device"])
            precision = resolve_precision("auto", "cpu")
            return settings | {"device": "cpu", "precision": precision, "compile": False}
        return settings

    @cached_property
    def _hashers(self) -> Mapping[str, Hasher]:
        about = {self.made_by["short"]["hasher"]: self.made_by["short"], **self.made_by["long"]}
        return {n: hasher_from(self._saved.files[f"{n}.h5"], a["fingerprint"], n) for n, a in about.items()}

    @cached_property
    def _floats(self) -> Cosine:
        return Cosine(self._saved.columns[COSINE], self.ids)

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

    def _answer(
        self, method: Method, query: NDArray[Any] | int, rows: Rows, *, k: int | None, radius: float | None
    ) -> Answer:
        """`query`: (1, d) codes, or the row of an image, which is not among its own neighbours."""
        # Of all but the query's own row, the first k are among the first k + 1 of all: no rows need be copied.
        own = int(isinstance(query, int) and query in rows)
        count = len(rows) - own
        if not count:
            return Answer(method, ())
        if radius is None:
            k = k or min(DEFAULT_K, count)
            distances, found = _without(query, *self._nearest(method, query, rows, k + own))
            return self._listed(method, distances[:k], found[:k])
        distances, found = _without(query, *self._within(method, query, rows, radius))
        if len(found):
            return self._listed(method, distances[:k], found[:k])
        nearest, _ = _without(query, *self._nearest(method, query, rows, 1 + own))
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

    def _nearest(self, method: Method, query: NDArray[Any] | int, rows: Rows, k: int) -> tuple[NDArray[Any], Rows]:
        """The k nearest of `rows`, which ascend as their ids do: distances, and rows of the collection."""
        if method.kind == "cosine":
            distances, at = self._scorer(rows).search_rows(self._code(query), k)
            return distances[0], rows[at[0]]
        index, bits = self._hamming(method, query, rows)
        if method.kind == "hamming":
            bit_distances, at = index.search_rows(bits, k)
            return bit_distances[0], rows[at[0]]
        two = TwoStage(index, self._scorer(rows), shortlist=max(SHORTLIST, SHORTLIST_FACTOR * k))
        distances, ids = two.search(bits, self._code(query), k)
        return distances[0], rows[np.searchsorted(index.ids, ids[0])]

    def _within(
        self, method: Method, query: NDArray[Any] | int, rows: Rows, radius: float
    ) -> tuple[NDArray[Any], Rows]:
        """As `_nearest`, all within the radius."""
        if method.kind == "cosine":
            distances, found = self._nearest(method, query, rows, len(rows))
            count = int(np.searchsorted(distances, radius, side="right"))
            return distances[:count], found[:count]
        index, bits = self._hamming(method, query, rows)
        [(bit_distances, ids)] = index.range_search(bits, int(radius))
        return bit_distances, rows[np.searchsorted(index.ids, ids)]

    def _hamming(self, method: Method, query: NDArray[Any] | int, rows: Rows) -> tuple[PackedIndex, NDArray[np.uint8]]:
        """An index of `rows`, and the query's bits (1, nbits/8)."""
        hasher = self.made_by["short"]["hasher"] if method.kind == "two-stage" else method.name
        packed = self.packed(hasher)
        bits = packed[query][None] if isinstance(query, int) else pack(self._hashers[hasher].bits(query))
        if len(rows) == len(self):
            return exact(self.ids, packed), bits
        return exact(self.ids[rows], np.ascontiguousarray(packed[rows])), bits

    def _scorer(self, rows: Rows) -> Cosine:
        return self._floats if len(rows) == len(self) else Cosine(self._floats.codes[rows], self.ids[rows])

    def _code(self, query: NDArray[Any] | int) -> NDArray[Any]:
        return self._floats.codes[query][None] if isinstance(query, int) else query


def _without(query: object, distances: NDArray[Any], rows: Rows) -> tuple[NDArray[Any], Rows]:
    """Both without the query's own row, if it is one."""
    kept = rows != query if isinstance(query, int) else slice(None)
    return distances[kept], rows[kept]


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


def exact(ids: NDArray[np.str_], packed: NDArray[np.uint8]) -> PackedIndex:
    """An exact index over rows that are sorted by id, which is not copied."""
    nbits = packed.shape[1] * 8
    return INDEXES["exact"].restored(nbits, {}, State(ids, packed, None, np.arange(len(ids))))
