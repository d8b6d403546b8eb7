"""Collections whose short codes are searched by each kind of index, against a popcount and a cosine by definition."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import collection
from pipeline.base.errors import UserError
from pipeline.collection import Collection
from pipeline.collection.encode import codes_column
from pipeline.search import INDEXES, make, save
from pipeline.search.recall import measured
from tests.codes.conftest import draw
from tests.test_collection import SMALL, WHERE, answers, folder_of_images

pytestmark = [pytest.mark.network, pytest.mark.one_precision]  # bits are compared, however codes came to them

SETTINGS: dict[str, dict[str, int]] = {
    "exact": {},
    "multihash": {"tables": 4, "table_bits": 8, "flips": 1},
    "ivf": {"lists": 8, "probes": 1},
    "hnsw": {"links": 4, "build_width": 10, "search_width": 8},
}
KINDS = list(SETTINGS)
IMAGES = range(48)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of each kind of the same images, in a folder of the kind's name."""
    root = tmp_path_factory.mktemp("kinds")
    folder_of_images(root / "photos", IMAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(root / "cache"))
        for kind in KINDS:
            index = {"kind": kind, **SETTINGS[kind]}
            collection.build(root / "photos", root / kind, hasher="lsh", index=index, **SMALL)
    return root


@pytest.fixture
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of each, to be changed."""
    for kind in KINDS:
        shutil.copytree(built / kind, tmp_path / kind)
    monkeypatch.setenv("CNNCODES_CACHE", str(built / "cache"))
    return tmp_path


def oracle(photos: Collection, own: str) -> list[tuple[int, str]]:
    """Every other image by the Hamming distance of the short code, in (distance, id) order."""
    packed = photos.packed("lsh")
    distances = np.unpackbits(packed ^ packed[photos.row(own)], axis=1).sum(axis=1)
    return sorted((int(d), i) for d, i in zip(distances, photos.ids.tolist(), strict=True) if i != own)


def test_the_kinds_are_all_there_are() -> None:
    assert set(KINDS) == set(INDEXES)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours(built: Path, kind: str) -> None:
    photos = Collection.open(built / kind)
    near = 0
    for own in photos.ids.tolist():
        truth = oracle(photos, own)
        found = photos.search_id(own, k=10, method="lsh")
        assert found.index == kind
        mine = [(n.distance, n.id) for n in found.neighbours]
        assert len(mine) == 10 and mine == sorted(mine) and set(mine) <= set(truth)
        near += sum(d <= truth[9][0] for d, _ in mine)
        exact = photos.search_id(own, k=10, method="lsh", exact=True)
        assert exact.index == "exact"
        assert [(n.distance, n.id) for n in exact.neighbours] == truth[:10]
    about = collection.info(built / kind)["index"]
    assert (about["kind"], about["settings"], about["exact"]) == (kind, SETTINGS[kind], kind == "exact")
    if kind == "exact":
        assert (about["recall_at_10"], about["measured_queries"]) == (1.0, 0)
    else:
        assert about["measured_queries"] == len(IMAGES)
        assert about["recall_at_10"] == pytest.approx(near / (10 * len(IMAGES)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [0, 3, 7, 8, 20, 64])
def test_a_radius_is_exact_by_tables_or_a_scan(built: Path, kind: str, radius: int) -> None:
    photos = Collection.open(built / kind)
    for own in photos.ids.tolist()[:10]:
        found = photos.search_id(own, radius=radius, method="lsh")
        assert [(n.distance, n.id) for n in found.neighbours] == [p for p in oracle(photos, own) if p[0] <= radius]
        assert found.index == ("multihash" if kind == "multihash" and radius <= 7 else "exact")
        if not found.neighbours:
            assert found.nearest == oracle(photos, own)[0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_among_some_images_compares_them_all(built: Path, kind: str) -> None:
    photos = Collection.open(built / kind)
    for method in ("lsh", "two-stage"):
        found = photos.search(photos.file(5), k=9, label="çat", method=method)
        assert found.index == "exact"
        same = Collection.open(built / "exact").search(photos.file(5), k=9, label="çat", method=method)
        assert found.neighbours == same.neighbours


@pytest.mark.parametrize("kind", KINDS)
def test_methods_of_other_codes_compare_every_image(built: Path, kind: str) -> None:
    photos, exact = Collection.open(built / kind), Collection.open(built / "exact")
    assert {name for name, m in photos.methods.items() if m.index == kind} >= {"lsh", "two-stage"}
    for method in ("topk", "sigmoid", "cosine"):
        assert photos.search(photos.file(3), k=9, method=method) == exact.search(exact.file(3), k=9, method=method)
    assert list(photos.methods) == list(exact.methods)


@pytest.mark.parametrize("kind", KINDS)
def test_two_stages_order_the_index_s_shortlist_by_cosine(
    built: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.collection.find.SHORTLIST", 8)
    monkeypatch.setattr("pipeline.collection.find.SHORTLIST_FACTOR", 1)
    photos = Collection.open(built / kind)
    saved = save.load(built / kind)
    codes = saved.columns[codes_column("conv5_3-avg")].astype(np.float64)
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    for row in range(0, len(IMAGES), 5):
        _, shortlist = saved.index.search_rows(saved.index.packed[row][None], 8)
        far = 1 - unit @ unit[row]
        expected = sorted((far[r], saved.index.ids[r]) for r in shortlist[0].tolist())[:5]
        found = photos.search(photos.file(row), k=5, method="two-stage")
        assert found.index == kind
        assert [n.id for n in found.neighbours] == [i for _, i in expected]
        assert [n.distance for n in found.neighbours] == pytest.approx([d for d, _ in expected], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_add_and_remove_keep_the_kind_and_measure_again(world: Path, kind: str) -> None:
    folder = world / kind
    before = collection.info(folder)["index"]
    collection.add(folder, folder_of_images(world / "more", range(100, 103)))
    added = collection.info(folder)["index"]
    assert (added["kind"], added["settings"]) == (before["kind"], before["settings"])
    assert added["measured_queries"] == (0 if kind == "exact" else len(IMAGES) + 3)
    photos = Collection.open(folder)
    new = world / "more" / "犬" / "100.png"
    assert photos.search(new, k=1, method="lsh", exact=True).neighbours[0].distance == 0
    gone = photos.ids[::2].tolist()
    collection.remove(folder, gone)
    about, after = collection.info(folder)["index"], Collection.open(folder)
    assert about["kind"] == kind and set(after.ids.tolist()) == set(photos.ids.tolist()) - set(gone)
    saved = save.load(folder)
    assert {"recall_at_10": about["recall_at_10"], "measured_queries": about["measured_queries"]} == (
        measured(saved.index).as_json()
    )
    own = str(after.ids[3])
    assert answers(after, own, k=9, method="lsh", exact=True) == oracle(after, own)[:9]
    assert collection.verify(folder, files=True) == []
    collection.remove(folder, after.ids.tolist())
    assert collection.info(folder)["index"]["recall_at_10"] == 1


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "exact"])
@pytest.mark.parametrize("moment", list(WHERE))
def test_killed_in_the_middle_of_an_add(world: Path, kind: str, moment: str) -> None:
    draw(world / "more" / "x" / "140.png", 140)
    code = f"""
import os, signal
from pipeline import collection
from pipeline.base import disk, json_files
from pipeline.search import save
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
setattr({WHERE[moment]}, {moment!r}, die)
collection.add({str(world / kind)!r}, {str(world / "more")!r})
"""
    before = collection.info(world / kind)
    killed = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert collection.info(world / kind) == before and collection.verify(world / kind) == []
    assert collection.add(world / kind, world / "more").images == len(IMAGES) + 1
    assert collection.info(world / kind)["index"]["kind"] == kind


def test_an_exact_index_is_what_it_was_before_there_was_a_choice(built: Path) -> None:
    """An older program wrote these keys and no others, and its indexes are read as exact ones."""
    manifest = save.info(built / "exact")
    assert (manifest["index"], manifest["settings"]) == ("exact", {})
    assert not any("backend" in name for name in manifest["files"])
    assert manifest["made_by"].keys() == {
        *("version", "weights", "params", "dataset", "codes", "layers", "short", "long", "left_out", "roots")
    }


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "exact"])
def test_an_index_that_nobody_measured_is_measured_when_it_is_asked(world: Path, kind: str) -> None:
    """So is one of an older program, which wrote this kind by hand of a script."""
    known = collection.info(world / kind)["index"]
    with save.updating(world / kind) as saved:
        saved.made_by.pop("recall")
    assert collection.info(world / kind)["index"] == known


@pytest.mark.parametrize("recall", [{}, {"recall_at_10": 7.0, "measured_queries": 3}, 0.5, {"recall_at_10": "1"}])
def test_a_recall_that_is_none_is_refused(world: Path, recall: object) -> None:
    with save.updating(world / "hnsw") as saved:
        saved.made_by["recall"] = recall
    for use in (collection.info, Collection.open):
        with pytest.raises(UserError, match="recall"):
            use(world / "hnsw")


def test_two_stage_by_default(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(built / "cache"))
    index: dict[str, Any] = {"kind": "hnsw"}
    photos = collection.build(built / "photos", tmp_path / "i", two_stage=True, index=index, **SMALL)
    assert list(photos.methods) == ["two-stage", "topk", "sigmoid", "cosine", photos.made_by["short"]["hasher"]]
    found = photos.search(photos.file(0))
    assert (found.method.name, found.index) == ("two-stage", "hnsw")
    assert collection.info(tmp_path / "i")["index"]["settings"] == {"links": 16, "build_width": 64, "search_width": 64}
    with save.updating(tmp_path / "i") as saved:
        saved.made_by["default"] = "cosine; touch x"
    with pytest.raises(UserError, match="default"):
        Collection.open(tmp_path / "i")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"kind": "faster"}, r"index has 1 problem.*'exact', 'multihash', 'ivf', 'hnsw'"),
        ({"tables": 4}, r"tables: unknown key \(allowed: kind\)"),
        ({"kind": "hnsw", "tables": 4}, r"tables: unknown key \(allowed: kind, links, build_width, search_width\)"),
        ({"kind": "ivf", "lists": "8"}, r"lists: .*valid integer, got '8'"),
        ({"kind": "ivf", "lists": 4, "probes": 5}, "5 probes of 4 lists"),
        ({"kind": "multihash", "tables": 5}, "5 tables of 16 bits and 1 flips on codes of 64 bits"),
    ],
)
def test_a_wrong_kind_is_told_before_anything_is_read(tmp_path: Path, index: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        collection.build(tmp_path / "nowhere", tmp_path / "out", index=index, **SMALL)
    assert not (tmp_path / "out").exists()


def test_defaults_fit_codes_of_the_default_length() -> None:
    from pipeline.config import IndexParams
    from pipeline.workspace import preset

    for kind in KINDS:
        params = preset(IndexParams, kind=kind)
        assert make(params.kind, 64, **params.settings).settings() == params.settings
