"""The manifest: one row an image, sorted by id, with its splits. Everything later reads images through it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.base import csv_files, disk, json_files
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.data.listed import stays_below

SPLITS = ("train", "val", "test")
FAILURES = "failures.csv"
IMAGES = "images"  # the folder, beside manifest.csv, of the images that a source drew or unpacked

_COLUMNS = ("id", "path", "label", "group", "sha256", "width", "height", "decoder")
_MARKED = "formulas_marked"

Kind = Literal["left_out", "not_followed", "not_an_image", "unread_format", "broken", "too_large"]

Strings = NDArray[np.str_]
Ints = NDArray[np.int64]


class Failure(NamedTuple):
    """A file, or a folder with all that is in it, that is left out, why, in words, and of which kind that is."""

    path: str
    reason: str
    kind: Kind = "broken"

    @property
    def is_image(self) -> bool:
        """Whether an image is lost: it is broken, or of a format that isn't read, or too large."""
        return self.kind in ("broken", "unread_format", "too_large")


class Limits(NamedTuple):
    """What dataset.max_failed_share and on_error allow, for images that turn out to be broken as they are decoded.

    Of the images that were left out before, `broken` are and `lost` are lost in any way. `kept`: a failures.csv outside
    of the manifest's folder, if that goes away with the command.
    """

    max_failed_share: float
    on_error: str
    broken: int
    lost: int
    kept: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Manifest:
    """Arrays of length n, sorted by id (as text). Raises UserError if they don't fit together.

    `ids` are the first 16 hex digits of the file's sha256, `-`, and an ordinal among files that share them. `paths` are
    relative to `root`, with `/`. `labels` and `groups` are "" where there is none. `widths`, `heights` are pixels as
    shown (after EXIF rotation). `splits` is (repeats, n): train, val or test. `from_source` names the splits that the
    source gave, which are the same in every repeat. `decoders`: the version of the decoder that each image's pixels are
    of (`colours.VERSION`), 0 where that is not known; None: 1 for all. `numbered`: the names of the classes by the
    source's own numbers, () where it has none. `limits`: None where nothing is said of broken images.
    """

    root: Path
    source: str
    ids: Strings
    paths: Strings
    labels: Strings
    groups: Strings
    sha256: Strings
    widths: Ints
    heights: Ints
    splits: Strings
    seed: int
    from_source: tuple[str, ...]
    decoders: Ints | None = None
    numbered: tuple[str, ...] = ()
    limits: Limits | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        columns = [self.paths, self.labels, self.groups, self.sha256, self.widths, self.heights, self.decoder_versions]
        if n == 0 or any(c.shape != (n,) for c in columns) or self.splits.ndim != 2 or self.splits.shape[1] != n:
            raise UserError("a manifest needs one value of each column an image, and at least one image")
        if np.any(self.ids[1:] <= self.ids[:-1]):
            raise UserError("a manifest's ids must be sorted and unique")
        if outside := [path for path in self.paths.tolist() if not stays_below(path)]:
            raise UserError(f"a manifest's path {outside[0]!r} leads out of its folder", allowed="paths below its root")
        if np.any(self.ids.astype("U16") != self.sha256.astype("U16")):
            raise UserError("a manifest's ids must begin with the first 16 digits of sha256")
        if np.any(self.widths < 1) or np.any(self.heights < 1):
            raise UserError("a manifest's widths and heights must be positive")
        # Not np.unique, which loads numpy.ma: a third of a run with nothing to do.
        known = np.logical_or.reduce([self.splits == split for split in SPLITS])
        unknown = sorted(set(self.splits[~known].tolist())) if len(self.splits) else ["(none)"]
        if unknown:
            raise UserError(f"a manifest has splits {unknown}", allowed=SPLITS)
        if self.numbered and (other := sorted(set(self.classes) - set(self.numbered))):
            raise UserError(f"a manifest has the class {other[0]!r}", allowed=self.numbered)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def repeats(self) -> int:
        return len(self.splits)

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted; () when no row has a label."""
        return tuple(str(c) for c in np.unique(self.labels) if c)

    @functools.cached_property
    def targets(self) -> Ints:
        """(n,) index into `classes`, -1 when unlabelled."""
        numbers = np.searchsorted(np.array(self.classes, dtype=np.str_), self.labels)
        return np.where(self.labels == "", -1, numbers).astype(np.int64)

    @functools.cached_property
    def class_numbers(self) -> Ints:
        """(classes,) the number of each of `classes`: the source's own, else its place among them."""
        number = {name: i for i, name in enumerate(self.numbered or self.classes)}
        return np.array([number[name] for name in self.classes], dtype=np.int64)

    def as_stored(self, rows: Ints) -> Ints:
        """Rows in the order of the HDF5 files that their images come from; those of other sources as they are."""
        return rows[np.argsort(self.paths[rows], kind="stable")] if self.source == "hdf5" else rows

    @property
    def decoder_versions(self) -> Ints:
        """(n,), see `decoders`."""
        return np.ones(len(self), dtype=np.int64) if self.decoders is None else self.decoders

    @functools.cached_property
    def pixel_digests(self) -> Strings:
        """(n,) 64 hex digits that name the pixels of each image, and with them all that is made of it and kept.

        The sha256 of the file; where its pixels are of a later version of the decoder than the first, the sha256 of
        that and the version. Raises UserError if the versions are not known.
        """
        if not self.decoder_versions.all():
            raise UserError("this list of images was made by an earlier version of this program", see=_REMAKE)
        return _strings(list(map(pixel_digest, self.sha256.tolist(), self.decoder_versions.tolist())))

    def content(self) -> str:
        """64 hex digits of the ids, labels and splits: all of the images that decides what is fitted on their codes."""
        return json_files.fingerprint([self.ids.tolist(), self.labels.tolist(), self.splits.tolist()])

    def rows(self, split: str, repeat: int = 0) -> Ints:
        """Indices of a split's images in one repeat, ascending. Raises UserError on an unknown split or repeat."""
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}", allowed=SPLITS)
        if not 0 <= repeat < self.repeats:
            raise UserError(f"unknown repeat {repeat}", allowed=f"0 to {self.repeats - 1}")
        return np.flatnonzero(self.splits[repeat] == split).astype(np.int64)

    def file(self, row: int) -> Path:
        return self.root / str(self.paths[row])

    def write(self, folder: str | Path, failures: Sequence[Failure] = ()) -> None:
        """manifest.csv, failures.csv, and last dataset.json, which holds the checksum of the first."""
        folder = Path(folder)
        facts = [self.sha256, self.widths, self.heights, self.decoder_versions]
        columns = [self.ids, self.paths, self.labels, self.groups, *facts, *self.splits]
        header = (*_COLUMNS, *(f"split_{r}" for r in range(self.repeats)))
        text = csv_files.text([header, *zip(*(c.tolist() for c in columns), strict=True)])
        disk.write_text(folder / "manifest.csv", text)
        write_failures(folder, failures)
        inside = self.root == folder / IMAGES
        counts = {s: [int(np.sum(row == s)) for row in self.splits] for s in SPLITS}
        record = {
            "version": VERSIONS["manifest"],
            "source": self.source,
            "root": IMAGES if inside else self.root.as_posix(),
            "root_is_inside": inside,
            "images": len(self),
            "failed": sum(f.is_image for f in failures),
            "classes": {c: int(np.sum(self.labels == c)) for c in self.classes},
            "unlabelled": int(np.sum(self.labels == "")),
            "counts": counts,
            "seed": self.seed,
            "repeats": self.repeats,
            "from_source": list(self.from_source),
            "numbered": list(self.numbered),
            "manifest_sha256": disk.sha256(folder / "manifest.csv"),
        }
        if self.limits is not None:
            record["limits"] = self.limits._asdict()
        if csv_files.holds_marks(text):
            record[_MARKED] = True  # missing in a manifest of earlier versions, whose apostrophes are the label's own
        json_files.write(folder / "dataset.json", record)

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """The manifest in a folder. Raises UserError if it is missing, of another version, changed or cut short."""
        folder = Path(folder)
        record, path = _read_record(folder), folder / "manifest.csv"
        if path.exists() and not path.is_file():  # a pipe has no end, nor have some devices
            raise UserError(f"{path} is not a file", see=_REMAKE)
        try:
            if disk.sha256(path) != record["manifest_sha256"]:
                raise UserError(f"{path} is not the one that {folder / 'dataset.json'} describes", see=_REMAKE)
            header, *rows = csv_files.read(path, marks=record.get(_MARKED, False))
            columns = dict(zip(header, zip(*rows, strict=True), strict=True))
            return cls(
                root=folder / IMAGES if record["root_is_inside"] else Path(record["root"]),
                source=record["source"],
                ids=_strings(columns["id"]),
                paths=_strings(columns["path"]),
                labels=_strings(columns["label"]),
                groups=_strings(columns["group"]),
                sha256=_strings(columns["sha256"]),
                widths=np.array(columns["width"], dtype=np.int64),
                heights=np.array(columns["height"], dtype=np.int64),
                splits=np.array([columns[f"split_{r}"] for r in range(record["repeats"])], dtype=np.str_),
                seed=record["seed"],
                from_source=tuple(record["from_source"]),
                decoders=np.array(columns.get("decoder", [0] * len(rows)), dtype=np.int64),
                numbered=tuple(map(str, record.get("numbered", ()))),
                limits=Limits(**record["limits"]) if "limits" in record else None,  # which earlier versions don't state
            )
        except FileNotFoundError:
            raise UserError(f"{path} does not exist", see=_REMAKE) from None
        except (KeyError, ValueError, TypeError) as e:
            raise UserError(
                f"{folder} holds a manifest of another layout ({type(e).__name__}: {e})", see=_REMAKE
            ) from e


# Of a path (Linux allows 4,096 bytes) or a label.
_MOST_CHARACTERS = 4096
_REMAKE = "`dvc repro dataset`, which makes it again"


def pixel_digest(sha256: str, decoder: int) -> str:
    """See `Manifest.pixel_digests`."""
    return sha256 if decoder == 1 else hashlib.sha256(f"{sha256} decoder {decoder}".encode()).hexdigest()


def printable(path: str) -> str:
    """A path as text that can be written: bytes of a name that are not Unicode as escapes."""
    return path.encode(errors="backslashreplace").decode()


def write_failures(folder: Path, failures: Iterable[Failure]) -> None:
    """failures.csv, sorted by path."""
    disk.write_text(folder / FAILURES, csv_files.text([Failure._fields, *sorted(failures)]))


def read_failures(folder: str | Path) -> list[Failure]:
    """The files that were left out, sorted by path. Raises UserError if failures.csv is missing.

    An older one has no kinds: all are broken.
    """
    path = Path(folder) / FAILURES
    try:
        rows = csv_files.read(path)[1:]
        return [Failure(path, reason, *cast(list[Kind], kind)) for path, reason, *kind in rows]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", see=_REMAKE) from None


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not path.exists():
        raise UserError(f"{folder} holds no dataset: it lacks {path.name}", see=_REMAKE)
    record = json_files.read(path)
    version = record.get("version") if isinstance(record, dict) else None
    if version != VERSIONS["manifest"]:
        raise UserError(f"{path} is of version {version}", allowed=[VERSIONS["manifest"]], see=_REMAKE)
    return dict(record)


def _strings(values: Sequence[str]) -> Strings:
    """Each takes as many characters as the longest does. Raises ValueError where one is out of all proportion."""
    longest = max(map(len, values), default=0)
    if longest > _MOST_CHARACTERS:
        raise ValueError(f"a value of {longest:,} characters, where at most {_MOST_CHARACTERS:,} are read")
    return np.array(values, dtype=np.str_)
