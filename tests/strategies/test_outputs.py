"""inference.txt and probabilities.txt, byte by byte."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from pipeline.data.manifest import Manifest
from pipeline.strategies import outputs
from tests.strategies import world


def written(folder: Path, manifest: Manifest, shown: np.ndarray) -> tuple[str, str]:
    rows = manifest.rows("test")[: len(shown)]
    outputs.write_plain_text(folder, manifest, rows, shown.astype(np.float32))
    return (folder / "inference.txt").read_text(), (folder / "probabilities.txt").read_text()


def labelled(manifest: Manifest, labels: list[str], **changes: object) -> Manifest:
    """With these labels of the first test images, and of all others the first."""
    all_labels = np.full(len(manifest), labels[0], dtype="U20")
    all_labels[manifest.rows("test")[: len(labels)]] = labels
    return dataclasses.replace(manifest, labels=all_labels, **changes)  # type: ignore[arg-type]


def test_inference_txt_is_as_scripts_write_it(tmp_path: Path) -> None:
    manifest = labelled(world.manifest(tmp_path / "photos"), ["cat", "dog"])
    shown = np.array([[0.1034219, 0.8965781], [1, 0]])
    inference, probabilities = written(tmp_path, manifest, shown)
    assert inference == "inference, target\n[0.103422 0.896578], 0\n[1.000000 0.000000], 1\n"
    assert probabilities == "0.103422 0.896578\n1.000000 0.000000\n"


def test_a_line_never_wraps(tmp_path: Path) -> None:
    names = [f"class {i:04d}" for i in range(1500)]
    manifest = dataclasses.replace(
        world.manifest(tmp_path / "photos", n=1500), labels=np.array(names), splits=np.full((1, 1500), "test")
    )
    lines = written(tmp_path, manifest, np.full((2, 1500), 1 / 1500))[0].splitlines()
    assert len(lines) == 3
    assert lines[1] == "[" + " ".join(["0.000667"] * 1500) + "], 0"


def test_of_hdf5_files_order_and_numbers_are_the_files(tmp_path: Path) -> None:
    manifest = world.manifest(tmp_path / "photos")
    rows = manifest.rows("test")[:3]
    paths = manifest.paths.astype("U40")
    paths[rows] = [f"test/0000/{i:08d}.png" for i in (2, 0, 1)]
    # Number 1 is of a class that no image has.
    numbered = ("zebra", "none", "ant")
    stored = labelled(manifest, ["ant", "zebra", "ant"], paths=paths, source="hdf5", numbered=numbered)
    shown = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    inference, probabilities = written(tmp_path, stored, shown)
    assert inference.splitlines()[1:] == [
        "[0.800000 0.000000 0.200000], 0",
        "[0.300000 0.000000 0.700000], 2",
        "[0.100000 0.000000 0.900000], 2",
    ]
    assert probabilities.splitlines()[0] == "0.900000 0.100000"
