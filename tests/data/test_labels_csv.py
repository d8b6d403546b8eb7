"""labels.csv as people, spreadsheets, Windows and Macs write it: the same labels, or a sentence that says why not."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import UserError
from pipeline.data.build import build
from pipeline.data.sources import SOURCES, Listing
from tests.data.world import params, picture


def listed(root: Path, data: str | bytes, *, name: str = "labels.csv", **changes: Any) -> Listing:
    """The listing of a folder with a.png, sub/b.png and a labels.csv."""
    picture(root / "a.png", 0)
    picture(root / "sub/b.png", 1)
    (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return SOURCES["folder"](params(root=root, **changes), root)


def as_set(listing: Listing) -> set[tuple[str, str, str, str]]:
    return {tuple(r) for r in listing.records}  # type: ignore[misc]


BOTH = {("a.png", "cat", "", ""), ("sub/b.png", "dog", "", "")}


def test_all_columns(tmp_path: Path) -> None:
    text = '\ufeffpath,label,group,split\r\n./a.png,"big, cat",g1,train\r\nsub\\b.png,dog,,valid\r\n'
    assert as_set(listed(tmp_path, text)) == {
        ("a.png", "big, cat", "g1", "train"),
        ("sub/b.png", "dog", "", "val"),
    }


def test_images_that_it_leaves_out_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert as_set(listed(tmp_path, "label,path\ncat,a.png\n")) == {("a.png", "cat", "", "")}
    assert "1 file(s)" in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        "path,label\na.png,cat\nsub/b.png,dog",
        "path,label\r\na.png,cat\r\n\r\nsub/b.png,dog\r\n",
        "path,label\ra.png,cat\rsub/b.png,dog\r",
        "path,label\na.png,cat\n,\n  \nsub/b.png,dog\n",
        " Path , LABEL \na.png,cat\nsub/b.png,dog\n",
        "path,label,\na.png,cat,\nsub/b.png,dog,\n",
        "path,label\na.png,cat,\nsub/b.png,dog,,\n",
        ",path,label\n0,a.png,cat\n1,sub/b.png,dog\n",
        'path, label\n"a.png", "cat"\n sub/b.png ,dog\n',
        "path,label\na.png,cat\nsub\\b.png,dog\n",
        "path,label\nA.PNG,cat\nSub/B.png,dog\n",
        "path,label\n../{name}/a.png,cat\nsub/../sub/b.png,dog\n",
        "path,label\n{root}/a.png,cat\n{root}/./sub/b.png,dog\n",
        "path,label\na.png,cat\nsub/b.png,dog\n./a.png,cat\n",
        "path,label\na.png,cat\nsub/b.png,dog\n".encode("utf-16"),
        "path,label\na.png,cat\nsub/b.png,dog\n".encode("utf-8-sig"),
    ],
)
def test_ways_to_write_the_same(tmp_path: Path, data: str | bytes) -> None:
    root = tmp_path / "photos"
    if isinstance(data, str):
        data = data.replace("{root}", str(root)).replace("{name}", root.name)
    assert as_set(listed(root, data)) == BOTH


def test_the_file_may_have_capitals(tmp_path: Path) -> None:
    assert as_set(listed(tmp_path, "path,label\na.png,cat\nsub/b.png,dog\n", name="Labels.CSV")) == BOTH


def test_one_further_down_is_not_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "sub/labels.csv" in {
        r.path for r in listed(tmp_path, "path,label\nb.png,dog\n", name="sub/labels.csv").records
    }
    assert "sub/labels.csv is not read" in caplog.text


def test_absolute_paths_by_another_way_into_the_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    text = f"path,label\n{tmp_path}/link/a.png,cat\n{tmp_path}/photos/sub/b.png,dog\n"
    assert as_set(listed(tmp_path / "photos", text)) == BOTH
    assert as_set(listed(tmp_path / "link", text)) == BOTH


def test_an_absolute_link_keeps_its_own_name(tmp_path: Path) -> None:
    target = picture(tmp_path / "elsewhere/c.png", 2)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/link.png").symlink_to(target)
    found = listed(tmp_path / "photos", f"path,label\n{tmp_path}/photos/link.png,cat\n", follow_links=True)
    assert as_set(found) == {("link.png", "cat", "", "")}


@pytest.mark.parametrize(("on_disk", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_another_unicode_form(tmp_path: Path, on_disk: str, written: str) -> None:
    root = tmp_path / "föto"
    name = unicodedata.normalize(on_disk, "Café/Zürich é.png")
    picture(root / name, 3)
    other = unicodedata.normalize(written, "Café/Zürich é.png")
    assert name != other
    assert as_set(listed(root, f"path,label\n{other},cat\n")) == {(name, "cat", "", "")}
    there = unicodedata.normalize("NFD", str(root))
    assert as_set(listed(root, f"path,label\n{there}/{other},cat\n")) == {(name, "cat", "", "")}


def test_the_very_name_goes_before_one_that_looks_the_same(tmp_path: Path) -> None:
    for name in ("é.png", "e\u0301.png", "Q.png", "q.png", "back\\slash.png", " lead.png"):
        picture(tmp_path / name, 1)
    text = 'path,label\né.png,1\ne\u0301.png,2\nq.png,3\nQ.png,4\nback\\slash.png,5\n" lead.png",6\n'
    assert {r.path: r.label for r in listed(tmp_path, text).records} == {
        "é.png": "1", "e\u0301.png": "2", "q.png": "3", "Q.png": "4", "back\\slash.png": "5", " lead.png": "6",
    }  # fmt: skip


def test_rows_that_are_there_twice_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "path,label\na.png,cat\nsub/b.png,dog\nA.png,cat \n"
    assert as_set(listed(tmp_path, text)) == BOTH
    assert "1 row(s)" in caplog.text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "columns"),
        ("file,label\na.png,x\n", "columns"),
        ("path,label,colour\na.png,x,red\n", "columns"),
        ("path,label,label\na.png,x,y\n", "columns"),
        ("path;label\na.png;x\n", "between commas: this file seems to have semicolons"),
        ("sep=;\npath;label\na.png;x\n", "between commas: this file seems to have semicolons"),
        ("path\tlabel\na.png\tx\n", "between commas: this file seems to have tabs"),
        ("path\tlabel\na.png\tx\n".encode("utf-16"), "between commas: this file seems to have tabs"),
        ("path,label\na.png,x\nsub/b.png,caf\u00e9\n".encode("latin-1"), 'line 3 is not UTF-8.*"CSV UTF-8"'),
        ("path,label\n", "lists no images"),
        ("path,label\n,\n", "lists no images"),
        ("path,label\na.png\n", "line 2 has more or fewer"),
        ("path,label\na.png,x,y\n", "line 2 has more or fewer"),
        ("path,label\n../a.png,x\n", "inside the folder"),
        ("path,label\n/etc/passwd,x\n", "inside the folder"),
        ("path,label\n..,x\n", "inside the folder"),
        ("path,label\n.,x\n", "inside the folder"),
        ("path,label\nC:\\photos\\a.png,x\n", "inside the folder"),
        ("path,label\n\\\\nas\\photos\\a.png,x\n", "inside the folder"),
        ("path,label\n,x\n", "inside the folder"),
        ("path,label\na.png,x\n./a.png,y\n", "1 file.*the first 'a.png' in lines 2 and 3"),
        ("path,label\na.png,x\na.png,x\nA.png,\n", "'a.png' in lines 2 and 4"),
        ("path,label,split\na.png,x,query\n", "'query'"),
        ("path,label,split\na.png,x,train\nsub/b.png,y,\n", "some rows a split"),
        ('path,label\n"a.png,x\n', "not CSV"),
    ],
)
def test_what_is_refused(tmp_path: Path, data: str | bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        listed(tmp_path / "photos", data)


def test_a_file_that_is_not_there_is_a_failure_by_its_own_name(tmp_path: Path) -> None:
    assert as_set(listed(tmp_path, "path,label\ngone.png,x\n")) == {("gone.png", "x", "", "")}


def test_spacing_and_unicode_forms_make_no_classes(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    rows = [f"{i}.png,{label}" for i, label in enumerate(["cat", "cat ", " cat", "caf\u00e9", "cafe\u0301"])]
    for i in range(5):
        picture(root / f"{i}.png", i)
    (root / "labels.csv").write_text("\n".join(["path,label", *rows]))
    made = build(params(root=root, val_share=0.0, test_share=0.0), tmp_path / "out")
    assert made.classes == ("caf\u00e9", "cat")
