"""`cnncodes serve`."""

from __future__ import annotations

import ipaddress
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from pipeline.base import front
from pipeline.base.errors import UserError
from pipeline.cli.computing import SameDevice, SamePrecision
from pipeline.cli.output import MemoryOption, say
from pipeline.cli.shown import Command


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command(cls=Command)(serve)


def serve(
    folder: Annotated[Path, typer.Argument(help="A folder made by `cnncodes index`.")],
    host: Annotated[str, typer.Option(help="Address to listen at; any but 127.0.0.1 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name by which browsers reach it, on any port; repeat for more, none if not given."),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="A proxy in front of it, whose X-Forwarded-For says who asks; repeat for more, none if not given.",
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    upload_mb: Annotated[int, typer.Option(min=1, max=1000, help="The largest image that may be sent.")] = 20,
    max_megapixels: Annotated[int, typer.Option(min=1, max=89, help="The most pixels it may have.")] = 50,
    device: SameDevice = None,
    precision: SamePrecision = None,
    memory_mb: MemoryOption = None,
) -> None:
    """Search an index in the browser: a page and a JSON API, on this machine alone unless told otherwise."""
    try:
        from pipeline.web import server
    except ModuleNotFoundError as e:
        raise UserError(
            f"the page needs {e.name}, which is not installed", allowed="pip install 'cnn-codes[web]'"
        ) from e
    from pipeline.config import MEMORY_MB
    from pipeline.web.limits import Limits

    limits = Limits(
        upload_bytes=upload_mb * 1_000_000, pixels=max_megapixels * 1_000_000, memory_mb=memory_mb or MEMORY_MB
    )
    listening = server.bind(host, port)  # first, since it takes no time
    made = server.make_server(
        folder,
        host=host,
        names=allow_host or (),
        proxies=proxy or (),
        limits=limits,
        device=device,
        precision=precision,
    )
    if not _is_loopback(host):
        say(f"warning: whoever can reach {host} can see the images of {folder} and send others", err=True)

    def ready(address: str) -> None:
        say(f"{folder} is at {address} (Ctrl-C ends it)")
        if open_page:
            webbrowser.open(address)

    # All is closed when this returns; only the network may still be loading, or work for nobody. No file is written.
    front.end_at_once()
    server.serve(made, listening, ready)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
