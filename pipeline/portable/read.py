"""Answers by an exported ONNX model, which may be a stranger's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.base.failing import reading
from pipeline.config import MEMORY_MB
from pipeline.data.asked import files_of, require_some
from pipeline.data.room import Room
from pipeline.heads.base import softmax
from pipeline.nets import external_data
from pipeline.portable import PT2, run
from pipeline.portable.about import IMAGE, KEY, PROBABILITIES, SCORES, About
from pipeline.portable.shown import Shown

# Images whose pixels are in memory at once.
_BLOCK = 64
_UINT8, _FLOAT = 2, 1  # TensorProto.DataType


@dataclass(frozen=True)
class Portable:
    """A model of which nothing was run yet: `data` is the file."""

    about: About
    data: bytes
    path: Path

    def scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, size, size, 3) -> (n, k), as `predict` shows them. Raises UserError if the model can't be run."""
        found = run.run(self.data, pixels, self.path)
        if found.shape[1] != len(self.about.classes):
            raise UserError(f"{self.path} gives {found.shape[1]} scores for {len(self.about.classes)} classes")
        return softmax(found).astype(np.float32) if self.about.shown == "softmax" else found


def load(path: str | Path) -> Portable:
    """Raises UserError if the file is missing, broken, not as `export-model` writes it, or made to do other things."""
    path = Path(path)
    if path.suffix == PT2:
        raise UserError(
            f"{path} is a .pt2 file, and torch runs code that such a file holds when it loads it",
            allowed="the same model as .onnx (`cnncodes export-model FOLDER --to onnx`)",
            see="docs/export-model.md",
        )
    if not path.is_file():
        raise UserError(f"{path} does not exist", see="`cnncodes export-model --help`")
    with reading(path) as file:
        data = file.read()
    model = external_data.model(data, str(path))
    said = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if len(said) != 1:
        raise UserError(
            f"{path} doesn't say what it is",
            allowed="a file that `cnncodes export-model` wrote",
            see="docs/export-model.md",
        )
    about = About.read(said[0], path)
    _require_plain(model, about, path)
    return Portable(about, data, path)


def predict(
    model: Portable,
    images: Sequence[str | Path],
    *,
    top: int = 3,
    memory_mb: int = MEMORY_MB,
    follow_links: bool = False,
) -> list[dict[str, Any]]:
    """Labels of new images by an exported model, in the form of `heads.predict`. Raises UserError if it can't be
    run, or none of the images can be read."""
    shown, asked = Shown(model.about, Room(memory_mb), model.path), files_of(images, follow_links=follow_links)
    answers: list[dict[str, Any]] = []
    failures: dict[int, str] = {}
    for start in range(0, len(asked.files), _BLOCK):
        block = asked.files[start : start + _BLOCK]
        pixels = [shown(file, asked.open) for file in block]
        good = [p for p in pixels if not isinstance(p, str)]
        rows: Iterator[NDArray[np.float32]] = iter(model.scores(np.stack(good)) if good else ())
        for i, (file, found) in enumerate(zip(block, pixels, strict=True)):
            if isinstance(found, str):
                failures[start + i] = found
                answers.append({"image": str(file), "error": found})
                continue
            scores = next(rows)
            best = np.argsort(-scores, kind="stable")[:top]
            classes = [{"label": model.about.classes[c], "score": float(scores[c])} for c in best]
            answers.append({"image": str(file), "probabilities": model.about.probabilities, "classes": classes})
    require_some(asked.files, failures)
    return answers


def _require_plain(model: Any, about: About, path: Path) -> None:
    """Raises UserError on what no exported model has: tensors in other files, functions, inner graphs, operators that
    are not ONNX's own, other inputs and outputs."""
    graph = model.graph
    wrong = ""
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
    if any(external_data.is_external(t) or len(t.external_data) for t in tensors):
        wrong = "keeps its tensors in other files"
    elif graph.sparse_initializer or model.functions or model.training_info:
        wrong = "has functions, sparse tensors or a training part"
    elif any(
        a.HasField("g") or len(a.graphs) or len(a.tensors) or a.HasField("sparse_tensor") or len(a.sparse_tensors)
        for node in graph.node
        for a in node.attribute
    ):
        wrong = "has graphs within its graph"
    elif any(node.domain not in ("", "ai.onnx") for node in graph.node):
        wrong = "has operators that are not ONNX's own"
    elif [value.name for value in graph.input] != [IMAGE] or [value.name for value in graph.output] not in (
        [SCORES],
        [SCORES, PROBABILITIES],
    ):
        wrong = f"has other inputs than {IMAGE!r}, or other outputs than {SCORES!r} and {PROBABILITIES!r}"
    else:
        kind = graph.input[0].type.tensor_type
        sides = [d.dim_value for d in kind.shape.dim][1:]
        if kind.elem_type != _UINT8 or sides != [about.size, about.size, 3]:
            wrong = f"takes other images than its metadata says ({about.size} x {about.size} RGB, uint8)"
        elif any(value.type.tensor_type.elem_type != _FLOAT for value in graph.output):
            wrong = "has outputs that are no float32"
    if wrong:
        raise UserError(
            f"{path} {wrong}", allowed="a file that `cnncodes export-model` wrote", see="docs/export-model.md"
        )
