"""A reverse proxy that does what nginx does with the `location` that docs/serve.md shows."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

DOCS = Path(__file__).parents[2] / "docs/serve.md"
# What concerns one connection alone.
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection"}


def documented() -> tuple[str, str, int]:
    """The path below which the page lies, where it is passed to, and the largest body in bytes."""
    (block,) = re.findall(r"```nginx\n(.*?)```", DOCS.read_text(), re.DOTALL)
    location = re.search(r"location (\S+) \{", block)
    passed = re.search(r"proxy_pass (\S+);", block)
    size = re.search(r"client_max_body_size (\d+)m;", block)
    assert location and passed and size
    return location[1], passed[1], int(size[1]) << 20


@contextmanager
def proxied(upstream: str, *, keep_host: bool = False) -> Iterator[str]:
    """The outer address of a server at `upstream`, below the documented path. `keep_host`: with `proxy_set_header Host
    $http_host`; by default nginx sends the upstream's own."""
    prefix, passed, most_bytes = documented()
    target = urlsplit(upstream)
    assert urlsplit(passed).path == "/", "the path after the upstream's name takes the place of the prefix"

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            if self.path == prefix.rstrip("/"):  # nginx does this for a location that ends with a slash
                self.answer(301, {"Location": f"http://{self.headers['Host']}{prefix}"}, b"")
            elif not self.path.startswith(prefix):
                self.answer(404, {}, b"<html>nginx</html>")
            elif int(self.headers.get("Content-Length", 0)) > most_bytes:
                self.answer(413, {}, b"<html>nginx</html>")
            else:
                self.pass_on("/" + self.path.removeprefix(prefix))

        do_GET = do_HEAD = do_POST = do

        def pass_on(self, path: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream_connection = http.client.HTTPConnection(target.netloc, timeout=20)
            upstream_connection.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP | {"host"}:
                    upstream_connection.putheader(name, value)
            upstream_connection.putheader("Host", self.headers["Host"] if keep_host else target.netloc)
            upstream_connection.putheader("Connection", "close")
            upstream_connection.endheaders(body)
            answer = upstream_connection.getresponse()
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP_BY_HOP}
            self.answer(answer.status, headers, answer.read())
            upstream_connection.close()

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in (
                {"Content-Length": str(len(body))} | {k.title(): v for k, v in headers.items()}
            ).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{prefix}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
