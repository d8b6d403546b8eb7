"""A folder of results: what is there and as it should be is left, all else is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.errors import UserError
from pipeline.base.items import MADE_OF, Item, make_missing, remove_others


def items(made: list[str], **of: int) -> dict[str, Item]:
    """Each writes its number to a file, and says so in `made`."""

    def item(name: str, value: int) -> Item:
        def make(out: Path) -> None:
            made.append(name)
            out.mkdir(parents=True)
            (out / "value.txt").write_text(str(value))

        return Item({"value": value}, make)

    return {name: item(name, value) for name, value in of.items()}


def test_only_what_is_missing_or_decided_otherwise_is_made(tmp_path: Path) -> None:
    made: list[str] = []
    assert make_missing(tmp_path, items(made, a=1, b=2)) == made == ["a", "b"]
    assert make_missing(tmp_path, items(made, a=1, b=3, c=4)) == made[2:] == ["b", "c"]
    assert [(tmp_path / name / "value.txt").read_text() for name in "abc"] == ["1", "3", "4"]


@pytest.mark.parametrize("file", ["value.txt", MADE_OF])
@pytest.mark.parametrize("spoil", ["changed", "gone", "more"])
def test_what_was_changed_is_made_again(file: str, spoil: str, tmp_path: Path) -> None:
    made: list[str] = []
    make_missing(tmp_path, items(made, a=1, b=2))
    path = tmp_path / "a" / file
    if spoil == "changed":
        path.write_text("other")
    elif spoil == "gone":
        path.unlink()
    else:
        (tmp_path / "a" / f"{file}.more").write_text("")
    assert make_missing(tmp_path, items(made, a=1, b=2)) == ["a"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [MADE_OF, "value.txt"]
    assert (tmp_path / "a" / "value.txt").read_text() == "1"


def test_what_was_stopped_within_is_made_again_and_what_was_done_is_not(tmp_path: Path) -> None:
    def stop(out: Path) -> None:
        out.mkdir()
        (out / "value.txt").write_text("half")
        raise UserError("stopped")

    made: list[str] = []
    with pytest.raises(UserError, match="stopped"):
        make_missing(tmp_path, items(made, a=1) | {"b": Item({"value": 2}, stop)})
    assert make_missing(tmp_path, items(made, a=1, b=2)) == ["b"]


def test_others_go_and_what_links_lead_to_stays(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "items", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("")
    found = items([], a=1, b=2)
    make_missing(folder, found)
    (folder / "link").symlink_to(elsewhere)
    (folder / "file").write_text("")
    remove_others(folder, {"a": found["a"]})
    assert [p.name for p in folder.iterdir()] == ["a"]
    assert (elsewhere / "precious").is_file()
    remove_others(tmp_path / "none", {})
