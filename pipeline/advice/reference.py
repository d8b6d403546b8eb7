"""How far codes lie from those of a reference: images like the ones that the network was trained on.

Codes of unit RMS (each row divided by the root of its mean square) are what later layers and heads tell apart; their
distance is Fréchet's between Gaussians of the same means and covariances, as in the FID (Dowson and Landau 1982; Heusel
et al. 2017). It grows as samples shrink, so that every distance here is between samples of one size, and is set
against the one between two halves of the reference itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, eigvalsh

from pipeline.base import fingerprints, hdf5_files, json_files, plain_json
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.codes.reader import Codes
from pipeline.heads.model import ROUNDING

Doubles = NDArray[np.float64]

# Codes longer than this are folded, so that a few hundred images give a covariance and a reference stays small.
WIDTH = 256
FEWEST = 32  # images on either side
_OF_A_SPEC = frozenset({"layer", "pooling", "pooling_settings", "sigmoid", "l2"})
_FOLDING_SEED = 20


@dataclass(frozen=True, eq=False)
class Reference:
    """Folded codes of unit RMS, (n, min(d, WIDTH)) float16 a spec; `settings` are what all the specs share."""

    name: str
    settings: Mapping[str, Any]
    rows: Mapping[str, NDArray[np.float16]]


@dataclass(frozen=True)
class Distance:
    """Of one spec. `yardstick` is between halves of the reference; both are of `images` rows a side."""

    spec: str
    distance: float
    yardstick: float
    images: int

    @property
    def ratio(self) -> float:
        return self.distance / self.yardstick if self.yardstick > 0 else float("inf")


def shared_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What codes of every layer of one pass have in common, without what changes only their last digits."""
    return {k: v for k, v in settings.items() if k not in _OF_A_SPEC and k not in ROUNDING}


def default_path(settings: Mapping[str, Any], cache: Path) -> Path:
    """Where the reference of these weights and this preprocessing is kept; `settings` are those of any spec's codes."""
    return cache / "references" / f"{json_files.fingerprint(shared_settings(settings))}.h5"


def make(codes: Mapping[str, Codes], *, name: str) -> Reference:
    """Of all rows of `codes`, which are of one pass. Raises UserError with too few images to halve."""
    shared = [shared_settings(one.settings) for one in codes.values()]
    if any(settings != shared[0] for settings in shared):
        raise UserError("the codes of a reference come from passes of different settings", allowed="one pass")
    few = min(len(one) for one in codes.values())
    if few < 2 * FEWEST:
        raise UserError(f"{few} images are too few for a reference", allowed=f"at least {2 * FEWEST}")
    return Reference(name, shared[0], {spec: fold(one.rows(slice(None))) for spec, one in codes.items()})


def fold(codes: NDArray[Any]) -> NDArray[np.float16]:
    """(n, d) codes -> (n, min(d, WIDTH)): unit RMS, then orthonormal sums of values with random signs, the same for
    every set of codes of that length. A row of zeros stays zeros."""
    x = np.asarray(codes, dtype=np.float32)
    rms = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64) / x.shape[1])
    x = x / np.where(rms == 0, 1.0, rms).astype(np.float32)[:, None]
    d = x.shape[1]
    if d > WIDTH:
        random = np.random.default_rng([_FOLDING_SEED, d])
        order, signs = random.permutation(d), random.choice(np.array([-1.0, 1.0], dtype=np.float32), d)
        starts = np.linspace(0, d, WIDTH, endpoint=False).astype(np.int64)
        counts = np.diff(np.append(starts, d))
        sums = np.add.reduceat((x * signs)[:, order], starts, axis=1)
        x = (sums / np.sqrt(counts)).astype(np.float32)
    return x.astype(np.float16)


def distance(codes: NDArray[Any], reference: Reference, spec: str) -> Distance | None:
    """Of codes (n, d) of `spec`, in an order of which every prefix is fair; None with too few of them.

    The mean of the distances to two halves of the reference, each half and the codes cut to the same number of rows.
    """
    known = reference.rows[spec].astype(np.float64)
    n = min(len(codes), len(known) // 2)
    if n < FEWEST:
        return None
    halves = known[0::2][:n], known[1::2][:n]
    own = fold(codes[:n]).astype(np.float64)
    if own.shape[1] != known.shape[1]:
        raise UserError(f"the reference's {spec} folds to {known.shape[1]} values, these codes to {own.shape[1]}")
    return Distance(spec, float(np.mean([frechet(own, half) for half in halves])), frechet(*halves), n)


def frechet(a: Doubles, b: Doubles) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) of rows (n, d), A and B their covariances."""
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(eigvalsh(root @ cov_b @ root), 0.0)).sum()
    away = a.mean(axis=0) - b.mean(axis=0)
    return max(0.0, float(away @ away + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


def write(reference: Reference, path: str | Path) -> str:
    """Writes the file, whole or not at all; returns its fingerprint."""
    rows = dict(sorted(reference.rows.items()))
    head = {"name": reference.name, "settings": dict(reference.settings)}
    mark = fingerprints.of_reference(head, rows)
    with hdf5_files.new(path) as f:
        f.attrs["version"] = VERSIONS["reference"]
        f.attrs["fingerprint"] = mark
        f.attrs["head"] = json_files.canonical(head)
        for spec, values in rows.items():
            f.create_dataset(spec, data=values)
    return mark


def read(path: str | Path) -> Reference:
    """Raises UserError if the file is missing, cut short, damaged or of an unknown version."""
    if not Path(path).is_file():
        raise UserError(f"unknown reference {path}", see="`cnncodes weights reference --help`")
    try:
        with hdf5_files.opened(path) as f:
            version = int(f.attrs["version"])
            if version != VERSIONS["reference"]:
                raise UserError(f"{path} has version {version}", allowed=str(VERSIONS["reference"]))
            head = plain_json.loads(f.attrs["head"])
            rows = {spec: np.asarray(f[spec][()]) for spec in sorted(f)}
            if f.attrs["fingerprint"] != fingerprints.of_reference(head, rows):
                raise UserError(f"{path} is damaged: its content does not match its fingerprint", see="make it again")
            return Reference(str(head["name"]), head["settings"], rows)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as e:
        detail = " ".join(str(e).split())[:200]
        raise UserError(f"{path} is not a whole reference ({detail})", see="make it again") from None


def require_same(reference: Reference, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """`settings`: those of codes by spec. Raises UserError naming those in which the reference's codes differ."""
    for spec, one in settings.items():
        own = shared_settings(one)
        if own != dict(reference.settings):
            theirs = reference.settings
            differ = sorted(k for k in own.keys() | theirs.keys() if own.get(k) != theirs.get(k))
            raise UserError(
                f"the reference {reference.name} and the codes of {spec} differ in {', '.join(differ)}",
                allowed="a reference of the same weights and preprocessing",
                see="`cnncodes weights reference --like`",
            )
