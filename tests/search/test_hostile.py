"""Indexes as a stranger could make them, every checksum right: refused in a sentence, and nothing else is opened."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.search import INDEXES, save
from pipeline.search.faiss_backend import centres, to_bytes
from tests.search.test_save import collection, same, saved


def sign(folder: Path, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> None:
    """The manifest and the pointer written again, with the sizes and digests of the files as they are."""
    generation = folder / json.loads((folder / save.POINTER).read_text())["generation"]
    manifest = json.loads((generation / "manifest.json").read_text())
    for path in generation.rglob("*"):
        name = str(path.relative_to(generation))
        if name != "manifest.json" and path.is_file():
            manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": disk.sha256(path)}
    change(manifest)
    (generation / "manifest.json").write_text(json.dumps(manifest))
    pointer = json.loads((folder / save.POINTER).read_text())
    pointer["manifest_sha256"] = hashlib.sha256((generation / "manifest.json").read_bytes()).hexdigest()
    (folder / save.POINTER).write_text(json.dumps(pointer))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save.create(tmp_path / "my.index", saved("ivf"))
    return tmp_path / "my.index"


def on_disk(victim: Path, lists: int = 2) -> bytes:
    """An index whose inverted lists faiss would open for writing in another file."""
    packed, _ = collection(200, 1)
    flat = faiss.IndexBinaryFlat(32)
    index = faiss.IndexBinaryIVF(flat, 32, lists)
    index.train(packed)
    elsewhere = faiss.OnDiskInvertedLists(lists, 4, str(victim))
    index.replace_invlists(elsewhere, False)
    index.add(packed)
    return to_bytes(index)


@pytest.mark.parametrize("name", INDEXES)
def test_lists_that_lie_in_another_file_are_never_opened(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "made.ivf"
    data = on_disk(victim)
    victim.unlink()
    victim.write_text("a file of the user's")
    save.create(tmp_path / "my.index", saved(name))
    (tmp_path / "my.index/gen-000001/backend.bin").write_bytes(data)
    sign(tmp_path / "my.index")
    # The centres of such lists are as good as others; the lists themselves are made from the rows.
    loaded = save.load(tmp_path / "my.index")
    assert len(loaded.index) == 200
    with save.updating(tmp_path / "my.index") as changed:
        changed.remove(changed.index.ids[:1])
    assert victim.read_text() == "a file of the user's"
    assert not [p for p in tmp_path.iterdir() if p.name not in ("made.ivf", "my.index")]


def test_an_index_of_another_class_is_none(folder: Path) -> None:
    packed, _ = collection(200, 1)
    other = faiss.IndexBinaryHNSW(32, 8)
    other.add(packed)
    for data in (to_bytes(other), b"", b"IBwF", os.urandom(200), to_bytes(save.load(folder).index.state.backend)[:90]):
        (folder / "gen-000001/backend.bin").write_bytes(data)
        sign(folder)
        if data:
            with pytest.raises(UserError, match="not inverted lists of 32 bits"):
                save.load(folder)


def test_the_centres_that_faiss_wrote(folder: Path) -> None:
    backend = save.load(folder).index.state.backend
    flat = faiss.downcast_IndexBinary(backend.quantizer)
    expected = faiss.vector_to_array(flat.xb).reshape(-1, 4)
    assert np.array_equal(centres(to_bytes(backend), 32), expected)
    with pytest.raises(UserError, match="not inverted lists of 64 bits"):
        centres(to_bytes(backend), 64)


@pytest.mark.parametrize(
    "name", ["../../secret", "/dev/zero", "files/../../secret", "files/", "other.bin", "files/a/b"]
)
def test_no_other_names_are_read(name: str, folder: Path) -> None:
    (folder.parent / "secret").write_text("secret")
    sign(folder, lambda m: m["files"].update({name: {"bytes": 6, "sha256": "0" * 64}}))
    with pytest.raises(UserError, match=r"names|name '"):
        save.load(folder)


@pytest.mark.parametrize("name", ["rows.h5", "backend.bin", "files/hasher.h5", "manifest.json"])
def test_what_is_not_a_file_is_refused_at_once(name: str, folder: Path) -> None:
    path = folder / "gen-000001" / name
    data = path.read_bytes()
    for make in (
        os.mkfifo,
        os.mkdir,
        lambda p: p.symlink_to("/dev/zero"),
        lambda p: p.symlink_to(folder.parent / "s"),
    ):
        (folder.parent / "s").write_bytes(data)
        path.unlink() if not path.is_dir() else path.rmdir()
        make(path)
        with pytest.raises(UserError, match=r"not a file|no link|not what was written"):
            save.load(folder)


@pytest.mark.parametrize("name", ["gen-000001", "gen-000001/files"])
def test_a_folder_that_lies_elsewhere_is_refused(name: str, folder: Path) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        save.load(folder)


def test_a_pointer_that_is_not_a_file_is_refused(folder: Path) -> None:
    (folder / save.POINTER).unlink()
    os.mkfifo(folder / save.POINTER)
    with pytest.raises(UserError, match="not an index"):
        save.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(nbits="32"),
        lambda m: m.update(nbits=-8),
        lambda m: m.update(nbits=7),
        lambda m: m.update(count=None),
        lambda m: m.update(count=True),
        lambda m: m.update(count=3),
        lambda m: m.update(settings=[]),
        lambda m: m.update(settings={"lists": 4}),
        lambda m: m.update(settings={"lists": 4, "probes": 2, "more": 1}),
        lambda m: m.update(settings={"lists": "4", "probes": 2}),
        lambda m: m.update(columns=[1]),
        lambda m: m.update(columns=["none"]),
        lambda m: m.update(made_by=[]),
        lambda m: m.update(files=[]),
        lambda m: m["files"].pop("rows.h5"),
        lambda m: m["files"].update({"rows.h5": 3}),
        lambda m: m["files"]["rows.h5"].update(bytes="3"),
        lambda m: m.update(index=["exact"]),
        lambda m: m.update(version=[]),
        lambda m: m.update(kind="else"),
    ],
)
def test_a_manifest_signed_anew_with_other_values(change: Callable[[dict[str, Any]], None], folder: Path) -> None:
    sign(folder, change)
    with pytest.raises(UserError):
        save.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"version": ' + "9" * 5000 + "}", "\\xff"])
def test_a_pointer_that_says_nothing(text: str, folder: Path) -> None:
    (folder / save.POINTER).write_text(text)
    with pytest.raises(UserError):
        save.load(folder)


def test_signing_alone_changes_nothing(folder: Path) -> None:
    sign(folder)
    same(save.load(folder), saved("ivf"))


ABSURD: list[tuple[str, dict[str, Any]]] = [
    ("hnsw", {"links": 10**9}),
    ("hnsw", {"build_width": 10**9}),
    ("hnsw", {"search_width": -1}),
    ("hnsw", {"links": "16"}),
    ("hnsw", {"links": 16.5}),
    ("hnsw", {"links": None}),
    ("hnsw", {"links": True}),
    ("ivf", {"lists": 10**12}),
    ("ivf", {"probes": 9}),
    ("ivf", {"probes": [1]}),
    ("multihash", {"table_bits": 32, "tables": 1, "flips": 16}),  # some 10^9 addresses a query
    ("multihash", {"tables": 10**9}),
    ("multihash", {"flips": -1}),
    ("multihash", {"flips": 10**9}),
    ("exact", {"links": 16}),
]


@pytest.mark.parametrize(("name", "change"), ABSURD)
def test_settings_that_would_take_all_memory_or_time(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "my.index"
    save.create(folder, saved(name))
    sign(folder, lambda manifest: manifest["settings"].update(change))
    with pytest.raises(UserError, match=next(iter(change)) if name != "multihash" else r"tables|flips"):
        save.load(folder)
    with pytest.raises(UserError), save.updating(folder):
        pass
