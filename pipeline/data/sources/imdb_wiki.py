"""Faces of IMDB-WIKI (Rothe, Timofte and Van Gool 2015), labelled female or male: `wiki.mat` or `imdb.mat`, and crops.

The file holds one struct, `wiki` or `imdb`, of 1 x n fields, one entry a picture: `dob` (Matlab's day number of the
birth), `photo_taken` (year), `full_path` (of the crop, relative to the folder of the file), `gender` (0 female, 1 male,
NaN unknown), `name`, `face_score` (-inf: no face found), `second_face_score` (NaN: no second face); imdb also
`celeb_id`. Kept are pictures of one clear face whose person's gender is known and whose age is from 0 to 100.

All pictures of a person are one group, so that no split parts them. Matlab's version 7.3 is another format (HDF5).
"""

from __future__ import annotations

import datetime
import logging
import posixpath
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UserError
from pipeline.base.failing import reading
from pipeline.config import DatasetParams
from pipeline.data.links import NOT_FOLLOWED, Links
from pipeline.data.manifest import Failure, printable
from pipeline.data.sources.base import Listing, Record

GENDERS = ("female", "male")
OLDEST = 100
_STRUCTS = {"wiki.mat": "wiki", "imdb.mat": "imdb"}
_NUMBERS = ("dob", "photo_taken", "gender", "face_score", "second_face_score")
# Bytes of a file, packed and unpacked. imdb.mat, the larger of the two, has some tens of megabytes.
_MOST_BYTES = 1_000_000_000
_HEADER_BYTES, _COMPRESSED, _VERSION_7_3 = 128, 15, b"\0\2IM"
# What scipy raises on files that are cut short or made up.
_BROKEN = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OSError,
    EOFError,
    NotImplementedError,
    MemoryError,
    OverflowError,
    zlib.error,
    struct.error,
)
# Matlab counts days from year 0, Python from year 1.
_MATLAB_DAYS = 366
_MIDYEAR = 7

log = logging.getLogger(__name__)


def read(params: DatasetParams, images: Path) -> Listing:
    """The faces listed by the file `params.root` whose score is at least `params.face_score`.

    Raises UserError if the file is missing, of another layout, broken, or lists no such face.
    """
    path = Path(params.root)
    if path.name not in _STRUCTS or not path.is_file():
        raise UserError(
            f"dataset.root: {params.root} is not a file of IMDB-WIKI",
            allowed=f"the path of {' or '.join(_STRUCTS)}, among its folders of crops",
            see="docs/params.md",
        )
    fields = _fields(path, _STRUCTS[path.name])
    reasons = _reasons(fields, params.face_score)
    kept = [i for i, reason in enumerate(reasons) if not reason]
    left_out = Counter(reason for reason in reasons if reason)
    if left_out:
        log.info("left out: %s", ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items())))
    if not kept:
        raise UserError(
            f"{path} lists no face that is wanted ({', '.join(f'{n} {why}' for why, n in sorted(left_out.items()))})",
            allowed=f"faces with a score of at least {params.face_score:g}",
        )
    records = [Record(_path(fields, i, path), GENDERS[int(fields["gender"][i])], _person(fields, i)) for i in kept]
    links = Links(str(path.parent), follow=params.follow_links)
    followed = [r for r in records if links.may_follow(r.path)]
    others = {r.path for r in records} - {r.path for r in followed}
    passed_by = [Failure(printable(p), NOT_FOLLOWED, "not_followed") for p in sorted(others)]
    return Listing(path.parent, followed, passed_by, links=links)


def age(born: float, taken: float) -> float:
    """Full years at the middle of the year `taken`, for a birth on Matlab's day `born`; NaN where that is no day.

    The files know only the year of a photograph, hence its middle.
    """
    day = born - _MATLAB_DAYS
    if not (1 <= day <= datetime.date.max.toordinal()) or not np.isfinite(taken):
        return float("nan")
    birth = datetime.date.fromordinal(int(day))
    return taken - birth.year - (birth.month >= _MIDYEAR)


def _reasons(fields: dict[str, NDArray[Any]], least_score: float) -> list[str]:
    """Why each picture is left out, "" if it is kept."""
    gender, score, second = fields["gender"], fields["face_score"], fields["second_face_score"]
    ages = np.array([age(born, taken) for born, taken in zip(fields["dob"], fields["photo_taken"], strict=True)])
    tests = {
        "without one clear face": ~(score >= least_score) | ~np.isfinite(score),
        "with a second face": ~np.isnan(second),
        "of unknown gender": ~((gender == 0) | (gender == 1)),
        f"of an age outside 0 to {OLDEST}": ~((ages >= 0) & (ages <= OLDEST)),
    }
    return [next((reason for reason, fails in tests.items() if fails[i]), "") for i in range(len(gender))]


def _person(fields: dict[str, NDArray[Any]], i: int) -> str:
    """imdb numbers its people; wiki names them; where it doesn't, a crop's file name begins with the page's number."""
    if "celeb_id" in fields:
        return f"id {fields['celeb_id'][i]:.0f}"
    name = _text(fields["name"][i]).strip()
    return name or f"page {posixpath.basename(_text(fields['full_path'][i])).partition('_')[0]}"


def _path(fields: dict[str, NDArray[Any]], i: int, where: Path) -> str:
    text = _text(fields["full_path"][i])
    path = posixpath.normpath(text.replace("\\", "/")) if text else ""
    if not path or path.startswith(("/", "../")) or path in (".", "..") or "\0" in path:
        raise UserError(f"{where} lists the path {text!r}", allowed="a path inside the folder of the file")
    return path


def _text(cell: Any) -> str:
    """A cell of text is an array of one string; of an empty text, an array of none."""
    values = np.ravel(cell)
    return str(values[0]) if values.size and values.dtype.kind == "U" else ""


def _fields(path: Path, name: str) -> dict[str, NDArray[Any]]:
    """The struct's fields, each (n,): numbers as float64, text as arrays of cells."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    _require_bounded(path)
    try:
        found = loadmat(path, variable_names=[name])
    except (MatReadError, *_BROKEN) as e:
        raise UserError(f"{path} is not a whole file of Matlab's ({e}); it may have been cut short") from None
    try:
        record = found[name][0, 0]
        names = set(record.dtype.names)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UserError(f"{path} holds no struct {name}", allowed=f"{name} with {', '.join(_wanted())}") from None
    missing = [field for field in _wanted() if field not in names]
    if missing:
        raise UserError(f"{path}: {name} has no {', '.join(missing)}", allowed=", ".join(_wanted()))
    fields = {field: np.ravel(record[field]) for field in (*_wanted(), *({"celeb_id"} & names))}
    lengths = {field: len(values) for field, values in fields.items()}
    if len(set(lengths.values())) != 1:
        raise UserError(f"{path}: {name} has fields of different lengths: {lengths}", allowed="one entry a picture")
    for field in (*_NUMBERS, *({"celeb_id"} & fields.keys())):
        if fields[field].dtype.kind not in "fiub":
            raise UserError(f"{path}: {name}.{field} holds {fields[field].dtype}", allowed="numbers")
        fields[field] = fields[field].astype(np.float64)
    return fields


def _wanted() -> tuple[str, ...]:
    return (*_NUMBERS, "full_path", "name")


def _require_bounded(path: Path) -> None:
    """Raises UserError if the file, or what is packed in it, is larger than any of IMDB-WIKI, or its parts lie."""
    size = path.stat().st_size
    with reading(path) as f:
        if f.read(_HEADER_BYTES).endswith(_VERSION_7_3):
            raise UserError(
                f"{path} is of Matlab's version 7.3", allowed="version 5 to 7, as published: save(..., '-v7')"
            )
        at, unpacked = _HEADER_BYTES, 0
        while at + 8 <= size <= _MOST_BYTES:
            kind, length = struct.unpack("<II", f.read(8))
            if length > size - at - 8:
                raise UserError(f"{path} is not a whole file of Matlab's: {length} bytes are announced")
            if kind == _COMPRESSED:
                unpacked += _unpacked_bytes(f.read(length), path)
            else:
                f.seek(length, 1)
            at += 8 + length
    if size > _MOST_BYTES or unpacked > _MOST_BYTES:
        raise UserError(f"{path} has {max(size, unpacked)} bytes", allowed=f"at most {_MOST_BYTES}")


def _unpacked_bytes(packed: bytes, path: Path) -> int:
    """How long a compressed part is, a piece at a time; it stops beyond the most that is allowed."""
    unpacker, total = zlib.decompressobj(), 0
    try:
        piece = unpacker.decompress(packed, 1 << 20)
        while piece and total <= _MOST_BYTES:
            total += len(piece)
            piece = unpacker.decompress(unpacker.unconsumed_tail, 1 << 20)
    except zlib.error as e:
        raise UserError(f"{path} is not a whole file of Matlab's ({e})") from None
    return total
