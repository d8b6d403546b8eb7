"""No one keeps the others out: places by address, and what holds one to no end makes way."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from pipeline.base.errors import UserError
from pipeline.collection import Collection
from pipeline.web.places import Places, network_of
from pipeline.web.protocol import networks
from tests.web.conftest import client_of, running
from tests.web.test_api import png

pytestmark = pytest.mark.network

HEAD = b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 9999999\r\n\r\n"


def test_one_address_has_its_share_and_no_more() -> None:
    places = Places(4, 2)
    mine = [places.take("me") for _ in range(3)]
    assert mine[1] is not None and mine[2] is None
    assert places.take("you") and places.take("her") and places.take("him") is None
    places.leave(mine[1])
    places.leave(mine[1])  # twice is once
    assert len(places) == 3 and places.take("him") is not None
    assert all(Places(4, 2).take("a proxy", shared=True) for _ in range(4))


def test_the_oldest_that_can_makes_way_of_the_address_that_has_most() -> None:
    gone: list[str] = []
    idle = {"a1": True, "a2": True, "b1": True}

    def take(places: Places, name: str) -> object:
        return places.take(name[0], may_go=lambda: idle.get(name, False), go=lambda: gone.append(name))

    places = Places(4, 3)
    assert all(take(places, name) for name in ("b1", "a0", "a1", "a2"))
    assert take(places, "c1") and gone == ["a1"]
    assert take(places, "d1") and gone == ["a1", "a2"]
    assert take(places, "e1") and gone == ["a1", "a2", "b1"]
    idle.clear()
    assert take(places, "f1") is None and len(places) == 4


@pytest.mark.parametrize(
    ("address", "one"),
    [
        ("10.0.0.7", "10.0.0.7"), ("::ffff:10.0.0.7", "10.0.0.7"), ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::9", "2001:db8::/64"), ("fe80::1%eth0", "fe80::/64"), ("testclient", "testclient"),
    ],
)  # fmt: skip
def test_who_counts_as_one(address: str, one: str) -> None:
    assert network_of(address) == one


@pytest.mark.parametrize("text", ["localhost", "10.0.0.1/8", "", "*", "127.0.0.1:80"])
def test_a_proxy_is_an_address_or_a_network(text: str) -> None:
    with pytest.raises(UserError, match=r"--proxy: .*; allowed: the address of a proxy"):
        networks([text])
    assert str(networks(["127.0.0.1", "10.0.0.0/8"])[1]) == "10.0.0.0/8"


@contextmanager
def sockets(base: str, count: int, *, source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    where = (urlsplit(base).hostname, urlsplit(base).port)
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(where, timeout=20, source_address=(source, 0)))
            for _ in range(count)
        ]


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_hundreds_of_idle_sockets_keep_out_nobody(built: Path, source: str) -> None:
    """405 of them, some with headers that don't end, from the client's own address or another."""
    with running(built / "my.index") as base, sockets(base, 405, source=source) as idle:
        for one in idle[::2]:
            one.send(b"GET / HTTP/1.1\r\nX: ")
        started_s = time.monotonic()
        for _ in range(5):
            assert httpx.get(f"{base}/api/status", timeout=20).status_code == 200
        assert time.monotonic() - started_s < 3


def test_idle_sockets_of_many_addresses_keep_out_nobody(built: Path) -> None:
    with running(built / "my.index") as base, ExitStack() as stack:
        for i in range(2, 7):
            stack.enter_context(sockets(base, 90, source=f"127.0.0.{i}"))
        started_s = time.monotonic()
        assert httpx.get(f"{base}/api/status", timeout=20).status_code == 200
        assert time.monotonic() - started_s < 3


def test_slow_uploads_of_one_address_keep_out_nobody_else(built: Path) -> None:
    with running(built / "my.index", upload_grace_s=60.0) as base, sockets(base, 12, source="127.0.0.2") as slow:
        for one in slow:
            one.sendall(HEAD + b"\x89")
        for one in slow[6:]:  # those beyond its share
            assert b" 503 " in one.recv(4096)
        assert httpx.post(f"{base}/api/search", files={"image": png(6)}, timeout=20).status_code == 200


def test_slow_uploads_make_way_wherever_they_come_from(built: Path) -> None:
    with (
        running(built / "my.index", upload_grace_s=60.0, upload_patience_s=0.5, uploads_each=12) as base,
        sockets(base, 12) as slow,
    ):
        for one in slow:
            one.sendall(HEAD + b"\x89")
        answers = []
        started_s = time.monotonic()
        while time.monotonic() - started_s < 10 and 200 not in answers:
            answers.append(httpx.post(f"{base}/api/search", files={"image": png(6)}, timeout=20).status_code)
            time.sleep(0.05)
        assert answers[0] == 503 and answers[-1] == 200 and time.monotonic() - started_s < 3
        answer = slow[0].recv(4096)
        assert b" 408 " in answer and b"others wait" in answer and b"retry-after" in answer
        slow[1].sendall(b"x")  # the others go on


@pytest.mark.parametrize("trusted", [True, False])
def test_whom_a_proxy_names_counts_if_the_proxy_was_named(built: Path, trusted: bool) -> None:
    """Six slow uploads of one guest; what another sends comes by the same proxy."""

    def head(guest: str) -> bytes:
        return HEAD.replace(b"\r\n\r\n", f"\r\nX-Forwarded-For: 6.6.6.6, {guest}\r\n\r\n".encode())

    proxies = ("127.0.0.1",) if trusted else ()
    limits = {"upload_grace_s": 60.0, "uploads": 4, "uploads_each": 2, "connections_each": 8}
    with running(built / "my.index", proxies=proxies, **limits) as base, sockets(base, 2) as slow:
        for one in slow:
            one.sendall(head("10.1.1.1"))
        time.sleep(0.1)
        for guest, status in (("10.1.1.1", 503), ("10.2.2.2", 200 if trusted else 503)):
            forged = {"x-forwarded-for": f"9.9.9.9, {guest}"}  # what a guest claims stands before what the proxy saw
            answer = httpx.post(f"{base}/api/search", files={"image": png(6)}, headers=forged, timeout=20)
            assert answer.status_code == status, guest
        with sockets(base, 10) as many:  # more than one address may have
            many[-1].sendall(b"GET /api/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b" 200 " in many[-1].recv(100)


def test_a_body_without_end_ends_when_it_is_answered(built: Path) -> None:
    """Chunks for ever, to a page that takes no body, and to an upload that is refused early."""
    with running(built / "my.index", linger_s=0.3) as base, sockets(base, 2) as (page, upload):
        chunked = b"Host: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\nabcde\r\n" * 3
        page.sendall(b"GET /api/status HTTP/1.1\r\n" + chunked)
        upload.sendall(b"POST /api/search HTTP/1.1\r\nContent-Type: text/html\r\n" + chunked)
        for one, status in ((page, b" 200 "), (upload, b" 415 ")):
            assert status in one.recv(100)
            started_s = time.monotonic()
            while one.recv(1 << 16):
                assert time.monotonic() - started_s < 5


def test_an_early_answer_reaches_who_is_still_sending(built: Path) -> None:
    """To close a connection with bytes unread would reset it, and a proxy would tell of a fault of the server."""
    head = b"POST /api/search HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: text/html\r\nContent-Length: 4000000\r\n\r\n"
    with running(built / "my.index") as base, sockets(base, 1) as (one,):
        one.sendall(head + bytes(4_000_000))
        time.sleep(0.1)
        got = b""
        while more := one.recv(1 << 16):
            got += more
        assert b" 415 " in got and got.endswith(b"}")


# ---- what an upload is kept as


def test_the_same_picture_has_another_id_each_time(built: Path) -> None:
    """An id of the content would tell whoever has a picture whether somebody searched it."""
    with client_of(built / "my.index") as found:
        one, other = (found.post("/api/search", files={"image": png(3)}).json()["query"]["id"] for _ in range(2))
        assert one != other and len(one) == 33
        for kept in (one, other):
            again = found.get("/api/search", params={"image": kept})
            assert again.status_code == 200 and again.json()["query"]["id"] == kept
            assert found.get(f"/api/images/{kept}/picture").status_code == 200


def large(width: int, height: int, *, form: str = "JPEG", orientation: int = 1) -> bytes:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (height // 100, width // 100, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    noise.resize((width, height), Image.Resampling.BICUBIC).save(out, form, exif=exif, method=0)
    return out.getvalue()


def test_large_jpegs_are_read_at_a_reduced_size_and_others_refused(built: Path) -> None:
    """The bound is lowered to keep the test quick; above it codes hardly differ, below it not at all."""
    data = large(4600, 4400, orientation=6)
    with client_of(built / "my.index") as whole, client_of(built / "my.index", whole_pixels=10_000_000) as reduced:
        exact, near = (
            c.post("/api/search", files={"image": data}, params={"k": 12, "method": "cosine"}).json()
            for c in (whole, reduced)
        )
        assert (exact["query"]["reduced"], near["query"]["reduced"]) == (False, True)
        for query in (exact["query"], near["query"]):
            assert (query["width"], query["height"]) == (4400, 4600)
        distances = [{n["id"]: n["distance"] for n in found["neighbours"]} for found in (exact, near)]
        assert all(abs(distances[0][i] - distances[1][i]) < 0.01 for i in distances[0])
        refused = reduced.post("/api/search", files={"image": large(4600, 4400, form="WEBP")})
        assert refused.status_code == 413 and "10 megapixels are allowed, 50 of a JPEG" in refused.json()["error"]


@pytest.mark.parametrize(("form", "mode"), [("JPEG", "RGB"), ("PNG", "RGBA"), ("PNG", "I;16"), ("GIF", "P")])
def test_codes_of_an_upload_are_those_of_the_image(built: Path, form: str, mode: str) -> None:
    """It is decoded once, for its pictures and the network."""
    pixels = np.random.default_rng(5).integers(0, 256, (70, 90, 4), dtype=np.uint8)
    image = Image.fromarray(pixels) if mode == "RGBA" else Image.fromarray(pixels[..., :3]).convert(mode)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    out = io.BytesIO()
    image.save(out, form)
    photos = Collection.open(built / "my.index")
    wanted = [(n.id, n.distance) for n in photos.search(out.getvalue(), method="cosine").neighbours]
    with client_of(built / "my.index") as found:
        answer = found.post("/api/search", files={"image": out.getvalue()}, params={"method": "cosine"}).json()
        assert [(n["id"], n["distance"]) for n in answer["neighbours"]] == wanted
