"""What extraction has to know of weights before it needs them: read from the file's header, without torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.base import plain_json
from pipeline.base.errors import UserError
from pipeline.base.failing import reading
from pipeline.base.versions import VERSIONS
from pipeline.codes.settings import Normalisation
from pipeline.data import views
from pipeline.nets import backbone

if TYPE_CHECKING:
    from pipeline.nets.weights import Weights

# A header beyond this is no header of ours: the largest architecture's takes a few KB.
_MAX_HEADER_BYTES = 16 << 20


@dataclass(frozen=True)
class WeightsHeader:
    """The facts that decide keys and sizes. `tensors` are the canonical names that the weights hold."""

    arch: str
    sha256: str
    normalisation: Normalisation
    resampling: str
    geometry: views.Geometry
    num_classes: int
    tensors: frozenset[str]
    source: Weights | Path

    @classmethod
    def of(cls, weights: Weights | str | Path) -> WeightsHeader:
        """Raises UserError if the file is missing, cut short or not canonical."""
        if isinstance(weights, str | Path):
            return _read(Path(weights))
        p = weights.preprocessing
        return cls(
            arch=weights.arch,
            sha256=weights.sha256,
            normalisation=Normalisation(channels=p.channels, scale=p.scale, mean=p.mean, std=p.std),
            resampling=f"pillow-{p.resampling}",
            geometry=p.geometry,
            num_classes=weights.num_classes,
            tensors=frozenset(weights.tensors),
            source=weights,
        )

    def load(self) -> Weights:
        """All of the weights, checked. Raises UserError if the file changed since its header was read."""
        from pipeline.nets.weights import read_canonical

        if not isinstance(self.source, Path):
            return self.source
        weights = read_canonical(self.source)
        if weights.sha256 != self.sha256:
            raise UserError(f"{self.source} changed while it was read", see="run it again")
        return weights

    def held_layers(self) -> list[str]:
        """Layers that the weights can compute, in network order."""
        return backbone.held(backbone.find(self.arch), self.tensors)

    def require_layers(self, asked: Iterable[str]) -> None:
        """Raises one UserError on layers that the weights stop before, and on unknown ones."""
        held = self.held_layers()
        known = backbone.find(self.arch)
        lacking = [name for name in asked if known.require(name).name not in held]
        if lacking:
            raise UserError(
                f"these weights of {self.arch} stop at {held[-1]}, so they have no {', '.join(sorted(set(lacking)))}",
                allowed=f"layers up to {held[-1]}, or weights of the whole network: torchvision:IMAGENET1K_V1, "
                "random:SEED, or a file",
                see="docs/params.md",
            )


@dataclass(frozen=True)
class Stated:
    """What a canonical file says of itself: its architecture, where its weights come from, and keys of the section
    `codes` that give images the view that the network was trained on, {} where it doesn't tell."""

    arch: str
    source: str
    codes: Mapping[str, Any]


def stated(weights: str | Path) -> Stated | None:
    """None where `weights` is no canonical file: another source, another format, or not there at all."""
    path = Path(weights)
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        about = plain_json.loads(_header(path)["__metadata__"]["cnncodes"])
        origin = about["provenance"]
        return Stated(str(about["arch"]), str(origin.get("source", "")), dict(origin.get("codes", {})))
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        return None


def _header(path: Path) -> dict[str, Any]:
    """safetensors: 8 bytes of little-endian length, then JSON of that length. Raises struct.error or ValueError."""
    with reading(path) as f:
        (length,) = struct.unpack("<Q", f.read(8))
        if length > _MAX_HEADER_BYTES:
            raise ValueError("its header is too long")
        header: dict[str, Any] = plain_json.loads(f.read(length))
        return header


def _read(path: Path) -> WeightsHeader:
    if not path.is_file():
        raise UserError(f"no weights file at {path}", see="`dvc repro weights`")
    try:
        header = _header(path)
        about = plain_json.loads(header.pop("__metadata__")["cnncodes"])
        if about["version"] != VERSIONS["weights"]:
            raise ValueError(f"its version is {about['version']}")
        known = backbone.find(about["arch"])
        prepared = dict(about["preprocessing"])
        resampling = f"pillow-{prepared.pop('resampling', 'bilinear')}"
        geometry = prepared.pop("geometry", "rounded")
        return WeightsHeader(
            arch=known.arch,
            sha256=about["sha256"],
            normalisation=Normalisation.model_validate_json(json.dumps(prepared)),
            resampling=resampling,
            geometry=geometry,
            num_classes=known.num_classes({name: tensor["shape"] for name, tensor in header.items()}),
            tensors=frozenset(header),
            source=path,
        )
    except (struct.error, ValueError, KeyError, TypeError, ValidationError) as e:
        raise UserError(
            f"{path} is not whole canonical weights ({' '.join(str(e).split())})", see="`dvc repro weights`"
        ) from None
