"""What an exported model says of itself: the JSON under one key of its metadata."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pipeline.base import json_files, plain_json
from pipeline.base.errors import UserError
from pipeline.config import Section

KEY = "cnncodes"
VERSION = 1
# The model's input and outputs.
IMAGE, SCORES, PROBABILITIES = "image", "scores", "probabilities"
_MOST_SIDE = 4096
_Side = Annotated[int, Field(ge=1, le=_MOST_SIDE)]


class About(Section):
    """`size`: pixels a side of the input, which is the centre of `crop`, or all of the image (`squash`), at `scale`.

    `shown`: what `predict` shows; `probabilities`: whether that tells how sure the model is, None if it isn't known.
    `codes`: of a head, how the codes are made that it was trained on, as `Codes.settings`; None of a tuned network.
    """

    version: Literal[1]
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=100_000)]
    size: _Side
    view: Literal["crop", "squash"]
    scale: _Side
    resampling: str
    background: tuple[
        Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
    ]
    channels: Literal["rgb"]
    shown: Literal["scores", "softmax"]
    probabilities: bool | None
    network: str
    head: str
    codes: dict[str, Any] | None
    versions: dict[str, str]

    def text(self) -> str:
        return json_files.canonical(self.model_dump(mode="json"))

    @classmethod
    def read(cls, text: str, where: object) -> About:
        """Raises UserError if it isn't what `text` gives."""
        try:
            plain_json.loads(text)
            return cls.model_validate_json(text)
        except (ValidationError, plain_json.JsonError) as e:
            why = (
                "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in e.errors()[:3])
                if isinstance(e, ValidationError)
                else str(e)
            )
            raise UserError(
                f"{where} doesn't say rightly what it is ({why})",
                allowed="a file that `cnncodes export-model` wrote",
                see="docs/export-model.md",
            ) from None
