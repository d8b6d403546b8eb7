"""Small files that ask for much are refused, in one kind of sentence, before they get it; sound files are read."""

from __future__ import annotations

import re
import time
import zipfile
from pathlib import Path

import pytest
import torch

from pipeline.base.budget import FREE_BYTES, FREE_STEPS, MADE_OF_A_BYTE, Budget, TooMuchError
from pipeline.base.errors import UserError
from pipeline.nets.weights import random
from pipeline.nets.weights.sources import open_file
from tests import peak, small_files
from tests.nets.weights.test_torch_file import in_torchvisions_layout

# Of these no budget is needed: a size alone is refused, or they are only long to read.
_OTHER_WORDS = {
    "a pickle that announces 3 GB", "a pickle of long numbers", "a size that torch's old format announces",
    "ten million names of one tensor", "a blob of many axes", "20,000 nodes", "metadata nested deep",
    "a number of 5,000 digits",
}  # fmt: skip


def test_what_is_beyond_the_budget_is_told_with_both_numbers() -> None:
    budget = Budget("it", 1000)
    budget.make(FREE_BYTES)
    budget.make(MADE_OF_A_BYTE * 1000)
    with pytest.raises(TooMuchError, match="it has 1,000 bytes and asks for more than 67,124,864 in memory"):
        budget.make(1)
    budget.work(FREE_STEPS + 10)
    with pytest.raises(TooMuchError, match="it has 1,000 bytes and asks for more than 1,000,010 steps"):
        budget.work()


@pytest.mark.parametrize("name", small_files.WEIGHTS)
def test_small_files_take_little_memory_and_time(tmp_path: Path, name: str) -> None:
    suffix, make = small_files.WEIGHTS[name]
    path = tmp_path / f"small{suffix}"
    make(path)
    told = tmp_path / "told"

    def read() -> None:
        start = time.monotonic()
        try:
            open_file(path).named("tinyvgg")
            text = "read"
        except UserError as e:
            text = str(e)
        told.write_text(f"{time.monotonic() - start:.2f} s: {text}")

    taken = peak.of(read)
    text = told.read_text()
    assert taken < 300e6 + 2 * path.stat().st_size, text
    assert float(text.partition(" ")[0]) < 10
    if name not in _OTHER_WORDS:
        assert re.search("asks for more than [0-9,]+ (in memory|steps)", text), text
    assert str(path) in text or "read" in text


def test_packed_weights_are_read(tmp_path: Path) -> None:
    """As `zip` packs them again, and with a state of the optimiser that is still all zeros."""
    tensors = in_torchvisions_layout("tinyvgg", random.tensors("tinyvgg", 0, num_classes=5))
    saved = {"state_dict": tensors, "momentum": {name: torch.zeros_like(t) for name, t in tensors.items()}}
    torch.save(saved, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "w.pth", "w", 8) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert (
        open_file(tmp_path / "w.pth").named("tinyvgg").keys()
        == open_file(tmp_path / "plain.pth").named("tinyvgg").keys()
    )


def test_a_record_that_does_not_match_its_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(in_torchvisions_layout("tinyvgg", random.tensors("tinyvgg", 0, num_classes=5)), path)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"is damaged: {largest.filename} in it does not match its checksum"):
        open_file(path)


def test_a_file_that_was_saved_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(in_torchvisions_layout("tinyvgg", random.tensors("tinyvgg", 0)), tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert open_file(tmp_path / "w.pth").named("tinyvgg")


def test_a_tar_archive_that_begins_as_a_pickle_is_not_unpacked(tmp_path: Path) -> None:
    """torch's oldest format is one, which its reader unpacks into a folder."""
    import tarfile

    name = "N.N.N.N." + "x" * 20
    (tmp_path / "inner").write_bytes(b"1")
    with tarfile.open(tmp_path / "w.pth", "w") as archive:
        archive.add(tmp_path / "inner", name)
    with pytest.raises(UserError, match="is not a whole file of torch's"):
        open_file(tmp_path / "w.pth")


def test_no_warning_of_torch_reaches_the_user(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    tensors = in_torchvisions_layout("tinyvgg", random.tensors("tinyvgg", 0))
    torch.save(tensors, tmp_path / "w.pth", pickle_protocol=3)
    assert open_file(tmp_path / "w.pth").named("tinyvgg")
    assert not list(recwarn)
