"""A guest's tour: what a scanner tries on a server that listens for others (`--host 0.0.0.0`), byte by byte.

Whatever is sent, no answer is a fault of the server (500), shows a path of this machine or lacks the headers that
browsers heed, and the next guest is served.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from pipeline.web.guard import SECURITY_HEADERS
from tests.web.conftest import running
from tests.web.test_api import png

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # requests and headers

GONE = (
    "/.git/config", "/.git/HEAD", "/.env", "/.DS_Store", "/.dvc/config", "/wp-login.php", "/wp-admin/", "/phpmyadmin/",
    "/admin", "/login", "/server-status", "/actuator/env", "/cgi-bin/test.cgi", "/robots.txt", "/favicon.ico",
    "/.well-known/security.txt", "/api", "/api/", "/api/v1/users", "/graphql", "/redoc", "/openapi.json",
    "/my.index/current.json", "/current.json", "/params.yaml", "//etc/passwd", "///etc/passwd", "/etc/passwd",
    "/static/", "/static", "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py",
    "/static/%2e%2e%2f%2e%2e%2fapp.py", "/static/..%5capp.py", "/static/....//app.py", "/static//etc/passwd",
    "/static/%2fetc%2fpasswd", "/static/page.css%00.js", "/static/%00", "/static/%ff%fe", "/static/" + "a" * 3000,
    "/static/" + "../" * 40 + "etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..;/admin", "/docs/../../etc/passwd",
    "/docs%00", "/%c0%ae%c0%ae/etc/passwd", "/\x7f", "/api/images/..%2f..%2fetc%2fpasswd",
    "/api/images/../../etc/passwd", "/api/images/%2fetc%2fpasswd/picture", "/api/images/q/picture",
    "/api/images/q%00/picture", "/api/images/" + "q" * 3000 + "/picture", "/api/images/%F0%9F%90%95/picture",
    "/api/images/%ED%A0%80", "/api/images/*", "/api/images/-1", "/api/images/'%20OR%201=1--",
    "/api/images/%7B%7B7*7%7D%7D", "/api/search?image=q", "/api/search?image=../../etc/passwd", "/api/search?image=",
    "/api/search?image=%00", "/api/images?page=99999999999999999999",
)  # fmt: skip
WRONG = (
    "/api/search", "/api/search?image=ID&radius=nan", "/api/search?image=ID&radius=inf",
    "/api/search?image=ID&radius=-inf", "/api/search?image=ID&radius=-1", "/api/search?image=ID&radius=1e999",
    "/api/search?image=ID&k=0", "/api/search?image=ID&k=-5", "/api/search?image=ID&k=1e9", "/api/search?image=ID&k=",
    "/api/search?image=ID&k=" + "9" * 5000, "/api/search?image=ID&k=NaN", "/api/search?image=ID&k=%D9%A3%00",
    "/api/search?image=ID&method=__class__", "/api/search?image=ID&method=%2e%2e", "/api/search?image=ID&layer=../x",
    "/api/search?image=ID&label=%ff%fe", "/api/search?image=ID&label=" + "x" * 4000, "/api/search?image=ID&split=%00",
    "/api/images?page=0", "/api/images?page=-1",
    "/api/images?page=" + "9" * 5000, "/api/images?size=1000000", "/api/images?size=0",
    "/api/images?label=%F0%9F%90%95",
    "/api/map?layer=/etc/passwd", "/api/duplicates?radius=-1", "/api/duplicates?radius=99999999999999999999",
    "/api/duplicates?radius=nan", "/api/duplicates?method=x", "/api/images/ID/picture?size=../../etc/passwd",
)  # fmt: skip
FINE = (
    "/", "/?page=%ff", "/?" + "a=b&" * 2000, "/docs", "/api/openapi.json", "/api/status", "/api/collection",
    "/api/images?page=2&page=1",
    "/api/search?image=ID&method=topk&radius=0.1e-400000000",
    "/api/images/ID", "/api/images/ID/picture", "/api/images/random?seed=x",
    "/api/search?image=ID&__proto__[x]=1&constructor=2", "/api/search?image=ID&image=ID", "/api/duplicates", "/api/map",
)  # fmt: skip
HOST = "Host: 10.0.0.7:8000"
UPLOAD = b"POST /api/search HTTP/1.1\r\nHost: 10.0.0.7\r\nConnection: close\r\n"
FORM = UPLOAD + b"Content-Type: multipart/form-data; boundary=b\r\n"


def sized(head: bytes, body: bytes) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def part(name: str, body: bytes = b"x") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + body + b"\r\n"


def get(path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    head = [f"{method} {path} HTTP/{version}", *(lines or (HOST,)), "Connection: close", "", ""]
    return "\r\n".join(head).encode("latin-1")


# What is sent -> the statuses that may come back; 0 where the connection just ends.
TOUR: dict[str, tuple[bytes, set[int]]] = {
    **{f"GET {p[:60]}": (get(p), {404, 422, 400}) for p in GONE},
    **{f"GET {p[:60]}": (get(p), {422, 400, 404}) for p in WRONG},
    **{f"GET {p[:60]}": (get(p), {200}) for p in FINE},
    **{f"HEAD {p[:60]}": (get(p, method="HEAD"), {200}) for p in FINE},
    **{
        f"{m} {p}": (get(p, method=m), {405, 404, 400, 403})
        for m in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "DEBUG", "get", "X" * 500)
        for p in ("/", "/api/search", "/static/page.css")
    },
    "POST to a page": (sized(UPLOAD.replace(b"/api/search", b"/"), b"x"), {405}),
    "POST without a body": (UPLOAD + b"\r\n", {415}),
    "an address in full": (get("http://10.0.0.7/api/status"), {200, 404}),
    "another's address in full": (get("http://evil.example/api/status"), {404, 400}),
    "asterisk": (get("*", method="OPTIONS"), {405, 404, 400}),
    "no slash": (get("api/status"), {404, 400}),
    "a fragment": (get("/#/../etc"), {404, 400}),
    "a control character": (get("/a\x01b"), {400, 404}),
    "a byte beyond ASCII": (get("/\xe9"), {400, 404}),
    "HTTP/0.9": (b"GET /\r\n\r\n", {400}),
    "HTTP/1.0 without Host": (b"GET / HTTP/1.0\r\n\r\n", {400}),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "HTTP/9.9": (get("/", version="9.9"), {200}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", {400, 0}),
    "two Hosts": (get("/", HOST, "Host: evil.example"), {400}),
    "no Host": (get("/", "X: y"), {400}),
    "another Host": (get("/", "Host: evil.example"), {400}),
    "a Host with a path": (get("/", "Host: 10.0.0.7/evil"), {400}),
    "a Host with a user": (get("/", "Host: 10.0.0.7@evil.example"), {400}),
    "a Host that is a rebinding name": (get("/", "Host: 10.0.0.7.nip.io"), {400}),
    "a Host in hexadecimal": (get("/", "Host: 0x0a000007"), {400}),
    "forwarded": (get("/api/status", HOST, "X-Forwarded-Host: evil.example", "X-Forwarded-For: ;",
                      'Forwarded: for="_x"', "X-Original-URL: /admin", "X-Rewrite-URL: /admin",
                      "X-HTTP-Method-Override: DELETE"), {200}),
    "another site's page": (get("/api/status", HOST, "Origin: http://evil.example"), {403}),
    "CORS preflight": (get("/api/search", HOST, "Origin: http://evil.example", "Access-Control-Request-Method: POST",
                           method="OPTIONS"), {403}),
    "WebSocket": (get("/", HOST, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), {200, 400}),
    "h2c": (get("/", HOST, "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), {200}),
    "ranges": (get("/static/page.css", HOST, "Range: bytes=0-9"), {206}),
    "a thousand ranges": (get("/static/page.css", HOST, "Range: bytes=" + ",".join(f"{i}-" for i in range(1000))),
                          {200, 206, 400, 416}),
    "a range of nothing": (get("/static/page.css", HOST, "Range: bytes=99999999-"), {416}),
    "a range that is none": (get("/static/page.css", HOST, "Range: bytes=-" + "9" * 5000), {200, 206, 400, 416}),
    "a range of a picture": (get("/api/images/ID/picture", HOST, "Range: bytes=5-1"), {200, 416}),
    "an odd date": (get("/static/page.css", HOST, "If-Modified-Since: " + "9" * 400), {200, 400}),
    "an odd ETag": (get("/api/images/ID/picture", HOST, 'If-None-Match: W/"\xff", *, ' + '"' * 300), {200, 304}),
    "huge headers": (get("/", HOST, *(f"X-{i}: {'y' * 100}" for i in range(300))), {400, 431}),
    "a huge address": (get("/" + "a" * 20_000), {400, 414, 431}),
    "a header in two lines": (get("/", HOST, "X: a", " b"), {200, 400}),
    "a space before the colon": (get("/", HOST, "Transfer-Encoding : chunked"), {400}),
    "two lengths": (UPLOAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", {400}),
    "length and chunks": (UPLOAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400, 415}),
    "a negative length": (UPLOAD + b"Content-Length: -1\r\n\r\n", {400}),
    "a length with a sign": (UPLOAD + b"Content-Length: +1\r\n\r\nx", {400}),
    "a length in other digits": (UPLOAD + "Content-Length: ٣\r\n\r\nxxx".encode(), {400}),
    "a length of a terabyte": (UPLOAD + b"Content-Length: 1000000000000\r\n\r\n", {413}),
    "a length of thousands of digits": (UPLOAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", {413, 400}),
    "chunks of a huge size": (UPLOAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFF\r\n", {400, 415}),
    "chunks that are none": (UPLOAD + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n", {400, 415, 0}),
    "gzip, chunked": (UPLOAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "a compressed body": (sized(UPLOAD + b"Content-Encoding: gzip\r\nContent-Type: image/png\r\n", b"\x1f\x8b"), {415}),
    "many parts": (sized(FORM, b"".join(part(f"n{i}") for i in range(5000)) + b"--b--\r\n"), {400}),
    "a huge name of a part": (sized(FORM, part("n" * 200_000) + b"--b--\r\n"), {400}),
    "a huge field": (sized(FORM, part("image", b"x" * 3_000_000) + b"--b--\r\n"), {400}),
    "many headers of a part": (sized(FORM, b"--b\r\n" + b"X: y\r\n" * 50_000 + b"\r\nx\r\n--b--\r\n"), {400}),
    "no end of a form": (sized(FORM, part("image")), {400}),
    "many boundaries": (sized(FORM, b"--b\r\n" * 100_000), {400}),
    "a boundary of 64 kB": (sized(FORM.replace(b"=b", b"=" + b"b" * 9_000), b"x"), {400}),
    "JSON nested deep": (sized(UPLOAD + b"Content-Type: application/json\r\n", b"[" * 200_000), {415}),
    "an entity bomb": (sized(UPLOAD + b"Content-Type: image/svg+xml\r\n", b"<!DOCTYPE x [<!ENTITY a 'b'>]>"), {415}),
    "an upload for odd options": (sized(FORM.replace(b"/api/search", b"/api/search?radius=nan&k=-1"), b""), {422}),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(built: Path) -> Iterator[str]:
    with running(built / "my.index", host="0.0.0.0") as found:
        yield found


@pytest.fixture(scope="module")
def own(base: str) -> str:
    return str(httpx.get(f"{base}/api/images").json()["images"][0]["id"])


def sent(base: str, data: bytes) -> bytes:
    """All that comes back until the server ends the connection."""
    where = (urlsplit(base).hostname, urlsplit(base).port)
    with closing(socket.create_connection(where, timeout=20)) as one:
        got = b""
        try:
            one.sendall(data)
            one.shutdown(socket.SHUT_WR) if b"\r\n\r\n" not in data else None
            while more := one.recv(1 << 16):
                got += more
        except (ConnectionResetError, BrokenPipeError):
            pass  # the server has said what it had to, and reads no further
    return got


@pytest.mark.parametrize("what", TOUR)
def test_the_tour(base: str, own: str, built: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    data, statuses = TOUR[what]
    got = sent(base, data.replace(b"ID", own.encode()) if b"/ID" in data or b"=ID" in data else data)
    head, _, body = got.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1]) if head else 0
    assert status in statuses, got[:300]
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
    if not head:
        return
    headers = {line.split(b":")[0].decode().lower() for line in head.split(b"\r\n")[1:]}
    assert {name.lower() for name in SECURITY_HEADERS} <= headers
    assert not headers & {"server", "access-control-allow-origin", "location", "set-cookie", "x-powered-by"}
    text = got.decode("latin-1")
    assert not re.search(r"Traceback|site-packages|\.py\b|root:x:0", text) and str(built.parent) not in text
    if status >= 400 and body and b"json" in head:
        (length,) = re.findall(rb"content-length: (\d+)", head.lower())
        assert set(json.loads(body[: int(length)])) == {"error"}


def test_after_the_tour_the_next_guest_is_served(base: str) -> None:
    assert httpx.post(f"{base}/api/search", files={"image": png(4)}, timeout=20).status_code == 200


def test_a_fault_of_the_server_has_the_headers_and_tells_nothing(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.web import questions

    def fail(*_: object) -> None:
        raise RuntimeError(f"{built}/secret")

    monkeypatch.setattr(questions, "page_of", fail)
    with running(built / "my.index") as found:
        answer = httpx.get(f"{found}/api/images")
        assert answer.status_code == 500 and "secret" not in answer.text
        assert {name.lower() for name in SECURITY_HEADERS} <= set(answer.headers.keys())
