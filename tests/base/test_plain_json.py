"""JSON of a stranger's: bounded in length, depth and digits, and told in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.base import json_files, plain_json
from pipeline.base.errors import UserError
from pipeline.base.plain_json import JsonError, loads


@pytest.mark.parametrize("value", [None, 1.5, "text", [], {}, {"a": [1, {"b": [10**999, None]}]}, [[[[[]]]]]])
def test_what_json_reads_is_read(value: object) -> None:
    assert loads(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 101 + "]" * 101, "nested more than 100 deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested more than 100 deep"),
        ("[" * 100_000, "nested more than 100 deep"),
        ("9" * 1001, "a number of 1,001 digits, where at most 1,000 are read"),
        ("-" + "9" * 5000, "a number of 5,001 digits"),
        ("", "Expecting value"),
        ("[1,", "Expecting value"),
        (b"\xff\xfe\xfd", "codec can't decode"),
    ],
)
def test_other_text_is_refused_in_words(text: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(JsonError, match=words):
        loads(text)
    (tmp_path / "a.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=r"a\.json is not JSON"):
        json_files.read(tmp_path / "a.json")


def test_a_long_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(plain_json.MOST_BYTES + 1)
    with pytest.raises(UserError, match=r"a\.json has 67,108,865 bytes; allowed: 67,108,864"):
        json_files.read(tmp_path / "a.json")


def test_no_other_reader_of_json_is_in_the_library() -> None:
    """`json.loads` is called in `plain_json` alone."""
    root = Path(plain_json.__file__).parents[1]
    found = {
        str(p.relative_to(root))
        for p in root.rglob("*.py")
        if "json.load" in p.read_text().replace("plain_json.load", "")
    }
    assert found == {"base/plain_json.py"}
