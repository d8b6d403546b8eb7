"""`codes.json`: what a folder of codes says of itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.config import LayerSpec, Section

INDEX = "codes.json"
_PART = re.compile(r"part-[0-9]{5}\.h5")
_AGAIN = "run the extraction again"


class Part(Section):
    """`checksum`: sha256 of the ids' bytes, then the rows' bytes."""

    rows: int = Field(ge=1)
    checksum: str


class Stated(Section):
    """`fingerprint` is that of `settings`, which also say the spec and the dtype."""

    version: int
    spec: str
    dim: int = Field(ge=1)
    dtype: Literal["float16", "float32"]
    rows: int = Field(ge=0)
    fingerprint: str
    settings: dict[str, Any]
    parts: dict[str, Part]


def read_stated(folder: Path) -> Stated:
    """Raises UserError if there is no codes.json, its version is not known, or it contradicts itself."""
    path = folder / INDEX
    if not path.is_file():
        raise UserError(f"{folder} holds no codes", allowed="a folder with codes.json", see="`cnncodes extract --help`")
    values = json_files.read(path)
    version = values.get("version") if isinstance(values, dict) else None
    if version != VERSIONS["codes"]:
        raise UserError(f"{folder} has codes of version {version!r}", allowed=str(VERSIONS["codes"]))
    try:
        stated = Stated.model_validate(values)
    except ValidationError as e:
        keys = sorted({".".join(map(str, error["loc"])) for error in e.errors()})
        raise UserError(f"{path} is not what was written: {', '.join(keys[:5])} do not fit", see=_AGAIN) from None
    if wrong := _contradictions(stated):
        raise UserError(f"{path} is not what was written: {', '.join(wrong)}", see=_AGAIN)
    return stated


def _contradictions(stated: Stated) -> list[str]:
    settings, wrong = stated.settings, []
    if json_files.fingerprint(settings) != stated.fingerprint:
        wrong.append("its settings do not match its fingerprint")
    if settings.get("dtype") != stated.dtype:
        wrong.append(f"dtype {stated.dtype} is not that of its settings")
    lacking = {"layer", "pooling", "l2"} - settings.keys()
    if lacking or LayerSpec.named_in(settings).name != stated.spec:
        wrong.append(f"spec {stated.spec} is not that of its settings")
    if sum(part.rows for part in stated.parts.values()) != stated.rows:
        wrong.append("the rows of its parts are not the rows in all")
    if not all(map(_PART.fullmatch, stated.parts)):
        wrong.append("it names parts that are none")
    return wrong
