"""A searchable collection: everything that a query needs, in one folder.

    my.index/weights/<sha256>.safetensors   the network, written once
    my.index/current.json, gen-.../         the index with its columns and hashers (index/save.py)

What is opened is one generation, all of it in memory; changes by others show in the next `open`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.codes.settings import Settings
from pipeline.collection.encode import codes_column, hasher_from
from pipeline.collection.find import Finder, Query, RowNumbers
from pipeline.collection.methods import Method, choose, methods_of
from pipeline.collection.network import QueryNetwork, Where
from pipeline.collection.stated import require_whole
from pipeline.data.spelling import spelled
from pipeline.hashing.base import Hasher
from pipeline.search import save
from pipeline.search.base import require_k, require_rows

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
    radius left out, if it left out all. `index`: the kind that found them; exact unless the index of the short codes.
    """

    method: Method
    neighbours: tuple[Neighbour, ...]
    nearest: float | None = None
    index: str = "exact"


@dataclass(frozen=True)
class Look:
    """What a search needs of an image, and nothing else of it: the sha256 of its bytes, and its codes by spec, each
    (1, d); none where an image of the collection has the same bytes.
    """

    sha256: str
    codes: Mapping[str, NDArray[Any]] | None


class Collection:
    """An open index. Searches may come from several threads; images are embedded one query at a time."""

    def __init__(self, folder: Path, saved: save.Saved, fingerprint: str, network: QueryNetwork) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.made_by = saved.made_by
        self.methods: dict[str, Method] = methods_of(saved.made_by, saved.index.name)
        self._saved = saved
        self._network = network

    @classmethod
    def open(cls, folder: str | Path, *, where: Where | None = None) -> Collection:
        """`where`: what queries are computed by.

        Raises UserError if it is no collection, cut short, changed by other hands or of another version, and if
        `where` names a device or precision that is not here.
        """
        folder = Path(folder)
        # Looked up first: if it changes before the load, `is_current` says so and nothing is missed.
        fingerprint = save.info(folder)["fingerprint"]
        saved = load(folder)
        return cls(folder, saved, fingerprint, QueryNetwork(folder, saved.made_by, where or Where()))

    def reopened(self) -> Collection:
        """The generation that is in force now, with this one's network where the same made its codes."""
        fresh = Collection.open(self.folder, where=self._network.where)
        shared = self._network if self._network.serves(fresh.made_by) else fresh._network
        return Collection(self.folder, fresh._saved, fresh.fingerprint, shared)

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

    @property
    def index(self) -> tuple[str, bool]:
        """The kind of the short code's index, and whether it finds all true neighbours."""
        return self._saved.index.name, self._saved.index.can.exact

    def row(self, image_id: str) -> int:
        """Raises UserError if no image has that id."""
        at = int(np.searchsorted(self.ids, image_id))
        if at == len(self) or self.ids[at] != image_id:
            raise UserError(f"no image of {self.folder} has the id {image_id!r}", see="`cnncodes search --json`")
        return at

    def file(self, row: int) -> Path:
        """Where the image was when it was indexed."""
        return self.root(row) / self.name(row)

    def root(self, row: int) -> Path:
        """The folder of images that it was found in."""
        return Path(self.made_by["roots"][self._saved.columns["root"][row]])

    def name(self, row: int) -> str:
        """Its path below `root`."""
        return str(self._saved.columns["path"][row])

    def digest(self, row: int) -> str:
        """sha256 of the image's file when it was indexed."""
        return str(self._saved.columns["sha256"][row])

    def random(self, seed: int | None = None) -> str:
        """The id of some image, the same for the same seed. Raises UserError if there is none."""
        require_rows(len(self))
        return str(self.ids[np.random.default_rng(seed).integers(len(self))])

    @property
    def settings(self) -> Settings:
        """How images became the codes of the first layer; what comes before the network is the same for all."""
        return Settings.from_json(self.made_by["codes"][self.made_by["layers"][0]]["settings"])

    def make_ready(self) -> None:
        """Builds what the index of the short codes answers by, for which the first search that asks it would wait."""
        _ = self._saved.index.state.backend

    def is_current(self) -> bool:
        """Whether the folder still holds what was opened."""
        return bool(save.info(self.folder)["fingerprint"] == self.fingerprint)

    def search(
        self,
        image: str | Path | bytes | Look,
        *,
        k: int | None = None,
        radius: float | None = None,
        method: str | None = None,
        layer: str | None = None,
        label: str | None = None,
        split: str | None = None,
        exact: bool = False,
    ) -> Answer:
        """Neighbours of an image file, of its bytes, or of what `look` made of it; one of the collection comes first.

        k: neighbours at most, 12 if None, with a radius all that are within it. radius: only images within it, itself
        included. layer: of the method's; its own if None. label, split: only images that have it. exact: by comparing
        all images, though the index is approximate; a search within a radius, and one among selected images, are exact
        anyway. Raises UserError if the image can't be read, or as `Index`.
        """
        chosen = choose(self.methods, method, layer)
        rows = self.select(label, split)
        self._check(chosen, k, radius)  # before the network works for nothing
        query = self._query(image if isinstance(image, Look) else self.look(image))
        return self._answer(chosen, query, rows, k=k, radius=radius, exact=exact)

    def search_id(
        self,
        image_id: str,
        *,
        k: int | None = None,
        radius: float | None = None,
        method: str | None = None,
        layer: str | None = None,
        label: str | None = None,
        split: str | None = None,
        exact: bool = False,
    ) -> Answer:
        """As `search`, from an image of the collection, which is not among its own neighbours. Needs no network."""
        chosen = choose(self.methods, method, layer)
        own = self.row(image_id)
        rows = self.select(label, split)
        self._check(chosen, k, radius)
        return self._answer(chosen, Query(row=own, left_out=own), rows, k=k, radius=radius, exact=exact)

    def look(self, image: str | Path | bytes, *, shown: bytes | None = None) -> Look:
        """What any search needs of an image file or its bytes, by one pass of the network, or none for an image whose
        bytes are in the collection. `shown`: a file with the image's pixels, which goes through the network in its
        place. Raises UserError if it can't be read.
        """
        try:
            data = image if isinstance(image, bytes) else Path(image).read_bytes()
        except OSError:
            return Look("", self.embed(image))  # which says what is wrong with it
        digest = hashlib.sha256(data).hexdigest()
        return Look(digest, None if self._row_of(digest) >= 0 else self.embed(shown or image))

    def embed(self, image: str | Path | bytes) -> dict[str, NDArray[Any]]:
        """Codes of an image by spec, each (1, d), of all layers that the index knows. Raises UserError if it can't be
        read.
        """
        return self._network.embed(image)

    def codes(self, spec: str) -> NDArray[Any]:
        """(n, d) float codes of one of the layers that were kept, in the order of ids."""
        return self._saved.columns[codes_column(spec)]

    def packed(self, name: str) -> NDArray[np.uint8]:
        """(n, nbits/8) bits of a Hamming method, in the order of ids."""
        if name == self.made_by["short"]["hasher"]:
            return self._saved.index.packed
        return self._saved.columns[name]

    def check_parts(self) -> None:
        """Raises UserError unless network and hashers are those that made the codes."""
        _ = self._network.weights, self._hashers

    @cached_property
    def _hashers(self) -> Mapping[str, Hasher]:
        about = {self.made_by["short"]["hasher"]: self.made_by["short"], **self.made_by["long"]}
        return {n: hasher_from(self._saved.files[f"{n}.h5"], a["fingerprint"], n) for n, a in about.items()}

    @cached_property
    def _finder(self) -> Finder:
        short = self.made_by["short"]["hasher"]
        spec_of = {short: self.made_by["short"]["spec"]} | {n: a["spec"] for n, a in self.made_by["long"].items()}
        packed = {name: self.packed(name) for name in spec_of}
        codes = {spec: self.codes(spec) for spec in self.made_by["layers"]}
        return Finder(self.ids, codes, packed, spec_of, short, self._saved.index, lambda name: self._hashers[name])

    def select(self, label: str | None = None, split: str | None = None) -> RowNumbers:
        """Rows that have the label and the split, ascending. Raises UserError if none has."""
        kept = np.ones(len(self), bool)
        for name, wanted, values in (("label", label, self.labels), ("split", split, self.splits)):
            if wanted is not None:
                kept &= np.isin(values, [wanted, spelled(wanted)])
                if not kept.any():
                    raise UserError(f"no image has the {name} {wanted!r}", allowed=np.unique(values)[:20].tolist())
        return np.flatnonzero(kept)

    def _check(self, method: Method, k: int | None, radius: float | None) -> None:
        require_rows(len(self))
        if k is not None:
            require_k(k)
        if radius is not None:
            method.check_radius(radius)

    def _answer(
        self, method: Method, query: Query, rows: RowNumbers, *, k: int | None, radius: float | None, exact: bool
    ) -> Answer:
        index = self._finder.kind(method, rows, radius, scan=exact)
        # Of all rows but one, the first k are among the first k + 1 of all: no rows need be copied.
        extra = int(query.left_out in rows)
        count = len(rows) - extra
        if not count:
            return Answer(method, (), index=index)
        if radius is None:
            k = min(k or DEFAULT_K, count)
            distances, found = query.answers(*self._finder.nearest(method, query, rows, k + extra, scan=exact))
            return self._listed(method, distances[:k], found[:k], index)
        distances, found = query.answers(*self._finder.within(method, query, rows, radius, scan=exact))
        if len(found):
            return self._listed(method, distances[:k], found[:k], index)
        nearest, _ = query.answers(*self._finder.nearest(method, query, rows, 1 + extra, scan=True))
        return Answer(method, (), nearest=nearest[0].item(), index=index)

    def _listed(self, method: Method, distances: NDArray[Any], rows: RowNumbers, index: str) -> Answer:
        return Answer(
            method,
            index=index,
            neighbours=tuple(
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

    def _query(self, look: Look) -> Query:
        """Raises UserError if the image was one of the collection and no longer is."""
        row = self._row_of(look.sha256)
        if row >= 0:
            return Query(row=row)
        if look.codes is None:
            raise UserError("the image has left the collection", allowed="the image itself, to look at it again")
        return Query(look.codes)

    def _row_of(self, digest: str) -> int:
        """The first row of an image with the same bytes, -1 if there is none: its codes are here, without a network."""
        row = int(np.searchsorted(self.ids, digest[:16]))
        while digest and row < len(self) and str(self.ids[row]).startswith(digest[:16]):
            if self.digest(row) == digest:
                return row
            row += 1
        return -1


def load(folder: Path) -> save.Saved:
    """A collection's index. Raises UserError as `Collection.open`."""
    saved = save.load(folder)
    require_whole(folder, saved)
    return saved
