"""The answers of the JSON API, as typed records: what /api/openapi.json says of them is what they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from pipeline.collection import Answer, Collection, Method


class MethodAnswer(BaseModel):
    name: str
    kind: str
    layers: list[str] = Field(description="codes that it can be asked on, its own first choice first")
    unit: str = Field(description="what its distances count")
    largest_radius: float | None = Field(description="null where it takes no radius")
    bytes_per_image: int
    index: str = Field(description="kind of the index that finds its nearest bits; exact where every image is compared")


class IndexAnswer(BaseModel):
    kind: str = Field(description="of the index of the short code")
    exact: bool = Field(description="whether it finds all true neighbours")
    recall_at_10: float | None = Field(description="what it finds of the 10 nearest; null if nobody has measured it")


class CountAnswer(BaseModel):
    name: str = Field(description="'' for images that have none")
    images: int


class CollectionAnswer(BaseModel):
    name: str
    images: int
    fingerprint: str = Field(description="changes with the index")
    ready: bool = Field(description="whether the network is loaded")
    network: str
    methods: list[MethodAnswer] = Field(description="the default one first")
    index: IndexAnswer
    labels: list[CountAnswer] = Field(description="the most frequent ones where there are many, in order of name")
    splits: list[CountAnswer]
    more_labels: int = Field(description="labels that are not listed")
    largest_k: int
    largest_upload_bytes: int
    largest_upload_pixels: int


class StatusAnswer(BaseModel):
    ready: bool
    images: int
    fingerprint: str


class ImageAnswer(BaseModel):
    id: str
    name: str = Field(description="its path below the folder that was indexed")
    label: str
    split: str


class PageAnswer(BaseModel):
    page: int
    pages: int
    total: int
    images: list[ImageAnswer]


class NeighbourAnswer(ImageAnswer):
    rank: int
    distance: float = Field(description="in the method's unit")
    shown: str = Field(description="the distance as people read it")


class QueryAnswer(BaseModel):
    id: str = Field(description="of the collection, or of an upload that is kept for a while")
    uploaded: bool
    name: str
    label: str
    width: int | None = Field(description="of an upload, in pixels")
    height: int | None
    reduced: bool = Field(
        default=False,
        description="a very large JPEG was decoded at 1/2, 1/4 or 1/8, so that distances may differ a little",
    )


class SearchAnswer(BaseModel):
    query: QueryAnswer
    method: str
    layer: str
    index: str = Field(description="kind of the index that answered: exact if every image was compared")
    unit: str
    images: int = Field(description="of the collection, at the time of the search")
    neighbours: list[NeighbourAnswer] = Field(description="in the order of (distance, id)")
    nearest: str | None = Field(description="the distance of the nearest image, where the radius left out all")
    network_ms: float | None = Field(description="null where the query's codes were there already")
    search_ms: float


class PointAnswer(ImageAnswer):
    x: float
    y: float


class MapAnswer(BaseModel):
    layer: str
    images: int = Field(description="of the collection; a random part of them is on the map where they are many")
    explained: tuple[float, float] = Field(description="share of the variance along x and y")
    points: list[PointAnswer]


class DuplicatesAnswer(BaseModel):
    method: str
    radius: int
    groups: int
    images: int = Field(description="in all groups")
    listed: list[list[ImageAnswer]] = Field(description="the first images of the largest groups, the largest first")
    sizes: list[int] = Field(description="images in each group that is listed")


class ErrorAnswer(BaseModel):
    error: str = Field(description="one sentence")


def image(collection: Collection, row: int) -> ImageAnswer:
    return ImageAnswer(
        id=str(collection.ids[row]),
        name=collection.name(row),
        label=str(collection.labels[row]),
        split=str(collection.splits[row]),
    )


def neighbours(collection: Collection, answer: Answer) -> list[NeighbourAnswer]:
    return [
        NeighbourAnswer(
            **image(collection, collection.row(n.id)).model_dump(),
            rank=n.rank,
            distance=n.distance,
            shown=answer.method.format(n.distance),
        )
        for n in answer.neighbours
    ]


def method(one: Method) -> MethodAnswer:
    largest = {"hamming": float(one.nbits), "cosine": 2.0, "two-stage": None}[one.kind]
    return MethodAnswer(
        name=one.name,
        kind=one.kind,
        layers=list(one.layers),
        unit=one.unit,
        largest_radius=largest,
        bytes_per_image=one.bytes_per_image,
        index=one.index,
    )


def index(collection: Collection) -> IndexAnswer:
    kind, exact = collection.index
    recall = 1.0 if exact else collection.made_by.get("recall", {}).get("recall_at_10")
    return IndexAnswer(kind=kind, exact=exact, recall_at_10=recall)


def counts(names: NDArray[np.str_], times: NDArray[np.int64], most: int) -> tuple[list[CountAnswer], int]:
    """The `most` most frequent names in their order, and how many more there are."""
    kept = np.sort(np.argsort(-times, kind="stable")[:most])
    return [CountAnswer(name=str(names[i]), images=int(times[i])) for i in kept], len(names) - len(kept)
