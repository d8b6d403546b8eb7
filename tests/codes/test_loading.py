"""Images are opened by whoever knows where they may lie."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipeline.codes.loading import ImageError, Source, load_views
from pipeline.data.links import NOT_FOLLOWED, NotFollowedError
from pipeline.data.room import Room
from pipeline.strategies.images import CachedView, from_file
from tests.codes.test_settings import made
from tests.data.world import picture


def refused(_: Path) -> io.BufferedReader:
    raise NotFollowedError(40, NOT_FOLLOWED)


def test_what_may_not_be_opened_has_no_views(tmp_path: Path) -> None:
    file, settings = picture(tmp_path / "1.png", 0, height=64, width=64), made(layers=["conv1_1-avg"])
    for opener in (None, lambda path: path.open("rb")):
        assert load_views(Source((file,), None, 10_000, opener), settings)
    with pytest.raises(ImageError, match="can't be read: a link out of the folder"):
        load_views(Source((file,), None, 10_000, refused), settings)


def test_what_may_not_be_opened_has_no_pixels(tmp_path: Path) -> None:
    file, view = picture(tmp_path / "1.png", 0), CachedView("squash", 8, (0, 0, 0))
    assert not isinstance(from_file(file, view, max_pixels=100, room=Room(64)), str)
    said = from_file(file, view, max_pixels=100, room=Room(64), open_file=refused)
    assert said == f"can't be read: {NOT_FOLLOWED}"
