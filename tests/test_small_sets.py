"""Defaults fit themselves to sets of a few images: each ends with a page and a sentence, or one clear error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.advice.run import advise
from pipeline.base.errors import UserError
from pipeline.codes.reader import Codes
from pipeline.config import AdviseParams, DatasetParams, HashSpec, HeadsParams, RetrievalParams
from pipeline.data.build import build
from pipeline.retrieval.run import evaluate
from pipeline.workspace import Workspace, compare, preset
from tests.report.world import make_images, write_codes

SPEC = "pool5-avg"


@pytest.fixture
def set_of(tmp_path: Path, request: pytest.FixtureRequest) -> Workspace:
    """A workspace of made images, the numbers those of its classes, split by the defaults."""
    counts: Sequence[int] = request.param
    names = [f"{chr(97 + c)}/{i}.png" for c, count in enumerate(counts) for i in range(count)]
    make_images(tmp_path / "photos", names)
    space = Workspace(tmp_path / "out")
    params = preset(DatasetParams, source="folder", root=str(tmp_path / "photos"))
    write_codes(space.root / "codes" / SPEC, build(params, space.root / "dataset", labels_needed=False), SPEC, 32)
    return space


def sizes(*wanted: tuple[int, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("set_of", wanted, indirect=True, ids=lambda counts: "+".join(map(str, counts)))


@sizes((2, 2), (1, 5, 6), (3, 3, 3), (2, 12), (17, 17))
def test_every_head_is_compared_on_the_page(set_of: Workspace) -> None:
    page = compare(set_of).read_text()
    manifest = set_of.manifest()
    text = " ".join(re.sub("<[^>]+>", " ", page).split())
    train = len(manifest.rows("train"))
    assert (f"left out: there are {train} training images" in text) == (train < 20)
    assert ("without a choice, for want of validation images" in text) == (not len(manifest.rows("val")))
    assert ("have no test image (a)" in text) == (list(manifest.labels).count("a") == 1)


@sizes((6,), (1, 1), (1,))
def test_what_can_not_be_compared_is_one_clear_error(set_of: Workspace) -> None:
    with pytest.raises(UserError, match=r"all images are of one class, 'a'|no test image with codes, of 2 images in 2"):
        compare(set_of)
    assert not (set_of.root / "report").exists()


@sizes((3, 3), (1, 5, 6), (2, 12))
def test_advice_is_given_from_two_training_images_of_a_class_on(set_of: Workspace) -> None:
    codes = {SPEC: Codes.open(set_of.root / "codes" / SPEC)}
    record = advise(codes, set_of.manifest(), preset(AdviseParams), preset(HeadsParams))
    assert record["spec"] == SPEC and record["says"]["do"]


@sizes((2, 2), (4,))
def test_too_few_for_advice_is_one_clear_error(set_of: Workspace) -> None:
    codes = {SPEC: Codes.open(set_of.root / "codes" / SPEC)}
    with pytest.raises(UserError, match=r"too few to advise on|of 1 class\(es\)"):
        advise(codes, set_of.manifest(), preset(AdviseParams), preset(HeadsParams))


@sizes((2, 2), (1, 1), (6,))
def test_retrieval_asks_for_as_many_answers_as_there_are(set_of: Workspace) -> None:
    codes = Codes.open(set_of.root / "codes" / SPEC)
    manifest = set_of.manifest()
    record = evaluate(HashSpec.parse(f"lsh64-{SPEC}"), codes, manifest, preset(RetrievalParams)).record
    database = len(manifest) - len(manifest.rows("test"))
    assert record["k"] == record["neighbours"] == database - (not len(manifest.rows("test")))
