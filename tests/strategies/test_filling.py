"""Arrays on disk that a killed run leaves partly filled, and what the next one does again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.base import stopping
from pipeline.base.errors import UserError
from pipeline.data.manifest import Manifest
from pipeline.strategies import features, images
from pipeline.strategies.filling import filling
from pipeline.strategies.images import CachedView, cached
from tests.strategies.test_training import made_of

pytestmark = pytest.mark.network

VIEW = CachedView("crop", 36, (255, 255, 255))


def fill(path: Path, *, until: int = 6, fail: BaseException | None = None) -> int:
    """The rows that were there before."""
    with filling(path, (6, 2), np.float32, what="rows") as out:
        before = out.done
        for row in range(out.done, until):
            out.append(np.full((1, 2), row))
        if fail is not None:
            raise fail
        out.finish(path)
    return before


def test_a_stop_keeps_the_rows_and_a_failure_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(KeyboardInterrupt) as e:
        fill(path, until=4, fail=KeyboardInterrupt())
    assert e.value.__notes__ == ["4 of 6 rows are kept; the same command goes on from there"]
    assert fill(path) == 4
    assert np.load(path).tolist() == [[i, i] for i in range(6)]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]
    for failure in (UserError("no"), KeyboardInterrupt()):
        with pytest.raises(type(failure)):
            fill(tmp_path / "b.npy", until=0 if isinstance(failure, KeyboardInterrupt) else 4, fail=failure)
        assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with filling(path, (6, 2), np.float32, what="rows") as out:
        out.append(np.full((1, 2), 7))
        assert fill(path) == 0
        assert np.load(path)[0].tolist() == [0, 0]
        out.append(np.full((5, 2), 8))
        out.finish(path)
    assert np.load(path)[:2].tolist() == [[7, 7], [8, 8]]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def test_another_shape_begins_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "a.npy", until=4, fail=KeyboardInterrupt())
    with filling(tmp_path / "a.npy", (5, 2), np.float32, what="rows") as out:
        assert out.done == 0
        out.append(np.zeros((5, 2)))
        out.finish(tmp_path / "a.npy")


def in_a_child(work: Callable[[], object]) -> None:
    """Which kills itself."""
    if (child := os.fork()) == 0:
        try:
            stopping.KEEP_EVERY_S, stopping._MOST_SHARE = 0.0, float("inf")
            work()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def counting(calls: list[Any], function: Callable[..., Any], *, kill_at: int | None = None) -> Callable[..., Any]:
    def counted(*args: Any, **how: Any) -> Any:
        if len(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(None)
        return function(*args, **how)

    return counted


def test_killed_while_it_decodes_it_decodes_the_rest(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_BLOCK_BYTES", 8 * 36 * 36 * 3)
    one = images.from_file

    def killed() -> None:
        images.from_file = counting([], one, kill_at=25)
        cached(manifest, VIEW, tmp_path / "killed")

    in_a_child(killed)
    calls: list[Any] = []
    monkeypatch.setattr(images, "from_file", counting(calls, one))
    found = cached(manifest, VIEW, tmp_path / "killed")
    assert len(manifest) - 24 <= len(calls) <= len(manifest) - 16
    whole = cached(manifest, VIEW, tmp_path / "whole")
    assert found.path.read_bytes() == whole.path.read_bytes()
    assert {p.name for p in found.path.parent.iterdir()} == {p.name for p in whole.path.parent.iterdir()}


def test_killed_while_it_computes_codes_it_computes_the_rest(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """42 images in batches of 8, of their centres and of two views: 18 batches."""
    how: dict[str, Any] = {"views": 2, "batch_size": 8}
    whole, _ = made_of("frozen_augmented", manifest, tmp_path / "whole", **how)
    body = type(whole.ready.model).body

    def killed() -> None:
        type(whole.ready.model).body = counting([], body, kill_at=9)  # type: ignore[method-assign]
        torch.set_num_threads(1)
        made_of("frozen_augmented", manifest, tmp_path / "killed", **how)

    in_a_child(killed)
    calls: list[Any] = []
    monkeypatch.setattr(type(whole.ready.model), "body", counting(calls, body))
    made_of("frozen_augmented", manifest, tmp_path / "killed", **how)
    assert len(calls) == 18 - 9
    a, b = (next((tmp_path / name / features.FOLDER).glob("*.npy")) for name in ("whole", "killed"))
    assert a.read_bytes() == b.read_bytes()
