"""What a client is told when something can't be done: a status and one sentence, as JSON or as a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from starlette.responses import JSONResponse

from pipeline.base.errors import UserError

_PATH = re.compile(r"""(?<![\w.~-])/[^\s/'"]+/[^\s'",;:()]*""")


class Problem(Exception):
    """An answer that is not the one asked for. `str()` is the sentence."""

    def __init__(self, status: int, sentence: str, *, retry_s: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.retry_s = status, retry_s

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_s is None else {"Retry-After": str(self.retry_s)}


def as_json(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The shape of every answer that is an error."""
    return JSONResponse({"error": sentence}, status, headers=dict(headers or {}))


@contextmanager
def told_as(status: int, hidden: Mapping[str, str]) -> Iterator[None]:
    """A UserError inside becomes a Problem. `hidden`: texts that no client is to see (folders of this machine), and
    what stands for each. What else looks like a path of this machine goes too.
    """
    try:
        yield
    except UserError as e:
        sentence = str(e)
        for text, shown in sorted(hidden.items(), key=lambda item: -len(item[0])):
            sentence = sentence.replace(text, shown)
        sentence = _PATH.sub("a file of the server", sentence)
        raise Problem(status, sentence, retry_s=5 if status == 503 else None) from e
