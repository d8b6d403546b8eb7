"""A trained classifier on disk, with all that is needed to use it, and back.

`model.safetensors` is a canonical weights file of `nets.weights` wherever the classifier is one of its networks: whole
with a head of the architecture's own (`nets.backbone.Architecture.with_head` names it) and in direct use, the trunk
with the gap head. `head.safetensors` says the rest: how the model is built, its classes and view, and
the tensors that the first file does not hold. Baselines are no such network: their first file has names of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.base import disk, held, json_files, plain_json
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.codes.settings import resolve_device, resolve_precision
from pipeline.config import MEMORY_MB
from pipeline.data.room import NoRoomError, Room
from pipeline.nets.weights import Preprocessing, Weights, read_canonical, write_canonical
from pipeline.strategies import baselines, images
from pipeline.strategies.augment import centre
from pipeline.strategies.direct import Direct
from pipeline.strategies.images import CachedView
from pipeline.strategies.kept import Kept
from pipeline.strategies.model import Classifier, TrunkClassifier, autocast

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
    """A classifier in eval mode on `device`, its classes, the view of an image that it was trained on, and the loss
    that it was trained with (None in files of version 1, which don't say). `precision`: of its products."""

    model: Classifier
    classes: tuple[str, ...]
    view: CachedView
    loss: str | None
    device: str = "cpu"
    precision: str = "fp32"

    def on(self, device: str, precision: str) -> Saved:
        """The same on another device, by products of fp32 or bf16. Raises UserError if that is not here."""
        found = resolve_device(device)
        if precision == "fp16":
            raise UserError(
                "fp16 with a trained network", allowed=["auto", "fp32", "bf16"], see="finetune.compute.precision"
            )
        products = "bf16" if resolve_precision(precision, found) == "bf16" else "fp32"  # as training does
        return replace(self, model=self.model.to(found), device=found, precision=products)

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
    def scores(
        self, file: Path, *, room: Room, open_file: Callable[[Path], BinaryIO] | None = None
    ) -> NDArray[np.float32] | str:
        """(k,) softmaxes for an image file, or in words why it can't be read or needs more memory than the room has."""
        try:
            pixels = images.from_file(file, self.view, max_pixels=_MAX_PIXELS, room=room, open_file=open_file)
        except NoRoomError as e:
            return str(e)
        if isinstance(pixels, str):
            return pixels
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(self.device)  # (1, 3, scale, scale)
        with autocast(self.device, self.precision):
            logits = self.model(centre(x, self.model.size))
        shown: NDArray[np.float32] = logits.float().softmax(dim=1)[0].cpu().numpy()
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
    about = description(model, classes=classes, view=view, loss=loss)
    about |= {"version": VERSIONS["classifier"], "provenance": provenance}
    state = {name: t.cpu().contiguous() for name, t in model.canonical_state().items()}
    rest: dict[str, Tensor] = {}
    if isinstance(model, TrunkClassifier):
        if model.whole_arch is not None:
            weights = Weights.make(model.whole_arch, state, source.preprocessing, provenance, tuple(classes))
        else:
            rest = {name: state.pop(name) for name in list(state) if name.startswith("classifier.")}
            weights = Weights.make(model.arch, state, source.preprocessing, provenance)
        write_canonical(weights, folder / MODEL)
    elif isinstance(model, Direct):
        write_canonical(source, folder / MODEL)
    else:
        _write(folder / MODEL, state, {"version": VERSIONS["classifier"], "baseline": about["kind"]})
    _write(folder / HEAD, rest, about)


def description(model: Classifier, *, classes: Sequence[str], view: CachedView, loss: str) -> dict[str, Any]:
    """Plain values from which the classifier is built again, but for its tensors and their preprocessing."""
    about = {"classes": list(classes), "loss": loss, "size": model.size, "view": asdict(view)}
    if isinstance(model, TrunkClassifier):
        about |= {"kind": "tuned", "arch": model.arch, "head": model.head_kind}
        if model.head.widths:
            about["widths"] = list(model.head.widths)
    elif isinstance(model, Direct):
        about |= {"kind": "direct", "labels": {t: list(s) for t, s in model.labels.items()}}
    else:
        assert isinstance(model, baselines.Baseline)
        about |= {"kind": model.kind, "widths": list(model.widths)}
    return about


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
    return _saved(_build(folder / MODEL, about, rest), about)


def read_kept(one: Kept) -> Saved:
    """The classifier of a checkpoint. Raises UserError if it is broken, or its tensors don't fit what it says."""
    about = one.about["model"]
    try:
        given = about["preprocessing"]
        preprocessing = Preprocessing(given["channels"], given["scale"], tuple(given["mean"]), tuple(given["std"]))
        model = _empty(about, preprocessing)
        saved = _saved(model, about)
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"{one.path} doesn't say what network it is of ({' '.join(str(e).split())[:200]})") from None
    _fill(model, {name.partition(".")[2]: tensor for name, tensor in one.model().items()}, one.path)
    return saved


def _saved(model: Classifier, about: Mapping[str, Any]) -> Saved:
    view = CachedView(about["view"]["view"], about["view"]["scale"], tuple(about["view"]["background"]))
    return Saved(model.eval(), tuple(about["classes"]), view, about.get("loss"))


def _build(path: Path, about: Mapping[str, Any], rest: dict[str, Tensor]) -> Classifier:
    if about["kind"] == "direct":
        return Direct(read_canonical(path), about["labels"], tuple(about["classes"]), size=about["size"])
    if about["kind"] != "tuned":
        net = _empty(about, baselines.PREPROCESSING)
        _fill(net, _read(path)[1], path)
        return net
    weights = read_canonical(path)
    tuned = _empty(about, weights.preprocessing)
    _fill(tuned, {**weights.tensors, **rest}, path)
    return tuned


def _empty(about: Mapping[str, Any], preprocessing: Preprocessing) -> Classifier:
    """What was trained, before its tensors are filled in."""
    k = len(about["classes"])
    if about["kind"] != "tuned":
        return baselines.Baseline(about["kind"], k=k, widths=about["widths"], dropout=0.0, size=about["size"])
    return TrunkClassifier(
        about["arch"],
        preprocessing,
        size=about["size"],
        head=about["head"],
        widths=about.get("widths", (1, 1)),
        dropout=0.0,
        k=k,
    )


def _fill(model: Classifier, tensors: Mapping[str, Tensor], path: Path) -> None:
    own = model.canonical_state()
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += sorted(n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape)
    if wrong:
        raise UserError(f"{path} is of another architecture than is said of it: {', '.join(wrong[:5])} don't fit")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _write(path: Path, tensors: dict[str, Tensor], about: Mapping[str, Any]) -> None:
    with disk.atomic_path(path) as tmp:
        mode = tmp.stat().st_mode
        held.clear_old(tmp.parent, ".tmp??????")  # of save_file, which renames a file of its own
        save_file(tensors, tmp, metadata={_KEY: json_files.canonical(about)})
        tmp.chmod(mode)  # save_file puts a file of its own there, which only its owner may read


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"no {path}", see="`dvc repro finetune`")
    try:
        with safe_open(path, framework="pt") as f:
            about = plain_json.loads((f.metadata() or {})[_KEY])
        return about, load_file(path)
    except (SafetensorError, OSError, KeyError, plain_json.JsonError) as e:
        raise UserError(f"{path} is not a whole file of a trained model ({e})") from None
