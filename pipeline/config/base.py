"""What every section of params.yaml is, and the one error that names all that is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipeline.base.counting import counted
from pipeline.base.errors import UserError
from pipeline.config.keys import keys_at
from pipeline.config.layout import Groups, flat, path_of


class Section(BaseModel):
    """A section of params.yaml: closed, strictly typed, immutable. `groups`: name -> key in a file -> field."""

    groups: ClassVar[Groups] = {}

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def of_no_use(cls, values: Mapping[str, Any]) -> list[str]:
        """A sentence for each key, of `values` by field as a person wrote them, that changes nothing. A record spells
        out all keys, so what is read from one may have them."""
        return []


S = TypeVar("S", bound=BaseModel)


def _is_name(text: str) -> str:
    if not re.fullmatch(r"\w[\w-]*", text):
        raise ValueError("a name has letters, digits, '_' and '-' alone")
    return text


# What the user calls something. It becomes a folder's name and a key of params.yaml, and DVC splits keys at dots.
Name = Annotated[str, AfterValidator(_is_name)]


def by_field(model: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values of a section by field, of a file or a command line, and what is wrong with where they stand: a
    sentence each."""
    found, wrong = flat(model, values)
    return found, wrong + (model.of_no_use(found) if issubclass(model, Section) else [])


def validate(model: type[S], values: Any, *, where: str, wrong: Sequence[str] = ()) -> S:
    """`values`, by field, as a record of `model`.

    Raises UserError listing every problem with its key as files have it; `wrong`: those that were found before.
    """
    lines = list(wrong)
    try:
        record = model.model_validate(values)
    except ValidationError as e:
        for err in e.errors():
            place = [path_of(model, str(p)) if not at else str(p) for at, p in enumerate(err["loc"])]
            key = ".".join(place)
            if err["type"] == "extra_forbidden":
                lines.append(
                    f"{key}: unknown key (allowed: {', '.join(keys_at(model, err['loc'][:-1], located=True))})"
                )
            elif err["type"] == "union_tag_invalid":
                about = err["ctx"]
                key = ".".join([*place, about["discriminator"].strip("'")])
                lines.append(f"{key}: {about['tag']!r} (allowed: {about['expected_tags']})")
            elif err["type"] == "missing":
                lines.append(f"{key}: missing")
            else:
                lines.append(_said(key, err["msg"].removeprefix("Value error, "), err["input"]))
    else:
        if not lines:
            return record
    raise UserError(
        f"{where} has {counted(len(lines), 'problem')}: {' | '.join(lines)}", see="docs/params.md"
    ) from None


def _said(key: str, message: str, came: Any) -> str:
    """A problem of one key, or of the section as a whole, whose messages name the keys."""
    if not key:
        return message
    return f"{key}: {message}" if repr(came) in message else f"{key}: {message}, got {came!r}"
