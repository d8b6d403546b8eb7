"""CNN Codes: transfer learning as a pipeline that people trust.

The Python API: `extract`, `compare`, `Workspace` (pipeline/workspace.py). Importing this loads nothing heavy.
"""

from __future__ import annotations

# As of `typing`, which is not imported: `cnncodes` tells of a stop only once its own imports begin.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.workspace import Workspace, compare, extract

__all__ = ["Workspace", "compare", "extract"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from pipeline import workspace

        return getattr(workspace, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
