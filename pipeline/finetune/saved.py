"""A trained classifier on disk, with all that is needed to use it, and back.

`model.safetensors` is a canonical weights file of `nets.weights` wherever the classifier is one of its networks: up to
fc8 with the vgg head (of an architecture named for its fc layers, see `nets.layers.variant`) and in direct use, up to
the last pooling with the gap head. `head.safetensors` says the rest: how the model is built, its classes and view, and
the tensors that the first file does not hold. Baselines are no such network: their first file has names of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import plain_json
from pipeline.config import MEMORY_MB
from pipeline.data.room import NoRoomError, Room
from pipeline.errors import UserError
from pipeline.finetune import baselines, images
from pipeline.finetune.augment import centre
from pipeline.finetune.direct import Direct
from pipeline.finetune.images import CachedView
from pipeline.finetune.model import Classifier, Tuned
from pipeline.nets.weights import Weights, read_canonical, write_canonical
from pipeline.schema import VERSIONS, atomic_path, canonical_json

MODEL, HEAD = "model.safetensors", "head.safetensors"
# Version 1 did not say the loss.
READABLE = (1, VERSIONS["classifier"])
_KEY = "cnncodes"


def are_probabilities(loss: str | None) -> bool | None:
    """Whether softmaxes of the scores say how sure a model is; None if its loss is not known.

    Those of a model trained with hinge loss are a distribution too, but cross-entropy alone fits them to the labels.
    """
    return None if loss is None else loss == "cross_entropy"


@dataclass(frozen=True)
class Saved:
    """A classifier in eval mode on the CPU, its classes, the view of an image that it was trained on, and the loss that
    it was trained with (None in files of version 1, which don't say)."""

    model: Classifier
    classes: tuple[str, ...]
    view: CachedView
    loss: str | None

    def probabilities(self, files: Sequence[Path], *, memory_mb: int = MEMORY_MB) -> NDArray[np.float32]:
        """(n, k) softmaxes for image files; `are_probabilities` of the loss says what they mean.

        Raises UserError naming the first that can't be read, or alone needs more than `memory_mb`.
        """
        found, room = [], Room(memory_mb)
        for file in files:
            shown = self.scores(file, room=room)
            if isinstance(shown, str):
                raise UserError(f"{file}: {shown}")
            found.append(shown)
        return np.stack(found)

    @torch.inference_mode()
    def scores(self, file: Path, *, room: Room) -> NDArray[np.float32] | str:
        """(k,) softmaxes for an image file, or in words why it can't be read or needs more memory than the room has."""
        try:
            pixels = images.from_file(file, self.view, digest=None, max_pixels=_MAX_PIXELS, room=room)
        except NoRoomError as e:
            return str(e)
        if isinstance(pixels, str):
            return pixels
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]  # (1, 3, scale, scale)
        shown: NDArray[np.float32] = self.model(centre(x, self.model.size)).softmax(dim=1)[0].numpy()
        return shown


# Pillow's own limit, above which an image is taken for a decompression bomb.
_MAX_PIXELS = 178_956_970


def write(
    folder: Path,
    model: Classifier,
    *,
    classes: Sequence[str],
    view: CachedView,
    loss: str,
    provenance: Mapping[str, Any],
    source: Weights,
) -> None:
    """Both files. `loss`: that the scores were trained by; `source`: the weights that the strategy started from."""
    provenance = {**provenance, "loss": loss, "codes": _codes_keys(view, model.size)}
    about: dict[str, Any] = {
        "version": VERSIONS["classifier"],
        "classes": list(classes),
        "loss": loss,
        "size": model.size,
        "view": asdict(view),
        "provenance": provenance,
    }
    state = {name: t.cpu().contiguous() for name, t in model.canonical_state().items()}
    rest: dict[str, Tensor] = {}
    if isinstance(model, Tuned):
        about |= {"kind": "tuned", "arch": model.arch, "head": model.head_kind}
        if model.head_kind == "vgg":
            about["widths"] = [len(state["fc6.bias"]), len(state["fc7.bias"])]
            weights = Weights.make(model.whole_arch, state, source.preprocessing, provenance, tuple(classes))
        else:
            rest = {name: state.pop(name) for name in list(state) if name.startswith("classifier.")}
            weights = Weights.make(model.arch, state, source.preprocessing, provenance)
        write_canonical(weights, folder / MODEL)
    elif isinstance(model, Direct):
        about |= {"kind": "direct", "labels": {t: list(s) for t, s in model.labels.items()}}
        write_canonical(source, folder / MODEL)
    else:
        assert isinstance(model, baselines.Baseline)
        about |= {"kind": model.kind, "widths": list(model.settings.widths)}
        _write(folder / MODEL, state, {"version": VERSIONS["classifier"], "baseline": model.kind})
    _write(folder / HEAD, rest, about)


def _codes_keys(view: CachedView, size: int) -> dict[str, Any]:
    """Keys of the section `codes` that give images the view of the training: its centre, where it crops at random.

    Codes know no margin around what is squashed, so there the whole image is in place of its centre.
    """
    scale = view.scale if view.view == "crop" else size
    return {"view": view.view, "crop": size, "scales": [scale], "background": list(view.background)}


def read(folder: Path) -> Saved:
    """The classifier in a folder. Raises UserError if a file is missing, broken, of another version or architecture."""
    about, rest = _read(folder / HEAD)
    if about.get("version") not in READABLE:
        raise UserError(f"{folder / HEAD} has version {about.get('version')!r}", allowed=READABLE)
    classes = tuple(about["classes"])
    view = CachedView(about["view"]["view"], about["view"]["scale"], tuple(about["view"]["background"]))
    model = _build(folder / MODEL, about, rest, classes)
    return Saved(model.eval(), classes, view, about.get("loss"))


def _build(path: Path, about: Mapping[str, Any], rest: dict[str, Tensor], classes: tuple[str, ...]) -> Classifier:
    if about["kind"] == "direct":
        return Direct(read_canonical(path), about["labels"], classes, size=about["size"])
    if about["kind"] != "tuned":
        settings = baselines.Settings(len(classes), about["widths"], 0.0)
        net = baselines.Baseline(about["kind"], settings, size=about["size"])
        _fill(net, _read(path)[1], path)
        return net
    weights = read_canonical(path)
    tuned = Tuned(
        about["arch"],
        weights.preprocessing,
        size=about["size"],
        head=about["head"],
        widths=about.get("widths", (1, 1)),
        dropout=0.0,
        k=len(classes),
    )
    _fill(tuned, {**weights.tensors, **rest}, path)
    return tuned


def _fill(model: Classifier, tensors: Mapping[str, Tensor], path: Path) -> None:
    own = model.canonical_state()
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += sorted(n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape)
    if wrong:
        raise UserError(f"{path} is of another architecture than {HEAD} beside it: {', '.join(wrong[:5])} don't fit")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _write(path: Path, tensors: dict[str, Tensor], about: Mapping[str, Any]) -> None:
    with atomic_path(path) as tmp:
        mode = tmp.stat().st_mode
        save_file(tensors, tmp, metadata={_KEY: canonical_json(about)})
        tmp.chmod(mode)  # save_file puts a file of its own there, which only its owner may read


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"there is no {path}", see="`dvc repro finetune`")
    try:
        with safe_open(path, framework="pt") as f:
            about = plain_json.loads((f.metadata() or {})[_KEY])
        return about, load_file(path)
    except (SafetensorError, OSError, KeyError, plain_json.JsonError) as e:
        raise UserError(f"{path} is not a whole file of a trained model ({e})") from None
