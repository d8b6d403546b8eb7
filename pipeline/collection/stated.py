"""What an index says of itself, checked: a stranger may have written it, with every checksum right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.collection.encode import codes_column
from pipeline.data.listed import stays_below
from pipeline.search.save import Saved

_MEND = "`cnncodes index`, which makes it again"
_ID = re.compile(r"[0-9a-f]{16}-[0-9]{1,9}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Nbits = Annotated[int, Field(ge=8, multiple_of=8)]


class _Part(BaseModel):
    """Strict in what it knows; versions of this program may have written more."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Weights(_Part):
    arch: str
    source: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # names a file


class _Codes(_Part):
    dim: int = Field(ge=1)
    dtype: Literal["float16", "float32"]
    settings: dict[str, Any]


class _Hasher(_Part):
    hasher: Annotated[str, Field(min_length=1)]
    params: dict[str, Any]
    spec: str
    nbits: Nbits
    fingerprint: str


class _Short(_Hasher):
    fitted_on: int = Field(ge=1)
    note: str


class _Dataset(_Part):
    max_pixels: int = Field(ge=1)
    leave_out: list[str] = []  # none in an index of earlier versions


class _Computed(_Part):
    """By what rows were computed that came later."""

    device: Literal["cpu", "cuda", "mps"]
    precision: Literal["fp32", "bf16", "fp16"]


class _Recall(_Part):
    """What `search.recall` measured, of an index that is not exact."""

    recall_at_10: float = Field(ge=0, le=1)
    measured_queries: int = Field(ge=0)


class Stated(_Part):
    """`made_by` of a collection's index; `codes` by spec, `long` by hasher. `default`: the method that a search takes,
    where it is not the usual one.
    """

    weights: _Weights
    params: dict[str, Any]
    dataset: _Dataset
    codes: dict[str, _Codes]
    layers: list[str] = Field(min_length=1)
    short: _Short
    long: dict[str, _Hasher]
    left_out: dict[str, str] = {}
    also: list[_Computed] = []
    roots: list[str] = Field(min_length=1)
    default: Literal["two-stage"] | None = None
    recall: _Recall | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> Stated:
        specs = {*self.layers, self.short.spec, *(one.spec for one in self.long.values())}
        if unknown := sorted(specs - self.codes.keys()):
            raise ValueError(f"codes lack {', '.join(unknown)}")
        if self.short.hasher in self.long or any(name != one.hasher for name, one in self.long.items()):
            raise ValueError("long has a hasher under another name, or the short one's")
        if "topk" in self.long and type(self.long["topk"].params.get("k")) is not int:
            raise ValueError("long.topk has no k")
        if any("\0" in root for root in self.roots):
            raise ValueError("roots have a name that no folder can have")
        return self


def require_collection(folder: Path, made_by: Mapping[str, Any]) -> Stated:
    """Raises UserError if an index is not that of a collection, of another version, or contradicts itself."""
    if "short" not in made_by:
        raise UserError(f"{folder} is an index of bare codes", allowed="a folder made by `cnncodes index`")
    if made_by.get("version") != VERSIONS["collection"]:
        what = f"{folder} is a collection of version {made_by.get('version')!r}"
        raise UserError(what, allowed=[VERSIONS["collection"]], see=_MEND)
    try:
        return Stated.model_validate(dict(made_by))
    except ValidationError as e:
        wrong = sorted({".".join(map(str, error["loc"])) or error["msg"] for error in e.errors()})
        raise UserError(f"{folder} is not what was written: {', '.join(wrong[:5])} do not fit", see=_MEND) from None


def require_whole(folder: Path, saved: Saved) -> None:
    """Raises UserError unless an index has the rows and the hashers that it says of itself, and no path of an image
    leads out of its folder.
    """
    stated = require_collection(folder, saved.made_by)
    if wrong := next(_wrong(stated, saved), ""):
        raise UserError(f"{folder} is not what was written: {wrong}", see=_MEND)


def _wrong(stated: Stated, saved: Saved) -> Iterator[str]:
    """What does not fit, in words."""
    columns, n = saved.columns, len(saved.index)
    if saved.index.nbits != stated.short.nbits:
        yield f"its rows have {saved.index.nbits} bits, its hasher {stated.short.nbits}"
    hashers = {f"{name}.h5" for name in (stated.short.hasher, *stated.long)}
    if missing := hashers - saved.files.keys():
        yield f"it lacks {', '.join(sorted(missing))}"
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        **dict.fromkeys(("path", "label", "split", "sha256"), ("U", (n,))),
        "root": ("i", (n,)),
        **{codes_column(spec): ("f", (n, stated.codes[spec].dim)) for spec in stated.layers},
        **{name: ("u", (n, one.nbits // 8)) for name, one in stated.long.items()},
    }
    for name, (kind, shape) in wanted.items():
        if name not in columns:
            yield f"it lacks the column {name}"
            return
        if columns[name].dtype.kind != kind or columns[name].shape != shape:
            yield f"column {name} has {columns[name].dtype} of shape {columns[name].shape}"
            return
    roots = columns["root"]
    if n and not 0 <= np.min(roots) <= np.max(roots) < len(stated.roots):
        yield "its rows name folders that it doesn't have"
    images = (saved.index.ids.tolist(), columns["path"].tolist(), columns["sha256"].tolist())
    for image_id, path, digest in zip(*images, strict=True):
        if not stays_below(path):
            yield f"the path {path!r} leads out of its folder"
        if not _SHA256.fullmatch(digest) or not _ID.fullmatch(image_id) or image_id[:16] != digest[:16]:
            yield f"the image {image_id!r} has another sha256"
