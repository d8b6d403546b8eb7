"""The collection in force: one generation for each request, the next one as soon as it is there."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.base.errors import UserError
from pipeline.collection import Collection, Where, absent, duplicates
from pipeline.search import kernels
from pipeline.web.problems import Problem, told_as
from pipeline.web.projection import Projection, project
from pipeline.web.workers import Workers

log = logging.getLogger(__name__)

# Names, sorted, and how many images have each.
Counts = tuple[NDArray[np.str_], NDArray[np.int64]]
# The index's folder is looked at this often at most, and a request waits so long for a new generation to be read.
_CHECK_S, _PATIENCE_S = 1.0, 0.5


class Generation:
    """One generation of a collection, and what is worked out from it once, when it is first asked for."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._lock = threading.Lock()
        self._maps: dict[str, Projection] = {}
        self._groups: dict[tuple[str | None, int | None], tuple[list[list[int]], int]] = {}

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """(n,) rows in the order of label, then path: the order of browsing."""
        names = [self.collection.name(row) for row in range(len(self.collection))]
        return np.lexsort((np.array(names, dtype=np.str_), self.collection.labels)).astype(np.int64)

    @cached_property
    def labels(self) -> Counts:
        return np.unique(self.collection.labels, return_counts=True)

    @cached_property
    def splits(self) -> Counts:
        return np.unique(self.collection.splits, return_counts=True)

    def map(self, layer: str, most: int) -> Projection:
        with self._lock:
            if layer not in self._maps:
                self._maps[layer] = project(self.collection.codes(layer), most=most)
            return self._maps[layer]

    def groups(self, method: str | None, radius: int | None) -> tuple[list[list[int]], int]:
        """Groups of near-identical images (rows), and the radius. Raises UserError as `duplicates`."""
        with self._lock:
            key = method, radius
            if key not in self._groups:
                if len(self._groups) >= 8:
                    self._groups.clear()
                self._groups[key] = duplicates(self.collection, radius=radius, method=method)
            return self._groups[key]


class Live:
    """Opens a collection, keeps it current and the network warm. `ready`: the first query will be as fast as any."""

    def __init__(self, folder: Path, where: Where) -> None:
        """`where`: what queries are computed by. Raises UserError as `Collection.open`."""
        self.folder = folder
        self._generation = Generation(Collection.open(folder, where=where))
        self._checked_s = time.monotonic()
        self._looking: asyncio.Task[Generation] | None = None
        self._trouble: Problem | None = None
        self.ready = False

    @property
    def name(self) -> str:
        """What the collection is called."""
        return self.folder.absolute().name

    @property
    def hidden(self) -> dict[str, str]:
        """Folders of this machine, and what stands for them in sentences for clients."""
        paths = {str(self.folder.absolute()): self.name, str(self.folder): self.name}
        roots = self._generation.collection.made_by["roots"]
        return paths | {root: Path(root).name for root in roots}

    async def now(self, workers: Workers) -> Generation:
        """The generation in force; the one before while a large one is being read. Raises Problem if the index is gone
        or broken.
        """
        if self._looking is None and time.monotonic() - self._checked_s > _CHECK_S:
            self._looking = asyncio.create_task(workers.run(self._current))
        looking = self._looking
        if looking is not None and (await asyncio.wait({looking}, timeout=_PATIENCE_S))[0]:
            self._take(looking)
        if self._trouble is not None:
            raise self._trouble
        return self._generation

    def _take(self, done: asyncio.Task[Generation]) -> None:
        """What a look at the folder gave; of several requests that waited for it, the first takes it."""
        if self._looking is not done:
            return
        self._looking, self._checked_s, self._trouble = None, time.monotonic(), None
        try:
            with told_as(503, self.hidden):
                self._generation = done.result()
        except Problem as e:
            self._trouble = e

    def _current(self) -> Generation:
        mine = self._generation
        if mine.collection.is_current():
            return mine
        fresh = Generation(mine.collection.reopened())
        fresh.collection.make_ready()  # the generation before answers meanwhile
        log.info("%s changed: %d images", self.folder, len(fresh.collection))
        return fresh

    def look_for_files(self) -> None:
        """Logs how many images will have no picture, since their file is gone or a link to it leads nowhere."""
        collection = self._generation.collection
        missing = [(path, why) for row in range(len(collection)) if (why := absent(path := collection.file(row)))]
        if missing:
            path, why = missing[0]
            log.warning(
                "%d of %d images have no picture, the first %s: %s; see `cnncodes index verify`",
                len(missing),
                len(collection),
                path,
                why,
            )

    def warm(self) -> None:
        """Loads what a first query would wait for. What can't be loaded is said by the query that needs it."""
        collection = self._generation.collection
        kernels.warm()
        picture = io.BytesIO()
        Image.new("RGB", (64, 64), (128, 128, 128)).save(picture, "PNG")
        try:
            wanted: dict[str, Any] = {"k": 1}
            look = collection.look(picture.getvalue())
            for method in collection.methods if len(collection) else ():
                collection.search(look, method=method, **wanted)
        except UserError as e:
            log.warning("%s", e)
        self.ready = True
