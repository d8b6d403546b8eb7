"""The server: a socket of its own, connections that end if they don't get on, and a clean end by Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.errors import UserError
from pipeline.web.app import create_app
from pipeline.web.guard import Hosts
from pipeline.web.limits import Limits


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError if it can't be had."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"{host!r} is no host of this machine", allowed="an address such as 127.0.0.1") from None
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
    folder: str | Path, *, host: str, names: Iterable[str] = (), limits: Limits | None = None
) -> uvicorn.Server:
    """A server of a collection, not running. `names`: more names that it answers to. Raises UserError."""
    allowed = limits or Limits()

    class Protocol(_PatientProtocol):
        header_s, whole_s, send_s = allowed.header_s, allowed.header_s + allowed.upload_s, allowed.send_s

    return uvicorn.Server(
        uvicorn.Config(
            create_app(folder, hosts=Hosts.of(host, names), limits=allowed),
            http=Protocol,
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=allowed.connections,
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


class _PatientProtocol(H11Protocol):
    """Ends a connection whose request doesn't arrive, its headers in `header_s` and all of it in `whole_s`, or whose
    client doesn't read for `send_s`: an answer that waits would keep its place for ever.
    """

    header_s: float
    whole_s: float
    send_s: float
    _unread: asyncio.TimerHandle | None = None
    _phase: Any = None
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._set_deadline(None)
        if self._unread is not None:
            self._unread.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.send_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def _watch(self) -> None:
        """Starts the clock anew when a request begins or its headers are there, and stops it when all of it is."""
        phase = self.conn.their_state
        if phase is not self._phase:
            self._phase = phase
            self._set_deadline({h11.IDLE: self.header_s, h11.SEND_BODY: self.whole_s}.get(phase))

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.close)
