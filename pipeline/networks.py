"""Folders of codes of the same images by different networks, compared: which network, which layer, which head.

```python
from pipeline import compare_networks
compare_networks(["one-codes", "other-codes"], out="which")    # which/report/index.html and which/compare.json
```
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config
from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.base.writable import require_writable
from pipeline.workspace import Workspace, preset

if TYPE_CHECKING:
    from pipeline.codes import Codes
    from pipeline.data.manifest import Manifest
    from pipeline.figures.records.networks import ComparedNetwork

log = logging.getLogger(__name__)

# Images that the passes of a network are timed on: a batch on a processor.
TIMED = 16


def compare_networks(
    folders: Sequence[str | Path],
    *,
    out: str | Path,
    heads: Sequence[str] | None = None,
    layers: Sequence[str] = (),
    head_params: dict[str, Any] | None = None,
    report_params: dict[str, Any] | None = None,
) -> Path:
    """Trains every head on every folder's codes below `out`/heads, and times each network on some of the images;
    returns `out`/report/index.html. `out`/compare.json has a row for each network, layer and head. The folders stay as
    they are, and a head that is there is not trained again.

    `layers`: specs, all if there are none; each has to be in a folder. Raises UserError if the folders hold codes of
    other images, labels or splits, or images without labels.
    """
    from pipeline.figures import networks as figures
    from pipeline.heads.every import fit_every
    from pipeline.report.networks import write_networks

    spaces = _spaces(folders)
    out = Path(out)
    if any(out.resolve() == space.root.resolve() for space in spaces.values()):
        raise UserError(f"{out} holds codes itself", allowed="another folder as --out, for the comparison")
    params = preset(config.HeadsParams, **(head_params or {}), **({"heads": list(heads)} if heads else {}))
    report = preset(config.ReportParams, **(report_params or {}))
    manifest = _same_images(spaces)
    codes = {name: _asked(space, layers) for name, space in spaces.items()}
    if not any(codes.values()):
        there = sorted({spec for space in spaces.values() for spec in space.specs()})
        raise UserError(f"no folder holds codes of {', '.join(layers)}", allowed=there)
    require_writable(out)
    every = {f"{name}.{spec}": one for name, of in codes.items() for spec, one in of.items()}
    fit_every(every, manifest, params, out / "heads")
    networks = _timed(spaces, codes, manifest)
    found = figures.compare(networks, manifest, out / "heads", heads=params.heads, params=report, timed=TIMED)
    json_files.write(out / "compare.json", figures.as_json(found))
    return write_networks(found, out / "report")


def _spaces(folders: Sequence[str | Path]) -> dict[str, Workspace]:
    """By the names of their networks: the architecture's own part; where two are alike, the folder's name too."""
    spaces = [Workspace.open(folder) for folder in folders]
    if len({space.root.resolve() for space in spaces}) < len(spaces):
        raise UserError("a folder is named twice", allowed="different folders of codes")
    archs = [_name(_arch(space).rpartition(":")[2].split(".")[0]) for space in spaces]
    named: dict[str, Workspace] = {}
    for arch, space in zip(archs, spaces, strict=True):
        name = arch if archs.count(arch) == 1 else f"{arch}_{_name(space.root.resolve().name)}"
        while name in named:
            name += "_"
        named[name] = space
    return named


def _arch(space: Workspace) -> str:
    return str(space.codes(space.specs()[0]).settings["arch"])


def _name(text: str) -> str:
    """As names of networks are: a letter, then letters, digits and underscores."""
    found = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return found if found[:1].isalpha() else f"n{found}"


def _same_images(spaces: Mapping[str, Workspace]) -> Manifest:
    """The list of the images, the same in all. Raises UserError that says what differs."""
    (first, space), *others = spaces.items()
    manifest = space.manifest()
    for name, other in others:
        theirs = other.manifest()
        if theirs.content() == manifest.content():
            continue
        if theirs.ids.tolist() != manifest.ids.tolist():
            what = f"other images: {len(theirs)} there, {len(manifest)} here"
        elif theirs.labels.tolist() != manifest.labels.tolist():
            what = "other labels"
        else:
            what = "other splits"
        raise UserError(
            f"{other.root} ({name}) and {space.root} ({first}) have {what}",
            allowed="folders that `cnncodes extract` made of the same images with the same splits",
        )
    if not manifest.classes:
        raise UserError(f"the images of {space.root} have no labels", allowed="images whose heads can be compared")
    return manifest


def _asked(space: Workspace, layers: Sequence[str]) -> dict[str, Codes]:
    chosen = [spec for spec in space.specs() if not layers or spec in layers or spec.split("-")[0] in layers]
    return {spec: space.codes(spec) for spec in chosen}


def _timed(
    spaces: Mapping[str, Workspace], codes: Mapping[str, Mapping[str, Codes]], manifest: Manifest
) -> list[ComparedNetwork]:
    from pipeline.codes.timing import seconds_per_image
    from pipeline.codes.weights_header import stated
    from pipeline.figures.records.networks import ComparedNetwork

    images = _some(manifest)
    if not images:
        log.warning("no image is where it was, so no network is timed")
    found = []
    for name, space in spaces.items():
        settings = {spec: dict(one.settings) for spec, one in codes[name].items()}
        took: dict[str, float | None] = {}
        for spec, one in settings.items():
            log.info("timing %s for %s", name, spec)
            took[spec] = seconds_per_image(space.weights_file, one, images) if images else None
        if settings:
            about = stated(space.weights_file)
            arch = str(next(iter(settings.values()))["arch"])
            found.append(
                ComparedNetwork(name, arch, os.fspath(space.root), about.source if about else "", settings, took)
            )
    return found


def _some(manifest: Manifest) -> list[bytes]:
    """The bytes of images spread over the list, those that are still what they were."""
    import numpy as np

    from pipeline.data import listed

    rows = np.unique(np.linspace(0, len(manifest) - 1, min(TIMED, len(manifest))).round().astype(int))
    found = []
    for row in rows.tolist():
        try:
            found.append(listed.read(manifest.file(row), str(manifest.sha256[row])))
        except listed.ListedError as e:
            log.info("%s is not timed: %s", manifest.paths[row], e)
    return found
