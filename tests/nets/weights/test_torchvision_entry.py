"""torchvision's entries: their preprocessing, and the download, from a server on this machine."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms._presets import ImageClassification

from pipeline.base.errors import UserError
from pipeline.nets.weights import held_layers
from pipeline.nets.weights.legacy import torchvision_entry
from pipeline.nets.weights.legacy.torchvision_entry import entries, entry_of, read
from tests.nets.weights.test_torch_file import in_torchvisions_layout


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def publish(folder: Path, state: dict[str, Tensor]) -> str:
    """Writes a state dict named as torchvision names its files, and gives the name."""
    folder.mkdir(parents=True)
    torch.save(state, folder / "w")
    name = f"tinyvgg-{hashlib.sha256((folder / 'w').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "w").rename(folder / name)
    return name


def pretend(monkeypatch: pytest.MonkeyPatch, url: str, **meta: Any) -> None:
    preset = partial(ImageClassification, crop_size=64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    entry = SimpleNamespace(url=url, transforms=preset, meta=meta)
    monkeypatch.setattr(torchvision_entry, "entries", lambda arch: {"OURS": entry} if arch == "tinyvgg" else {})


def test_downloads_once_and_keeps_preprocessing_and_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Tensor]
) -> None:
    name = publish(tmp_path / "www", in_torchvisions_layout("tinyvgg", tiny))
    with server(tmp_path / "www") as host:
        pretend(monkeypatch, f"{host}/{name}", categories=list("abcde"))
        weights = read("tinyvgg", "OURS", tmp_path / "cache")
    assert all(torch.equal(weights.tensors[k], tiny[k]) for k in tiny)
    assert weights.preprocessing.channels == "rgb" and weights.preprocessing.scale == 1 / 255
    assert weights.preprocessing.mean == (0.1, 0.2, 0.3) and weights.preprocessing.std == (0.4, 0.5, 0.6)
    assert weights.classes == tuple("abcde")
    assert weights.provenance["source"] == "torchvision:OURS"
    again = read("tinyvgg", "OURS", tmp_path / "cache")  # the server is gone
    assert again.sha256 == weights.sha256


def test_an_entry_for_features_leaves_out_its_placeholders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Tensor]
) -> None:
    state = in_torchvisions_layout("tinyvgg", tiny)
    state |= {k: torch.full_like(t, torch.nan) for k, t in state.items() if k.startswith("classifier")}
    name = publish(tmp_path / "www", state)
    with server(tmp_path / "www") as host:
        pretend(monkeypatch, f"{host}/{name}", categories=None)
        weights = read("tinyvgg", "OURS", tmp_path / "cache")
    assert held_layers(weights)[-1] == "pool5" and weights.classes is None


def test_a_file_that_is_not_what_it_should_be_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Tensor]
) -> None:
    name = publish(tmp_path / "www", tiny)
    (tmp_path / "www" / name).write_bytes((tmp_path / "www" / name).read_bytes()[:-1])
    with server(tmp_path / "www") as host:
        pretend(monkeypatch, f"{host}/{name}", categories=None)
        with pytest.raises(UserError, match="is not what torchvision states"):
            read("tinyvgg", "OURS", tmp_path / "cache")
    assert list((tmp_path / "cache" / "torchvision").iterdir()) == []


def test_a_file_damaged_in_the_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Tensor]
) -> None:
    name = publish(tmp_path / "cache" / "torchvision", tiny)
    pretend(monkeypatch, f"http://127.0.0.1:9/{name}", categories=None)
    assert read("tinyvgg", "OURS", tmp_path / "cache").arch == "tinyvgg"
    with (tmp_path / "cache" / "torchvision" / name).open("ab") as f:
        f.write(b"x")
    with pytest.raises(UserError, match="delete it and run again"):
        read("tinyvgg", "OURS", tmp_path / "cache")


def test_a_file_is_the_one_that_was_first_downloaded_in_all_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Tensor]
) -> None:
    name = publish(tmp_path / "cache" / "torchvision", tiny)
    pretend(monkeypatch, f"http://127.0.0.1:9/{name}", categories=None)
    sha256 = read("tinyvgg", "OURS", tmp_path / "cache").provenance["file_sha256"]
    kept = tmp_path / "cache" / "torchvision" / f"{name}.sha256"
    assert kept.read_text() == f"{sha256}  {name}\n"
    # Another file with the same first digits can be made; here the digits that were kept are changed instead.
    kept.write_text(f"{sha256[:8]}{'0' * 56}  {name}\n")
    with pytest.raises(UserError, match=f"has sha256 {sha256}, when it was downloaded it had {sha256[:8]}0"):
        read("tinyvgg", "OURS", tmp_path / "cache")
    kept.unlink()
    kept.mkdir()
    with pytest.raises(UserError, match="is not a file"):
        read("tinyvgg", "OURS", tmp_path / "cache")


def test_no_server_and_no_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "www").mkdir()
    with server(tmp_path / "www") as host:
        pretend(monkeypatch, f"{host}/tinyvgg-00000000.pth", categories=None)
        with pytest.raises(UserError, match=r"can't download .*not found.*weights\.source: demo"):
            read("tinyvgg", "OURS", tmp_path / "cache")
    with pytest.raises(UserError, match=r"can't download .*tinyvgg-00000000\.pth.*a network"):
        read("tinyvgg", "OURS", tmp_path / "cache")


def test_an_unknown_entry_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"no weights 'V2' for vgg16; allowed: IMAGENET1K_V1, IMAGENET1K_FEATURES"):
        read("vgg16", "V2", Path("unused"))
    with pytest.raises(UserError, match="no weights 'IMAGENET1K_V1' for tinyvgg"):
        read("tinyvgg", "IMAGENET1K_V1", Path("unused"))


@pytest.mark.parametrize("arch", ["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg16_bn", "vgg19_bn", "alexnet"])
def test_every_entry_of_torchvision_states_a_hash_by_which_it_is_known(arch: str) -> None:
    for name, entry in entries(arch).items():
        stated = torchvision_entry._stated(entry.url)
        assert len(stated) == 8 and int(stated, 16) >= 0
        assert entry_of(arch, stated + "0" * 56) == name
    assert entry_of(arch, "f" * 64) is None


def test_vgg16_has_two_entries_with_preprocessings_of_their_own() -> None:
    v1, features = (torchvision_entry._preprocessing(entries("vgg16")[f"IMAGENET1K_{n}"]) for n in ("V1", "FEATURES"))
    assert v1.mean == (0.485, 0.456, 0.406) and v1.std == (0.229, 0.224, 0.225)
    # (x / 255 - mean) * 255 = x - 255 * mean: the paper's mean pixel, in RGB.
    assert features.channels == "rgb" and features.std == (1 / 255,) * 3
    assert [round(255 * m) for m in features.mean] == [123, 117, 104]
