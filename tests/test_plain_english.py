"""Wherever a user reads: no words that make a sentence hard (page, help, errors, README, docs)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SENTENCE_OF = re.compile(r"(?:^|[.!?] |\n *)Of [a-z]")
WORDS = re.compile(r"\banew\b|\bso many\b| is no ", re.IGNORECASE)
PAGES = [
    *sorted((ROOT / "pipeline").rglob("*.html")),
    *sorted((ROOT / "pipeline").rglob("*.js")),
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = [*sorted((ROOT / "pipeline").rglob("*.py")), *sorted((ROOT / "stages").rglob("*.py"))]


def texts(path: Path) -> Iterator[str]:
    """The strings of a module that are not docstrings, f-strings too: help, errors, words of the page."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    described = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (described | inside):
            yield node.value


def hard(text: str) -> list[str]:
    return [m.group() for m in (*WORDS.finditer(text), *SENTENCE_OF.finditer(text))]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages(path: Path) -> None:
    assert hard(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_words_of_the_program(path: Path) -> None:
    assert [text for text in texts(path) if hard(text)] == []


def test_what_is_hard_is_found() -> None:
    assert hard("It is made anew. Of these there is no more, and so many.") == ["anew", " is no ", "so many", ". Of t"]
    assert hard("One of them, and the rest of it.") == []
