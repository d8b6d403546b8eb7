"""IMDB-WIKI's list: which faces are kept, whose they are, and files that are not what they say."""

from __future__ import annotations

import datetime
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.base.errors import UserError
from pipeline.data.build import build
from pipeline.data.sources import Listing, imdb_wiki
from pipeline.data.sources.imdb_wiki import age
from tests.data.faces import BORN, Face, faces
from tests.data.world import params

NAN = float("nan")


def read(path: Path, **changes: Any) -> Listing:
    return imdb_wiki.read(params(source="imdb_wiki", root=path, **changes), path.parent)


@pytest.mark.parametrize(
    ("born", "taken", "years"),
    [
        (datetime.date(1980, 6, 30), 2010, 30),  # before the middle of the year
        (datetime.date(1980, 7, 1), 2010, 29),
        (datetime.date(2000, 1, 1), 2000, 0),
        (datetime.date(2000, 12, 31), 2000, -1),
    ],
)
def test_age_is_of_the_middle_of_the_year(born: datetime.date, taken: int, years: int) -> None:
    assert age(born.toordinal() + 366, taken) == years


def test_matlabs_days() -> None:
    assert datetime.date(1980, 3, 15).toordinal() == BORN - 366
    assert all(np.isnan(age(day, 2010)) for day in (0.0, -5.0, NAN, 1e9, float("inf"))) and np.isnan(age(BORN, NAN))


def test_what_is_kept_and_why_not(tmp_path: Path) -> None:
    listed = [
        Face("01/kept.png"),
        Face("01/man.png", gender=1.0, name="Bob"),
        Face("01/low.png", score=0.99),
        Face("01/none.png", score=float("-inf")),
        Face("01/infinite.png", score=float("inf")),
        Face("01/second.png", second=1.2),
        Face("01/unknown.png", gender=NAN),
        Face("01/odd.png", gender=2.0),
        Face("01/unborn.png", taken=1979),
        Face("01/old.png", taken=2081),
        Face("01/hundred.png", taken=2080),
        Face("01/noday.png", born=0.0),
    ]
    faces(tmp_path / "wiki.mat", listed)
    kept = {(r.path, r.label) for r in read(tmp_path / "wiki.mat").records}
    assert kept == {("01/kept.png", "female"), ("01/man.png", "male"), ("01/hundred.png", "female")}
    assert len(read(tmp_path / "wiki.mat", face_score=0.5).records) == 4


def test_a_person_is_one_group(tmp_path: Path) -> None:
    listed = [
        Face("1/100_a.png", name="Ann"),
        Face("2/100_b.png", name="Ann", born=BORN + 1),
        Face("3/200_a.png", name=""),
        Face("4/200_b.png", name=""),
        Face("5/300_a.png", name="Zoë Ünal"),
    ]
    faces(tmp_path / "wiki.mat", listed)
    assert [r.group for r in read(tmp_path / "wiki.mat").records] == ["Ann", "Ann", "page 200", "page 200", "Zoë Ünal"]
    faces(tmp_path / "imdb.mat", [Face("1/a.png", celeb=7), Face("1/b.png", celeb=7, name="Other"), Face("1/c.png")])
    assert [r.group for r in read(tmp_path / "imdb.mat").records] == ["id 7", "id 7", "id 1"]


def test_no_person_is_on_two_sides_of_a_split(tmp_path: Path) -> None:
    people = [(f"person {i}", float(i % 2)) for i in range(16)]
    listed = [Face(f"{i % 4}/{i}_{j}.png", name, gender) for i, (name, gender) in enumerate(people) for j in range(3)]
    faces(tmp_path / "wiki.mat", listed)
    chosen = params(source="imdb_wiki", root=tmp_path / "wiki.mat", repeats=3)
    manifest = build(chosen, tmp_path / "out")
    assert manifest.classes == ("female", "male") and len(manifest.ids) == 48
    for splits in manifest.splits:
        sides: dict[str, set[str]] = {}
        for group, split in zip(manifest.groups, splits, strict=True):
            sides.setdefault(str(group), set()).add(str(split))
        assert all(len(side) == 1 for side in sides.values()) and set.union(*sides.values()) == {"train", "val", "test"}


def test_other_files_are_refused(tmp_path: Path) -> None:
    faces(tmp_path / "wiki.mat", [Face("a.png")])
    (tmp_path / "wiki.mat").rename(tmp_path / "imdb.mat")
    with pytest.raises(UserError, match=r"imdb\.mat holds no struct imdb"):
        read(tmp_path / "imdb.mat")
    for name in ("wiki.mat", "faces.mat"):
        with pytest.raises(UserError, match="is not a file of IMDB-WIKI"):
            read(tmp_path / name)
    with h5py.File(tmp_path / "wiki.mat", "w", userblock_size=512) as file:
        file["wiki"] = np.zeros(3)
    with (tmp_path / "wiki.mat").open("r+b") as f:
        f.write(b"MATLAB 7.3 MAT-file".ljust(124) + bytes([0, 2]) + b"IM")
    with pytest.raises(UserError, match=r"version 7\.3"):
        read(tmp_path / "wiki.mat")


@pytest.mark.parametrize("field", [*imdb_wiki._wanted()])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    faces(tmp_path / "wiki.mat", [Face("a.png")], drop=field)
    with pytest.raises(UserError, match=rf"wiki has no {field}; allowed: dob, photo_taken"):
        read(tmp_path / "wiki.mat")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gender": np.zeros((1, 5))}, "fields of different lengths"),
        ({"gender": np.array([["f"]], dtype=object)}, "gender holds object"),
        ({"dob": "text"}, "different lengths|dob holds"),
    ],
)
def test_fields_of_another_kind_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    faces(tmp_path / "wiki.mat", [Face("a.png")], **changes)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "wiki.mat")


@pytest.mark.parametrize("path", ["../out.png", "/etc/passwd", "..", "", "a/../../b.png"])
def test_paths_stay_inside(tmp_path: Path, path: str) -> None:
    faces(tmp_path / "f/wiki.mat", [Face("a.png")], full_path=np.array([[np.array([path])]], dtype=object))
    with pytest.raises(UserError, match="lists the path"):
        read(tmp_path / "f/wiki.mat")


def test_nothing_to_keep_says_why(tmp_path: Path) -> None:
    faces(tmp_path / "wiki.mat", [Face("a.png", gender=NAN), Face("b.png", score=0.0)])
    with pytest.raises(UserError, match=r"no face that is wanted \(1 of unknown gender, 1 without one clear face\)"):
        read(tmp_path / "wiki.mat")


def test_files_cut_short_or_changed_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wiki.mat"
    faces(path, [Face(f"{i}.png") for i in range(20)])
    data = path.read_bytes()
    for cut in range(0, len(data), 11):
        path.write_bytes(data[:cut])
        with pytest.raises(UserError, match=r"wiki\.mat"):
            read(path)
    g = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        broken[int(g.integers(len(data)))] ^= int(g.integers(1, 256))
        path.write_bytes(broken)
        try:
            assert len(read(path).records) <= 20
        except UserError:
            continue


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imdb_wiki, "_MOST_BYTES", 2_000_000)
    packed = zlib.compress(bytes(8_000_000))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    (tmp_path / "wiki.mat").write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(UserError, match="allowed: at most 2000000"):
        read(tmp_path / "wiki.mat")
