"""Connections: how many there may be, and when one ends that doesn't get on."""

from __future__ import annotations

import asyncio
import http
import ipaddress
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.base.errors import UserError
from pipeline.web.guard import ERROR_HEADERS
from pipeline.web.limits import Limits
from pipeline.web.places import Place, Places, network_of

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(proxies: Iterable[str]) -> list[Subnet]:
    """Addresses and networks from text. Raises UserError for what is none."""
    try:
        return [ipaddress.ip_network(text) for text in proxies]
    except ValueError as e:
        allowed = "the address of a proxy, such as 127.0.0.1, or a network, such as 10.0.0.0/24"
        raise UserError(f"--proxy: {e}", allowed=allowed) from None


def protocol(limits: Limits, proxies: Sequence[Subnet]) -> type[H11Protocol]:
    """A class of connections that share their places. `proxies`: addresses that stand for many clients."""

    class Limited(_Limited):
        pass

    Limited.limits, Limited.proxies = limits, proxies
    Limited.places = Places(limits.connections, limits.connections_each)
    return Limited


class _Limited(H11Protocol):
    """Ends a connection whose request doesn't arrive, its headers in `header_s` and all of it in the time that the
    largest upload may take, or whose client doesn't read for `send_s`: an answer that waits would keep its place for
    ever. Idle ones make way where all places are taken.
    """

    limits: Limits
    proxies: Sequence[Subnet]
    places: Places
    _real: asyncio.Transport
    _ending = False
    _place: Place | None = None
    _unread: asyncio.TimerHandle | None = None
    _phase: Any = None
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._real = transport
        super().connection_made(cast(asyncio.Transport, _Lingering(transport, self._end)))
        peer = self.client[0] if self.client else ""
        shared = _is_in(peer, self.proxies)
        self._place = self.places.take(network_of(peer), may_go=self._is_idle, go=transport.abort, shared=shared)
        if self._place is None:
            self._refuse(503, "too many connections are open already; try again soon")
            transport.close()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()
        if self.conn.their_state is h11.SEND_BODY:  # of a request that was answered before all of it was there
            self._set_deadline(self.limits.linger_s)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._set_deadline(None)
        if self._place is not None:
            self.places.leave(self._place)
        if self._unread is not None:
            self._unread.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.send_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def send_400_response(self, msg: str) -> None:
        """Of what is no HTTP; as every answer, it has the headers that browsers heed."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an answer is under way, into which no other can be written
        else:
            self._refuse(400, "this is not an HTTP request that is understood here")

    def _refuse(self, status: int, sentence: str) -> None:
        body = json.dumps({"error": sentence}).encode()
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        lines = [f"{name}: {value}" for name, value in (fields | ERROR_HEADERS).items()]
        head = "\r\n".join([f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", *lines, "", ""])
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _end(self) -> None:
        """Closes the connection, when the client has sent what it is sending, or `linger_s` later."""
        if self._ending or self.conn.their_state not in (h11.SEND_BODY, h11.ERROR):
            self._real.close()
            return
        self._ending = True
        self.flow.resume_reading()
        self._set_deadline(self.limits.linger_s)
        if not self._real.is_closing():
            self._real.write_eof()

    def _is_idle(self) -> bool:
        """Whether no request is under way, but for its headers."""
        answered = self.cycle is None or self.cycle.response_complete
        return self._ending or (answered and self.conn.their_state is h11.IDLE)

    def _watch(self) -> None:
        """Starts the clock again when a request begins or its headers are there, and stops it when all of it is."""
        phase = self.conn.their_state
        if phase is not self._phase:
            self._phase = phase
            whole_s = self.limits.header_s + self.limits.upload_s
            self._set_deadline({h11.IDLE: self.limits.header_s, h11.SEND_BODY: whole_s}.get(phase))

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._real.close)


class _Lingering:
    """A transport that is closed by `close`. To close one whose client is still sending resets the connection, and the
    answer is lost with it: a browser, or a proxy, would tell of a fault instead.
    """

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _is_in(address: str, some: Sequence[Subnet]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in some)
