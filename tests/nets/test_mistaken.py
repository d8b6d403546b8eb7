"""Files that are no weights whatever they are called: each is named as what it is, by every reader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.base.errors import UserError
from pipeline.nets.mistaken import require_not_mistaken
from pipeline.nets.weights import WEIGHT_READERS
from pipeline.nets.weights.convert import convert
from pipeline.nets.weights.sources import arch_of, from_file

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 553433881\n"
MISTAKEN = {
    "is a Git LFS pointer: the file of 553,433,881 bytes .*`git lfs pull`": LFS,
    r"is a git-annex pointer.*git annex get": b"/annex/objects/SHA256E-s553433881--4d7a.pth\n",
    r"is a web page \('Google Drive - Virus scan warning'\)": (
        b"\n<!DOCTYPE html><html><head><title>Google Drive -\n Virus scan warning</title>" + b" " * 5000
    ),
    "is a web page saved": b"\xef\xbb\xbf<HTML lang='en'><body>Not found",
    "is text, such as a server's answer: .*AccessDenied": b'<?xml version="1.0"?><Error>AccessDenied</Error>',
    "is text, such as a server's answer: .*Not Found": b'{"message": "Not Found"}',
    "is empty": b"",
}


@pytest.mark.parametrize("suffix", WEIGHT_READERS)
@pytest.mark.parametrize("message", MISTAKEN)
def test_every_way_to_read_weights_names_it(tmp_path: Path, suffix: str, message: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(MISTAKEN[message])
    for read in (lambda: from_file(path, "vgg16"), lambda: arch_of(path), lambda: convert(path)):
        with pytest.raises(UserError, match=message):
            read()


def test_other_content_is_left_to_the_readers(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    require_not_mistaken(tmp_path / "w.pth")
    (tmp_path / "w.p").write_bytes(b"(dp0\nS'a'\np1\nI1\ns.")  # a pickle of protocol 0 is text
    require_not_mistaken(tmp_path / "w.p")
