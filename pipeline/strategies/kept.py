"""Checkpoints that `keep_every` asks for: beside a strategy's results, whole in themselves.

`kept-checkpoints/repeat-<r>/epoch-<nnnn>.safetensors` holds the network after that epoch, what the training goes on
from, and what it was: strategy, settings, classes, digests of data and weights. Test accuracies stand in
`kept-checkpoints/tests.json`, by the digests of the files: they are measured once the repeat has ended, for people, and
choose nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from pipeline.base import disk, json_files
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.strategies import tree

FOLDER, TESTS = "kept-checkpoints", "tests.json"
_NAME = re.compile(r"epoch-(\d{4,})\.safetensors")
_REPEAT = re.compile(r"repeat-(\d+)")
# Of a tensor's name in Lightning's state.
MODEL = "model."
# What a checkpoint says of itself.
_FORM: dict[str, type | tuple[type, ...]] = {
    "strategy": str,
    "settings": dict,
    "params": dict,
    "arch": str,
    "weights": str,
    "provenance": dict,
    "classes": list,
    "data": dict,
    "model": dict,
    "key": str,
    "went_on_from": list,
    "repeat": int,
    "epoch": int,
    "best_epoch": int,
    "train_loss": (float, NoneType),
    "val_loss": (float, NoneType),
    "val_accuracy": (float, NoneType),
}


@dataclass(frozen=True)
class Keeping:
    """What the checkpoints of one repeat say of it (plain values), and the folder that they go to."""

    about: dict[str, Any]
    out: Path


@dataclass(frozen=True)
class Kept:
    """One of them on disk. `about`: what it says of itself; `digest`: of all that it holds."""

    path: Path
    about: Mapping[str, Any]
    digest: str

    @classmethod
    def open(cls, path: Path) -> Kept:
        """Reads no tensor. Raises UserError if it is missing, broken, of another version, or none of these."""
        about, digest = tree.head(path)
        odd = [name for name, form in _FORM.items() if name not in about or not isinstance(about[name], form)]
        if odd:
            raise UserError(
                f"{path} is not a checkpoint of a strategy: it doesn't say its {', '.join(odd)}",
                allowed="a file of kept-checkpoints/ beside results",
            )
        return cls(path, about, digest)

    @property
    def repeat(self) -> int:
        return int(self.about["repeat"])

    @property
    def epoch(self) -> int:
        return int(self.about["epoch"])

    @property
    def name(self) -> str:
        """As `find` takes it."""
        return f"repeat-{self.repeat}/{self.path.stem}"

    def model(self) -> dict[str, Tensor]:
        """The network's state. Raises UserError if the file is broken, or holds what is not a number."""
        found: dict[str, Tensor] = self._content()["model"]
        return found

    def training(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(Lightning's state, what was trained of the best epoch's network). Raises UserError as `model`."""
        content = self._content()
        trained = {name: content["model"].get(name.removeprefix(MODEL)) for name in content["trained"]}
        if None in trained.values():
            raise UserError(f"{self.path} names trained layers that it doesn't hold")
        return content["training"] | {"state_dict": trained}, content["best"] or trained

    def _content(self) -> dict[str, Any]:
        content = tree.read(self.path)
        if not isinstance(content, dict) or content.keys() != {"training", "trained", "best", "model"}:
            raise UserError(f"{self.path} is not a checkpoint of a strategy", allowed="a file of kept-checkpoints/")
        states = [content["model"], content["best"] or {}]
        whole = isinstance(content["training"], dict) and isinstance(content["trained"], list)
        if not whole or not all(isinstance(s, dict) and all(isinstance(t, Tensor) for t in s.values()) for s in states):
            raise UserError(f"{self.path} is not a checkpoint of a strategy", allowed="a file of kept-checkpoints/")
        odd = sorted({n for s in states for n, t in s.items() if t.is_floating_point() and not torch.isfinite(t).all()})
        if odd:
            raise UserError(f"{self.path} holds values that are not finite, in {', '.join(odd[:5])}")
        return content


def name_of(epoch: int) -> str:
    return f"epoch-{epoch:04d}.safetensors"


def write(
    path: Path,
    about: Mapping[str, Any],
    *,
    state: dict[str, Any],
    best: Mapping[str, Tensor] | None,
    model: Mapping[str, Tensor],
) -> None:
    """`state`: Lightning's checkpoint; `best`: what was trained of the best epoch, None where this is it."""
    rest = {key: value for key, value in state.items() if key != "state_dict"}
    about = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in about.items()}
    content = {"training": rest, "trained": list(state["state_dict"]), "best": best, "model": dict(model)}
    tree.write(path, content, about=about)


def files(folder: Path) -> list[Path]:
    """Those directly in a folder, by epoch."""
    return sorted(path for path in folder.glob("epoch-*") if _NAME.fullmatch(path.name) and path.is_file())


def folder_of(out: Path, repeat: int) -> Path:
    return out / FOLDER / f"repeat-{repeat}"


def all_of(strategy: Path) -> list[Kept]:
    """Of a strategy's folder, by repeat and epoch. Raises UserError if one is broken."""
    folders = sorted(
        (int(match[1]), path) for path in strategy.glob(f"{FOLDER}/*") if (match := _REPEAT.fullmatch(path.name))
    )
    return [Kept.open(path) for _, folder in folders for path in files(folder)]


def find(strategy: Path, name: str) -> Kept:
    """`epoch-0004` (of the first repeat) or `repeat-1/epoch-0004`. Raises UserError with those that are there."""
    found = {one.name: one for one in all_of(strategy)}
    wanted = name.removesuffix(".safetensors")
    kept = found.get(wanted) or found.get(f"repeat-0/{wanted}")
    if kept is None:
        raise UserError(
            f"{strategy} has no checkpoint {name!r}",
            allowed=[key.removeprefix("repeat-0/") for key in found] or "none is there; `--keep-every N` keeps some",
            see=f"`cnncodes checkpoints {strategy}`",
        )
    return kept


def clear(out: Path, stays: Callable[[Kept], bool]) -> None:
    """Leaves the folder, as DVC asks for every out, and in it the checkpoints that `stays` names."""
    folder = out / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("repeat-*/*"):
            if not _stays(path, stays):
                path.unlink()
        for own in folder.glob("repeat-*"):
            if not any(own.iterdir()):
                own.rmdir()
        (folder / TESTS).unlink(missing_ok=True)
    except OSError as e:
        disk.raise_if_disk(e, folder)
        raise


def _stays(path: Path, stays: Callable[[Kept], bool]) -> bool:
    try:
        return stays(Kept.open(path))
    except UserError:
        return False


def write_tests(strategy: Path, accuracies: Mapping[str, float]) -> None:
    """By digest."""
    json_files.write(strategy / FOLDER / TESTS, {"version": VERSIONS["checkpoint"], "accuracy": accuracies})


def read_tests(strategy: Path) -> dict[str, float]:
    """What `write_tests` wrote; {} before it. Raises UserError if it is broken."""
    path = strategy / FOLDER / TESTS
    if not path.is_file():
        return {}
    found = json_files.read(path)
    accuracies = found.get("accuracy") if isinstance(found, dict) else None
    if not isinstance(accuracies, dict) or not all(isinstance(v, float) for v in accuracies.values()):
        raise UserError(f"{path} is not a file of test accuracies: delete it")
    return accuracies


def listed(strategy: Path) -> list[dict[str, Any]]:
    """A record a checkpoint: name, repeat, epoch, losses and accuracies (None where there is none, or it was not
    measured yet), whether it was the best epoch so far, bytes and file."""
    tests = read_tests(strategy)
    return [
        {
            "strategy": one.about["strategy"],
            "name": one.name.removeprefix("repeat-0/"),
            "repeat": one.repeat,
            "epoch": one.epoch,
            **{key: one.about.get(key) for key in ("train_loss", "val_loss", "val_accuracy")},
            "test_accuracy": tests.get(one.digest),
            "best_so_far": one.about.get("best_epoch") == one.epoch,
            "bytes": one.path.stat().st_size,
            "file": str(one.path),
        }
        for one in all_of(strategy)
    ]


def strategies_in(folder: Path) -> list[Path]:
    """The strategies' folders: the folder itself, those in it, or those in its finetune/. Raises UserError without."""
    for found in ([folder], _below(folder), _below(folder / "finetune")):
        if own := [path for path in found if (path / FOLDER).is_dir() or (path / "groups.json").is_file()]:
            return own
    raise UserError(
        f"{folder} has no strategies in it" if folder.is_dir() else f"{folder} is not a folder",
        allowed="a strategy's folder (tuned/finetune/frozen), or one of several (tuned)",
        see="`cnncodes finetune`",
    )


def _below(folder: Path) -> Collection[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
