"""What is known of a family of networks stands in its folder: another is a folder and an entry in `BACKBONES`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The network's own folder, the weights' (readers name other programs' layers), and the presets, which choose some.
OWN = ("pipeline/nets/vgg/", "pipeline/nets/weights/", "pipeline/config/presets/")
TEXTS = (".py", ".html", ".js", ".css", ".yaml")
PLACES = [
    path
    for folder in ("pipeline", "stages", "bench")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in TEXTS and not str(path.relative_to(ROOT)).startswith(OWN)
]
FAMILY = re.compile("vgg|alexnet", re.IGNORECASE)
LAYER = re.compile(r"(?<![A-Za-z])(?:conv|bn)[0-9]+(?:_[0-9*]+)?(?![A-Za-z0-9])|(?<![A-Za-z])(?:fc[678]|pool[1-5])\b")
# The entry itself.
# A bench names the network that it runs: one that torchvision has too, and a small one.
ENTRY = {"pipeline/nets/backbone.py": 3, "bench/extract.py": 1, "bench/rerun.py": 1}


def without_docstrings(path: Path) -> str:
    """A module's text with its docstrings blanked; of other files all."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return text
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                for i in range(first.lineno - 1, first.end_lineno or first.lineno):
                    lines[i] = ""
    return "\n".join(lines)


@pytest.mark.parametrize(
    "line", ["x = 'conv5_3'", "bn1_1", "fc6.weight", "pool5-avg", "conv1_*", "conv3", "itq64-conv5_3"]
)
def test_the_pattern_finds_names_of_layers(line: str) -> None:
    assert LAYER.search(line)


@pytest.mark.parametrize("line", ["nn.Conv2d(3)", "conv2d", "nn.BatchNorm2d", "pool = 5", "conv"])
def test_the_pattern_leaves_other_names(line: str) -> None:
    assert not LAYER.search(line)


def test_there_are_files_to_look_at() -> None:
    assert len(PLACES) > 200


@pytest.mark.parametrize("path", PLACES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_else_knows_the_family_or_its_layers(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    # What a bench measures is told in its docstring.
    text = without_docstrings(path) if name.startswith("bench/") else path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if FAMILY.search(line)]
    assert len(lines) == ENTRY.get(name, 0), lines
    assert not LAYER.findall(without_docstrings(path))
