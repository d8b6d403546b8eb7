"""CNN codes: extraction, the store behind it, and the one reader. The names below are the interface.

Importing this loads no torch; neither does an extraction that has nothing to compute.
"""

from pipeline.codes.embedder import Embedder, embed
from pipeline.codes.extraction import extract
from pipeline.codes.formats import FORMATS, export
from pipeline.codes.parts import info
from pipeline.codes.plan import make_plan
from pipeline.codes.reader import Codes
from pipeline.codes.settings import Settings
from pipeline.codes.store import store_gc, store_sizes

__all__ = [
    "FORMATS",
    "Codes",
    "Embedder",
    "Settings",
    "embed",
    "export",
    "extract",
    "info",
    "make_plan",
    "store_gc",
    "store_sizes",
]
