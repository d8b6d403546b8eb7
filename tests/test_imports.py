"""Imports point one way (docs/architecture.md), and `import pipeline` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Modules of base -> the ones of base that each may import.
BASE: dict[str, set[str]] = {
    "errors": set(),
    "blobs": {"disk", "failing"},
    "budget": {"errors"},
    "cache": {"disk", "errors", "folders", "held"},
    "csv_files": {"disk", "errors", "failing"},
    "disk": {"counting", "errors", "failing", "held"},
    "failing": {"errors"},
    "front": {"errors", "failing", "terminal"},
    "items": {"disk", "errors", "json_files", "versions"},
    "hdf5_files": {"disk", "errors", "failing", "plain_hdf5", "tried_hdf5", "written_hdf5"},
    "fingerprints": {"json_files", "versions"},
    "folders": set(),
    "held": set(),
    "json_files": {"disk", "errors", "failing", "plain_json"},
    "plain_hdf5": {"errors", "budget"},
    "plain_json": set(),
    "progress": set(),
    "seeds": set(),
    "counting": set(),
    "skipped": {"disk", "hdf5_files", "json_files"},
    "stopping": set(),
    "terminal": set(),
    "tried_hdf5": {"errors", "budget", "plain_hdf5", "plain_json"},
    "unfinished": {"disk", "errors", "hdf5_files", "json_files", "plain_json", "stopping", "versions"},
    "versions": set(),
    "writable": {"errors", "failing"},
    "written_hdf5": {"failing"},
}
# What all may import.
COMMON = {"base", "config", "metrics"}
# package or module of pipeline -> the ones it may import
ALLOWED: dict[str, set[str]] = {
    "base": set(),
    "config": {"base"},
    "metrics": {"base"},
    "data": COMMON,
    "nets": COMMON,
    "codes": COMMON | {"data", "nets"},
    "heads": COMMON | {"data", "nets", "codes"},
    "hashing": COMMON | {"data", "nets", "codes"},
    "search": COMMON | {"data", "nets", "codes", "hashing"},
    "retrieval": COMMON | {"data", "nets", "codes", "heads", "hashing", "search"},
    "figures": COMMON | {"data", "nets", "codes", "heads", "hashing", "search", "retrieval", "strategies", "advice"},
    # The records of figures alone (below).
    "report": {"base", "config", "figures"},
    "workspace": COMMON | {"data", "nets", "codes", "heads", "hashing", "search", "figures", "report"},
    "networks": COMMON | {"workspace", "data", "codes", "heads", "figures", "report"},
    "collection": COMMON | {"workspace", "data", "nets", "codes", "hashing", "search"},
    "sections": COMMON | {"nets", "hashing", "search"},
    "strategies": COMMON | {"data", "nets", "codes", "heads"},
    "advice": COMMON | {"data", "nets", "codes", "heads"},
    "tuned": COMMON | {"data", "nets", "codes", "heads", "hashing", "search", "retrieval"},
    "transfer": COMMON | {"workspace", "data", "nets", "codes", "heads", "strategies"},
    "export_images": COMMON | {"workspace", "data", "codes", "strategies"},
    "portable": COMMON | {"workspace", "data", "nets", "codes", "heads", "strategies"},
    "transformer": COMMON | {"workspace", "data", "nets", "codes"},
    "dag": {"base"},
    "cli": COMMON
    | {"data", "nets", "codes", "heads", "hashing", "search", "report", "web", "workspace", "strategies"}
    | {"transfer", "collection", "advice", "export_images", "dag", "networks", "portable"},
    "web": COMMON | {"workspace", "data", "nets", "codes", "hashing", "search", "collection"},
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
    used = {n.split(".")[1] for n in imported(path) if n.startswith("pipeline.")}
    if own == "__init__":
        own, used = "cli", used - {"transformer"}  # the API, as the command line is, and what it alone has
    assert own in ALLOWED, f"{own} is not in the table of who may import whom"
    assert used - {own} <= ALLOWED[own] | ({"__init__"} & used), f"{path} may not import {used - ALLOWED[own]}"


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline/report").rglob("*.py")), ids=lambda p: p.stem)
def test_the_page_knows_the_records_and_nothing_that_computes(path: Path) -> None:
    allowed = ("pipeline.report", "pipeline.config", "pipeline.base", "pipeline.figures.records")
    for name in (n for n in imported(path) if n.startswith("pipeline.")):
        assert name.startswith(allowed), f"{path.name} imports {name}"


def test_imports_in_base_point_one_way() -> None:
    found = {path.stem: imported(path) for path in (ROOT / "pipeline/base").glob("*.py") if path.stem != "__init__"}
    assert found.keys() == BASE.keys()
    for own, names in found.items():
        used = {n.split(".")[2] for n in names if n.startswith("pipeline.base.")}
        assert used <= BASE[own], f"base.{own} may not import {used - BASE[own]}"


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
