"""Going on from a checkpoint that was kept: what must agree with it, and what each repeat goes on from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.config import FinetuneParams
from pipeline.config.finetune import OWN
from pipeline.data.manifest import Manifest
from pipeline.nets.weights import Weights
from pipeline.nets.weights.record import plain_preprocessing
from pipeline.strategies import checkpoints, kept, saved
from pipeline.strategies.kept import Keeping, Kept
from pipeline.strategies.prepared import Place, Prepared, run_key, view_of

log = logging.getLogger(__name__)

# Keys of the section that may have other values than the checkpoint's; all else must agree.
MAY_DIFFER = (
    "epochs",
    "learning_rate",
    "schedule",
    "patience",
    "keep_every",
    "repeats",
    "test_views",
    "precision",
    "device",
    "workers",
    "inference_txt",
)


@dataclass(frozen=True)
class Run:
    """What a strategy is trained with, before an image is decoded."""

    name: str
    manifest: Manifest
    weights: Weights
    params: FinetuneParams

    def about(self, repeat: int) -> dict[str, Any]:
        """What has to agree, as plain values."""
        manifest = self.manifest
        settings = self.params.strategy(self.name).model_dump(mode="json")
        return {
            "strategy": self.name,
            "arch": self.weights.arch,
            "weights": self.weights.sha256,
            "classes": list(manifest.classes),
            "data": {
                "images": len(manifest),
                **{f"{split} images": len(manifest.rows(split, repeat)) for split in ("train", "val", "test")},
                "ids": json_files.fingerprint(manifest.ids.tolist()),
                "labels": json_files.fingerprint(manifest.labels.tolist()),
                "split": json_files.fingerprint(manifest.splits[repeat].tolist()),
            },
            # Without what it sets of the shared keys: `params` has those, and some may differ.
            "settings": {key: value for key, value in settings.items() if key not in OWN},
            "params": self.params.model_dump(mode="json", exclude={"run", "strategies"}),
        }


def keeping(place: Place, made: Prepared, repeat: int, out: Path, *, loss: str) -> Keeping:
    """What checkpoints of a repeat say of it, and where they go below the strategy's folder `out`."""
    model = made.ready.model
    start = place.starts.get(repeat)
    described = saved.description(model, classes=place.manifest.classes, view=view_of(place.params), loss=loss)
    described["preprocessing"] = plain_preprocessing(model.normalise.preprocessing)
    about = Run(place.name, place.manifest, place.weights, place.params).about(repeat) | {
        "repeat": repeat,
        "model": described,
        "provenance": dict(place.weights.provenance),
        "went_on_from": [] if start is None else _keys(start),
    }
    return Keeping(about, kept.folder_of(out, repeat))


def starts(path: Path, run: Run) -> dict[int, Kept]:
    """Repeat -> what it goes on from: the checkpoint at `path`, and for each other repeat the latest one beside it that
    is no later. A repeat without one begins at the start.

    Raises UserError, with all that differs, if one is of another run than this may go on from, and if it has more
    epochs than this run is to have.
    """
    first, repeats = Kept.open(path), range(min(run.params.repeats, run.manifest.repeats))
    if first.repeat not in repeats:
        raise UserError(f"{path} is of repeat {first.repeat}", allowed=f"repeats of {first.repeat + 1} or more")
    beside = [
        one
        for one in _beside(path)
        if one.repeat in repeats and one.epoch <= first.epoch and one.about["params"] == first.about["params"]
    ]
    found = {one.repeat: one for one in beside} | {first.repeat: first}  # of each repeat the last, in order of epochs
    for one in found.values():
        _require_agreement(one, run)
    return found


def _beside(path: Path) -> list[Kept]:
    folder = path.absolute().parent.parent
    return kept.all_of(folder.parent) if folder.name == kept.FOLDER else []


def _require_agreement(one: Kept, run: Run) -> None:
    own, there = run.about(one.repeat), one.about
    wrong = [
        _differs(name, there.get(name), own[name]) for name in ("strategy", "arch") if there.get(name) != own[name]
    ]
    if there.get("weights") != own["weights"]:
        source = there.get("provenance", {}).get("source", "others")
        wrong.append(_differs("weights", source, run.weights.provenance.get("source", "others")))
    if there.get("classes") != own["classes"]:
        wrong.append(_differs("classes", ", ".join(there.get("classes", [])), ", ".join(own["classes"])))
    for what in ("data", "settings", "params"):
        theirs = there.get(what, {})
        wrong += [
            f"other {key} of the images" if key in ("ids", "labels", "split") else _differs(key, theirs.get(key), value)
            for key, value in own[what].items()
            if theirs.get(key) != value and not (what == "params" and key in MAY_DIFFER)
        ]
    if wrong:
        raise UserError(
            f"a run can't go on from {one.path}, which is of another one: {'; '.join(wrong)}",
            allowed=f"what it was trained with; these may differ: {', '.join(MAY_DIFFER)}",
            see="docs/params.md",
        )
    if run.params.epochs < one.epoch:
        raise UserError(
            f"{one.path} is of epoch {one.epoch}, and finetune.loop.epochs is {run.params.epochs}",
            allowed=f"{one.epoch} or more",
        )


def _differs(name: str, there: object, here: object) -> str:
    return f"{name}: {there} there, {here} here"


def seed(place: Place, made: Prepared, repeat: int, folder: Path) -> None:
    """Gives a run that has no checkpoint yet the one that it goes on from. Raises UserError if that doesn't fit it."""
    start = place.starts.get(repeat)
    if start is None or made.training is None or (folder / checkpoints.LAST).is_file():
        return
    log.info("repeat %d goes on from epoch %d of %s", repeat, start.epoch, start.path)
    state, best = start.training()
    own = made.training.state_dict()
    names = [f"{kept.MODEL}{name}" for name in start.model()]
    wrong = sorted(own.keys() ^ set(names))
    wrong += [n for part in (state["state_dict"], best) for n in part if n not in own or own[n].shape != part[n].shape]
    if wrong:
        raise UserError(f"{start.path} is a checkpoint of another architecture: {', '.join(wrong[:5])} don't fit")
    try:
        made.training.configure_optimizers().load_state_dict(state["optimizer_states"][0])
        checkpoints.seed(folder, run_key(place, repeat), state, best, patience=place.params.patience)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise UserError(f"{start.path} holds no training to go on with ({' '.join(str(e).split())[:200]})") from None


def stays(place: Place, one: Kept) -> bool:
    """Whether a checkpoint in the strategy's folder is of this run, or of what it went on from."""
    if one.repeat >= place.manifest.repeats:
        return False
    start = place.starts.get(one.repeat)
    own = one.about["key"] == run_key(place, one.repeat)
    return own or (start is not None and one.about["key"] in _keys(start) and one.epoch <= start.epoch)


def _keys(start: Kept) -> list[str]:
    """Of the run that it is of, and of those that one went on from."""
    return [start.about["key"], *start.about.get("went_on_from", [])]
