"""What the best combination of codes and head makes of the images: its learning curve, its errors, and its map."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.figures.records.about import Picture


@dataclass(frozen=True)
class CurvePoint:
    """After fitting on a share of train and val. `unfinished`: how far the fit was left from the optimum, in words."""

    share: float
    n_train: int
    repeat: int
    accuracy: float
    mean_class_recall: float
    macro_f1: float
    unfinished: str


@dataclass(frozen=True)
class Confused:
    """Two classes that were confused `times`; `share`: of the true class's answers."""

    true: str
    predicted: str
    times: int
    share: float
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Confusion:
    """The matrix (row the true class, column the answer) of the classes `names`: all, or those with the most errors.
    `totals`: every answer for an image of a class, also those of columns left out. `answers`: how many in all."""

    names: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    totals: tuple[int, ...]
    repeats: int
    answers: int
    pairs: tuple[Confused, ...]


@dataclass(frozen=True)
class Mistake:
    """With the scores of the answer and of the true class."""

    picture: Picture
    true: str
    predicted: str
    of_predicted: float
    of_true: float


@dataclass(frozen=True)
class Mistakes:
    """`shown`: the surest of the `wrong` answers among `tested`, all of the first split."""

    shown: tuple[Mistake, ...]
    wrong: int
    tested: int
    probabilities: bool
    repeats: int


@dataclass(frozen=True)
class Copy:
    """Two images that may be copies: paths, sizes in words, the sides of a split that parts them, and how many do."""

    pictures: tuple[Picture, Picture]
    sizes: tuple[str, str]
    sides: tuple[str, str]
    parted: int


@dataclass(frozen=True)
class Copies:
    """The first of the `found` pairs. `most` pairs were looked at, among the first `cut` images; 0: among all."""

    found: int
    pairs: tuple[Copy, ...]
    most: int
    cut: int
    repeats: int


@dataclass(frozen=True)
class Placed:
    """An image in a cell of the map's grid. `target`: its class, -1 without."""

    column: int
    row: int
    picture: Picture
    label: str
    target: int


@dataclass(frozen=True)
class CodesMap:
    """`points` of the `images` were laid out by their codes, `placed` are drawn. `method`: a value of map_method."""

    spec: str
    method: str
    points: int
    images: int
    columns: int
    rows: int
    placed: tuple[Placed, ...]
