"""A new collection from a folder of images, whole or not there at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import disk, held, stopping, unfinished
from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.base.unfinished import NOTHING, Part, SoFar
from pipeline.base.versions import VERSIONS
from pipeline.base.writable import require_writable
from pipeline.codes.plan import check as check_codes
from pipeline.codes.weights_header import WeightsHeader
from pipeline.collection.change import measure
from pipeline.collection.collection import Collection
from pipeline.collection.encode import Photos, encode, hasher_bytes, photos
from pipeline.collection.methods import LONG_HASHERS, SHORT_BITS, SHORT_HASHER, TWO_STAGE, UNTRAINED_HASHER
from pipeline.collection.network import WEIGHTS
from pipeline.config import CodesParams, DatasetParams, HashSpec, IndexParams, LayerSpec
from pipeline.data.manifest import IMAGES
from pipeline.data.sources import Record
from pipeline.data.sources.folder import require_folder
from pipeline.hashing import base as hashing
from pipeline.hashing import check
from pipeline.hashing.sigmoid import Sigmoid
from pipeline.nets import backbone
from pipeline.search import make, save
from pipeline.workspace import canonical_weights, images_section, network, preset

log = logging.getLogger(__name__)

# Images that a hasher is fitted on, at most: more cost time and change little.
_FIT_ROWS = 20_000
_FEW_ROWS = 1000
_ADD = "`cnncodes index add`"


def build(
    images: str | Path | None,
    out: str | Path,
    *,
    train: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    arch: str | None = None,
    weights: str = "demo",
    layers: Sequence[str] = (),
    long_layer: str | None = None,
    hasher: str | None = None,
    nbits: int = SHORT_BITS,
    long: Sequence[str] = tuple(LONG_HASHERS),
    dataset: Mapping[str, Any] | None = None,
    codes: Mapping[str, Any] | None = None,
    index: Mapping[str, Any] | None = None,
    two_stage: bool = False,
) -> Collection:
    """Indexes a folder of images into the new folder `out`, which then holds all that a query needs.

    `train`, `test`: HDF5 files in place of the folder, None; images that are unpacked lie in `out`/images.
    `arch` and the view of images: if not given, what the weights file says of itself, else the preset's.
    `layers`: specs whose float codes are kept, for cosine, the first also that of the short code; the deepest
    convolution averaged if empty. `long_layer`: that of the long codes, the last pooling flattened if None. `hasher`:
    of the short code; itq if None, or lsh where the images are too few for it. `long`: of LONG_HASHERS; one that gives
    all training images the same bits is left out with a warning. `dataset`, `codes`, `index`: keys of those params
    sections to change; `index` says by what the short code is searched (`{"kind": "hnsw"}`). `two_stage`: a search that
    names no method takes the short code's nearest in the order of cosine. Raises UserError, with nothing left behind.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already", allowed="a new folder", see=_ADD)
    unknown = [name for name in long if name not in LONG_HASHERS]
    if unknown:
        raise UserError(f"unknown long codes {', '.join(unknown)}", allowed=LONG_HASHERS)
    _require_short(hasher, nbits)
    searched_by = preset(IndexParams, **(index or {}))
    make(searched_by.kind, nbits, **searched_by.settings)  # raises on settings that codes of this length can't have
    require_writable(out)
    section = images_section(images, train, test)
    source, view = network(arch, weights)
    kept, long_spec = _specs(source.arch, layers, long_layer)
    wanted = [*kept, long_spec] if long else kept
    params = preset(CodesParams, **{**view, **(codes or {}), "layers": list(dict.fromkeys(wanted))})
    if section["source"] == "folder":
        require_folder(section["root"])  # before weights are looked for
    canonical = canonical_weights(source, cache_root())
    header = WeightsHeader.of(canonical)
    settings = check_codes(header, params)
    dims = {spec: one.dim(num_classes=header.num_classes) for spec, one in settings.items()}
    _require_hashers(hasher, nbits, long, dims, short_spec=kept[0], long_spec=long_spec)
    # Every image of a collection is one to be found; splits are the folder's own or none.
    data = preset(
        DatasetParams,
        **section
        | {"root": os.path.abspath(section["root"])}
        | {"val_share": 0.0, "test_share": 0.0, "repeats": 1}
        | dict(dataset or {}),
    )
    try:
        with held.staging(out) as staging:
            about = {"arch": source.arch, "source": weights, "sha256": header.sha256}
            network_file = staging / WEIGHTS / f"{header.sha256}.safetensors"
            with disk.atomic_path(network_file) as tmp:
                shutil.copyfile(canonical, tmp)
            known = functools.partial(_require_enough, hasher, nbits)
            with photos(data, params, network_file, known=known) as pictures:
                hashes: dict[str, Any] = {"hasher": hasher, "nbits": nbits, "long": long}
                hashes |= {"searched_by": searched_by, "two_stage": two_stage}
                unpacked = pictures.manifest.root if pictures.unpacked else None
                root = os.path.abspath(out / IMAGES) if unpacked else data.root
                with _fit_so_far(pictures, kept[0], hasher, nbits) as hashes["so_far"]:
                    saved = _saved(
                        pictures, params, data, root, layers=kept, long_spec=long_spec, weights=about, **hashes
                    )
                if unpacked:
                    shutil.move(unpacked, staging / IMAGES)  # the cache may lie on another disk
            save.create(staging / "index", saved)
            for made in (WEIGHTS, IMAGES):
                if (staging / made).exists():
                    (staging / made).rename(staging / "index" / made)
            (staging / "index").rename(out)
    except OSError as e:
        if e.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise UserError(f"{out} is there already: another run has made it meanwhile", see=_ADD) from None
        disk.raise_if_disk(e, out)
        raise
    return Collection.open(out)


def _require_short(hasher: str | None, nbits: int) -> None:
    """Raises UserError on a hasher that makes no short codes, and on a number of bits that there can't be."""
    allowed = [name for name in hashing.HASHERS if "nbits" in hashing.make(name).params()]
    if hasher is not None and hasher not in allowed:
        raise UserError(f"hasher {hasher} does not make short codes", allowed=allowed)
    hashing.check_fit(hashing.make(hasher or SHORT_HASHER, nbits=nbits))


def _require_hashers(
    hasher: str | None, nbits: int, long: Sequence[str], dims: Mapping[str, int], *, short_spec: str, long_spec: str
) -> None:
    """Raises UserError on hashers that codes of these dimensions can't have. Without one named another is taken."""
    if hasher is not None:
        hashing.check_fit(hashing.make(hasher, nbits=nbits), dims[short_spec])
    for name in long:
        if name == Sigmoid.name:
            HashSpec.parse(f"{name}-{long_spec}")
        hashing.check_fit(hashing.make(name, **_fitting(LONG_HASHERS[name], dims[long_spec])), dims[long_spec])


def _require_enough(hasher: str | None, nbits: int, listed: Sequence[Record]) -> None:
    """Raises UserError if a folder lists fewer images, or labels, than the hasher learns from."""
    if hasher is not None:
        labels = [record.label for record in listed]
        hashing.check_enough(hashing.make(hasher, nbits=nbits), len(labels), classes=len(set(labels) - {""}))


def _specs(arch: str, layers: Sequence[str], long_layer: str | None) -> tuple[list[str], str]:
    """The specs of the float codes, the short code's first, and that of the long codes."""
    about = backbone.find(arch)
    kept = [LayerSpec.parse(layer, pooling="avg").name for layer in layers or [about.short]]
    if len(set(kept)) < len(kept):
        raise UserError(f"layers {', '.join(kept)} name one twice", allowed="each layer and pooling once")
    return kept, LayerSpec.parse(long_layer or about.long, pooling="flatten").name


def _saved(
    found: Photos,
    params: CodesParams,
    data: DatasetParams,
    root: str,
    *,
    layers: Sequence[str],
    long_spec: str,
    hasher: str | None,
    nbits: int,
    long: Sequence[str],
    searched_by: IndexParams,
    two_stage: bool,
    weights: dict[str, Any],
    so_far: SoFar,
) -> save.Saved:
    """The index of a folder's images, in memory. `root`: where they lie, absolute. `so_far`: of the fit of its short
    code.
    """
    rows, first = _fit_rows(found), layers[0]
    targets = found.manifest.targets[np.searchsorted(found.manifest.ids, found.codes[first].ids)][rows]
    short, note = _fit_short(found.codes[first].rows(rows), targets, hasher=hasher, nbits=nbits, so_far=so_far)
    fitted_long, left_out = _fit_long(found, rows[:_FEW_ROWS], long, spec=long_spec)
    hashers = {short.name: short, **fitted_long}
    spec_of = {short.name: first} | dict.fromkeys(fitted_long, long_spec)
    files, marks = {}, {}
    for name, fitted in hashers.items():
        files[f"{name}.h5"], marks[name] = hasher_bytes(fitted, found.codes[spec_of[name]].settings)
    one = next(iter(found.codes.values())).settings
    made_by: dict[str, Any] = {
        "version": VERSIONS["collection"],
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
        "roots": [root],
    }
    if two_stage:
        made_by["default"] = TWO_STAGE
    encoded = encode(found, hashers, made_by, root=0)
    index = make(searched_by.kind, short.nbits, **searched_by.settings)
    index.add(encoded.packed, encoded.ids)  # encoded is sorted by id, as the index is
    saved = save.Saved(index, made_by, encoded.columns, files)
    measure(saved)
    return saved


def _fit_rows(found: Photos) -> NDArray[np.int64]:
    """Rows of the codes to fit on: images of the train split, a fixed random part of them where they are many."""
    ids = next(iter(found.codes.values())).ids
    if not len(ids):
        raise UserError("none of the images could be read", see="the warnings above")
    rows = np.flatnonzero(found.manifest.splits[0][np.searchsorted(found.manifest.ids, ids)] == "train")
    if len(rows) > _FIT_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, _FIT_ROWS, replace=False))
    return rows


@contextlib.contextmanager
def _fit_so_far(found: Photos, spec: str, hasher: str | None, nbits: int) -> Iterator[SoFar]:
    """What a build that was stopped has learned for the short code."""
    codes, images = found.codes[spec].content(), found.manifest.content()
    key = {"kind": "short code", "hasher": hasher, "nbits": nbits, "codes": codes, "images": images}

    def told() -> str:
        return f"what the hasher learned is kept; {stopping.GOES_ON}" if so_far.written else ""

    with unfinished.of(cache_root(), key) as so_far, stopping.says(told):
        yield so_far


def _fit_short(
    codes: NDArray[Any], targets: NDArray[np.int64], *, hasher: str | None, nbits: int, so_far: SoFar = NOTHING
) -> tuple[hashing.Hasher, str]:
    """The fitted hasher of the short code, and a note where it is not the usual one."""
    note = ""
    if hasher is None:
        hasher = SHORT_HASHER
        if len(codes) <= nbits or codes.shape[1] < nbits:
            hasher = UNTRAINED_HASHER
            note = f"{len(codes)} images of {codes.shape[1]} values are too few for {SHORT_HASHER} of {nbits} bits"
            log.warning("%s: the short code is %s", note, hasher)
    made, kept = hashing.make(hasher, nbits=nbits), so_far.part("hasher")
    part = kept.once(lambda: Part(hashing.fit(made, codes, targets=targets, so_far=kept).arrays()))
    fitted = made.from_arrays(made.params(), dict(part.arrays))
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
