"""Behind a proxy, below a path: every file and link is there, and uploads work, with nginx's Host or the browser's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from pipeline.base.errors import UserError
from pipeline.collection import Collection
from pipeline.web.app import create_app
from pipeline.web.guard import Hosts
from tests.web.conftest import running
from tests.web.proxy import documented, proxied
from tests.web.test_api import png

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # paths and origins

WEB = Path(__file__).parents[2] / "pipeline/web"
# What a page, a style sheet and a script name: attributes, imports, addresses of questions, in quotes of any kind.
NAMED = re.compile(r"""(?:href|src)="([^"#{]+)"|from "([^"]+)"|import "([^"]+)"|url\(["']?([^)"']+)""")
ASKED = re.compile(r"""["'`]((?:\./|/)?(?:api|static|docs)/[^"'`?$]*)""")


@pytest.fixture(scope="module", params=[False, True], ids=["nginx's default Host", "the browser's Host"])
def outside(built: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    with (
        running(built / "my.index", names=("photos.example.org",)) as base,
        proxied(base, keep_host=request.param) as it,
    ):
        yield it


@pytest.fixture
def browser(outside: str) -> Iterator[httpx.Client]:
    """Sends what a browser does that knows the server as photos.example.org, at the proxy's port."""
    port = urlsplit(outside).port
    headers = {"host": f"photos.example.org:{port}", "sec-fetch-site": "same-origin"}
    with httpx.Client(base_url=outside, headers=headers, timeout=20) as found:
        yield found


@pytest.mark.parametrize("page", ["", "docs", "?view=map", "no/such/page"])
def test_all_that_a_page_names_is_below_the_path(browser: httpx.Client, outside: str, page: str) -> None:
    prefix, seen = urlsplit(outside).path, set()
    left = [(urljoin(outside, page), {"accept": "text/html"})]
    while left:
        address, headers = left.pop()
        answer = browser.get(address, headers=headers)
        assert answer.status_code == (404 if address.endswith("page") else 200), address
        if not re.search("html|css|javascript", answer.headers["content-type"]):
            continue
        for groups in NAMED.findall(answer.text):
            named = urljoin(address, next(filter(None, groups)))
            assert urlsplit(named).path.startswith(prefix) and urlsplit(named).netloc == urlsplit(outside).netloc, named
            if named not in seen:
                seen.add(named)
                left.append((named, {}))
    assert {f"{outside}static/{name}" for name in ("page.css", "icon.svg", "theme.js")} <= seen and outside in seen


@pytest.mark.parametrize(
    "path", sorted(WEB.glob("static/*.[jc]s*")) + sorted(WEB.glob("templates/*")), ids=lambda p: p.name
)
def test_no_file_names_an_address_from_the_root(path: Path) -> None:
    text = path.read_text()
    assert not [address for address in ASKED.findall(text) if address.startswith("/")]
    assert not re.search(r"""(?:href|src|action)=["']/|url\(["']?/|["'`]/\?|location\.(?:origin|host)""", text)


def test_an_upload_and_all_that_follows(browser: httpx.Client, outside: str) -> None:
    origin = {"origin": f"http://photos.example.org:{urlsplit(outside).port}"}
    found = browser.post("api/search", files={"image": png(3)}, params={"k": 2}, headers=origin)
    assert found.status_code == 200
    again = browser.get("api/search", params={"image": found.json()["query"]["id"]})
    assert again.json()["neighbours"] and len(found.json()["neighbours"]) == 2
    picture = browser.get(f"api/images/{found.json()['neighbours'][0]['id']}/picture")
    assert picture.headers["content-type"] == "image/jpeg"
    refused = browser.post("api/search", files={"image": png(3)}, headers={"origin": "http://evil.example"})
    assert refused.status_code == 403 and "--allow-host" in refused.json()["error"]
    assert browser.post("api/search", content=bytes(documented()[2] + 1)).status_code == 413


def test_without_the_slash_at_the_end(browser: httpx.Client, outside: str) -> None:
    answer = browser.get(outside.rstrip("/"))
    assert (answer.status_code, urlsplit(answer.headers["location"]).path) == (301, urlsplit(outside).path)


def test_programs_find_the_api_below_the_path(browser: httpx.Client, outside: str) -> None:
    address = f"{outside}api/openapi.json"
    spec = browser.get(address).json()
    (server,) = (urljoin(address, server["url"]).rstrip("/") for server in spec["servers"])
    assert browser.get(server + next(path for path in spec["paths"] if "status" in path)).json()["ready"] in (
        True,
        False,
    )


def test_a_slash_too_many_is_no_redirect_out_of_the_path(browser: httpx.Client) -> None:
    for path in ("docs/", "api/status/", "static"):
        assert browser.get(path).status_code == 404


# ---- Origin


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://photos.example.org", 200), ("http://photos.example.org:8443", 200),
        ("HTTPS://Photos.Example.org.", 200),
        ("https://[2001:db8::1]:8443", 200), ("http://127.0.0.1:8000", 200), ("http://127.0.0.1:3000", 403),
        ("http://localhost:8000", 403), ("http://photos.example.org.evil.example", 403), ("null", 403), ("", 403),
        ("http://evil.example@photos.example.org", 403), ("ftp://photos.example.org", 403), ("photos.example.org", 403),
        ("http://photos.example.org/", 403), ("http://[::1", 403), ("http://[", 403), ("http://a]b", 403), ("//", 403),
        ("http://photos.example.org:port", 403), ("http://photos.example.org:999999", 403), ("http://\xff", 403),
        ("https://photos.example.org https://evil.example", 403),
    ],
)  # fmt: skip
def test_origins(built: Path, origin: str, status: int) -> None:
    hosts = Hosts.of("127.0.0.1", ["Photos.example.org", "2001:db8::1"])
    app = create_app(built / "my.index", hosts=hosts)
    client = TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
    assert client.get("/api/status", headers={"origin": origin.encode("latin-1")}).status_code == status


def test_what_is_named_of_this_machine_is_reached_at_any_port() -> None:
    assert not Hosts.of("127.0.0.1").is_own("http://localhost:8080", "127.0.0.1:8000")
    assert Hosts.of("127.0.0.1", ["localhost"]).is_own("http://localhost:8080", "127.0.0.1:8000")


@pytest.mark.parametrize(
    "name", ["https://photos.example.org", "photos.example.org:8443", "a/b", "", "*", "a b", "[::1"]
)
def test_a_name_that_is_none_is_refused_at_start(name: str) -> None:
    with pytest.raises(UserError, match=r"--allow-host .* is not a name of a host; allowed: a name or an address"):
        Hosts.of("127.0.0.1", [name])


def test_a_length_of_thousands_of_digits_is_too_large(client: TestClient) -> None:
    answer = client.post("/api/search", content=b"x", headers={"content-length": "9" * 5000})
    assert answer.status_code == 413


# ---- HEAD


PATHS = (
    "/", "/docs", "/static/page.css", "/nowhere", "/api/openapi.json", "/api/status", "/api/collection", "/api/images",
    "/api/images/random", "/api/images/ID", "/api/images/ID/picture", "/api/map", "/api/duplicates",
    "/api/search?image=ID",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_what_it_holds(client: TestClient, built: Path, path: str) -> None:
    path = path.replace("ID", str(Collection.open(built / "my.index").ids[0]))
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code and head.content == b""
    for name in ("content-type", "etag", "cache-control", "content-security-policy"):
        assert head.headers.get(name) == got.headers.get(name)
    if "random" not in path and "search" not in path:  # whose length is not the same each time
        assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.content))


def test_head_over_a_real_connection_keeps_it_usable(built: Path) -> None:
    with running(built / "my.index") as base, httpx.Client(base_url=base) as client:
        for _ in range(3):
            assert client.head("/api/images").status_code == 200 and client.get("/api/status").json()["images"] == 12
