"""A trained head on disk, as plain arrays, and its answers for new codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import fingerprints, hdf5_files, json_files, plain_json
from pipeline.base.errors import UserError
from pipeline.base.skipped import reason_in
from pipeline.base.versions import VERSIONS
from pipeline.codes.reader import Codes
from pipeline.heads.base import Head
from pipeline.heads.registry import head_type
from pipeline.heads.scaling import Scaling

# How a value was computed and stored changes its last digits, not its meaning: a head trained on a GPU's codes answers
# for a CPU's. Every other setting must be equal.
ROUNDING = frozenset({"precision", "dtype", "device", "images_per_batch", "compile"})
_BLOCK_ROWS = 1024


def _heads_below(folder: Path) -> list[str]:
    """Folders of trained heads in a workspace that was named in place of one of them."""
    return sorted(str(found.parent) for found in folder.glob("heads/*/model.h5"))


@dataclass(frozen=True)
class Model:
    """A fitted head with all that its input must be: `codes_settings` as `Codes.settings` has them."""

    name: str
    head: Head
    scaling: Scaling
    classes: tuple[str, ...]
    spec: str
    dim: int
    codes_settings: Mapping[str, Any]

    def save(self, path: str | Path) -> None:
        """Writes HDF5: attributes, the head's arrays in group `head`, the scaling's in `scaling`."""
        attributes = {
            "version": VERSIONS["head"],
            "head": self.name,
            "spec": self.spec,
            "dim": self.dim,
            "scaling": self.scaling.kind,
            "classes": json_files.canonical(list(self.classes)),
            "codes_settings": json_files.canonical(dict(self.codes_settings)),
        }
        arrays = {f"head/{name}": np.asarray(a) for name, a in self.head.arrays().items()}
        arrays |= {"scaling/shift": self.scaling.shift, "scaling/factor": self.scaling.factor}
        with hdf5_files.new(path) as f:
            f.attrs.update(attributes | {"fingerprint": fingerprints.of_head(attributes, arrays)})
            for name, array in arrays.items():
                f.create_dataset(name, data=array)

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Raises UserError if the file is missing, not a head's, of another version, or not what was written."""
        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"{path} does not exist",
                allowed=_heads_below(path.parent) or "the folder of a trained head, such as codes/heads/LAYER-avg-svm",
                see="`cnncodes compare --help`",
            )
        try:
            with hdf5_files.opened(path) as f:
                attributes = {k: v.item() if isinstance(v, np.generic) else v for k, v in f.attrs.items()}
                if why := reason_in(attributes):
                    raise UserError(f"{path} holds no head: {why}", allowed="images with labels")
                arrays = {f"{group}/{name}": data[()] for group, held in f.items() for name, data in held.items()}
        except PermissionError as e:
            raise UserError(f"no permission to read {path}") from e
        except (OSError, AttributeError, KeyError, RuntimeError, ValueError, TypeError) as e:
            raise UserError(f"{path} is not a head's model.h5 or is cut short ({e})", see="`dvc repro heads`") from None
        version = attributes.get("version")
        if version != VERSIONS["head"]:
            raise UserError(f"{path} has version {version}", allowed=str(VERSIONS["head"]), see="CHANGELOG.md")
        written = attributes.pop("fingerprint", None)
        if written != fingerprints.of_head(attributes, arrays):
            raise UserError(f"{path} is damaged: its fingerprint does not fit its content", see="`dvc repro heads`")
        kind = head_type(attributes["head"])
        return cls(
            name=attributes["head"],
            head=kind.from_arrays({k.removeprefix("head/"): a for k, a in arrays.items() if k.startswith("head/")}),
            scaling=Scaling(attributes["scaling"], arrays["scaling/shift"], arrays["scaling/factor"]),
            classes=tuple(plain_json.loads(attributes["classes"])),
            spec=attributes["spec"],
            dim=int(attributes["dim"]),
            codes_settings=plain_json.loads(attributes["codes_settings"]),
        )

    def require_fit(self, codes: Codes) -> None:
        """Raises UserError naming all that differs between `codes` and the codes that the head was trained on."""
        if codes.spec != self.spec or codes.dim != self.dim:
            raise UserError(
                f"codes of {codes.spec} with {codes.dim} values do not fit this head",
                allowed=f"{self.spec} with {self.dim}",
                see="`cnncodes info`",
            )
        ours, theirs = _comparable(self.codes_settings), _comparable(codes.settings)
        differ = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        if differ:
            raise UserError(
                f"these codes were made with other settings ({', '.join(f'{k}: {theirs.get(k)}' for k in differ)})",
                allowed=", ".join(f"{k}: {ours.get(k)}" for k in differ),
                see="`cnncodes info`",
            )


def predict(model: Model, codes: Codes) -> tuple[list[str], NDArray[np.float32]]:
    """(n labels, (n, k) scores), in the order of `codes.ids`. Raises UserError if the codes don't fit the head."""
    model.require_fit(codes)
    scores = np.empty((len(codes), len(model.classes)), dtype=np.float32)
    start = 0
    for _, block in codes.blocks(_BLOCK_ROWS):
        scores[start : start + len(block)] = model.head.scores(model.scaling.apply(block))
        start += len(block)
    return [model.classes[c] for c in scores.argmax(axis=1)], scores


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = plain_json.loads(json_files.canonical(dict(settings)))
    return {k: v for k, v in plain.items() if k not in ROUNDING}
