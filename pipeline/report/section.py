"""What a section of the page is, and the words and figures that all of them share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True)
class Section:
    """A part of the page: `html` below the heading `title`, and text `files` beside the page by their relative path."""

    title: str
    html: Markup
    files: Mapping[str, str] = field(default_factory=dict)


def render(template: str, **values: Any) -> Markup:
    """A template with everything that it is given escaped, unless it is Markup."""
    return Markup(_environment().get_template(template).render(**values))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "count": count,
        "size": size,
        "seconds": seconds,
        "number": number,
        "spread": spread,
    }
    return environment


def percent(share: float, digits: int = 1) -> str:
    """0.1234 -> 12.3 %; with a narrow no-break space."""
    return NONE if math.isnan(share) else f"{100 * share:.{digits}f}\N{NARROW NO-BREAK SPACE}%".replace("-", MINUS)


def percent_ticks(low: float, high: float) -> Callable[[float], str]:
    """Names an axis's ticks, with a digit after the point where whole percents would repeat or be wrong."""
    return lambda share: percent(share, 0 if high - low > 0.08 and _is_whole(100 * share) else 1)


def _is_whole(value: float) -> bool:
    return math.isclose(value, round(value), abs_tol=1e-6)


def number(value: float, digits: int = 2) -> str:
    return NONE if math.isnan(value) else f"{value:.{digits}f}".replace("-", MINUS)


def count(value: float) -> str:
    """12345 -> 12,345."""
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes, in powers of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} B"


def seconds(value: float) -> str:
    """A duration to two or three digits, in the unit that suits it."""
    if math.isnan(value):
        return NONE
    if value < 0.9995:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def spread(mean: float, std: float, *, share: bool = True) -> str:
    """62.3 ± 1.1, in percent without its sign for shares; without a spread the mean alone."""
    digits, scale = (1, 100) if share else (2, 1)
    text = number(scale * mean, digits)
    return text if math.isnan(std) else f"{text} ± {number(scale * std, digits)}"


def and_list(words: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
