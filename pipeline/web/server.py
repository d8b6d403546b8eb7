"""The server: a socket of its own, and a clean end by Ctrl-C."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

import uvicorn

from pipeline.base.errors import UserError
from pipeline.web.app import create_app
from pipeline.web.guard import Hosts
from pipeline.web.limits import Limits
from pipeline.web.protocol import networks, protocol


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError if it can't be had."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"{host!r} is not a host of this machine", allowed="an address such as 127.0.0.1") from None
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as e:
        listening.close()
        if e.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} of {host} is in use", allowed="another --port, or 0 for any") from None
        raise UserError(f"can't listen on port {port} of {host}: {e.strerror or e}") from None
    return listening


def address(listening: socket.socket) -> str:
    """http://127.0.0.1:8000/, as a user opens it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def make_server(
    folder: str | Path,
    *,
    host: str,
    names: Iterable[str] = (),
    proxies: Iterable[str] = (),
    limits: Limits | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> uvicorn.Server:
    """A server of a collection, not running. `names`: more names that it answers to. `proxies`: addresses or networks
    of proxies in front of it, whose X-Forwarded-For says who asks; that of others is not looked at. `device`,
    `precision`: as of `create_app`. Raises UserError.
    """
    allowed, trusted = limits or Limits(), networks(proxies)
    return uvicorn.Server(
        uvicorn.Config(
            create_app(folder, hosts=Hosts.of(host, names), limits=allowed, device=device, precision=precision),
            http=protocol(allowed, trusted),
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=bool(trusted),
            forwarded_allow_ips=list(map(str, trusted)),
            h11_max_incomplete_event_size=allowed.header_bytes,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
        )
    )


def serve(server: uvicorn.Server, listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Runs until a signal, and raises it as KeyboardInterrupt when all is closed.

    `ready` is called with the address, at which connections wait from then on.
    """
    ready(address(listening))
    with listening:
        server.run([listening])
