"""The JSON API. Each request is answered from one generation of the collection, whatever happens to it meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from pipeline.base.errors import UserError
from pipeline.collection import Collection
from pipeline.data.room import Room
from pipeline.web import answers, questions
from pipeline.web.limits import Limits
from pipeline.web.live import Generation, Live
from pipeline.web.pictures import MEDIA_TYPE, Pictures, Size, etag
from pipeline.web.problems import Problem, told_as
from pipeline.web.uploads import FIELD, Upload, Uploads, read_image, take
from pipeline.web.workers import Workers

_LISTED_LABELS = 500


@dataclass(frozen=True)
class Service:
    """What the routes share. `network`: one image at a time. `slow`: what is worked out once for a generation. `room`:
    the memory of all images that are decoded or in the network.
    """

    live: Live
    limits: Limits
    room: Room
    pictures: Pictures
    uploads: Uploads
    network: Workers
    search: Workers
    render: Workers
    slow: Workers

    @classmethod
    def of(cls, live: Live, limits: Limits, room: Room) -> Service:
        return cls(
            live,
            limits,
            room,
            Pictures(limits.picture_cache_bytes, room),
            Uploads(limits.kept_queries),
            network=Workers("the network", threads=1, waiting=limits.uploads),
            search=Workers("a search", threads=2, waiting=limits.requests),
            render=Workers("pictures", threads=2, waiting=limits.requests),
            slow=Workers("the map and duplicates", threads=1, waiting=8),
        )

    def close(self) -> None:
        for workers in (self.network, self.search, self.render, self.slow):
            workers.close()

    async def now(self) -> Generation:
        return await self.live.now(self.search)


def _wanted(
    *,
    k: Annotated[int | None, Query(description="neighbours at most; 12 if not given")] = None,
    radius: Annotated[float | None, Query(description="only images within this distance")] = None,
    method: Annotated[str | None, Query(description="one of the collection's methods")] = None,
    layer: Annotated[str | None, Query(description="one of the method's layers")] = None,
    label: Annotated[str | None, Query(description="only images with this label")] = None,
    split: Annotated[str | None, Query(description="only images of this split")] = None,
    exact: Annotated[bool, Query(description="compare every image, though the index is approximate")] = False,
) -> questions.Wanted:
    return questions.Wanted(k, radius, method, layer, label, split, exact)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Shared = Annotated[Service, Depends(_service)]
Asked = Annotated[questions.Wanted, Depends(_wanted)]
ErrorSpec = dict[int | str, dict[str, Any]]
_BUSY: ErrorSpec = {503: {"model": answers.ErrorAnswer, "description": "too busy, or the index is gone"}}
_UNKNOWN: ErrorSpec = {404: {"model": answers.ErrorAnswer, "description": "no such image or page"}}
_WRONG: ErrorSpec = {422: {"model": answers.ErrorAnswer, "description": "a value that is not allowed"}}
_UPLOAD_ERRORS: ErrorSpec = _WRONG | {
    400: {"model": answers.ErrorAnswer, "description": "a form without the image"},
    408: {"model": answers.ErrorAnswer, "description": "the upload came too slowly"},
    413: {"model": answers.ErrorAnswer, "description": "too many bytes or pixels"},
    415: {"model": answers.ErrorAnswer, "description": "no image of a known format"},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                    "required": [FIELD],
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
router = APIRouter(prefix="/api", responses=_BUSY)


@router.get("/status")
async def status(service: Shared) -> answers.StatusAnswer:
    """Whether the network is loaded, and whether the index changed."""
    collection = (await service.now()).collection
    return answers.StatusAnswer(ready=service.live.ready, images=len(collection), fingerprint=collection.fingerprint)


@router.get("/collection")
async def about(service: Shared) -> answers.CollectionAnswer:
    """What can be asked: methods, their layers, labels, splits, limits."""
    generation = await service.now()
    collection = generation.collection
    labels, more = answers.counts(*await service.search.run(lambda: generation.labels), _LISTED_LABELS)
    splits, _ = answers.counts(*await service.search.run(lambda: generation.splits), _LISTED_LABELS)
    weights = collection.made_by["weights"]
    return answers.CollectionAnswer(
        name=service.live.name,
        images=len(collection),
        fingerprint=collection.fingerprint,
        ready=service.live.ready,
        network=weights["arch"],
        methods=[answers.method(m) for m in collection.methods.values()],
        index=answers.index(collection),
        labels=labels,
        splits=splits,
        more_labels=more,
        largest_k=min(service.limits.results, len(collection)),
        largest_upload_bytes=service.limits.upload_bytes,
        largest_upload_pixels=service.limits.pixels,
    )


@router.get("/images", responses=_UNKNOWN | _WRONG)
async def images(
    service: Shared,
    page: Annotated[int, Query(ge=1)] = 1,
    size: Annotated[int, Query(ge=1, description="images a page")] = 60,
    label: str | None = None,
    split: str | None = None,
) -> answers.PageAnswer:
    """The collection page by page, in the order of label, then name."""
    if size > service.limits.page_images:
        raise Problem(422, f"{size} images a page; allowed: 1 to {service.limits.page_images}")
    generation = await service.now()
    with told_as(422, service.live.hidden):
        return await service.search.run(questions.page_of, generation, page, size, label, split)


@router.get("/images/random", responses=_UNKNOWN)
async def random(service: Shared) -> answers.ImageAnswer:
    """Some image."""
    collection = (await service.now()).collection
    with told_as(404, service.live.hidden):
        return answers.image(collection, collection.row(collection.random()))


@router.get("/images/{image_id}", responses=_UNKNOWN)
async def image(service: Shared, image_id: str) -> answers.ImageAnswer:
    """What is known of an image."""
    collection = (await service.now()).collection
    return answers.image(collection, _row(collection, image_id))


@router.get(
    "/images/{image_id}/picture", response_class=Response, responses=_UNKNOWN | {200: {"content": {MEDIA_TYPE: {}}}}
)
async def picture(service: Shared, request: Request, image_id: str, size: Size = "tile") -> Response:
    """An image of the collection, or an upload, made again as a small JPEG."""
    collection = (await service.now()).collection
    headers = {"Cache-Control": "private, max-age=3600"}
    if image_id.startswith("q"):
        return Response(
            service.uploads.get(image_id, collection).pictures[size], headers=headers, media_type=MEDIA_TYPE
        )
    row = _row(collection, image_id)
    headers["ETag"] = etag(collection.digest(row), size)
    if headers["ETag"] in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    made = await service.render.run(service.pictures.of, collection, row, size)
    return Response(made, headers=headers, media_type=MEDIA_TYPE)


@router.get("/search", responses=_UNKNOWN | _WRONG)
async def search(
    service: Shared,
    wanted: Asked,
    image: Annotated[str, Query(description="an id of the collection, or of a search by upload")],
) -> answers.SearchAnswer:
    """The neighbours of an image of the collection (itself left out), or of one that was uploaded before."""
    collection = (await service.now()).collection
    query: int | Upload
    query = service.uploads.get(image, collection) if image.startswith("q") else _row(collection, image)
    with told_as(422, service.live.hidden):
        return await service.search.run(questions.search, collection, query, wanted, service.limits.results)


@router.post("/search", responses=_UPLOAD_ERRORS, openapi_extra=_BODY)
async def search_upload(service: Shared, wanted: Asked, request: Request) -> answers.SearchAnswer:
    """The neighbours of an image that is sent; what is kept of it for further searches is codes and a small picture."""
    generation = await service.now()
    collection = generation.collection
    with told_as(422, service.live.hidden):  # before the image is read
        questions.options(collection, wanted, service.limits.results)
    data = await read_image(request)
    upload = await service.network.run(
        take, data, collection, limits=service.limits, room=service.room, hidden=service.live.hidden
    )
    service.uploads.keep(upload)
    with told_as(422, service.live.hidden):
        found = await service.search.run(questions.search, collection, upload, wanted, service.limits.results)
    found.network_ms = 1000 * upload.network_s if upload.network_s else None
    return found


@router.get("/map", responses=_WRONG)
async def plane(service: Shared, layer: str | None = None) -> answers.MapAnswer:
    """The collection in two dimensions: the first two principal components of its float codes."""
    generation = await service.now()
    return await service.slow.run(questions.plane, generation, layer, service.limits.map_images)


@router.get("/duplicates", responses=_WRONG)
async def groups(service: Shared, method: str | None = None, radius: int | None = None) -> answers.DuplicatesAnswer:
    """Groups of near-identical images: pairs within a Hamming radius, joined."""
    generation = await service.now()
    with told_as(422, service.live.hidden):
        return await service.slow.run(questions.groups, generation, method, radius)


def _row(collection: Collection, image_id: str) -> int:
    try:
        return collection.row(image_id)
    except UserError:
        raise Problem(404, f"no image of this collection has the id {image_id[:60]!r}") from None
