"""Nested values with tensors on disk: the same comes back, and nothing broken or of another form is taken."""

from __future__ import annotations

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.base.errors import UserError
from pipeline.strategies import tree

TREE: dict[str, Any] = {
    "state": {0: {"step": torch.tensor(3.0), "moment": torch.arange(6.0).reshape(2, 3)}, "1": None},
    "parts": [{"betas": (0.9, 0.999), "lr": 0.1, "fused": True}],
    "worst": math.inf,
    "empty": torch.zeros(0, 4),
    "counts": torch.tensor([1, 2], dtype=torch.int64),
    "name": "läuft",
}


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tree.write(path, TREE, about={"epoch": 4})
    found = tree.read(path)
    assert str(found) == str(TREE)
    assert list(found["state"]) == [0, "1"] and isinstance(found["parts"][0]["betas"], tuple)
    about, digest = tree.head(path)
    assert about == {"epoch": 4} and len(digest) == 64


def test_tensors_lie_in_memory_as_they_did(tmp_path: Path) -> None:
    """A step on a tensor of another layout may round otherwise."""
    kernel = torch.rand(4, 3, 3, 3).to(memory_format=torch.channels_last)
    every_second = torch.arange(8.0)[::2]
    tree.write(tmp_path / "x.safetensors", [kernel, every_second, kernel])
    first, second, again = tree.read(tmp_path / "x.safetensors")
    assert first.stride() == kernel.stride() and torch.equal(first, kernel) and torch.equal(again, kernel)
    assert torch.equal(second, every_second)


def test_any_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tree.write(path, TREE, about={"epoch": 4})
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"x\.safetensors is (not a whole checkpoint|a checkpoint of version)"):
            tree.read(path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="unknown checkpoint"):
        tree.read(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="not a whole checkpoint"):
        tree.read(path)
    for content in ([], {"version": 1}, {"version": 2, "about": {}, "tree": 0, "sha256": ""}):
        save_file({"a": torch.zeros(2)}, path, metadata={"cnncodes": json.dumps(content)})
        with pytest.raises(UserError, match=r"not a whole checkpoint|checkpoint of version 2"):
            tree.read(path)
    save_file({"a": torch.zeros(2)}, path, metadata={"cnncodes": "[" * 200_000})
    with pytest.raises(UserError, match="not a whole checkpoint"):
        tree.read(path)


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["PWNED"],)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_no_code_of_a_file_runs(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWNED", str(tmp_path / "pwned"))
    write({"state_dict": Hostile()}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="not a whole checkpoint"):
        tree.read(tmp_path / "x.safetensors")
    assert not (tmp_path / "pwned").exists()


def test_a_failed_write_says_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tree.write(tmp_path / "missing" / "x.safetensors", TREE)
