"""A head's or strategy's folder as one file, which is compared with the folder before it is kept.

```python
from pipeline.portable.write import export_model
export_model("codes/heads/conv5_2-avg-softmax", "onnx", "model.onnx")
```
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from pipeline.base import disk
from pipeline.base.cache import working_folder
from pipeline.base.errors import UserError
from pipeline.base.failing import place
from pipeline.codes import Codes, Embedder
from pipeline.codes.settings import Settings, settings_here
from pipeline.config import MEMORY_MB
from pipeline.data import views
from pipeline.data.room import Room
from pipeline.heads.base import softmax
from pipeline.heads.model import Model
from pipeline.heads.model import predict as head_scores
from pipeline.nets.weights import read_canonical
from pipeline.portable.about import IMAGE, KEY, PROBABILITIES, SCORES, VERSION, About
from pipeline.portable.network import HeadNetwork, TunedNetwork
from pipeline.portable.read import Portable
from pipeline.portable.shown import Shown
from pipeline.strategies import saved
from pipeline.workspace import Workspace

log = logging.getLogger(__name__)

Format = Literal["onnx", "pt2"]
Scores = NDArray[np.float32]
CHECKED = 64
TOLERANCE, CLEAR = 1e-4, 1e-3
_MOST_BYTES = (1 << 31) - 1  # of a message of protocol buffers
_NEEDS = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "pt2": ()}


@dataclass(frozen=True)
class _Source:
    """`answers`: files -> (n, k) as the folder's own `predict` shows them, in float32 on the processor."""

    module: nn.Module
    about: About
    answers: Callable[[list[Path]], Scores]


def export_model(
    folder: str | Path,
    to: Format,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    replace: bool = False,
    memory_mb: int = MEMORY_MB,
) -> About:
    """Writes `out` whole or not at all; returns what its metadata say.

    `folder`: of a linear head (`heads/<spec>-<head>`) or a strategy (`finetune/<name>`). `weights`: those of a head's
    codes, its workspace's own if None. The file's answers for 64 images, of the data set where it is at hand, are those
    of the folder: the same class where the two best differ by more than 0.001, values to 0.0001 of the largest or of 1.

    Raises UserError if the folder can't be exported, an extra is missing, `out` is there, or the answers differ.
    """
    folder, out = Path(folder), Path(out)
    if out.suffix != f".{to}":
        raise UserError(f"{out} for a model in {to}", allowed=f"a name that ends in .{to}")
    if out.exists() and not replace:
        raise UserError(f"{out} is there already", allowed="another name, or --replace")
    for name in _NEEDS[to]:
        _require(name)
    source = _tuned(folder) if (folder / saved.HEAD).is_file() else _head(folder, weights, memory_mb)
    with working_folder() as scratch, _quiet():
        data, run = _onnx(source, out) if to == "onnx" else _pt2(source, scratch)
        _compare(source, run, folder, scratch, memory_mb)
    with disk.atomic_path(out) as tmp:
        tmp.write_bytes(data)
    return source.about


def _require(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"exporting to ONNX needs the package {name}", allowed='pip install "cnn-codes[onnx]"'
        ) from None


def _head(folder: Path, weights: str | Path | None, memory_mb: int) -> _Source:
    path = folder / "model.h5"
    if not path.is_file():
        raise UserError(
            f"{folder} holds neither a head nor a tuned network",
            allowed="a head's folder, CODES/heads/LAYER-avg-svm, or a tuned network's, TUNED/finetune/STRATEGY",
            see="`cnncodes export-model --help`",
        )
    model = Model.load(path)
    file = Path(weights) if weights else Workspace(folder.absolute().parent.parent).weights_file
    exact = settings_here(model.codes_settings, device="cpu", precision="fp32")
    settings = Settings.from_json(exact)
    module = HeadNetwork(model, settings, read_canonical(file))
    embedder = Embedder(file, exact, room=Room(memory_mb))  # checks that they are the head's weights

    def answers(files: list[Path]) -> Scores:
        codes = Codes.from_arrays(
            [f"{i:08d}" for i in range(len(files))], embedder(files), spec=model.spec, settings=exact
        )
        return head_scores(model, codes)[1]

    about = _about(
        classes=model.classes,
        size=settings.crop,
        view=settings.view,
        scale=settings.scales[0],
        resampling=settings.resampling,
        background=settings.background,
        shown="softmax" if model.head.probabilities else "scores",
        probabilities=model.head.probabilities,
        network=settings.arch,
        head=f"{model.name} on {model.spec}",
        codes=exact,
    )
    return _Source(module, about, answers)


def _tuned(folder: Path) -> _Source:
    found = saved.read(folder)
    known = saved.are_probabilities(found.loss)
    about = _about(
        classes=found.classes,
        size=found.model.size,
        view=found.view.view,
        scale=found.view.scale,
        resampling=views.RESAMPLING,
        background=found.view.background,
        shown="softmax",
        probabilities=known,
        network=getattr(found.model, "arch", type(found.model).__name__.lower()),
        head=f"strategy {folder.absolute().name}",
        codes=None,
    )
    return _Source(TunedNetwork(found.model, probabilities=bool(known)), about, found.probabilities)


def _about(**values: Any) -> About:
    versions = {name: version(name) for name in ("cnn-codes", "torch")}
    return About.model_validate({"version": VERSION, "channels": "rgb", "versions": versions, **values})


def _program(source: _Source) -> Any:
    """The traced module, for any number of images."""
    example = torch.zeros((2, source.about.size, source.about.size, 3), dtype=torch.uint8)
    try:
        return torch.export.export(source.module.eval(), (example,), dynamic_shapes={IMAGE: {0: torch.export.Dim("N")}})
    except Exception as e:
        raise _not_exported(source, e) from e


def _not_exported(source: _Source, error: Exception) -> UserError:
    return UserError(f"torch can't export {source.about.network} ({' '.join(str(error).split())[:200]})")


def _onnx(source: _Source, out: Path) -> tuple[bytes, Callable[[NDArray[np.uint8]], Scores]]:
    outputs = [SCORES, PROBABILITIES] if source.about.probabilities else [SCORES]
    try:
        made: Any = torch.onnx.export(
            _program(source), dynamo=True, input_names=[IMAGE], output_names=outputs, verbose=False
        )
    except torch.onnx.OnnxExporterError as e:
        raise _not_exported(source, e) from e
    made.model.metadata_props[KEY] = source.about.text()
    proto = made.model_proto
    if proto.ByteSize() > _MOST_BYTES:
        raise UserError(
            f"the model has {proto.ByteSize():,} bytes", allowed=f"{_MOST_BYTES:,} in one .onnx file; or --to pt2"
        )
    data: bytes = proto.SerializeToString()
    return data, Portable(source.about, data, out).scores


def _pt2(source: _Source, scratch: Path) -> tuple[bytes, Callable[[NDArray[np.uint8]], Scores]]:
    file = scratch / "model.pt2"
    torch.export.save(_program(source), file, extra_files={f"{KEY}.json": source.about.text()})
    with place(file):
        data = file.read_bytes()
    module = torch.export.load(io.BytesIO(data)).module()  # written a moment before

    @torch.inference_mode()
    def run(pixels: NDArray[np.uint8]) -> Scores:
        found: Scores = module(torch.from_numpy(pixels))[0].numpy()
        return softmax(found) if source.about.shown == "softmax" else found

    return data, run


def _compare(
    source: _Source, run: Callable[[NDArray[np.uint8]], Scores], folder: Path, scratch: Path, memory_mb: int
) -> None:
    """Raises UserError if the written model answers otherwise than the folder."""
    shown = Shown(source.about, Room(memory_mb), "the model")
    files, pixels = [], []
    for file in _images(folder, scratch, source.about.scale):
        view = shown(file)
        if not isinstance(view, str):
            files.append(file)
            pixels.append(view)
    expected, found = source.answers(files), run(np.stack(pixels))
    off = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    two = np.sort(expected, axis=1)[:, -2:]
    clear = two[:, -1] - two[:, 0] > CLEAR
    other = clear & (found.argmax(axis=1) != expected.argmax(axis=1))
    if not (off.max() <= TOLERANCE) or other.any():  # not a number is no difference either
        raise UserError(
            f"the exported model differs from {folder} by up to {off.max():.2g}, with another class for {other.sum()} "
            f"of {len(files)} images; nothing is written",
            allowed=f"values to {TOLERANCE:g}",
        )
    log.info("compared with the folder on %d images: values differ by at most %.1g", len(files), off.max())


def _images(folder: Path, scratch: Path, side: int) -> list[Path]:
    """64 files: of the data set, evenly by id, and drawn ones for those that are not at hand."""
    found: list[Path] = []
    space = Workspace(folder.absolute().parent.parent)
    if (space.root / "dataset" / "dataset.json").is_file():
        manifest = space.manifest()
        at = np.unique(np.linspace(0, len(manifest) - 1, CHECKED).astype(int))
        found = [file for path in manifest.paths[at].tolist() if (file := manifest.root / path).is_file()]
    generator = np.random.default_rng(0)
    for i in range(CHECKED - len(found)):
        small = generator.integers(0, 256, (6 + i % 5, 7, 3), dtype=np.uint8)
        found.append(scratch / f"{i}.png")
        Image.fromarray(small).resize((side + 3 * i, side + 40), Image.Resampling.BICUBIC).save(found[-1])
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch and onnxscript tell of their own steps."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    before = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
