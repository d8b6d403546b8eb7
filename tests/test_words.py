"""One meaning a word: the names that much rests on are of one class each (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PIPELINE = Path(__file__).parent.parent / "pipeline"
# Word -> the one module that has a class, or another name for a type, so called; "": none has.
WORDS = {
    "Layer": "nets/backbone.py",
    "Network": "nets/vgg/network.py",
    "Settings": "codes/settings.py",
    "Codes": "codes/reader.py",
    "Lack": "codes/plan.py",
    "Group": "strategies/groups.py",
    "Sets": "heads/sets.py",
    "Rows": "",
    "Tuned": "",
}


def named(path: Path) -> set[str]:
    """What a module calls its classes and types."""
    body = ast.parse(path.read_text()).body
    assigned = {t.id for node in body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}
    return assigned | {node.name for node in body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_has_one_meaning(word: str) -> None:
    found = [path.relative_to(PIPELINE).as_posix() for path in sorted(PIPELINE.rglob("*.py")) if word in named(path)]
    assert found == ([WORDS[word]] if WORDS[word] else [])
