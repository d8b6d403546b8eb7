"""A collection: built, changed, killed, searched; answers against a popcount and a cosine by definition."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import collection
from pipeline.base.errors import UserError
from pipeline.collection import Collection, Where
from pipeline.collection.encode import codes_column
from pipeline.collection.methods import COSINE
from pipeline.collection.network import WEIGHTS
from pipeline.nets.weights import Weights, resolve, write_canonical
from pipeline.search import save
from tests.codes.conftest import count_images, draw  # noqa: F401  (a fixture)
from tests.data.stored import png

pytestmark = pytest.mark.network

SMALL: dict[str, Any] = {
    "arch": "tinyvgg",
    "weights": "random:0",
    "codes": {"crop": 64, "scales": [64], "batch_size": 4},
}


def folder_of_images(root: Path, seeds: range = range(9)) -> Path:
    for i in seeds:
        draw(root / ("犬" if i % 3 else "çat") / f"{i}.png", i)
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of nine images, with their folder beside it; copied by each test that changes it."""
    root = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(root / "cache"))
        collection.build(folder_of_images(root / "photos"), root / "my.index", **SMALL)
    return root


@pytest.fixture
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`my.index` of its own, and the shared photos and cache."""
    shutil.copytree(built / "my.index", tmp_path / "my.index")
    monkeypatch.setenv("CNNCODES_CACHE", str(built / "cache"))
    return tmp_path


def answers(photos: Collection, *args: Any, **kwargs: Any) -> list[tuple[float, str]]:
    search = photos.search_id if isinstance(args[0], str) else photos.search
    return [(n.distance, n.id) for n in search(*args, **kwargs).neighbours]


@pytest.mark.parametrize("method", ["topk", "sigmoid", "lsh", COSINE, "two-stage"])
def test_an_image_of_the_collection_finds_itself_first(built: Path, method: str) -> None:
    photos = Collection.open(built / "my.index")
    for row in (0, 4):
        found = photos.search(photos.file(row), k=9, method=method).neighbours
        assert found[0].distance == pytest.approx(0, abs=1e-6)
        assert str(photos.ids[row]) in [n.id for n in found if n.distance <= 1e-6]
        assert [n.rank for n in found] == list(range(1, 10))
        assert found == photos.search(photos.file(row).read_bytes(), k=9, method=method).neighbours


@pytest.mark.parametrize("method", ["topk", "lsh"])
def test_hamming_answers_are_those_of_a_popcount(built: Path, method: str) -> None:
    photos = Collection.open(built / "my.index")
    packed = photos.packed(method)
    for row, own in enumerate(photos.ids.tolist()):
        distances = np.unpackbits(packed ^ packed[row], axis=1).sum(axis=1)
        expected = sorted((int(d), i) for d, i in zip(distances, photos.ids.tolist(), strict=True) if i != own)
        assert answers(photos, own, k=8, method=method) == expected
        radius = expected[3][0]
        assert answers(photos, own, radius=radius, method=method) == [e for e in expected if e[0] <= radius]
        assert answers(photos, own, radius=radius, k=2, method=method) == expected[:2]


def test_cosine_and_two_stage_answers_are_those_of_the_definition(built: Path) -> None:
    photos = Collection.open(built / "my.index")
    codes = save.load(built / "my.index").columns[codes_column("conv5_3-avg")].astype(np.float64)
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    for row, own in enumerate(photos.ids.tolist()):
        expected = sorted((d, i) for d, i in zip(1 - unit @ unit[row], photos.ids.tolist(), strict=True) if i != own)
        found = answers(photos, own, k=8, method=COSINE)
        assert [i for _, i in found] == [i for _, i in expected]
        assert [d for d, _ in found] == pytest.approx([d for d, _ in expected], abs=1e-6)
        assert answers(photos, own, k=8, method="two-stage") == found  # the shortlist holds all
        assert answers(photos, own, radius=found[2][0], method=COSINE) == found[:3]


def test_a_new_image_has_the_codes_that_adding_it_gives(world: Path) -> None:
    image = draw(world / "more" / "70.png", 70)
    photos = Collection.open(world / "my.index")
    row_less = photos.embed(image)
    alone = {m: photos.search(image, k=9, method=m).neighbours for m in photos.methods}
    collection.add(world / "my.index", world / "more")
    after = Collection.open(world / "my.index")
    own = after.search(image, k=1).neighbours[0].id
    kept = save.load(world / "my.index").columns[codes_column("conv5_3-avg")][after.row(own)]
    assert row_less["conv5_3-avg"][0] == pytest.approx(kept, rel=2e-3)
    for method, expected in alone.items():
        found = after.search_id(own, k=9, method=method).neighbours
        assert [n.distance for n in found] == pytest.approx([n.distance for n in expected], abs=1e-4)


def test_cosine_on_each_layer_that_was_kept(tmp_path: Path) -> None:
    layers = ["conv5_3", "conv3_3-max", "pool5-flatten"]
    photos = collection.build(folder_of_images(tmp_path / "photos"), tmp_path / "my.index", layers=layers, **SMALL)
    assert photos.methods["itq" if "itq" in photos.methods else "lsh"].spec == "conv5_3-avg"
    new = draw(tmp_path / "new.png", 500)
    look = photos.look(new)
    for spec in ("conv5_3-avg", "conv3_3-max", "pool5-flatten"):
        codes = photos.codes(spec).astype(np.float64)
        unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
        expected = photos.ids[np.argsort(1 - unit @ unit[4], kind="stable")][1:].tolist()
        for method in (COSINE, "two-stage"):  # whose shortlist holds all
            answer = photos.search_id(str(photos.ids[4]), k=8, method=method, layer=spec)
            assert [n.id for n in answer.neighbours] == expected
            assert (answer.method.spec, answer.method.name) == (spec, method)
        assert photos.look(new).codes is not None and look.codes is not None
        one = look.codes[spec][0].astype(np.float64)
        by_image = photos.search(look, k=9, method=COSINE, layer=spec).neighbours
        assert [n.id for n in by_image] == photos.ids[np.argsort(-(unit @ one), kind="stable")].tolist()
        assert by_image == photos.search(new, k=9, method=COSINE, layer=spec).neighbours
    assert photos.search(look, layer="conv3_3").method.name == COSINE  # the first method that has it
    assert photos.search(look, layer="pool5").method.name == "topk"
    for wrong, allowed in ((COSINE, "conv5_3-avg, conv3_3-max, pool5-flatten"), ("topk", "pool5-flatten")):
        with pytest.raises(UserError, match=f"method {wrong} of this index has no layer 'conv1_1'; allowed: {allowed}"):
            photos.search(look, method=wrong, layer="conv1_1")
    with pytest.raises(UserError, match="conv5_3-avg, conv5_3-avg name one twice"):
        collection.build(tmp_path / "photos", tmp_path / "out", layers=["conv5_3", "conv5_3-avg"], **SMALL)


def test_a_look_outlives_a_change(world: Path) -> None:
    draw(world / "more" / "x" / "40.png", 40)
    before = Collection.open(world / "my.index")
    own, new = before.look(before.file(0)), before.look(world / "more" / "x" / "40.png")
    expected = answers(before, new, k=9)
    collection.add(world / "my.index", world / "more")
    after = before.reopened()
    assert not before.is_current() and after.is_current() and len(after) == 10
    assert answers(after, new, k=1)[0][0] == 0  # it is in the collection by now
    collection.remove(world / "my.index", [str(before.ids[0]), answers(after, new, k=1)[0][1]])
    last = after.reopened()
    assert answers(last, new, k=8) == [e for e in expected if e[1] != before.ids[0]]
    with pytest.raises(UserError, match="the image has left the collection"):
        last.search(own)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_a_query_of_any_mode_and_size(built: Path, tmp_path: Path, mode: str) -> None:
    photos = Collection.open(built / "my.index")
    small = Image.new("RGB", (300, 5), (200, 30, 90)).convert("L" if mode == "I;16" else mode)
    path = tmp_path / ("q.jpg" if mode == "CMYK" else "q.png")
    (small.convert("I").convert("I;16") if mode == "I;16" else small).save(path)
    assert len(photos.search(path, k=9).neighbours) == 9


def test_labels_are_found_and_filter(built: Path) -> None:
    photos = Collection.open(built / "my.index")
    found = photos.search(photos.file(0), method="topk", label="çat").neighbours
    assert len(found) == 3
    assert {n.label for n in found} == {"çat"} == {n.path.parent.name for n in found}
    assert photos.search(photos.file(0), method="topk", label="c\u0327at ").neighbours == found
    with pytest.raises(UserError, match=r"no image has the label 'cow'.*çat"):
        photos.search(photos.file(0), label="cow")


def test_without_labels(tmp_path: Path) -> None:
    for i in range(3):
        draw(tmp_path / "photos" / f"{i}.png", i)
    photos = collection.build(tmp_path / "photos", tmp_path / "my.index", long=[], **SMALL)
    assert photos.labels.tolist() == ["", "", ""]
    assert list(photos.methods) == [COSINE, "lsh", "two-stage"]
    assert len(photos.search(photos.file(1)).neighbours) == 3  # 12 are not there, and were not asked for


def test_itq_where_there_are_enough_images(tmp_path: Path) -> None:
    photos = collection.build(folder_of_images(tmp_path / "photos", range(20)), tmp_path / "i", nbits=16, **SMALL)
    assert photos.made_by["short"]["hasher"] == "itq"
    assert photos.made_by["short"]["fitted_on"] == 20


def test_adding_computes_only_what_is_new(
    world: Path,
    built: Path,
    count_images: Callable[[], int],  # noqa: F811
) -> None:
    more = shutil.copytree(built / "photos", world / "more")
    draw(more / "new" / "20.png", 20)
    before = Collection.open(world / "my.index")
    done = collection.add(world / "my.index", more)
    assert (done.added, done.known, done.moved, done.images) == (1, 9, 0, 10)  # a copy is not an image of its own
    assert count_images() == 1
    assert not before.is_current() and len(before) == 9
    after = Collection.open(world / "my.index")
    assert set(before.ids.tolist()) < set(after.ids.tolist())
    done = collection.add(world / "my.index", more)
    assert (done.added, done.known, done.images) == (0, 10, 10)
    assert {after.root(r) for r in range(10)} == {built / "photos", more}


def test_images_that_another_version_of_the_decoder_shows_otherwise_are_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count_images: Callable[[], int],  # noqa: F811
) -> None:
    """An index of the first version has no column of versions; one file of it is shown otherwise by the second."""
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    photos, index = folder_of_images(tmp_path / "photos"), tmp_path / "my.index"
    keyed = png(np.random.default_rng(0).integers(0, 16, (80, 72, 1)), 4, 0, key=b"\0\3")
    (photos / "犬" / "keyed.png").write_bytes(keyed)
    collection.build(photos, index, **SMALL)
    with save.updating(index) as saved:
        row = saved.columns["path"].tolist().index("犬/keyed.png")
        assert saved.columns.pop("decoder").tolist() == [1 + (r == row) for r in range(10)]
    count_images()
    done = collection.add(index, photos)
    assert (done.added, done.replaced, done.known, done.images) == (0, 1, 9, 10)
    assert count_images() == 0  # its row is in the store
    done = collection.add(index, photos)
    assert (done.added, done.replaced, done.known, done.images) == (0, 0, 10, 10)


def test_adding_gives_what_building_gives(tmp_path: Path) -> None:
    """Row by row: the same codes and bits, whichever way an image came in."""
    folder_of_images(tmp_path / "photos", range(4))
    part = collection.build(tmp_path / "photos", tmp_path / "part", **SMALL)
    folder_of_images(tmp_path / "photos", range(9))
    collection.add(tmp_path / "part", tmp_path / "photos")
    whole = collection.build(tmp_path / "photos", tmp_path / "whole", **SMALL)
    added = Collection.open(tmp_path / "part")
    assert added.ids.tolist() == whole.ids.tolist()
    assert [added.file(r) for r in range(9)] == [whole.file(r) for r in range(9)]
    for method in ("topk", "sigmoid"):  # these learn nothing from the images
        assert (added.packed(method) == whole.packed(method)).all()
    assert answers(added, str(whole.ids[0]), method=COSINE) == answers(whole, str(whole.ids[0]), method=COSINE)
    assert part.ids.tolist() == [i for i in added.ids.tolist() if i in set(part.ids.tolist())]


def test_moved_and_edited_files(world: Path) -> None:
    photos = folder_of_images(world / "mine", range(30, 39))
    collection.add(world / "my.index", photos)
    first = next(photos.rglob("30.png"))
    target = photos / "a much longer name of a folder" / "30.png"
    target.parent.mkdir()
    first.rename(target)
    edited = next(photos.rglob("31.png"))
    draw(edited, 99)
    done = collection.add(world / "my.index", photos)
    assert (done.added, done.moved, done.replaced, done.known, done.images) == (0, 1, 1, 7, 18)
    after = Collection.open(world / "my.index")
    [(row, found)] = [(r, after.file(r)) for r in range(18) if after.file(r).parent == target.parent]
    assert found == target and after.labels[row] == target.parent.name
    assert answers(after, edited, k=1)[0][0] == 0
    assert collection.verify(world / "my.index", files=True) == []


def test_removing(world: Path, built: Path) -> None:
    before = Collection.open(world / "my.index")
    gone = [str(before.ids[2]), str(before.file(5))]
    assert collection.remove(world / "my.index", gone) == sorted([gone[0], str(before.ids[5])])
    after = Collection.open(world / "my.index")
    assert len(after) == 7
    kept = [d for d in answers(before, before.file(0), k=9) if d[1] not in (gone[0], str(before.ids[5]))]
    assert answers(after, before.file(0), k=7) == kept
    with pytest.raises(UserError, match="'nothing' not in"):
        collection.remove(world / "my.index", ["nothing"])
    assert len(Collection.open(world / "my.index")) == 7
    collection.remove(world / "my.index", after.ids.tolist())
    with pytest.raises(UserError, match="the collection is empty"):
        Collection.open(world / "my.index").search(before.file(0))
    collection.add(world / "my.index", built / "photos")
    assert answers(Collection.open(world / "my.index"), before.file(0), k=9) == answers(before, before.file(0), k=9)


def test_missing_files_are_told_and_removed(world: Path) -> None:
    extra = draw(world / "extra" / "x" / "31.png", 31)
    collection.add(world / "my.index", world / "extra")
    draw(extra, 32)
    assert collection.verify(world / "my.index") == []
    [problem] = collection.verify(world / "my.index", files=True)
    assert f"{extra} changed" in problem
    extra.unlink()
    [problem] = collection.verify(world / "my.index")
    assert "no such file" in problem
    assert len(collection.remove(world / "my.index", missing=True)) == 1
    assert collection.verify(world / "my.index") == []


# A step of publishing -> the module of which it is a function.
WHERE = {"_write": "save", "sync": "disk", "write": "json_files"}


@pytest.mark.parametrize("moment", list(WHERE))
def test_killed_in_the_middle_of_an_add(world: Path, moment: str) -> None:
    draw(world / "more" / "x" / "40.png", 40)
    code = f"""
import os, signal
from pipeline import collection
from pipeline.base import disk, json_files
from pipeline.search import save
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
setattr({WHERE[moment]}, {moment!r}, die)
collection.add({str(world / "my.index")!r}, {str(world / "more")!r})
"""
    before = answers(Collection.open(world / "my.index"), world / "more" / "x" / "40.png", k=9)
    killed = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert collection.verify(world / "my.index") == []
    assert answers(Collection.open(world / "my.index"), world / "more" / "x" / "40.png", k=9) == before
    assert collection.add(world / "my.index", world / "more").images == 10
    assert answers(Collection.open(world / "my.index"), world / "more" / "x" / "40.png", k=1)[0][0] == 0


def test_a_build_that_fails_leaves_nothing(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(built / "cache"))
    monkeypatch.setattr(save, "create", lambda *_: (_ for _ in ()).throw(UserError("stop")))
    with pytest.raises(UserError, match="stop"):
        collection.build(built / "photos", tmp_path / "my.index", **SMALL)
    assert list(tmp_path.glob("[!c]*")) == list(tmp_path.glob(".*")) == []


def test_searching_while_adding_and_removing(world: Path) -> None:
    """Each answer is that of one generation, whole."""
    draw(world / "more" / "x" / "50.png", 50)
    query = Collection.open(world / "my.index").ids[0].item()
    valid, seen, stop = [], [], threading.Event()
    old = Collection.open(world / "my.index")
    valid.append(answers(old, query, k=8))
    collection.add(world / "my.index", world / "more")
    valid.append(answers(Collection.open(world / "my.index"), query, k=8))
    new = next(iter(set(Collection.open(world / "my.index").ids.tolist()) - set(old.ids.tolist())))

    def searching() -> None:
        while not stop.is_set():
            seen.append(answers(Collection.open(world / "my.index"), query, k=8))

    thread = threading.Thread(target=searching)
    thread.start()
    try:
        for _ in range(4):
            collection.remove(world / "my.index", [new])
            collection.add(world / "my.index", world / "more")
    finally:
        stop.set()
        thread.join()
    assert len(seen) > 2
    assert all(answer in valid for answer in seen)


def test_an_index_cut_short_is_refused(world: Path) -> None:
    query = draw(world / "q.png", 300)
    files = [p for p in (world / "my.index").rglob("*") if p.is_file() and p.name != ".lock"]
    assert any(p.parent.name == WEIGHTS for p in files)
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError):
            Collection.open(world / "my.index").search(query)
        with pytest.raises(UserError) if path.name in ("current.json", "manifest.json") else contextlib.nullcontext():
            assert collection.verify(world / "my.index") != []
        path.write_bytes(whole)
    assert collection.verify(world / "my.index") == []


def test_other_weights_are_refused(world: Path) -> None:
    from pipeline.config import WeightsParams

    other: Weights = resolve(WeightsParams.of("tinyvgg", "random:1"), world / "cache")
    [file] = (world / "my.index" / WEIGHTS).iterdir()
    file.unlink()
    write_canonical(other, file)
    photos = Collection.open(world / "my.index")
    with pytest.raises(UserError, match="other weights than those that made its codes"):
        photos.search(draw(world / "q.png", 300))
    assert any("other weights" in p for p in collection.verify(world / "my.index"))
    draw(world / "more" / "60.png", 60)
    with pytest.raises(UserError, match="made from other codes"):
        collection.add(world / "my.index", world / "more")
    assert answers(photos, photos.file(0), k=3)  # an image of the collection needs no network


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "itp"}, "no method 'itp'; allowed: topk, sigmoid, cosine, lsh, two-stage"),
        ({"k": 0}, "k = 0; allowed: 1 or more"),
        ({"k": 0, "radius": 2, "method": "topk"}, "k = 0; allowed: 1 or more"),
        ({"radius": 2.5, "method": "topk"}, "radius 2.5 among codes of"),
        ({"radius": -1, "method": "cosine"}, "radius -1 of a cosine distance"),
        ({"radius": 1, "method": "two-stage"}, "orders a shortlist"),
    ],
)
def test_bad_questions(built: Path, wrong: dict[str, Any], message: str) -> None:
    photos = Collection.open(built / "my.index")
    with pytest.raises(UserError, match=message):
        photos.search(photos.file(0), **wrong)


@pytest.mark.parametrize("method", ["topk", "cosine", "two-stage"])
def test_k_is_at_most_k(built: Path, method: str) -> None:
    photos = Collection.open(built / "my.index")
    image = photos.file(0)
    own = photos.search(image, k=1).neighbours[0].id
    assert len(photos.search(image, k=10, method=method).neighbours) == 9
    assert len(photos.search(image, k=10_000, label="çat", method=method).neighbours) == 3
    assert len(photos.search_id(own, k=9, method=method).neighbours) == 8
    label = str(photos.labels[photos.row(own)])
    mates = int((photos.labels == label).sum()) - 1
    assert len(photos.search_id(own, k=9, label=label, method=method).neighbours) == mates
    if method != "two-stage":
        assert len(photos.search(image, k=99, radius=2, label="çat", method=method).neighbours) <= 3


def test_an_image_alone_under_its_label_has_no_neighbours(tmp_path: Path) -> None:
    for i, label in enumerate(("one", "two", "two")):
        draw(tmp_path / "photos" / label / f"{i}.png", i)
    photos = collection.build(tmp_path / "photos", tmp_path / "my.index", long=[], **SMALL)
    [alone] = photos.ids[photos.labels == "one"]
    for k in (None, 1, 5):
        assert photos.search_id(str(alone), k=k, label="one").neighbours == ()


def test_bad_queries_and_folders(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(built / "cache"))
    photos = Collection.open(built / "my.index")
    with pytest.raises(UserError, match=r"broken|not an image"):
        photos.search(photos.file(0).read_bytes()[:200])
    with pytest.raises(UserError, match=r"no image of .* has the id 'zz'"):
        photos.search_id("zz")
    with pytest.raises(UserError, match="is there already"):
        collection.build(built / "photos", built / "my.index", **SMALL)
    with pytest.raises(UserError, match="does not exist"):
        collection.build(tmp_path / "nowhere", tmp_path / "out", **SMALL)
    with pytest.raises(UserError, match="is not an index"):
        Collection.open(tmp_path)
    with pytest.raises(UserError, match="unknown long codes bottomk"):
        collection.build(built / "photos", tmp_path / "out", long=["bottomk"], **SMALL)
    with pytest.raises(UserError, match="hasher topk does not make short codes; allowed: lsh"):
        collection.build(built / "photos", tmp_path / "out", hasher="topk", **SMALL)
    assert not (tmp_path / "out").exists()


def test_copies_of_a_folder_that_was_built_are_duplicates(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "photos", range(4))
    shutil.copytree(tmp_path / "photos", tmp_path / "photos" / "again")
    photos = collection.build(tmp_path / "photos", tmp_path / "my.index", long=[], **SMALL)
    groups, _ = collection.duplicates(photos, radius=0)
    copies = [{photos.digest(r) for r in group} for group in groups]
    assert all(len(group) >= 2 for group in groups) and len(set().union(*copies)) == 4


def test_duplicates_are_the_connected_groups_of_all_pairs(built: Path) -> None:
    photos = Collection.open(built / "my.index")
    packed = photos.packed("lsh")
    distances = np.bitwise_count(packed[:, None] ^ packed).sum(axis=2)
    for radius in (0, 1, 4, 9, 20, 64):
        group = np.arange(9)
        for _ in range(9):  # the lowest row that can be reached
            group = np.array([group[distances[i] <= radius].min() for i in range(9)])
        expected = [np.flatnonzero(group == g).tolist() for g in np.unique(group)]
        expected = sorted((g for g in expected if len(g) > 1), key=lambda g: (-len(g), g[0]))
        assert collection.duplicates(photos, radius=radius, method="lsh") == (expected, radius)
    with pytest.raises(UserError, match="method cosine, which has no bits; allowed: topk, sigmoid, lsh"):
        collection.duplicates(photos, method="cosine")


def test_a_hash_that_tells_no_image_apart_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.hashing.sigmoid.THRESHOLD", 1e4)  # which no value passes
    photos = collection.build(folder_of_images(tmp_path / "photos"), tmp_path / "my.index", **SMALL)
    assert list(photos.methods) == ["topk", "cosine", "lsh", "two-stage"]
    why = "sigmoid of pool5-flatten gives all 9 training images the same bits (none set), which find nothing"
    assert collection.info(tmp_path / "my.index")["left_out"] == {"sigmoid": why}
    assert f"sigmoid is left out: {why}" in caplog.text
    with pytest.raises(UserError, match="no method 'sigmoid'; allowed: topk, cosine, lsh, two-stage"):
        photos.search(photos.file(0), method="sigmoid")
    draw(tmp_path / "more" / "40.png", 40)
    assert collection.add(tmp_path / "my.index", tmp_path / "more").images == 10
    only = collection.build(tmp_path / "photos", tmp_path / "only", long=["sigmoid"], **SMALL)
    assert next(iter(only.methods)) == "cosine"
    assert collection.duplicates(only)[1] == 2  # by the short code


def test_copies_of_one_image_are_no_reason_to_leave_a_hash_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    image = draw(tmp_path / "photos" / "0.png", 0).read_bytes()
    for i in range(1, 5):
        (tmp_path / "photos" / f"{i}.png").write_bytes(image)
    photos = collection.build(tmp_path / "photos", tmp_path / "my.index", **SMALL)
    assert list(photos.methods) == ["topk", "sigmoid", "cosine", "lsh", "two-stage"]
    assert collection.duplicates(photos)[0] == [[0, 1, 2, 3, 4]]


def test_a_short_code_that_tells_no_image_apart_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.hashing.linear.signs", lambda codes, *_: np.ones((len(codes), 64), bool))
    collection.build(folder_of_images(tmp_path / "photos"), tmp_path / "my.index", hasher="lsh", **SMALL)
    note = collection.info(tmp_path / "my.index")["short"]["note"]
    assert note == "lsh gives all 9 training images the same bits (64 of 64 set), which find nothing"


def test_a_picture_saved_again_is_a_duplicate(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "photos")
    copy = Image.open(next((tmp_path / "photos").rglob("4.png"))).convert("RGB")
    copy.save(tmp_path / "photos" / "çat" / "again.jpg", quality=95)
    photos = collection.build(tmp_path / "photos", tmp_path / "my.index", **SMALL)
    groups, radius = collection.duplicates(photos, method="lsh")
    assert radius == 2
    assert any({photos.file(r).stem for r in g} >= {"again", "4"} for g in groups)


def test_rows_that_another_precision_gave_are_told(world: Path, tmp_path: Path) -> None:
    folder, more = world / "my.index", folder_of_images(tmp_path / "more", range(20, 22))
    first = collection.info(folder)
    assert first["also"] == []
    other = "fp32" if Collection.open(folder).made_by["params"]["precision"] == "bf16" else "bf16"
    done = collection.add(folder, more, device="cpu", precision=other)
    assert done.added == 2 and f"computed on cpu in {other}" in done.note
    assert collection.info(folder)["also"] == [{"device": "cpu", "precision": other}]
    again = collection.add(folder, folder_of_images(tmp_path / "again", range(30, 31)), precision=other)
    assert again.added == 1 and "computed" not in again.note
    assert collection.info(folder)["codes"] == first["codes"] and collection.verify(folder) == []
    query = draw(tmp_path / "query.png", 40)
    here = Collection.open(folder, where=Where(precision=other))
    assert [n.id for n in here.search(query, k=3, method=COSINE).neighbours]


def test_a_device_that_is_not_here_is_told_before_anything_is_read(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device mps is not on this machine"):
        collection.add(world / "my.index", tmp_path / "nowhere", device="mps")
    with pytest.raises(UserError, match="device mps is not on this machine"):
        Where(device="mps")
