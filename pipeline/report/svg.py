"""Charts as SVG text, written by hand so that they take the page's colours, light or dark, and need no script.

Colours are CSS classes, never values: `c0`, `c1`, ... are the palette's entries. A mark's `<title>` is what hovering
and screen readers say of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

# px of the page's column, of half of it, and of a phone's. Each is drawn, so that text keeps its size.
WIDE, HALF, NARROW = 880, 500, 350

Point = tuple[float, float]
Format = Callable[[float], str]


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """One SVG element. `class_` is class, other underscores are hyphens; None is left out; contents are escaped."""
    parts = [f"<{tag}"]
    for key, value in attributes.items():
        if value is not None:
            text = _number(value) if isinstance(value, float) else str(value)
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(text)}"')
    inner = "".join(str(escape(c)) for c in content)
    return Markup("".join(parts) + (f">{inner}</{tag}>" if inner else "/>"))  # every part is escaped above


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Scale:
    """Maps values low..high onto pixels start..stop; a log scale needs low > 0."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.stop - self.start)

    def ticks(self, most: int) -> list[float]:
        """At most about `most` round values within the scale, rising."""
        return _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**d for d in decades for m in steps if low * (1 - 1e-9) <= m * 10.0**d <= high * (1 + 1e-9)]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def span(values: Iterable[float], *, margin: float = 0.06) -> tuple[float, float]:
    """The range of some values with room on both sides; never empty. Non-finite values are ignored."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    room = (high - low) * margin or abs(high) * 0.1 or 0.5
    return low - room, high + room


def share_span(values: Iterable[float], *, margin: float = 0.06) -> tuple[float, float]:
    """As `span`, for shares: at least 4 points high, and little beyond 0..1, so that dots at the ends stay whole."""
    low, high = span(values, margin=margin)
    middle = min(max((low + high) / 2, 0.02), 0.98)
    low, high = min(low, middle - 0.02), max(high, middle + 0.02)
    room = 0.03 * (high - low)
    return max(low, -room), min(high, 1 + room)


def log_span(values: Iterable[float]) -> tuple[float, float]:
    """As `span`, for a log scale: the positive values, with room by factors."""
    logs = [math.log10(v) for v in values if math.isfinite(v) and v > 0]
    low, high = span(logs, margin=0.1)
    return 10**low, 10**high


@dataclass
class Chart:
    """Axes and marks in data coordinates. Draw the lowest marks first, then `render`."""

    x: Scale
    y: Scale
    width: int
    height: int
    marks: list[Markup] = field(default_factory=list)

    @classmethod
    def sized(
        cls,
        width: int,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        ratio: float = 0.46,
        bottom: int = 46,
        x_log: bool = False,
    ) -> Chart:
        """A chart `width` px wide, taller for its width when narrow."""
        height = round(width * (ratio if width == WIDE else max(ratio, 0.8)))
        return cls(Scale(*x, 44, width - 10, log=x_log), Scale(*y, height - bottom, 24), width, height)

    def axes(
        self,
        x_title: str,
        y_title: str,
        *,
        x_format: Format,
        y_format: Format,
        x_ticks: Sequence[tuple[float, str]] | None = None,
        tilt: bool = False,
    ) -> None:
        """Grid lines, tick labels and titles; `x_ticks` are given labels, tilted when they would not fit."""
        left, right, bottom = self.x.start, self.x.stop, self.y.start
        for tick in self.y.ticks((self.height - 60) // 38):
            at = self.y(tick)
            self._add("line", class_="grid", x1=left, x2=right, y1=at, y2=at)
            self._text(y_format(tick), left - 6, at + 4, class_="tick end")
        ticks = x_ticks if x_ticks is not None else [(v, x_format(v)) for v in self.x.ticks(self.width // 80)]
        for tick, label in ticks:
            at = self.x(tick)
            self._add("line", class_="axis", x1=at, x2=at, y1=bottom, y2=bottom + 4)
            if tilt:
                turn = f"rotate(-42 {_number(at)} {_number(bottom + 14)})"
                self._text(label, at, bottom + 14, class_="tick end", transform=turn)
            else:
                self._text(label, at, bottom + 18, class_="tick mid")
        self._add("line", class_="axis", x1=left, x2=right, y1=bottom, y2=bottom)
        self._text(x_title, (left + right) / 2, self.height - 4, class_="axis-title mid")
        self._text(y_title, left + 4, 11.0, class_="axis-title")

    def line(self, points: Sequence[Point], class_: str, *, shift: float = 0.0) -> None:
        path = "M" + "L".join(f"{self.x(px) + shift:.1f},{self.y(py):.1f}" for px, py in points)
        self._add("path", class_=f"line {class_}", d=path)

    def band(self, points: Sequence[tuple[float, float, float]], class_: str) -> None:
        """The area between (x, low, high)."""
        edge = [(px, high) for px, _, high in points] + [(px, low) for px, low, _ in reversed(points)]
        path = "M" + "L".join(f"{self.x(px):.1f},{self.y(py):.1f}" for px, py in edge) + "Z"
        self._add("path", class_=f"band {class_}", d=path)

    def level(self, value: float, label: str) -> None:
        """A dashed line across, with its name above its right end."""
        at = self.y(value)
        self._add("line", class_="level", x1=self.x.start, x2=self.x.stop, y1=at, y2=at)
        self._text(label, self.x.stop, at - 5, class_="tick end halo")

    def whisker(self, px: float, low: float, high: float, class_: str, *, shift: float = 0.0) -> None:
        at = self.x(px) + shift
        self._add("line", class_=f"whisker {class_}", x1=at, x2=at, y1=self.y(low), y2=self.y(high))

    def dot(self, px: float, py: float, title: str, class_: str, *, shape: str = "circle", shift: float = 0.0) -> None:
        mark = marker(shape, self.x(px) + shift, self.y(py), class_)
        self.marks.append(element("g", element("title", title), mark, class_="dot"))

    def label(self, text: str, px: float, py: float, taken: list[Box]) -> None:
        """Names a point, at the first place around it that covers no box in `taken`; without one, not at all."""
        at_x, at_y, wide = self.x(px), self.y(py), 6.4 * len(text)
        above, beside, below = -10.0, 4.0, 20.0
        offsets = [
            (-wide / 2, above),
            (-wide - 8, beside),
            (8.0, beside),
            (-wide / 2, below),
            (-wide, above),
            (0.0, above),
        ]
        plot = Box(self.x.start, 0.0, self.width, self.y.start)
        for dx, dy in offsets:
            box = Box(at_x + dx, at_y + dy - 11, at_x + dx + wide, at_y + dy + 2)
            if plot.holds(box) and not any(box.meets(other) for other in taken):
                taken.append(box)
                self._text(text, at_x + dx, at_y + dy, class_="note halo")
                return

    def box(self, px: float, py: float) -> Box:
        """What a dot covers, for `label`."""
        at_x, at_y = self.x(px), self.y(py)
        return Box(at_x - 5, at_y - 5, at_x + 5, at_y + 5)

    def render(self, description: str) -> Markup:
        return figure_svg(self.width, self.height, description, *self.marks)

    def _add(self, tag: str, **attributes: object) -> None:
        self.marks.append(element(tag, **attributes))

    def _text(self, text: str, x: float, y: float, **attributes: object) -> None:
        self.marks.append(element("text", text, x=x, y=y, **attributes))


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


# Outlines around (0, 0), about as large as each other.
MARKERS: dict[str, tuple[Point, ...]] = {
    "square": ((-4.2, -4.2), (4.2, -4.2), (4.2, 4.2), (-4.2, 4.2)),
    "triangle": ((0.0, -5.6), (5.2, 4.0), (-5.2, 4.0)),
    "diamond": ((0.0, -6.0), (6.0, 0.0), (0.0, 6.0), (-6.0, 0.0)),
    "wedge": ((-5.2, -4.0), (5.2, -4.0), (0.0, 5.6)),
}


def marker(shape: str, x: float, y: float, class_: str) -> Markup:
    """`circle` or one of MARKERS, at (x, y) px."""
    if shape == "circle":
        return element("circle", class_=f"mark {class_}", cx=x, cy=y, r=4.6)
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in MARKERS[shape])
    return element("polygon", class_=f"mark {class_}", points=points)


def figure_svg(width: float, height: float, description: str, *content: Markup) -> Markup:
    """An SVG that shrinks with its column; `description` is its text for those who can't see it."""
    size = {"viewBox": f"0 0 {_number(width)} {_number(height)}", "width": width, "height": height}
    return element("svg", *content, role="img", aria_label=description, **size)


def both_widths(draw: Callable[[int], Markup], *, wide: int = WIDE) -> Markup:
    """The same chart for a desktop's column (or half of it) and for a phone's; the page shows one of them."""
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(draw(wide), draw(NARROW))


def swatch(class_: str, *, shape: str | None = None) -> Markup:
    """A legend's sample: a short line, or a marker."""
    body = marker(shape, 8.0, 8.0, class_) if shape else element("path", class_=f"line {class_}", d="M1,8H25")
    size = {"viewBox": f"0 0 {16 if shape else 26} 16", "width": 16 if shape else 26}
    return element("svg", body, height=16, aria_hidden="true", class_="swatch", **size)
