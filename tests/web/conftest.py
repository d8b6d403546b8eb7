"""A small collection with hostile names, and clients of it: in one process, and over a real socket."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipeline import collection
from pipeline.web.app import create_app
from pipeline.web.limits import Limits
from pipeline.web.server import address, bind, make_server, serve
from tests.codes.conftest import draw

HOSTILE = "<img src=x onerror=alert(1)>"
SMALL: dict[str, Any] = {
    "arch": "tinyvgg",
    "weights": "random:0",
    "layers": ["conv5_3", "conv3_3"],
    "codes": {"crop": 64, "scales": [64], "batch_size": 4},
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`my.index` of twelve images below `photos`: three labels, hostile ones and long names among them."""
    root = tmp_path_factory.mktemp("served")
    labels = [HOSTILE, '犬 & "Katze"', "plain"]
    for i in range(12):
        name = {0: HOSTILE + ".png", 1: "long " * 40 + ".png"}.get(i, f"{i}.png").replace("/", "")
        draw(root / "photos" / labels[i % 3] / name, i)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(root / "cache"))
        collection.build(root / "photos", root / "my.index", **SMALL)
    return root


@pytest.fixture
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`my.index` of its own, to be changed."""
    shutil.copytree(built / "my.index", tmp_path / "my.index")
    monkeypatch.setenv("CNNCODES_CACHE", str(built / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def client(built: Path) -> Iterator[TestClient]:
    with client_of(built / "my.index") as found:
        yield found


@contextmanager
def client_of(folder: Path, **limits: Any) -> Iterator[TestClient]:
    app = create_app(folder, limits=Limits(**limits))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as found:
        yield found


@contextmanager
def running(
    folder: Path,
    names: tuple[str, ...] = (),
    proxies: tuple[str, ...] = (),
    host: str = "127.0.0.1",
    **limits: Any,
) -> Iterator[str]:
    """The address of a real server. `names`: of --allow-host, `proxies`: of --proxy."""
    listening = bind(host, 0)
    server = make_server(folder, host=host, names=names, proxies=proxies, limits=Limits(**limits))
    thread = threading.Thread(target=serve, args=(server, listening, lambda _: None))
    base = address(listening).rstrip("/")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield base
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()
