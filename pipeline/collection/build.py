"""A new collection from a folder of images, whole or not there at all."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import held, schema
from pipeline.cache import cache_root
from pipeline.collection.collection import Collection
from pipeline.collection.encode import Photos, encode, hasher_bytes, photos
from pipeline.collection.methods import LONG_HASHERS, SHORT_BITS, SHORT_HASHER, UNTRAINED_HASHER
from pipeline.collection.network import WEIGHTS
from pipeline.config import CodesParams, DatasetParams, LayerSpec
from pipeline.errors import UserError
from pipeline.hashing import base as hashing
from pipeline.hashing import check
from pipeline.index import make, save
from pipeline.nets import layers as nets
from pipeline.workspace import network, preset

log = logging.getLogger(__name__)

# Images that a hasher is fitted on, at most: more cost time and change little.
_FIT_ROWS = 20_000
_PARTIAL = ".partial"
_FEW_ROWS = 1000


def build(
    images: str | Path,
    out: str | Path,
    *,
    arch: str | None = None,
    weights: str = "demo",
    layers: Sequence[str] = (),
    long_layer: str | None = None,
    hasher: str | None = None,
    nbits: int = SHORT_BITS,
    long: Sequence[str] = tuple(LONG_HASHERS),
    dataset: Mapping[str, Any] | None = None,
    codes: Mapping[str, Any] | None = None,
) -> Collection:
    """Indexes a folder of images into the new folder `out`, which then holds all that a query needs.

    `arch` and the view of images: if not given, what the weights file says of itself, else vgg16 and the preset's.
    `layers`: specs whose float codes are kept, for cosine, the first also that of the short code; the deepest
    convolution averaged if empty. `long_layer`: that of the long codes, the last pooling flattened if None. `hasher`:
    of the short code; itq if None, or lsh where the images are too few for it. `long`: of LONG_HASHERS; one that gives
    all training images the same bits is left out with a warning. `dataset`, `codes`: keys of those params sections to
    change. Raises UserError, with nothing left behind.
    """
    from pipeline.nets.weights import resolve, write_canonical

    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already", allowed="a new folder", see="`cnncodes index add`")
    unknown = [name for name in long if name not in LONG_HASHERS]
    if unknown:
        raise UserError(f"unknown long codes {', '.join(unknown)}", allowed=LONG_HASHERS)
    source, view = network(arch, weights)
    kept, long_spec = _specs(source.arch, layers, long_layer)
    wanted = [*kept, long_spec] if long else kept
    params = preset(CodesParams, **{**view, **(codes or {}), "layers": list(dict.fromkeys(wanted))})
    # Every image of a collection is one to be found; splits are the folder's own or none.
    data = preset(
        DatasetParams,
        **{"source": "folder", "root": os.path.abspath(images)}  # noqa: PTH100  no symlink is resolved
        | {"val_share": 0.0, "test_share": 0.0, "repeats": 1}
        | dict(dataset or {}),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    held.clear_abandoned(out.parent, f".{glob.escape(out.name)}.*{_PARTIAL}")
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=_PARTIAL, dir=out.parent))
    holding = contextlib.ExitStack()
    holding.enter_context(held.held(staging))
    try:
        about = {"arch": source.arch, "source": weights, "sha256": ""}

        def weights_path() -> Path:
            found = resolve(source, cache_root())
            about["sha256"] = found.sha256
            write_canonical(found, staging / WEIGHTS / f"{found.sha256}.safetensors")
            return staging / WEIGHTS / f"{found.sha256}.safetensors"

        with photos(data, params, weights_path) as pictures:
            hashes: dict[str, Any] = {"hasher": hasher, "nbits": nbits, "long": long}
            saved = _saved(pictures, params, data, layers=kept, long_spec=long_spec, weights=about, **hashes)
        save.create(staging / "index", saved)
        (staging / WEIGHTS).rename(staging / "index" / WEIGHTS)
        (staging / "index").rename(out)
    except OSError as e:
        schema.raise_if_disk(e, out)
        raise
    finally:
        holding.close()
        shutil.rmtree(staging, ignore_errors=True)
    return Collection.open(out)


def _specs(arch: str, layers: Sequence[str], long_layer: str | None) -> tuple[list[str], str]:
    """The specs of the float codes, the short code's first, and that of the long codes."""
    facts = [f for f in nets.layers(arch) if not f.pre]
    convolution = [f.name for f in facts if f.kind == "conv"][-1]
    pooling = [f.name for f in facts if f.kind == "pool"][-1]
    kept = [LayerSpec.parse(layer, pooling="avg").name for layer in layers or [convolution]]
    if len(set(kept)) < len(kept):
        raise UserError(f"layers {', '.join(kept)} name one twice", allowed="each layer and pooling once")
    return kept, LayerSpec.parse(long_layer or pooling, pooling="flatten").name


def _saved(
    found: Photos,
    params: CodesParams,
    data: DatasetParams,
    *,
    layers: Sequence[str],
    long_spec: str,
    hasher: str | None,
    nbits: int,
    long: Sequence[str],
    weights: dict[str, Any],
) -> save.Saved:
    """The index of a folder's images, in memory."""
    rows, first = _fit_rows(found), layers[0]
    targets = found.manifest.targets[np.searchsorted(found.manifest.ids, found.codes[first].ids)][rows]
    short, note = _fit_short(found.codes[first].rows(rows), targets, hasher=hasher, nbits=nbits)
    fitted_long, left_out = _fit_long(found, rows[:_FEW_ROWS], long, spec=long_spec)
    hashers = {short.name: short, **fitted_long}
    spec_of = {short.name: first} | dict.fromkeys(fitted_long, long_spec)
    files, marks = {}, {}
    for name, fitted in hashers.items():
        files[f"{name}.h5"], marks[name] = hasher_bytes(fitted, found.codes[spec_of[name]].settings)
    one = next(iter(found.codes.values())).settings
    made_by: dict[str, Any] = {
        "version": schema.VERSIONS["collection"],
        "weights": weights,
        # As resolved here, so that images added on another machine get codes of the same kind; its memory is its own.
        "params": params.model_dump(mode="json", exclude={"memory_mb"})
        | {"precision": one["precision"], "device": one["device"]},
        "dataset": {"splits": data.splits, "max_pixels": data.max_pixels, "leave_out": data.leave_out},
        "codes": {s: {"dim": c.dim, "dtype": str(c.dtype), "settings": c.settings} for s, c in found.codes.items()},
        "layers": list(layers),
        "short": _about(short, first, marks) | {"fitted_on": len(rows), "note": note},
        "long": {name: _about(fitted, long_spec, marks) for name, fitted in fitted_long.items()},
        "left_out": left_out,
        "roots": [data.root],
    }
    encoded = encode(found, hashers, made_by, root=0)
    index = make("exact", short.nbits)
    index.add(encoded.packed, encoded.ids)  # encoded is sorted by id, as the index is
    return save.Saved(index, made_by, encoded.columns, files)


def _fit_rows(found: Photos) -> NDArray[np.int64]:
    """Rows of the codes to fit on: images of the train split, a fixed random part of them where they are many."""
    ids = next(iter(found.codes.values())).ids
    if not len(ids):
        raise UserError("none of the images could be read", see="the warnings above")
    rows = np.flatnonzero(found.manifest.splits[0][np.searchsorted(found.manifest.ids, ids)] == "train")
    if len(rows) > _FIT_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, _FIT_ROWS, replace=False))
    return rows


def _fit_short(
    codes: NDArray[Any], targets: NDArray[np.int64], *, hasher: str | None, nbits: int
) -> tuple[hashing.Hasher, str]:
    """The fitted hasher of the short code, and a note where it is not the usual one."""
    note = ""
    if hasher is None:
        hasher = SHORT_HASHER
        if len(codes) <= nbits or codes.shape[1] < nbits:
            hasher = UNTRAINED_HASHER
            note = f"{len(codes)} images of {codes.shape[1]} values are too few for {SHORT_HASHER} of {nbits} bits"
            log.warning("%s: the short code is %s", note, hasher)
    elif "nbits" not in hashing.make(hasher).params():
        allowed = [name for name in hashing.HASHERS if "nbits" in hashing.make(name).params()]
        raise UserError(f"hasher {hasher} does not make short codes", allowed=allowed)
    fitted = hashing.make(hasher, nbits=nbits).fit(codes, targets=targets)
    try:
        check.tells_apart(fitted.bits(codes), lambda: codes, who=hasher)
    except UserError as e:  # the index is made of it, so it can't be left out
        log.warning("%s", e.what)
        note = "; ".join([*([note] if note else []), e.what])
    return fitted, note


def _fit_long(
    found: Photos, rows: NDArray[np.int64], names: Sequence[str], *, spec: str
) -> tuple[dict[str, hashing.Hasher], dict[str, str]]:
    """The fitted hashers of the long codes, and why others are left out. They learn a dimension or less, so that a few
    rows do.
    """
    fitted: dict[str, hashing.Hasher] = {}
    left_out = {}
    codes = found.codes[spec].rows(rows) if names else np.zeros((0, 1), np.float32)
    for name in names:
        hasher = hashing.make(name, **_fitting(LONG_HASHERS[name], codes.shape[1])).fit(codes)
        try:
            check.tells_apart(hasher.bits(codes), lambda: codes, who=f"{name} of {spec}")
        except UserError as e:
            log.warning("%s is left out: %s", name, e.what)
            left_out[name] = e.what
        else:
            fitted[name] = hasher
    return fitted, left_out


def _fitting(params: Mapping[str, Any], dim: int) -> dict[str, Any]:
    """The hasher's params, k at most an eighth of a small layer's values: bits that are nearly all set say nothing."""
    return {**params, **({"k": max(1, min(params["k"], dim // 8))} if "k" in params else {})}


def _about(hasher: hashing.Hasher, spec: str, marks: Mapping[str, str]) -> dict[str, Any]:
    return {
        "hasher": hasher.name,
        "params": hasher.params(),
        "spec": spec,
        "nbits": hasher.nbits,
        "fingerprint": marks[hasher.name],
    }
