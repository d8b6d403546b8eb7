"""The line an epoch, where there is no terminal."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from pipeline.data.manifest import Manifest
from pipeline.strategies.run import run_strategy
from pipeline.strategies.told import line
from tests.strategies import world

ROW = {"epoch": 2, "train_loss": 1.0, "val_loss": 0.5, "val_accuracy": 0.75, "rates": {"a": 0.001, "b": 0.01}}


def test_an_epoch_in_words() -> None:
    assert line(ROW, 1.5, epochs=4) == (
        "epoch 2 of 4: training loss 1.0000, validation loss 0.5000, validation accuracy 75.0 %, rate 0.01, 1.5 s"
    )
    assert "validation" not in line(ROW | {"val_loss": None, "val_accuracy": None}, 1.5, epochs=4)


@pytest.mark.parametrize("terminal", [False, True])
def test_each_epoch_is_told_once_where_there_is_no_terminal(
    terminal: bool,
    manifest: Manifest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    with caplog.at_level(logging.INFO, logger="pipeline.strategies.told"):
        params = world.params(epochs=3, precision="fp32")
        run_strategy("fc", manifest, world.weights(), params, tmp_path / "fc", cache=tmp_path / "cache")
    told = [m for m in caplog.messages if re.match(r"epoch \d of 3: training loss ", m)]
    assert [m.split()[1] for m in told] == ([] if terminal else ["1", "2", "3"])
