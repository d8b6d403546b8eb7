"""Mutants of index, head and codes folders: the right answer or one sentence."""

from __future__ import annotations

import atexit
import functools
import itertools
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.commands import SPECS, _draw
from tests.reliability.mutate import mutated
from tests.reliability.registry import Draw
from tests.reliability.runner import Runner, Told

_NET = "--arch tinyvgg --weights random:0 --size 32"
_MADE = (
    f"cnncodes extract photos {_NET} --layers {','.join(SPECS)} --out codes",
    "cnncodes compare codes --heads svm,knn --layers conv5_3-avg",
    f"cnncodes index photos {_NET} --out my.index",
)
_LIMIT_S = 10


@dataclass(frozen=True)
class Asked:
    """A folder that one is given, and a command that reads it; what it prints or writes to `then.npy` is the answer."""

    folder: str
    argv: str


ASKED = {
    "index": Asked("my.index", "cnncodes search my.index one.png --json -k 30"),
    "cosine": Asked("my.index", "cnncodes search my.index one.png --json --method cosine"),
    "head": Asked("codes/heads/conv5_3-avg-svm", "cnncodes predict codes/heads/conv5_3-avg-svm one.png --json"),
    "knn": Asked("codes/heads/conv5_3-avg-knn", "cnncodes predict codes/heads/conv5_3-avg-knn one.png --json"),
    "codes": Asked("codes/codes", "cnncodes export codes --layer pool5 --to npy --out then.npy --replace"),
    "manifest": Asked("codes/dataset", "cnncodes export codes --layer pool5 --to npy --out then.npy --replace"),
}


class World:
    """A runner and the folders as they are made, with the right answers."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="reliability-"))
        atexit.register(self.close)
        self.runner = Runner(self._folder)
        self.box = self.runner.box
        (self.box / "tmp").mkdir()
        _draw(self.box / "photos", per_class=6, seed=0)
        _draw(self.box / "more", per_class=1, seed=1)
        next((self.box / "more" / "red").iterdir()).rename(self.box / "one.png")
        for line in (*_MADE, *(asked.argv for asked in ASKED.values())):
            told = self.runner.run(*line.split(), learn=True)
            if told.code:
                raise RuntimeError(f"{line} ends with {told.code}: {told.err}")
        self.right = {name: self.answer(asked)[1] for name, asked in ASKED.items()}

    def close(self) -> None:
        """Ends the server and removes all files."""
        self.runner.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def answer(self, asked: Asked) -> tuple[Told, str]:
        """How the command ended, and its answer."""
        made = self.box / "then.npy"
        made.unlink(missing_ok=True)
        told = self.runner.run(*asked.argv.split(), kill_s=_LIMIT_S)
        # Times are no answer.
        out = re.sub(r'"seconds": [\d.e-]+', "", told.out)
        return told, out + (made.read_bytes().hex() if made.exists() else "")

    def tried(self, name: str, draw: str) -> str | None:
        """What is wrong with the answer of a folder of which one file is another."""
        asked, rng = ASKED[name], random.Random(draw)
        folder, aside = self.box / asked.folder, self._folder / "aside"
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        try:
            shutil.copytree(aside, folder)
            file = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size))
            kind, data = mutated(file.read_bytes(), rng)
            file.write_bytes(data)
            return self._wrong(name, f"a {kind} in {file.relative_to(self.box)}")
        finally:
            shutil.rmtree(folder)
            aside.rename(folder)

    def _wrong(self, name: str, what: str) -> str | None:
        told, answer = self.answer(ASKED[name])
        last = told.err.strip().rpartition("\n")[2][:300]
        if told.killed:
            return f"{what}: takes more than {_LIMIT_S} s"
        if "Traceback" in told.err or told.code not in (0, 1, 2, 3):
            return f"{what}: ends with {told.code}: {last}"
        if told.code == 0 and answer != self.right[name]:
            return f"{what}: another answer in silence"
        return None if told.code == 0 or last else f"{what}: ends with {told.code} without a word"


@functools.cache
def world() -> World:
    """The one of this process."""
    return World()


def draws(seed: int, count: int | None) -> Iterator[Draw]:
    """Without end, kind after kind."""
    for i in itertools.count():
        for name in ASKED:
            draw = f"{i} {name}"
            yield Draw(draw, functools.partial(_tried, name, f"{seed} {draw}"))


def _tried(name: str, draw: str) -> str | None:
    return world().tried(name, draw)
