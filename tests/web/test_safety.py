"""What the server must not do, whatever is sent to it."""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image, TiffImagePlugin

from pipeline.base.errors import UserError
from pipeline.codes.embedder import ImagesError
from pipeline.collection import Collection
from pipeline.data.room import Room
from pipeline.web.guard import Hosts
from pipeline.web.pictures import Pictures
from pipeline.web.server import bind
from tests import jpeg2000_files
from tests.codes.conftest import draw
from tests.web.conftest import client_of, running
from tests.web.test_api import png

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # connections, uploads and memory


def png_claiming(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gif_claiming(width: int, height: int) -> bytes:
    image = io.BytesIO()
    Image.new("P", (2, 2)).save(image, "GIF")
    data = bytearray(image.getvalue())
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def tiff_claiming(side: int) -> bytes:
    image = io.BytesIO()
    Image.new("L", (3, 5)).save(image, "TIFF")
    return (
        image.getvalue()
        .replace(struct.pack("<HHII", 256, 4, 1, 3), struct.pack("<HHII", 256, 4, 1, side))
        .replace(struct.pack("<HHII", 257, 4, 1, 5), struct.pack("<HHII", 257, 4, 1, side))
    )


def jpeg_of_many_scans() -> bytes:
    image = io.BytesIO()
    Image.new("RGB", (64, 64)).save(image, "JPEG", progressive=True)
    data = image.getvalue()
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * 200 + b"\xff\xd9"


def jpeg2000_of_many_planes() -> bytes:
    """A few kilobytes, that took six seconds to decode: just below what a folder's own may have."""
    return jpeg2000_files.blocks_of_passes(3500, 3500, data=bytes(8))


def raw() -> bytes:
    """A camera's file whose first picture is a thumbnail."""
    out = io.BytesIO()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0xC612] = b"\1\4\0\0"  # DNGVersion
    Image.new("RGB", (16, 12)).save(out, "TIFF", tiffinfo=tags)
    return out.getvalue()


def motion_photo() -> bytes:
    """A JPEG, a video with all markers of a JPEG many times, and what phones append."""
    out = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(out, "JPEG")
    return out.getvalue() + b"\0\0\0\x18ftypmp42" + b"\xff\xda\xff\xd8\xff\xd9\xff\xc4" * 5000 + b"SEFT"


def polyglot() -> bytes:
    """A page that starts like a GIF."""
    return b"GIF89a/*<html><script>alert(1)</script>*/=1;"


@pytest.mark.parametrize(
    ("make", "status", "sentence"),
    [
        (lambda: png_claiming(50_000, 50_000), 413, "50 megapixels are allowed"),
        (lambda: png_claiming(9_500, 9_500, zlib.compress(bytes(1 << 24))), 413, "50 megapixels"),  # Pillow only warns
        (lambda: png_claiming(4_000, 4_000, zlib.compress(bytes(100))), 422, "can't be read"),
        (lambda: png_claiming(7_000, 7_000, zlib.compress(bytes(100))), 413, "24 megapixels are allowed, 50 of a JPEG"),
        (lambda: gif_claiming(65_535, 65_535), 413, "50 megapixels"),
        (lambda: tiff_claiming(60_000), 413, "50 megapixels"),
        (jpeg_of_many_scans, 422, "more than 64 scans"),
        (jpeg2000_of_many_planes, 413, "too much work: a JPEG 2000 of"),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", 415, "not an image of a format"),
        (lambda: b"%PDF-1.7 ...", 415, "not an image"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "not an image"),
        (lambda: b"<!doctype html><script>alert(1)</script>", 415, "not an image"),
        (polyglot, 415, "not an image"),
        (raw, 415, "RAW, which is not read"),
        (lambda: b"", 415, "empty file"),
        (lambda: png(1)[:300], 422, "can't be read"),
        (lambda: png(1)[:12], 415, "cut off"),
        (lambda: b"\x00\x00\x00\x18ftypheic" + bytes(40), (415, 422), "HEIC|read"),
    ],
)
def test_uploads_that_are_refused(
    client: TestClient, make: Callable[[], bytes], status: int | tuple[int, int], sentence: str
) -> None:
    started_s = time.monotonic()
    answer = client.post("/api/search", files={"image": ("x.png", make(), "image/png")})
    assert answer.status_code in (status if isinstance(status, tuple) else (status,))
    assert any(part in answer.json()["error"] for part in sentence.split("|"))
    assert time.monotonic() - started_s < 10
    assert client.post("/api/search", files={"image": png(2)}).status_code == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"a=1", "application/x-www-form-urlencoded", 415),
        (b"{}", "application/json", 415),
        (b"x", "", 415),
        (b"x", "text/html", 415),
        (b"nonsense", "multipart/form-data", 400),
        (b"nonsense", "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="other"; filename="x"\r\n\r\n1\r\n--b--\r\n',
         "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\ntext\r\n--b--\r\n',
         "multipart/form-data; boundary=b", 400),
    ],
)  # fmt: skip
def test_bodies_that_are_no_upload(client: TestClient, body: bytes, kind: str, status: int) -> None:
    answer = client.post("/api/search", content=body, headers={"content-type": kind})
    assert answer.status_code == status and set(answer.json()) == {"error"}


def test_a_motion_photo_is_taken(client: TestClient) -> None:
    assert client.post("/api/search", files={"image": ("x.jpg", motion_photo(), "image/jpeg")}).status_code == 200


@pytest.mark.parametrize("name", ["../../etc/passwd", "%2e%2e/%2e%2e/x", "a\\..\\b", "x" * 4000, "<img src=x>", ".."])
def test_a_file_name_means_nothing(client: TestClient, name: str) -> None:
    answer = client.post("/api/search", files={"image": (name, png(3), "image/png")})
    assert answer.status_code == 200 and name not in answer.text


def test_too_many_bytes(built: Path) -> None:
    with client_of(built / "my.index", upload_bytes=100_000) as small:
        for sent in ({"content": bytes(200_000)}, {"content": iter([bytes(60_000)] * 100)}):  # the second has no length
            answer = small.post("/api/search", headers={"content-type": "image/png"}, **sent)  # type: ignore[arg-type]
            assert answer.status_code == 413 and "0 MB that are allowed" in answer.json()["error"]
        assert small.post("/api/search", files={"image": png(4)}).status_code == 200


def test_an_image_that_needs_too_much_memory(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(side: int) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (side, side)).save(out, "PNG")
        return out.getvalue()

    with client_of(built / "my.index", memory_mb=32) as small:
        answer = small.post("/api/search", files={"image": of(2000)})
        assert answer.status_code == 413 and "needs 39 MB of memory" in answer.json()["error"]
        assert small.post("/api/search", files={"image": of(500)}).status_code == 200

        def refuse(*_: object, **__: object) -> None:
            raise ImagesError("1 of 1 images", ["400 x 400 pixels: needs more"])

        # One that can be decoded and needs too much in the network is no fault of the server.
        monkeypatch.setattr(Collection, "look", refuse)
        answer = small.post("/api/search", files={"image": of(400)})
        assert answer.status_code == 422 and "400 x 400 pixels: needs more" in answer.json()["error"]


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True), ("127.0.0.1:8000", True), ("localhost:1", True), ("LOCALHOST.", True),
        ("[::1]:8000", True), ("evil.example", False), ("127.0.0.1.evil.example", False), ("", False),
        ("localhost.evil.example", False), ("127.0.0.1@evil.example", False), ("127.0.0.1:80:80", False),
        ("10.0.0.1", False), ("a/b", False),
    ],
)  # fmt: skip
def test_hosts(client: TestClient, host: str, allowed: bool) -> None:
    assert client.get("/api/status", headers={"host": host}).status_code == (200 if allowed else 400)


def test_hosts_of_a_server_for_others() -> None:
    hosts = Hosts.of("0.0.0.0", ["photos.example"])
    assert all(map(hosts.allow, ("10.0.0.7:80", "photos.example", "[fe80::1]:80", "localhost")))
    assert not any(map(hosts.allow, ("evil.example", "10.0.0.7.evil.example", "999.1.1.1")))


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"origin": "http://127.0.0.1"}, True),
        ({"origin": "http://127.0.0.1:3000"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, False),
    ],
)
def test_other_sites(client: TestClient, headers: dict[str, str], allowed: bool) -> None:
    expected = 200 if allowed else 403
    assert client.get("/api/images", headers=headers).status_code == expected
    assert client.post("/api/search", files={"image": png(3)}, headers=headers).status_code == expected


def test_a_link_from_elsewhere_may_be_followed(client: TestClient) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    assert client.get("/", headers=headers).status_code == 200
    assert client.post("/api/search", files={"image": png(3)}, headers=headers).status_code == 403


def test_every_answer_has_the_headers(client: TestClient) -> None:
    for path, headers in (
        ("/", {}),
        ("/api/status", {}),
        ("/nowhere", {}),
        ("/static/app.js", {}),
        ("/", {"host": "evil"}),
    ):
        answer = client.get(path, headers=headers)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers


def test_pictures_have_no_metadata_and_an_etag(world: Path) -> None:
    photos = Collection.open(world / "my.index")
    with client_of(world / "my.index") as found:
        address = f"/api/images/{photos.ids[0]}/picture"
        first = found.get(address)
        assert first.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(first.content)) as image:
            assert max(image.size) <= 256 and not image.getexif() and "exif" not in image.info
        again = found.get(address, headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 304 and again.content == b""
        assert found.get(address + "?size=large").headers["etag"] != first.headers["etag"]


def test_only_what_was_indexed_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Links are followed to what was indexed; other content, pipes and devices are not opened up to a client."""
    from pipeline import collection
    from tests.web.conftest import SMALL

    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    photos, store = tmp_path / "photos", tmp_path / "store"
    for i in range(7):
        draw(store / "deep" / f"{i}.png", i)
    photos.mkdir()
    for i in range(5):  # as DVC lays out a folder with links
        (photos / f"{i}.png").symlink_to(store / "deep" / f"{i}.png")
    (photos / "folder").symlink_to(store / "deep")
    shutil.copy(store / "deep" / "6.png", photos / "6.png")
    collection.build(photos, tmp_path / "my.index", **SMALL, dataset={"follow_links": True})
    opened = Collection.open(tmp_path / "my.index")
    row_of = {opened.name(row): row for row in range(len(opened))}

    def link(name: str, target: str | Path) -> None:
        (photos / name).unlink()
        (photos / name).symlink_to(target)

    link("1.png", "/etc/passwd")
    link("2.png", "/dev/zero")
    link("3.png", store / "deep" / "4.png")  # another one that was indexed
    (store / "deep" / "4.png").unlink()
    (photos / "6.png").unlink()
    os.mkfifo(photos / "6.png")
    none = '{"error":"this image has no picture"}'  # whatever the reason, which says what files there are
    with client_of(tmp_path / "my.index") as found:
        for name, sentence in {
            "0.png": "",
            "folder/5.png": "",
            "1.png": none,
            "2.png": none,
            "3.png": none,
            "4.png": none,
            "folder/4.png": none,
            "6.png": none,
        }.items():
            answer = found.get(f"/api/images/{opened.ids[row_of[name]]}/picture")
            assert answer.status_code == (404 if sentence else 200), name
            assert not sentence or answer.text == sentence
    problems = collection.verify(tmp_path / "my.index")
    assert len(problems) == 5
    assert any(f"4.png: a link to {store}/deep/4.png: no such file or directory; see" in p for p in problems)
    assert any(f"{photos}/6.png: no file any more" in p for p in problems)
    assert len(collection.verify(tmp_path / "my.index", files=True)) == 6
    assert "5 of 13 images have no picture, the first " in caplog.text
    assert len(collection.remove(tmp_path / "my.index", missing=True)) == 5
    assert len(collection.verify(tmp_path / "my.index")) == 0


def test_pictures_are_kept_in_bounded_memory(built: Path) -> None:
    photos = Collection.open(built / "my.index")
    one = len(Pictures(1 << 20, Room()).of(photos, 0, "tile"))
    few = Pictures(3 * one, Room())
    for row in range(len(photos)):
        few.of(photos, row, "tile")
        assert few.bytes <= 3 * one
    assert few.bytes > 0


def many_uploads(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    with client_of(folder, kept_queries=20) as found:
        assert isinstance(found, TestClient)
        for i in range(count):
            pixels = rng.integers(0, 256, (1, 2, 3), dtype=np.uint8)
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "BMP")
            answer = found.post(
                "/api/search", files={"image": data.getvalue() if i % 3 else b"GIF89a"}, params={"k": 1}
            )
            assert answer.status_code in (200, 415, 422), answer.text
        assert len(found.app.state.service.uploads) <= 20  # type: ignore[attr-defined]
        assert found.get("/api/images").status_code == 200


def test_many_small_uploads(built: Path) -> None:
    many_uploads(built / "my.index", 150)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here, which tells the memory in use")
def test_thousands_of_small_uploads(built: Path) -> None:
    def held_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    many_uploads(built / "my.index", 300)
    before = held_bytes()
    many_uploads(built / "my.index", 2000)
    assert held_bytes() - before < 32 << 20


def connect(base: str) -> socket.socket:
    parts = urlsplit(base)
    assert parts.hostname and parts.port
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def test_slow_and_broken_clients_harm_no_one(built: Path) -> None:
    """Uploads of a byte a second and headers that never end, while another client searches and uploads."""
    own = str(Collection.open(built / "my.index").ids[0])
    head = b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 9999\r\n\r\n"
    with running(built / "my.index", uploads=4, header_s=2.0, upload_grace_s=1.0) as base:
        slow = [connect(base) for _ in range(3)]
        endless = [connect(base) for _ in range(20)]
        broken = connect(base)
        for one in slow:
            one.sendall(head + b"\x89")
        for one in endless:
            one.sendall(b"GET / HTTP/1.1\r\nX: ")
        broken.sendall(head + b"half")
        broken.close()
        began_s = time.monotonic()
        with httpx.Client(base_url=base, timeout=20) as other:
            while time.monotonic() - began_s < 1.0:
                assert other.get("/api/search", params={"image": own}).status_code == 200
                for one in slow:
                    one.sendall(b"x")
            assert other.post("/api/search", files={"image": png(6)}).status_code == 200
            answer = slow[0].recv(4096)
            assert b" 408 " in answer and b"came too slowly" in answer
            for one in endless:
                assert one.recv(100) == b""  # ended by the server
            assert other.get("/api/status").status_code == 200
        for one in (*slow, *endless):
            one.close()


def test_clients_that_do_not_read_lose_their_places(built: Path) -> None:
    ask = b"GET /static/page.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with running(built / "my.index", requests=2, send_s=0.5) as base:
        deaf = [connect(base) for _ in range(2)]
        for one in deaf:
            one.sendall(ask * 900)  # 15 MB of answers, more than sockets hold
        for expected in (503, 200):  # they have both places, then lose them
            for _ in range(500):
                if httpx.get(f"{base}/api/status", timeout=20).status_code == expected:
                    break
                time.sleep(0.02)
            else:
                pytest.fail(f"no answer was {expected}")
        for one in deaf:
            one.close()


def test_huge_headers_and_nonsense(built: Path) -> None:
    with running(built / "my.index") as base:
        for sent in (
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"\x00\x01\x02\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n",
        ):
            with connect(base) as client:
                client.sendall(sent)
                assert client.recv(100).split(b" ")[1] in (b"400", b"413", b"431")
        assert httpx.get(f"{base}/api/status").status_code == 200


def test_too_much_at_once_is_said(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.web import questions

    search = questions.search

    def slowly(*args: object) -> object:
        time.sleep(0.3)
        return search(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(questions, "search", slowly)
    own = str(Collection.open(built / "my.index").ids[0])
    with running(built / "my.index", requests=3) as base, ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda _: httpx.get(f"{base}/api/search", params={"image": own}, timeout=20), range(10)))
        assert {f.status_code for f in found} == {200, 503}
        refused = next(f for f in found if f.status_code == 503)
        assert refused.headers["retry-after"] == "1" and "try again" in refused.json()["error"]
        assert httpx.get(f"{base}/api/search", params={"image": own}).status_code == 200


def test_a_port_in_use() -> None:
    with bind("127.0.0.1", 0) as taken, pytest.raises(UserError, match=r"port \d+ of 127.0.0.1 is in use"):
        bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match=r"is not a host of this machine"):
        bind("no such host", 0)


def test_the_command_ends_cleanly_by_ctrl_c(built: Path) -> None:
    command = [sys.executable, "-u", "-m", "pipeline.cli", "serve", str(built / "my.index"), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    base = server.stdout.readline().split(" is at ")[1].split()[0]
    for _ in range(200):
        if httpx.get(f"{base}api/status", timeout=20).json()["ready"]:
            break
        time.sleep(0.1)
    again = [*command[:-1], str(urlsplit(base).port)]
    second = subprocess.run(again, capture_output=True, text=True, check=False)
    assert second.returncode == 2 and "is in use; allowed: another --port" in second.stderr
    server.send_signal(2)
    _, errors = server.communicate(timeout=30)
    assert (
        server.returncode == 130
        and errors.splitlines()[-1] == "cnncodes: stopped by Ctrl-C"
        and "Traceback" not in errors
    )


def test_a_stop_does_not_wait_for_the_network_to_load(built: Path) -> None:
    code = (
        "import sys, time; from pipeline.web.live import Live\n"
        "def warm(self): print('warming', flush=True); time.sleep(60)\n"
        "Live.warm = warm; import pipeline.cli as cli\n"
        f"sys.argv = ['cnncodes', 'serve', {str(built / 'my.index')!r}, '--port', '0']; cli.main()"
    )
    command = [sys.executable, "-u", "-c", code]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    while "warming" not in server.stdout.readline():
        assert server.poll() is None
    started_s = time.monotonic()
    server.send_signal(15)
    _, errors = server.communicate(timeout=90)
    assert (server.returncode, errors.splitlines()[-1]) == (143, "cnncodes: stopped by SIGTERM")
    assert time.monotonic() - started_s < 15


def test_bad_commands(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "serve", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and "is not an index" in done.stderr
