"""CNN Codes: transfer learning as a pipeline that people trust.

The Python API: `extract`, `compare`, `Workspace` (pipeline/workspace.py), `compare_networks` (pipeline/networks.py) and
`CNNCodes` for scikit-learn (pipeline/transformer.py). Importing this loads nothing heavy.
"""

from __future__ import annotations

# As of `typing`, which is not imported: `cnncodes` tells of a stop only once its own imports begin.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.networks import compare_networks
    from pipeline.transformer import CNNCodes
    from pipeline.workspace import Workspace, compare, extract

__all__ = ["CNNCodes", "Workspace", "compare", "compare_networks", "extract"]


def __getattr__(name: str) -> object:
    if name == "CNNCodes":
        from pipeline.transformer import CNNCodes

        return CNNCodes
    if name == "compare_networks":
        from pipeline.networks import compare_networks

        return compare_networks
    if name in __all__:
        from pipeline import workspace

        return getattr(workspace, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
