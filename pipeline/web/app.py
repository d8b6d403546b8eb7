"""The application: routes, pages, static files, errors, and the guard around them all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from pipeline.collection import Where
from pipeline.data.room import Room
from pipeline.web import api, pictures
from pipeline.web.guard import ERROR_HEADERS, Guard, Hosts
from pipeline.web.limits import Limits
from pipeline.web.live import Live
from pipeline.web.problems import Problem, as_json

_templates = Environment(
    loader=PackageLoader("pipeline.web"), autoescape=select_autoescape(default=True), trim_blocks=True
)


def create_app(
    folder: str | Path,
    *,
    hosts: Hosts | None = None,
    limits: Limits | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> FastAPI:
    """The page and API of a collection; `hosts` are the names that it answers to, those of this machine if None.
    `device`, `precision`: of the network, as in `collection.Where`.

    Raises UserError as `Collection.open`.
    """
    limits = limits or Limits()
    room = Room(limits.memory_mb)
    live = Live(Path(folder), Where(room, device, precision))
    service = api.Service.of(live, limits, room)
    pictures.forbid_bombs()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(service.network.run(live.warm))
        # A thread of its own, which no end waits for: a slow mount may take minutes.
        threading.Thread(target=live.look_for_files, daemon=True).start()
        yield
        warming.cancel()
        service.close()

    app = FastAPI(
        title=f"{live.name}: search by image",
        description='Neighbours of images by their CNN codes. Errors are {"error": one sentence}.',
        version="1",
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page loads scripts of other hosts
        redoc_url=None,
        # Below any path of a proxy: seen from openapi.json, and no redirects, which would name host and path.
        servers=[{"url": ".."}],
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(api.router)
    app.mount("/static", StaticFiles(packages=[("pipeline.web", "static")]))
    _add_pages(app, live)
    _add_errors(app)
    app.add_middleware(Guard, hosts=hosts or Hosts.of("127.0.0.1"), limits=limits)
    return app


def _add_pages(app: FastAPI, live: Live) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page(request: Request) -> str:
        return _templates.get_template("page.html").render(name=live.name, root=_root(request))

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs(request: Request) -> str:
        return _templates.get_template("docs.html").render(name=live.name, root=_root(request))


def _root(request: Request) -> str:
    """The way from the page that is asked for to the first one, wherever a proxy puts them: /a/b -> ../"""
    path: bytes = request.scope["raw_path"]  # as the browser counts: %2F is no step
    return "../" * (path.count(b"/") - 1) or "./"


def _add_errors(app: FastAPI) -> None:
    def told(request: Request, status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
        if "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/"):
            template = _templates.get_template("error.html")
            page = template.render(status=status, sentence=sentence, root=_root(request))
            return HTMLResponse(page, status, headers=headers)
        return as_json(status, sentence, headers)

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return told(request, error.status, str(error), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        parts = [f"{e['loc'][-1]}: {e['msg'].lower()}" for e in error.errors()]
        return told(request, 422, "; ".join(parts))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        sentences = {404: "there is nothing at this address", 405: "this address does not take that method"}
        return told(request, error.status_code, sentences.get(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        # Starlette answers these outside the guard.
        return told(request, 500, "something went wrong here; the server's own log says what", ERROR_HEADERS)
