"""The README's commands, as they stand there: each runs, and none shows a raw line of a library."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Training at a quarter of the pixels: what the commands do is the same. Files of params are small as they stand.
SMALLER = shlex.split("-S finetune.image.scale=72 -S finetune.image.size=64")
TRAINING = ("finetune", "lr-find", "sanity")
# Words that only a library would use to whoever runs a command.
RAW = re.compile(
    r"Warning\b|warnings?\.warn|Traceback|[Dd]eprecat|^(WARNING|INFO|DEBUG)\b|^\[\w+ \d|site-packages|"
    r"GPU available|TPU available|HPU available|tip:|rank_zero|Trainer\(|\bsetUp\b",
    re.MULTILINE,
)


def blocks(heading: str) -> list[tuple[str, str]]:
    """(language, text) of the blocks of code below a heading of level 2 or 3."""
    section = re.split(r"^##+ ", README.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^```(\w*)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def commands(heading: str) -> Iterator[list[str]]:
    for language, text in blocks(heading):
        if not language:
            # "# if": needs another command before it.
            lines = [line for line in text.splitlines() if line.startswith("cnncodes") and "# if " not in line]
            yield from (shlex.split(line, comments=True) for line in lines)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README takes to be there: photographs of two classes, and some others."""
    place = tmp_path_factory.mktemp("readme")
    seeds = np.random.default_rng(0)
    files = [f"photos/{label}/{i}.jpg" for label in ("cat", "dog") for i in range(14)]
    for name in (
        *files,
        "new.jpg",
        "query.jpg",
        "more/a.png",
        "more/b.png",
        *(f"imagenet-val/{i}.jpg" for i in range(64)),
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = seeds.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        pixels[:, :, 0 if "cat" in name else 2] //= 4
        Image.fromarray(pixels).resize((120, 100)).save(place / name)
    (place / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return place


def run(args: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "pipeline.cli"] if args[0] == "cnncodes" else [sys.executable]
    if args[1] in TRAINING and "--params" not in args:
        args = [*args, *SMALLER]
    # As a user has it: `auto` is what this machine is fast in.
    env = {k: v for k, v in os.environ.items() if k != "CNNCODES_PRECISION"}
    env |= {"PYTHONPATH": str(ROOT), "CNNCODES_CACHE": str(place / "cache")}
    return subprocess.run([*program, *args[1:]], capture_output=True, text=True, cwd=place, env=env, check=False)


def require_well(args: list[str], done: subprocess.CompletedProcess[str]) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{shlex.join(args)}\n{said}"
    assert not RAW.search(said), f"{shlex.join(args)}\n{said}"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.one_precision  # the user's, of this machine
@pytest.mark.parametrize("heading", ["Your own images", "Without DVC", "Fine-tune", "What looks like this?"])
def test_the_commands_run_as_they_stand(heading: str, place: Path) -> None:
    found = list(commands(heading))
    assert len(found) > 2
    for args in found:
        require_well(args, run(args, place))
    for language, text in blocks(heading):
        if language == "python":
            require_well(["python"], run(["python", "-c", text], place))


def test_raw_lines_are_known() -> None:
    for line in (
        "/x/PIL/Image.py:3: DecompressionBombWarning: Image size",
        "GPU available: False, used: False",
        "[rank0] FutureWarning: x",
        "Traceback (most recent call last):",
    ):
        assert RAW.search(line)
    for line in ("12 images were left out", "warning: 3 images are broken: see failures.csv"):
        assert not RAW.search(line)
