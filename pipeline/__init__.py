"""CNN Codes: transfer learning as a pipeline that people trust.

The Python API: `extract`, `compare`, `Workspace` (pipeline/workspace.py), `compare_networks` (pipeline/networks.py), and
for scikit-learn `CNNCodes` (pipeline/transformer.py). Importing this loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.networks import compare_networks
    from pipeline.transformer import CNNCodes
    from pipeline.workspace import Workspace, compare, extract

__all__ = ["CNNCodes", "Workspace", "compare", "compare_networks", "extract"]

_MODULES = {"CNNCodes": "transformer", "compare_networks": "networks"}


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"pipeline.{_MODULES.get(name, 'workspace')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
