"""Every kind of file has the bytes it had, from fixed arrays: no network, no fit and no time is in them.

HDF5, numpy, safetensors and faiss have a part in the bytes. Where their versions are those that made `bytes.json`, the
bytes are compared; what each file says, read by h5py, json and struct alone, is compared always.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden import doors, fixed, plain

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("bytes.json").read_text())
# A shard's digest is its name, and an index's rows have theirs in the manifest.
_WITHOUT_BLOCK = ("shard-", "rows.h5")


@pytest.fixture(scope="module", params=fixed.WRITTEN)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param) / "out"
    folder.mkdir()
    with doors.counted() as found:
        fixed.WRITTEN[request.param](folder)
    assert found.nothing()
    return request.param, folder


def golden(name: str) -> dict[str, Any]:
    return {file.partition("/")[2]: one for file, one in GOLDEN["files"].items() if file.partition("/")[0] == name}


def test_files_say_what_they_said(written: tuple[str, Path]) -> None:
    name, folder = written
    found = {plain.name_of(file): json.loads(json.dumps(plain.content(folder / file))) for file in plain.files(folder)}
    assert not list(plain.differences({file: one["content"] for file, one in golden(name).items()}, found))


@pytest.mark.skipif(plain.versions() != GOLDEN["versions"], reason="other versions of the libraries that write bytes")
def test_files_have_the_bytes_they_had(written: tuple[str, Path]) -> None:
    name, folder = written
    found = {plain.name_of(file): plain.sha256((folder / file).read_bytes()) for file in plain.files(folder)}
    assert found == {file: one["sha256"] for file, one in golden(name).items()}


def test_each_hdf5_file_states_its_digest(written: tuple[str, Path]) -> None:
    for file in plain.files(written[1]):
        if file.suffix != ".h5":
            continue
        if file.name.startswith("shard-"):
            assert file.stem == f"shard-{plain.sha256((written[1] / file).read_bytes())}"
        elif not file.name.startswith(_WITHOUT_BLOCK):
            assert plain.states_its_digest(written[1] / file), file


def test_every_kind_is_held() -> None:
    assert set(fixed.HASHERS) == set(doors.HASHER_NAMES)
    assert set(fixed.HEADS) == set(doors.HEAD_NAMES)
    assert set(fixed.INDEXES) == set(doors.INDEX_NAMES)
    assert {file.partition("/")[0] for file in GOLDEN["files"]} == set(fixed.WRITTEN)
