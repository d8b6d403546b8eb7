"""torchvision's image classification sets, by name, or by name and splits: `Flowers102`, `Flowers102:train+val`.

They lie in `dataset.root` if that is a folder, else in the cache, and are downloaded there when they are missing. With
`dataset.splits: folders` a set's own splits are kept, else its images are pooled.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from pipeline.base import disk
from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.config import DatasetParams
from pipeline.data.sources.base import Listing, Record, class_names, numbered, save_all

_Splits = dict[str, dict[str, Any]]  # our name of a split ("" where the set has none) -> arguments that choose it

_TRAIN_FLAG: _Splits = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST: _Splits = {s: {"split": s} for s in ("train", "test")}
_ALL_THREE: _Splits = {s: {"split": s} for s in ("train", "val", "test")}
_NONE: _Splits = {"": {}}

SETS: dict[str, _Splits] = {
    "CIFAR10": _TRAIN_FLAG,
    "CIFAR100": _TRAIN_FLAG,
    "CLEVRClassification": _ALL_THREE,
    "Caltech101": _NONE,
    "Caltech256": _NONE,
    "Country211": {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
    "DTD": _ALL_THREE,
    "EMNIST": {s: {"split": "balanced", "train": s == "train"} for s in ("train", "test")},
    "EuroSAT": _NONE,
    "FGVCAircraft": _ALL_THREE,
    "FakeData": {"train": {"size": 60, "random_offset": 0}, "test": {"size": 30, "random_offset": 60}},
    "FashionMNIST": _TRAIN_FLAG,
    "Flowers102": _ALL_THREE,
    "Food101": _TRAIN_TEST,
    "GTSRB": _TRAIN_TEST,
    "ImageNet": {s: {"split": s} for s in ("train", "val")},
    "Imagenette": {s: {"split": s} for s in ("train", "val")},
    "KMNIST": _TRAIN_FLAG,
    "LFWPeople": _TRAIN_TEST,
    "MNIST": _TRAIN_FLAG,
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "PCAM": _ALL_THREE,
    "Places365": {s: {"split": k, "small": True} for s, k in (("train", "train-standard"), ("val", "val"))},
    "QMNIST": _TRAIN_FLAG,
    "RenderedSST2": _ALL_THREE,
    "SEMEION": _NONE,
    "STL10": _TRAIN_TEST,
    "SUN397": _NONE,
    "SVHN": _TRAIN_TEST,
    "StanfordCars": _TRAIN_TEST,
    "USPS": _TRAIN_FLAG,
}


def read(params: DatasetParams, images: Path) -> Listing:
    """Unpacks a set into `images`; sets of files are copied as they are. Raises UserError if it can't be had."""
    name, chosen = _chosen(params.name)
    root = Path(params.root) if Path(params.root).is_dir() else cache_root() / "torchvision"
    records = []
    for split, arguments in chosen.items():
        dataset = _open(name, root, arguments)
        names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or ()
        paths: list[str] = []
        targets: list[int] = []
        _unpack(_pairs(dataset, split, paths, targets), images, what=f"torchvision's {name}")
        labels = class_names((_class_name(c) for c in names), max(targets, default=0) + 1)
        own = split if params.splits == "folders" else ""
        records += [Record(p, labels[t], split=own) for p, t in zip(paths, targets, strict=True)]
    return Listing(images, records)


def _chosen(text: str) -> tuple[str, _Splits]:
    """The set and its splits for NAME or NAME:SPLIT+SPLIT."""
    name, colon, wanted = text.partition(":")
    if name not in SETS:
        raise UserError(f"dataset.name: torchvision has no image classification set {name!r}", allowed=SETS)
    if not colon:
        return name, SETS[name]
    unknown = [s for s in wanted.split("+") if not s or s not in SETS[name]]
    if unknown:
        own = ", ".join(s for s in SETS[name] if s) or "none; give the name alone"
        raise UserError(f"dataset.name: {name} has no split {unknown[0]!r}", allowed=own)
    return name, {s: SETS[name][s] for s in wanted.split("+")}


def _open(name: str, root: Path, arguments: dict[str, Any]) -> Any:
    import torchvision.datasets

    make = getattr(torchvision.datasets, name)
    known = inspect.signature(make).parameters
    if "root" in known:
        root.mkdir(parents=True, exist_ok=True)
        arguments = arguments | {"root": str(root)}
    if "download" in known or ("kwargs" in known and name != "ImageNet"):  # ImageNet must be fetched by hand
        arguments = arguments | {"download": True}
    if "loader" in known:
        arguments = arguments | {"loader": Path}  # gives the file itself, so that it is copied, not coded again
    try:
        return make(**arguments)
    except (OSError, RuntimeError) as e:
        reason = " ".join(str(e).split())
        raise UserError(
            f"torchvision's {name} is not whole in {root} and can't be downloaded ({reason})",
            allowed="a network, or the set's files put there by hand",
            see=f"the documentation of torchvision.datasets.{name}",
        ) from e


def _pairs(dataset: Any, split: str, paths: list[str], targets: list[int]) -> Iterator[tuple[str, Any]]:
    """(relative path, image or file), noting the paths and class numbers as it goes."""
    for i in range(len(dataset)):
        image, target = dataset[i]
        path = numbered(f"{split or 'all'}/", i)
        paths.append(str(PurePath(path).with_suffix(image.suffix)) if isinstance(image, Path) else path)
        targets.append(int(target))
        yield paths[-1], image


def _unpack(pairs: Iterator[tuple[str, Any]], images: Path, *, what: str) -> None:
    try:
        save_all(pairs, images)
    except OSError as e:
        disk.raise_if_disk(e, images)
        raise UserError(f"{what} can't be unpacked: {e}") from e


def _class_name(value: object) -> str:
    """ImageNet names a class by several words, of which the first is enough."""
    return str(value[0]) if isinstance(value, tuple) else str(value)
