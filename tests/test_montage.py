"""The montage: every tile drawn once, in order, whatever their number, shape and label."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.base.errors import UserError
from pipeline.collection import montage
from pipeline.collection.montage import Tile

PIXELS = 1_000_000


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (30, 30)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def colour_of(i: int) -> tuple[int, int, int]:
    return (40 + 53 * i % 200, 250, 10 + 7 * i % 240)  # none that captions and frames have


def centres(page: Image.Image, i: int) -> tuple[float, float, int]:
    """Middle (x, y) of the pixels of the i-th colour, and how many there are."""
    y, x = np.nonzero((np.asarray(page) == colour_of(i)).all(axis=2))
    return float(x.mean()), float(y.mean()), len(x)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 7, 12, 13, 45, 100, 199])
def test_the_query_left_and_each_neighbour_once_in_reading_order(count: int) -> None:
    tiles = [Tile(picture(colour_of(i)), str(i + 1), "0.123", "label") for i in range(1, count + 1)]
    page = montage.draw(Tile(picture(colour_of(0)), "query"), tiles, title="a title", max_pixels=PIXELS)
    query_x, _, query_area = centres(page, 0)
    found = [centres(page, i) for i in range(1, min(count, 27) + 1)]  # colours differ up to there
    assert all(x > query_x and area < query_area for x, _, area in found)
    assert [(round(y), x) for x, y, _ in found] == sorted((round(y), x) for x, y, _ in found)
    assert len({area for *_, area in found}) <= 1
    if count >= 5:
        assert 0.8 < page.width / page.height < 3


@pytest.mark.parametrize("size", [(200, 20), (20, 200), (1, 1), (7, 5)])
def test_proportions_are_kept(size: tuple[int, int]) -> None:
    page = montage.draw(Tile(picture((0, 0, 0)), "query"), [Tile(picture(colour_of(1), size), "1")], max_pixels=PIXELS)
    y, x = np.nonzero((np.asarray(page) == colour_of(1)).all(axis=2))
    shown = (x.max() - x.min() + 1) / (y.max() - y.min() + 1)
    assert shown == pytest.approx(size[0] / size[1], rel=0.1)


@pytest.mark.parametrize(
    "label", ["é", "e\u0301", "犬", "كلب", "a\nb\t\x00c", "w" * 500, "👩\u200d🚀", "‹72AC›", "\u202eabc"]
)
def test_any_label_is_drawn_within_its_cell(label: str) -> None:
    tiles = [Tile(picture(colour_of(i)), str(i), "1.000", label) for i in (1, 2)]
    page = np.asarray(montage.draw(Tile(picture(colour_of(0)), "query"), tiles, max_pixels=PIXELS))
    right = [np.nonzero((page == colour_of(i)).all(axis=2))[1] for i in (1, 2)]
    between = page[:, right[0].max() + 3 : right[1].min() - 2]
    assert between.shape[1] > 5
    assert (between == 255).all()  # the gap between the cells stays white: no label runs over
    plain = np.asarray(
        montage.draw(
            Tile(picture(colour_of(0)), "query"), [Tile(t.image, t.note, t.distance) for t in tiles], max_pixels=PIXELS
        )
    )
    assert plain.shape != page.shape or (plain != page).any()


def test_accents_in_one_piece_or_two_look_the_same() -> None:
    one, two = (
        montage.draw(Tile(picture((0, 0, 0)), "q"), [Tile(picture(colour_of(1)), "1", "2", text)], max_pixels=PIXELS)
        for text in ("café", "cafe\u0301")
    )
    assert one.tobytes() == two.tobytes()


def test_an_image_that_is_gone_or_broken_leaves_a_frame(tmp_path: Path) -> None:
    tiles = [Tile(tmp_path / "gone.png", "1"), Tile(b"no image", "2"), Tile(picture(colour_of(3)), "3")]
    page = montage.draw(Tile(picture(colour_of(0)), "query"), tiles, max_pixels=PIXELS)
    assert centres(page, 3)[2] > 1000


def test_written_by_its_suffix_or_refused(tmp_path: Path) -> None:
    query = Tile(picture(colour_of(0)), "query")
    for suffix, kind in montage.FORMATS.items():
        montage.montage(query, [query], tmp_path / f"m{suffix}", max_pixels=PIXELS)
        with Image.open(tmp_path / f"m{suffix}") as image:
            assert image.format == kind
    with pytest.raises(UserError, match=r"a montage named m\.gif.*\.png"):
        montage.montage(query, [query], tmp_path / "m.gif", max_pixels=PIXELS)
    with pytest.raises(UserError, match="pixels; allowed: a lower k"):
        montage.draw(query, [query] * 100_000, max_pixels=PIXELS)
    assert len(list(tmp_path.iterdir())) == len(montage.FORMATS)
