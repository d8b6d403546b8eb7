"""Imports point one way (docs/architecture.md), and `import pipeline` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BASE = {
    "errors", "budget", "failing", "stopping", "held", "plain_json", "schema", "config", "cache", "metrics", "writable",
    "unfinished",
}  # fmt: skip
# package or module of pipeline -> the ones it may import
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "budget": {"errors"},
    "terminal": set(),
    "failing": {"errors"},
    "stopping": set(),
    "held": set(),
    "front": {"errors", "failing", "terminal"},
    "plain_hdf5": {"errors", "budget"},
    "tried_hdf5": {"errors", "budget", "plain_hdf5"},
    "plain_json": set(),
    "written_hdf5": {"failing"},
    "schema": {"errors", "failing", "held", "plain_hdf5", "plain_json", "tried_hdf5", "written_hdf5"},
    "writable": {"errors", "failing"},
    "unfinished": {"errors", "plain_json", "schema", "stopping"},
    "config": {"errors", "failing"},
    "cache": {"errors", "held", "schema"},
    "metrics": {"errors"},
    "data": BASE,
    "nets": BASE,
    "codes": BASE | {"data", "nets"},
    "heads": BASE | {"data", "nets", "codes"},
    "hashing": BASE | {"data", "nets", "codes"},
    "index": BASE | {"data", "nets", "codes", "hashing"},
    "retrieval": BASE | {"data", "nets", "codes", "heads", "hashing", "index"},
    "figures": BASE | {"data", "nets", "codes", "heads", "hashing", "index", "retrieval", "finetune", "advice"},
    # The CSV files of data and the records of figures alone (below).
    "report": {"config", "failing", "schema", "data", "figures"},
    "query": BASE | {"workspace", "data", "nets", "codes", "heads", "hashing", "index"},
    "workspace": BASE | {"data", "nets", "codes", "heads", "hashing", "index", "figures", "report"},
    "collection": BASE | {"workspace", "data", "nets", "codes", "hashing", "index"},
    "montage": BASE | {"data"},
    "sections": BASE | {"nets", "hashing", "index"},
    "finetune": BASE | {"data", "nets", "codes", "heads"},
    "advice": BASE | {"data", "nets", "codes", "heads"},
    "tuned": BASE | {"data", "nets", "codes", "heads", "hashing", "index", "retrieval"},
    "transfer": BASE | {"workspace", "data", "nets", "codes", "heads", "finetune"},
    "export_images": BASE | {"workspace", "data", "codes", "finetune"},
    "dag": {"errors", "schema"},
    "cli": BASE
    | {"front", "terminal"}
    | {"data", "nets", "codes", "heads", "hashing", "index", "report", "query", "web", "workspace", "finetune"}
    | {"transfer", "collection", "montage", "advice", "export_images", "dag"},
    "web": BASE | {"workspace", "data", "nets", "codes", "hashing", "index", "query", "collection", "montage"},
}


def imported(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative imports hide the direction"
            names |= {f"{node.module}.{a.name}" for a in node.names} | {node.module}
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    own = path.relative_to(ROOT / "pipeline").with_suffix("").parts[0]
    if own == "__init__":
        own = "cli"
    used = {n.split(".")[1] for n in imported(path) if n.startswith("pipeline.")}
    assert own in ALLOWED, f"{own} is not in the table of who may import whom"
    assert used - {own} <= ALLOWED[own] | ({"__init__"} & used), f"{path} may not import {used - ALLOWED[own]}"


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline/report").rglob("*.py")), ids=lambda p: p.stem)
def test_the_page_knows_the_records_and_nothing_that_computes(path: Path) -> None:
    allowed = ("pipeline.report", "pipeline.config", "pipeline.failing", "pipeline.schema", "pipeline.data.csv_files")
    for name in (n for n in imported(path) if n.startswith("pipeline.") and n != "pipeline.data"):
        assert name.startswith((*allowed, "pipeline.figures.records")), f"{path.name} imports {name}"


def test_the_library_never_imports_the_stages() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        assert not any(n.split(".")[0] == "stages" for n in imported(path)), path


@pytest.mark.parametrize("module", ["pipeline", "pipeline.cli"])
def test_import_is_light(module: str) -> None:
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'faiss', 'pandas', 'sklearn', 'h5py') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
