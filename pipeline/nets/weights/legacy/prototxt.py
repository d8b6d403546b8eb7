"""Reads deploy.prototxt: which layers a Caffe network has, in which order, and what is taken away from its images.

The format is protocol buffers' text format: `field: value`, `field { ... }`. From caffe.proto: a network has `layers`
(V1, whose types are words such as CONVOLUTION) or `layer` (types such as "Convolution"); both have convolution_param
and inner_product_param with num_output, and transform_param with mean_value and scale. A layer reads the values named
`bottom` and makes those named `top`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.base.errors import UserError
from pipeline.nets.weights.record import Preprocessing

_MOST_BYTES = 8_000_000
_MOST_DEPTH = 50
_TOKEN = re.compile(
    r'\s+|#[^\n]*|(?P<token>"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|[{}<>:,;\[\]]|[^\s{}<>:,;\[\]"\'#]+)'
)
_OPEN, _CLOSE, _LOOSE = frozenset("{<"), frozenset("}>"), frozenset(",;[]")
# The type of a layer with weights, as V1 and V2 write it -> where its settings are.
_KINDS = {
    "CONVOLUTION": ("conv", "convolution_param"),
    "Convolution": ("conv", "convolution_param"),
    "INNER_PRODUCT": ("fc", "inner_product_param"),
    "InnerProduct": ("fc", "inner_product_param"),
}
# Steps that no architecture here has, and poolings other than the maximum: what is computed from them is not ours.
_FOREIGN = frozenset({"sigmoid", "tanh", "elu", "prelu", "bnll", "absval", "power", "exp", "log", "lrn", "batchnorm"})
Message = dict[str, list[Any]]


@dataclass(frozen=True)
class Described:
    """A layer with weights: `kind` is conv or fc, `outputs` the number of its filters or rows. `after`: the step in
    _FOREIGN that what it reads went through, "" if none."""

    name: str
    kind: str
    outputs: int
    after: str


@dataclass(frozen=True)
class Deploy:
    """`layers` in the network's order; `foreign`: names of the steps in _FOREIGN; `preprocessing` None where the file
    states none."""

    layers: tuple[Described, ...]
    foreign: tuple[str, ...]
    preprocessing: Preprocessing | None


def read(path: Path) -> Deploy:
    """Raises UserError if the file can't be read, is no network, or splits convolutions into groups."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise UserError(f"can't read {path} ({e.strerror})") from None
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path} has {len(data)} bytes", allowed="a network's description, a .prototxt")
    try:
        network = _parse(data.decode("utf-8"))
        found = [layer for field in ("layers", "layer") for layer in network.get(field, [])]
        foreign = tuple(_word(layer, "name") for layer in found if _is_foreign(layer))
        weighty = tuple(_described(layer, after) for layer, after in _followed(found) if _word(layer, "type") in _KINDS)
        preprocessing = next(filter(None, (_transform(layer) for layer in found)), None)
    except (ValueError, UnicodeDecodeError, ValidationError) as e:
        raise UserError(f"{path} is not a description of a Caffe network ({str(e).splitlines()[0]})") from None
    if not weighty:
        raise UserError(f"{path} names no convolutions", allowed="a deploy.prototxt")
    return Deploy(weighty, foreign, preprocessing)


def _followed(found: list[Any]) -> Iterator[tuple[Any, str]]:
    """Each layer, and the name of the foreign step that comes before it on its way, "" if none does."""
    through: dict[str, str] = {}
    for layer in found:
        if not isinstance(layer, dict):
            continue
        after = next((through[blob] for blob in _words(layer, "bottom") if through.get(blob)), "")
        yield layer, after
        # In place, a step makes another value of the same name.
        through |= dict.fromkeys(_words(layer, "top"), after or (_word(layer, "name") if _is_foreign(layer) else ""))


def _is_foreign(message: Any) -> bool:
    kind = _word(message, "type").lower()
    pooling = message.get("pooling_param", [{}])[0] if kind == "pooling" else {}
    return kind in _FOREIGN or (_word(pooling, "pool") or "MAX") != "MAX"


def _described(message: Any, after: str) -> Described:
    kind, settings = _KINDS[_word(message, "type")]
    stated = message.get(settings, [{}])[0]
    name, outputs = _word(message, "name"), _number(stated, "num_output", 0)
    if not name or outputs < 1 or outputs != int(outputs):
        raise ValueError(f"layer {name!r} has no name or no num_output")
    if _number(stated, "group", 1) != 1:
        raise ValueError(f"layer {name!r} is split into groups, which no architecture here is")
    return Described(name, kind, int(outputs), after)


def _transform(message: Any) -> Preprocessing | None:
    """Caffe takes the mean away first and scales then: (x - mean) * scale; its images are BGR."""
    settings = message.get("transform_param", [{}])[0] if isinstance(message, dict) else {}
    means = [float(m) for m in settings.get("mean_value", [])] if isinstance(settings, dict) else []
    if not means:
        return None
    means = means * 3 if len(means) == 1 else means
    if len(means) != 3:
        raise ValueError(f"transform_param has {len(means)} mean values")
    scale = _number(settings, "scale", 1.0)
    return Preprocessing("bgr", scale, (means[0] * scale, means[1] * scale, means[2] * scale), (1.0, 1.0, 1.0))


def _word(message: Any, field: str) -> str:
    value = message.get(field, [""])[0] if isinstance(message, dict) else ""
    return value if isinstance(value, str) else ""


def _words(message: Message, field: str) -> list[str]:
    return [value for value in message.get(field, []) if isinstance(value, str)]


def _number(message: Any, field: str, default: float) -> float:
    return float(message.get(field, [default])[0]) if isinstance(message, dict) else default


def _parse(text: str) -> Message:
    """Field -> its values in order: text, or a message."""
    root: Message = {}
    above: list[Message] = []
    message, field = root, ""
    for token in _tokens(text):
        if token in _OPEN and field:
            inner: Message = {}
            message.setdefault(field, []).append(inner)
            above.append(message)
            message, field = inner, ""
            if len(above) > _MOST_DEPTH:
                raise ValueError("braces are nested too deep")
        elif token in _CLOSE and above and not field:
            message = above.pop()
        elif token == ":" and field:
            continue
        elif field and token not in _OPEN | _CLOSE | _LOOSE:
            message.setdefault(field, []).append(token[1:-1] if token[0] in "\"'" else token)
            field = ""
        elif token not in _OPEN | _CLOSE | {":"} and token[0] not in "\"'":
            field = "" if token in _LOOSE else token
        else:
            raise ValueError(f"{token[:20]!r} where none belongs")
    if above or field:
        raise ValueError("it ends in the middle")
    return root


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at : at + 20]!r} is not a token")
        at = match.end()
        if match["token"] is not None:
            yield match["token"]
