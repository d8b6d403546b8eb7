"""Collections as a stranger could make them, every checksum right: told in a sentence, and nothing else is opened."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import collection
from pipeline.base.errors import UserError
from pipeline.collection import Collection
from pipeline.collection.network import WEIGHTS, QueryNetwork, Where
from pipeline.collection.stated import require_whole
from pipeline.search import save
from tests.codes.conftest import draw
from tests.test_collection import built, folder_of_images, world  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # what is refused is read from files


def refused_everywhere(folder: Path, images: Path, match: str) -> None:
    """By all that reads or changes it, which leaves it as it is."""
    before = save.info(folder)["fingerprint"]
    uses: list[Callable[[], object]] = [
        lambda: Collection.open(folder),
        lambda: collection.add(folder, images),
        lambda: collection.remove(folder, missing=True),
    ]
    for use in uses:
        with pytest.raises(UserError, match=match):
            use()
    [problem] = collection.verify(folder, files=True)
    assert match in problem
    assert save.info(folder)["fingerprint"] == before


def changed(folder: Path, change: Callable[[save.Saved], None]) -> None:
    with save.updating(folder) as saved:
        change(saved)


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/passwd", "..", "", ".", "a/.."])
def test_paths_that_leave_their_folder(world: Path, built: Path, path: str) -> None:  # noqa: F811
    def lead_out(saved: save.Saved) -> None:
        saved.columns["path"] = np.array([path, *saved.columns["path"][1:]])

    changed(world / "my.index", lead_out)
    refused_everywhere(world / "my.index", built / "photos", "leads out of its folder")


@pytest.mark.parametrize("root", [-1, 1, 2**31 - 1])
def test_folders_that_are_not_there(world: Path, built: Path, root: int) -> None:  # noqa: F811
    changed(world / "my.index", lambda saved: saved.columns["root"].__setitem__(3, root))
    refused_everywhere(world / "my.index", built / "photos", "folders that it doesn't have")


@pytest.mark.parametrize(
    "column", ["path", "root", "label", "split", "sha256", "topk", "sigmoid", "codes conv5_3-avg", "hasher"]
)
def test_what_an_index_lacks(world: Path, built: Path, column: str) -> None:  # noqa: F811
    def lose(saved: save.Saved) -> None:
        if column == "hasher":
            saved.files.pop("topk.h5")
        else:
            saved.columns.pop(column)

    changed(world / "my.index", lose)
    refused_everywhere(world / "my.index", built / "photos", "it lacks")


@pytest.mark.parametrize("name", ["../../secret", "/dev/zero", "a" * 63, "a" * 64 + "\n", 7, None])
def test_weights_by_another_name(world: Path, built: Path, name: object) -> None:  # noqa: F811
    def rename(saved: save.Saved) -> None:
        saved.made_by = {**saved.made_by, "weights": {**saved.made_by["weights"], "sha256": name}}

    changed(world / "my.index", rename)
    refused_everywhere(world / "my.index", built / "photos", "weights.sha256")
    with pytest.raises(UserError, match=r"weights\.sha256"):
        collection.info(world / "my.index")


def test_weights_that_are_not_a_file_of_the_index(world: Path, built: Path) -> None:  # noqa: F811
    index = world / "my.index"
    photos = Collection.open(index)
    [weights] = (index / WEIGHTS).iterdir()
    weights.rename(world / weights.name)
    for put in (os.mkfifo, os.mkdir, lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to(world / p.name)):
        put(weights)
        for use in (
            lambda: photos.search(draw(world / "new.png", 99)),
            lambda: collection.info(index),
            lambda: collection.add(index, folder_of_images(world / "more", range(30, 31))),
        ):
            with pytest.raises(UserError, match="not a file of the index"):
                use()
        assert any("not a file of the index" in problem for problem in collection.verify(index))
        weights.rmdir() if weights.is_dir() else weights.unlink()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value within JSON, its containers first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def test_whatever_an_index_says_of_itself_is_used_or_refused(world: Path) -> None:  # noqa: F811
    """Each value in turn lost, or another: no use of the index ends in anything but an answer or a sentence."""
    saved = save.load(world / "my.index")
    new = draw(world / "new.png", 99)
    refused = 0
    for where in places(saved.made_by):
        for value in (..., None, -1, "../x", [], {}):
            made_by = copy.deepcopy(saved.made_by)
            holder = made_by
            for key in where[:-1]:
                holder = holder[key]
            if value is ...:
                del holder[where[-1]]
            else:
                holder[where[-1]] = value
            other = save.Saved(saved.index, made_by, saved.columns, saved.files)
            try:
                require_whole(world / "my.index", other)
            except UserError:
                refused += 1
                continue
            network = QueryNetwork(world / "my.index", made_by, Where())
            photos = Collection(world / "my.index", other, "", network)
            uses: list[Callable[[], object]] = [
                lambda photos=photos: photos.search_id(photos.random()),  # type: ignore[misc]
                lambda photos=photos: collection.duplicates(photos),  # type: ignore[misc]
                lambda network=network: list(map(network._settings_here, network._made_by["codes"])),  # type: ignore[misc]
                photos.check_parts,
            ]
            for use in uses:
                with contextlib.suppress(UserError):
                    use()
    assert refused > 100
    assert photos.search(new).neighbours  # the last mutant is one of a value that no search uses


def test_only_what_was_indexed_is_drawn_or_called_whole(tmp_path: Path) -> None:
    """A path may lead by links to any image of the machine: it is not drawn, and verify says that it is another."""
    from pipeline.data import listed

    secret = draw(tmp_path / "secret.png", 5)
    own = draw(tmp_path / "own.png", 6)
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    link = tmp_path / "link.png"
    link.symlink_to(own)
    assert listed.read(link, digest) == own.read_bytes()
    for put in (lambda: link.symlink_to(secret), lambda: link.symlink_to("/dev/zero"), lambda: os.mkfifo(link)):
        link.unlink()
        put()
        for use in (listed.read, listed.require):
            with pytest.raises(listed.ChangedError, match="changed since it was indexed"):
                use(link, digest)
    link.unlink()
    with pytest.raises(listed.ListedError, match="is gone"):
        listed.require(link, digest)


def test_a_montage_draws_no_other_image(tmp_path: Path) -> None:
    from pipeline.collection.montage import Tile
    from pipeline.collection.montage import draw as montage

    Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path / "secret.png")
    digest = hashlib.sha256((tmp_path / "secret.png").read_bytes()).hexdigest()

    def reds(sha256: str) -> int:
        tile = Tile(tmp_path / "secret.png", "1", sha256=sha256)
        return int((np.asarray(montage(tile, [tile], max_pixels=10**6)) == (255, 0, 0)).all(axis=2).sum())

    assert reds(digest) > 1000
    assert reds("0" * 64) == 0
    (tmp_path / "secret.png").unlink()
    os.mkfifo(tmp_path / "secret.png")
    assert reds(digest) == 0


def test_the_command_draws_no_other_image(world: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from pipeline.cli.search import _draw

    photos = Collection.open(world / "my.index")
    monkeypatch.setattr(photos, "file", lambda row: world / "secret.png")
    Image.new("RGB", (40, 40), (255, 0, 0)).save(world / "secret.png")
    query = str(photos.ids[0])
    _draw(photos, photos.search_id(query), photos.file(0), query, world / "m.png")
    with Image.open(world / "m.png") as image:
        assert not (np.asarray(image) == (255, 0, 0)).all(axis=2).any()
