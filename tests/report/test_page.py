"""The page as a whole: self-contained, escaped, the same every time, and there without labels."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pipeline.base.errors import UserError
from pipeline.data.manifest import Failure
from pipeline.figures import curve
from pipeline.heads.curve import CurvePoint
from pipeline.report.page import SECTIONS
from tests.report.conftest import SPECS
from tests.report.world import heads_params, make_images, make_manifest, make_page, make_world, report_params

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Checks nesting; collects text, tags, ids, links to other places, and pictures without words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.silent: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]
        if tag == "img" and not values.get("alt"):
            self.silent.append(str(values.get("src"))[:40])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def fake_curve(*_: object, settings: list[float], so_far: object) -> list[CurvePoint]:
    assert len(settings) == 5
    return [CurvePoint(s, round(100 * s), r, s / 2 + r / 100, s / 3, s / 4) for s in (0.1, 0.5, 1.0) for r in range(5)]


@pytest.fixture
def built(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(curve, "learning_curve", fake_curve)
    return make_page(world, report_params(learning_curve=[0.1, 0.5, 1.0]), heads=heads_params(), specs=SPECS)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_page_is_whole_and_asks_for_nothing(built: Path) -> None:
    page = Page(built)
    # Sections of stages that were not asked for, and of copies that are not there, have tests of their own.
    others = {"copies", "advice", "retrieval", "sanity", "strategies", "tuned"}
    assert [i for i in page.ids if i in SECTIONS] == [n for n in SECTIONS if n not in others]
    assert len(page.ids) == len(set(page.ids))
    assert page.silent == []
    for reference in page.references:
        assert reference.startswith(("data:", "#")) or (built.parent / reference).is_file(), reference
    assert all(r[1:] in page.ids for r in page.references if r.startswith("#"))
    source = built.read_text(encoding="utf-8")
    assert re.findall(r"url\(|@import|https?://", source) == []


def test_class_names_are_text_not_markup(built: Path) -> None:
    page = Page(built)
    assert "<b>bold</b>" in page.text
    assert "Straße & Zug" in page.text
    source = built.read_text(encoding="utf-8")
    assert "<b>bold" not in source


def test_the_same_inputs_give_the_same_bytes(world: Path, built: Path) -> None:
    first = digest(built.parent)
    make_page(world, report_params(learning_curve=[0.1, 0.5, 1.0]), heads=heads_params(), specs=SPECS)
    assert digest(built.parent) == first
    expected = {"index.html", "metrics.json", "table.csv", "per_repeat.csv", "confusions.csv", "mistakes.csv"}
    expected |= {"learning_curve.csv", "map.csv"}
    expected |= {f"plots/{name}.csv" for name in ("depth", "tradeoff", "learning_curve", "confusion")}
    assert first.keys() == expected


def test_the_headline_names_the_winner_and_its_lead(built: Path) -> None:
    best = json.loads((built.parent / "metrics.json").read_text())["best"]
    page = " ".join(Page(built).text.split())
    accuracy = 100 * best["accuracy"]
    assert f"{best['codes']} with {best['head']} is right on {accuracy:.1f} ±" in page
    assert f"{accuracy - 25:.1f} points" in page  # four equal classes


def test_combinations_left_from_other_params_stay_out(world: Path) -> None:
    page = make_page(world, report_params(), heads=heads_params(["svm", "knn"]), specs=SPECS[:2])
    assert "pool5" not in Page(page).text
    assert json.loads((page.parent / "metrics.json").read_text())["best_accuracy"].keys() == {"svm", "knn"}
    with (page.parent / "table.csv").open() as f:
        assert len(list(csv.DictReader(f))) == 4


@pytest.mark.parametrize(
    "spoil", [lambda w: (w / "dataset/manifest.csv").unlink(), lambda w: (w / "codes/pool5-avg/codes.json").unlink()]
)
def test_what_is_missing_is_said_before_anything_is_written(small: Path, spoil: Callable[[Path], None]) -> None:
    spoil(small)
    with pytest.raises(UserError):
        make_page(small, report_params(), heads=heads_params(), specs=["pool5-avg"])
    assert not (small / "report").exists()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    names = [f"{i}.png" for i in range(24)]
    make_images(tmp_path / "images", names)
    manifest = make_manifest(tmp_path / "images", names, ["ab"[i % 2] for i in range(24)], repeats=1)
    make_world(tmp_path, manifest, ["pool5-avg"], sharpness=50.0)
    return tmp_path


def test_one_layer_one_split_and_no_mistake(small: Path) -> None:
    page = " ".join(Page(make_page(small, report_params(), heads=heads_params(), specs=["pool5-avg"])).text.split())
    assert "every answer was right" in page
    assert "nan" not in page.lower().split()
    assert "100.0" in page


def test_no_other_image_is_drawn(small: Path) -> None:
    """A list may name any image of the machine: of the same size here, which says nothing."""
    for path in (small / "images").iterdir():
        with Image.open(path) as image:
            other = Image.new("RGB", image.size, (1, 2, 3))
        other.save(small / "other.png")
        path.unlink()
        path.symlink_to(shutil.copy(small / "other.png", small / f"of {path.name}"))
    page = Page(make_page(small, report_params(), heads=heads_params(), specs=["pool5-avg"]))
    assert "img" not in page.tags and "image" not in page.tags


def test_pictures_that_are_gone_leave_their_words(small: Path) -> None:
    for path in (small / "images").iterdir():
        path.unlink()
    page = Page(make_page(small, report_params(), heads=heads_params(), specs=["pool5-avg"]))
    assert "img" not in page.tags and "image" not in page.tags
    assert "Map" in page.text


def test_unlabelled_images_get_their_map_and_no_heads(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(20)]
    make_images(tmp_path / "images", names)
    manifest = make_manifest(tmp_path / "images", names, [""] * 20)
    failures = [Failure("broken<i>.jpg", "empty file")]
    make_world(tmp_path, manifest, ["conv4_3-avg", "pool5-avg", "pool5-flatten"], failures=failures)
    specs = ["conv4_3-avg", "pool5-flatten", "pool5-avg"]
    path = make_page(tmp_path, report_params(), heads=heads_params(), specs=specs)
    page = Page(path)
    assert [i for i in page.ids if i in SECTIONS] == ["result", "map", "method"]
    assert "No labels, so no heads." in page.text
    assert "pool5-avg codes" in " ".join(page.text.split())  # the deepest layer's, and of those the smallest
    assert "broken<i>.jpg" in page.text
    assert json.loads((path.parent / "metrics.json").read_text()) == {"images": 20, "classes": 0}
