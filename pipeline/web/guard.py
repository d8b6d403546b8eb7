"""The outermost layer: who may ask, how much may run at once, how fast a body must come, and what headers say.

A web page that a user visits elsewhere must not be able to use this server through the user's browser. Its scripts
could ask it by a name of their own that resolves to 127.0.0.1 (DNS rebinding), which the Host header gives away, or
send it forms and images' addresses (CSRF), which Origin and Sec-Fetch-Site give away.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.base.errors import UserError
from pipeline.web.limits import Limits
from pipeline.web.places import Places, network_of
from pipeline.web.problems import Problem, as_json

_NAME = r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)"
_HOST = re.compile(rf"{_NAME}(?::[0-9]{{1,5}})?", re.IGNORECASE)
_ORIGIN = re.compile(rf"https?://(?P<host>{_NAME}(?::[0-9]{{1,5}})?)", re.IGNORECASE)
# Of a length in bytes; Python reads no number of thousands of digits.
_MOST_DIGITS = 18
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# Of what is answered outside the guard: errors of the server itself.
ERROR_HEADERS = {**SECURITY_HEADERS, "Cache-Control": "no-store"}


@dataclass(frozen=True)
class Hosts:
    """Names that this server answers to. `addresses`: any literal address too, which no rebinding can forge.
    `outside`: those of them that were named, by which browsers reach it on any port, and with any Host from a proxy.
    """

    names: frozenset[str]
    addresses: bool = False
    outside: frozenset[str] = frozenset()

    @classmethod
    def of(cls, host: str, more: Iterable[str] = ()) -> Hosts:
        """For a server that listens at `host`, a name or an address. Raises UserError if one of `more` is neither."""
        outside = [_bracketed(name) for name in more]
        for name in outside:
            if re.fullmatch(_NAME, name, re.IGNORECASE) is None:
                allowed = "a name or an address alone, such as photos.example.org"
                raise UserError(f"--allow-host {name} is not a name of a host", allowed=allowed)
        names = frozenset(map(_plain, (_bracketed(host), *_LOOPBACK, *outside)))
        return cls(names, addresses=host in ("0.0.0.0", "::"), outside=frozenset(map(_plain, outside)))

    def allow(self, header: str) -> bool:
        """Whether a Host header names this server."""
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        name = _plain(match["name"])
        return name in self.names or (self.addresses and _is_address(name.strip("[]")))

    def is_own(self, origin: str, host: str) -> bool:
        """Whether an Origin header is of a page of this server that a request with this Host header came to.

        A page of the same machine at another port is another site, unless --allow-host names the machine.
        """
        match = _ORIGIN.fullmatch(origin)
        if match is None:
            return False
        return match["host"].lower() == host.lower() or _plain(match["name"]) in self.outside


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, hosts: Hosts, limits: Limits) -> None:
        self._app, self._hosts, self._limits = app, hosts, limits
        self._running = Places(limits.requests, limits.requests_each)
        self._uploading = Places(limits.uploads, limits.uploads_each)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        send = _with_headers(send)
        try:
            self._check(scope)
            if scope["method"] == "HEAD":
                await self._ask({**scope, "method": "GET"}, receive, _without_body(send))
            elif scope["method"] == "POST":
                await self._upload(scope, receive, send)
            else:
                await self._ask(scope, receive, send)
        except Problem as e:
            await as_json(e.status, str(e), e.headers)(scope, receive, send)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = self._running.take(_client(scope))
        if place is None:
            raise Problem(503, f"{len(self._running)} requests are being answered already; try again soon", retry_s=1)
        try:
            await self._app(scope, receive, send)
        finally:
            self._running.leave(place)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Uploads have places of their own: those that come slowly keep no search waiting."""
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or len(length) > _MOST_DIGITS or int(length) > self._limits.upload_bytes:
            raise _too_large(self._limits)
        body = _Body(receive, self._limits)
        place = self._uploading.take(_client(scope), may_go=body.may_go, go=body.stop)
        if place is None:
            raise Problem(503, f"{len(self._uploading)} images are being uploaded already; try again soon", retry_s=2)
        try:
            await self._app(scope, body.receive, send)
        finally:
            self._uploading.leave(place)

    def _check(self, scope: Scope) -> None:
        """Raises Problem if a request was not meant for this server, or another site's page made it."""
        headers = Headers(scope=scope)
        size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(n) + len(v) for n, v in headers.raw)
        if size > self._limits.header_bytes:
            raise Problem(431, f"the address and headers have {size:,} bytes of {self._limits.header_bytes:,} allowed")
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._hosts.allow(hosts[0]):
            raise Problem(400, "this server answers to its own address only; see --allow-host of `cnncodes serve`")
        origins = headers.getlist("origin")
        if not all(self._hosts.is_own(origin, hosts[0]) for origin in origins):
            sentence = "a page of another site may not use this server; behind a proxy see --allow-host"
            raise Problem(403, f"{sentence} of `cnncodes serve`")
        # A link from elsewhere may be followed; nothing else may come from there.
        followed = scope["method"] in ("GET", "HEAD") and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not followed:
            raise Problem(403, "a page of another site may not use this server")


class _Body:
    """A body as it comes: `receive` raises Problem where it grows too large or comes too slowly, before the rest of it
    is read.
    """

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()
        self._received, self._last, self._stopped = 0, False, False
        self._waiting: asyncio.Timeout | None = None

    def may_go(self) -> bool:
        """Whether it has had its time, and is still coming."""
        return self._waiting is not None and self._loop.time() - self._started_s > self._limits.upload_patience_s

    def stop(self) -> None:
        """It came too slowly for those who wait for its place."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.reschedule(self._loop.time())

    async def receive(self) -> Message:
        if self._last:
            return await self._receive()  # waits for the end of the connection
        rate_bytes_s = self._limits.upload_rate_bytes_s
        deadline_s = self._started_s + self._limits.upload_grace_s + self._received / rate_bytes_s
        try:
            async with asyncio.timeout_at(deadline_s) as self._waiting:
                message = await self._receive()
        except TimeoutError:
            took_s = self._loop.time() - self._started_s
            others = ", and others wait" if self._stopped else ""
            sentence = f"the upload came too slowly: {self._received:,} bytes in {took_s:.0f} s{others}"
            raise Problem(408, sentence, retry_s=5 if self._stopped else None) from None
        finally:
            self._waiting = None
        self._received += len(message.get("body", b""))
        self._last = not message.get("more_body", False)
        if self._received > self._limits.upload_bytes:
            raise _too_large(self._limits)
        return message


def _too_large(limits: Limits) -> Problem:
    return Problem(413, f"the upload is larger than the {limits.upload_bytes / 1e6:.0f} MB that are allowed")


def _client(scope: Scope) -> str:
    """Whose request it is; behind a proxy that was named, whom that says."""
    return network_of(scope["client"][0]) if scope.get("client") else ""


def _without_body(send: Send) -> Send:
    """The answer to HEAD is that to GET, its length included, without what it holds."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sending


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending


def _bracketed(host: str) -> str:
    """As in an address: ::1 -> [::1]."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
