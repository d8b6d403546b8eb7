"""Where images come from: one reader a source, all of one shape.

`splits: random` cuts splits from all images of a source. `splits: folders` keeps the source's own: top folders, or
torchvision's. A split column (labels.csv, or `split` in an HDF5 file) is the user's own word and is kept either way.
"""

from __future__ import annotations

from pipeline.data.sources import folder, hdf5, imdb_wiki, openmoji, torchvision
from pipeline.data.sources.base import Listing, Reader, Record

SOURCES: dict[str, Reader] = {
    "folder": folder.read,
    "torchvision": torchvision.read,
    "hdf5": hdf5.read,
    "openmoji": openmoji.read,
    "imdb_wiki": imdb_wiki.read,
}

__all__ = ["SOURCES", "Listing", "Reader", "Record"]
