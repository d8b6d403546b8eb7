"""bench/same.py: what differs between two results is said, and what may differ is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from bench.same import PASSED_BY, Compare

ROOT = Path(__file__).parent.parent
KEPT = {"accuracy": 0.75, "notes": ["k of 3 was best"], "fit_s": 1.5, "mean": {"accuracy": 0.5, "query_p50_ms": 2.0}}


def fill(out: Path) -> Path:
    """One file of each kind, and one that is not compared."""
    (out / "heads").mkdir(parents=True)
    (out / "heads" / "metrics.json").write_text(json.dumps(KEPT))
    (out / "curve.csv").write_text("epoch,label,accuracy,train_s\n1,cat,0.5,3\n2,dog,,4\n")
    (out / "skipped.csv").write_text("skipped: no labels\n")
    with h5py.File(out / "codes.h5", "w") as file:
        file["codes"] = np.arange(1000, dtype=np.float16).reshape(100, 10)
        file["bits"] = np.arange(200, dtype=np.uint8)
        file.attrs["settings"] = json.dumps({"layer": "pool5", "crop": 32})
        file.attrs["checksum"] = "ab" * 32
    save_file({"w": np.ones((2, 2), np.float32)}, out / "model.safetensors", metadata={"cnncodes": '{"epoch": 3}'})
    (out / "index.html").write_text("drawn at 10:00")
    return out


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return fill(tmp_path / "a"), fill(tmp_path / "b")


def edit_json(out: Path, change: Callable[[dict[str, object]], None]) -> None:
    path = out / "heads" / "metrics.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_h5(out: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(out / "codes.h5", "r+") as file:
        change(file)


def lines(pair: tuple[Path, Path], tolerance: float = 0.0) -> list[str]:
    return Compare(tolerance).folders(*pair)[0]


def test_equal_results_are_the_same(pair: tuple[Path, Path]) -> None:
    (pair[1] / "index.html").write_text("drawn at 11:00")
    assert Compare().folders(*pair) == ([], ["index.html"])


def test_times_memory_and_machine_are_passed_by(pair: tuple[Path, Path]) -> None:
    edit_json(
        pair[1], lambda v: v.update(fit_s=9.0, peak_memory_bytes=3, host="b", mean=KEPT["mean"] | {"query_p50_ms": 7.0})
    )
    (pair[1] / "curve.csv").write_text("epoch,label,accuracy,train_s\n1,cat,0.5,30\n2,dog,,40\n")
    assert lines(pair) == []
    assert not any(
        map(PASSED_BY.search, ("accuracy", "dim", "bytes_per_code", "classes", "loss", "rows", "s", "items"))
    )


CHANGES: dict[str, tuple[Callable[[Path], object], float]] = {
    "a number": (lambda out: edit_json(out, lambda v: v.update(accuracy=0.76)), 0.02),
    "a key that is new": (lambda out: edit_json(out, lambda v: v.update(new=1)), 9.0),
    "a word": (lambda out: edit_json(out, lambda v: v.update(notes=["l of 3 was best"])), 9.0),
    "a number in a sentence": (lambda out: edit_json(out, lambda v: v.update(notes=["k of 4 was best"])), 0.02),
    "a cell": (
        lambda out: (out / "curve.csv").write_text("epoch,label,accuracy,train_s\n1,cat,0.5,3\n2,dog,0.5,4\n"),
        9.0,
    ),
    "a column": (lambda out: (out / "curve.csv").write_text("epoch,label,train_s\n1,cat,3\n2,dog,4\n"), 9.0),
    "a line": (lambda out: (out / "curve.csv").write_text("epoch,label,accuracy,train_s\n1,cat,0.5,3\n"), 9.0),
    "a reason": (lambda out: (out / "skipped.csv").write_text("skipped: no images\n"), 9.0),
    "a value of a code": (lambda out: edit_h5(out, lambda f: f["codes"].write_direct(_near(f))), 0.02),
    "a few bits": (lambda out: edit_h5(out, lambda f: f["bits"].__setitem__(3, 99)), 0.02),
    "a shape": (lambda out: edit_h5(out, lambda f: f["codes"].__class__ and _reshape(f)), 9.0),
    "an attribute": (
        lambda out: edit_h5(out, lambda f: f.attrs.__setitem__("settings", '{"layer": "fc6", "crop": 32}')),
        9.0,
    ),
    "a digest": (lambda out: edit_h5(out, lambda f: f.attrs.__setitem__("checksum", "cd" * 32)), 0.02),
    "a file that is gone": (lambda out: (out / "codes.h5").unlink(), 9.0),
    "what a file says of itself": (
        lambda out: save_file(
            {"w": np.ones((2, 2), np.float32)}, out / "model.safetensors", metadata={"cnncodes": "{}"}
        ),
        9.0,
    ),
    "a tensor": (
        lambda out: save_file(
            {"w": np.full((2, 2), 1.01, np.float32)}, out / "model.safetensors", metadata={"cnncodes": '{"epoch": 3}'}
        ),
        0.02,
    ),
}


def _near(file: h5py.File) -> np.ndarray:
    values = file["codes"][()]
    values[0, 0] = 10.0  # a hundredth of the largest
    return values


def _reshape(file: h5py.File) -> None:
    values = file["codes"][()].reshape(10, 100)
    del file["codes"]
    file["codes"] = values


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_said_unless_it_is_within_the_tolerance(pair: tuple[Path, Path], change: str) -> None:
    edit, forgiven_at = CHANGES[change]
    edit(pair[1])
    found = lines(pair)
    assert len(found) >= 1 and all(str(pair[1]) in line or ":" in line for line in found)
    # 9 stands for what no tolerance forgives.
    assert bool(lines(pair, 0.02)) == (forgiven_at > 1)
    assert bool(lines(pair[::-1], 0.02)) == (forgiven_at > 1)


def test_its_exit_code_says_it(pair: tuple[Path, Path]) -> None:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        asked = [sys.executable, "bench/same.py", *map(str, pair), *more]
        return subprocess.run(asked, capture_output=True, text=True, check=False, cwd=ROOT)

    assert run().returncode == 0
    edit_json(pair[1], lambda v: v.update(accuracy=0.5))
    told = run()
    assert told.returncode == 1 and "heads/metrics.json: /accuracy is 0.75 and 0.5" in told.stdout
    assert run("--tolerance", "0.3").returncode == 0
    assert run("--skip", "heads/*").returncode == 0
