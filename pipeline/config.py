"""params.yaml, typed and closed: one model per section; an unknown key, a missing key or a wrong type is an error.

Nothing that changes a result has a default in code: the defaults are the shipped params.yaml.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UserError

POOLINGS = ("flatten", "avg", "max", "spp", "gem")
_SPEC = re.compile(rf"(?P<layer>[a-z]+[0-9_]*(?:\.pre)?)-(?P<pooling>{'|'.join(POOLINGS)})(?P<l2>-l2)?")


class Section(BaseModel):
    """A section of params.yaml: closed, strictly typed, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LayerSpec(BaseModel):
    """One kind of code: a layer, how its map is pooled, and whether the row is L2-normalised."""

    model_config = ConfigDict(frozen=True)
    layer: str
    pooling: str
    l2: bool = False

    @classmethod
    def parse(cls, text: str, *, pooling: str = "") -> LayerSpec:
        """`conv5_3-avg`, `pool5-flatten-l2`, `conv1_1.pre-max`; a bare layer name takes `pooling`.

        Raises UserError on anything else. Whether the architecture has the layer is checked by `nets`.
        """
        if pooling and "-" not in text:
            text = f"{text}-{pooling}"
        match = _SPEC.fullmatch(text)
        if match is None:
            raise UserError(
                f"layer spec {text!r} is not LAYER-POOLING or LAYER-POOLING-l2",
                allowed=f"a layer name, then one of {', '.join(POOLINGS)}, e.g. conv5_3-avg or pool5-flatten-l2",
                see="`cnncodes layers --arch vgg16`",
            )
        return cls(layer=match["layer"], pooling=match["pooling"], l2=match["l2"] is not None)

    @property
    def name(self) -> str:
        return f"{self.layer}-{self.pooling}" + ("-l2" if self.l2 else "")


def _is_spec(text: str) -> str:
    try:
        LayerSpec.parse(text)
    except UserError as e:
        raise ValueError(str(e)) from None
    return text


Spec = Annotated[str, AfterValidator(_is_spec)]

# Hasher -> the parameter that the number in a spec's name sets, "" where it takes none. `cosine` keeps the floats.
HASHER_NUMBERS = {
    "cosine": "",
    "sigmoid": "",
    "topk": "k",
    "median": "",
    "lsh": "nbits",
    "pca": "nbits",
    "itq": "nbits",
    "dbn": "nbits",
    "learned": "nbits",
    "supervised": "nbits",
}
_HASH_SPEC = re.compile(r"(?P<hasher>[a-z]+)(?P<number>[1-9][0-9]{0,5})?-(?P<codes>.+)")


class HashSpec(BaseModel):
    """One way to search: a hasher, its number where it takes one, and the codes that it hashes."""

    model_config = ConfigDict(frozen=True)
    hasher: str
    number: int | None
    codes: LayerSpec

    @classmethod
    def parse(cls, text: str) -> HashSpec:
        """`itq64-conv5_3-avg`, `topk256-pool5-flatten`, `sigmoid-pool5-flatten`, `cosine-conv5_3-avg`.

        Raises UserError on anything else. Whether there are such codes is checked where they are read.
        """
        match = _HASH_SPEC.fullmatch(text)
        if match is None or match["hasher"] not in HASHER_NUMBERS:
            raise UserError(
                f"hash spec {text!r} is not HASHER[NUMBER]-LAYER-POOLING",
                allowed=f"one of {', '.join(HASHER_NUMBERS)}, then codes, e.g. itq64-conv5_3-avg",
                see="docs/params.md",
            )
        sets, number = HASHER_NUMBERS[match["hasher"]], match["number"]
        if bool(sets) != bool(number):
            wanted = f"{match['hasher']}64-{match['codes']}, where 64 is {sets}" if sets else "no number after its name"
            raise UserError(f"hash spec {text!r} has {number or 'no number'} for {match['hasher']}", allowed=wanted)
        if sets == "nbits" and int(number) % 8:
            raise UserError(f"hash spec {text!r} asks for {number} bits", allowed="a multiple of 8")
        return cls(
            hasher=match["hasher"], number=int(number) if number else None, codes=LayerSpec.parse(match["codes"])
        )

    @property
    def name(self) -> str:
        return f"{self.hasher}{self.number or ''}-{self.codes.name}"

    @property
    def parameters(self) -> dict[str, int]:
        """What the number sets, by the hasher's name for it."""
        return {} if self.number is None else {HASHER_NUMBERS[self.hasher]: self.number}


def _is_hash_spec(text: str) -> str:
    try:
        HashSpec.parse(text)
    except UserError as e:
        raise ValueError(str(e)) from None
    return text


HashSpecName = Annotated[str, AfterValidator(_is_hash_spec)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class DatasetParams(Section):
    source: Literal["folder", "torchvision", "hdf5", "openmoji"]
    root: str = Field(min_length=1, description="image folder or HDF5 file; a committed marker for other sources")
    name: str = Field(description="torchvision: the dataset class, e.g. Flowers102; '' otherwise")
    splits: Literal["random", "folders"]
    val_share: Fraction
    test_share: Fraction
    repeats: int = Field(ge=1, le=100)
    seed: int = Field(ge=0)
    on_error: Literal["skip", "fail"]
    max_failed_share: Fraction
    max_pixels: int = Field(
        gt=0, le=178_956_970, description="an image with more pixels is refused as a decompression bomb"
    )
    draw_size: int = Field(ge=16, le=1024, description="openmoji: side in pixels of the drawn images")


class WeightsParams(Section):
    arch: str
    source: str = Field(min_length=1, description="demo, torchvision:NAME, random:SEED, or file")
    file: str = Field(min_length=1, description="the weights file where source is `file`; else a committed marker")

    @classmethod
    def of(cls, arch: str, source: str) -> WeightsParams:
        """As on a command line, where `source` may also be the path of a weights file."""
        if source == "demo" or source.partition(":")[0] in ("torchvision", "random"):
            return cls(arch=arch, source=source, file="-")
        return cls(arch=arch, source="file", file=source or "-")


class CodesParams(Section):
    layers: list[Spec] = Field(min_length=1)
    view: Literal["crop", "whole", "squash"]
    crop: int = Field(ge=1, description="crop and squash: side in pixels of the network's input")
    scales: list[int] = Field(min_length=1, description="shorter side in pixels before the crop, one view each")
    flip: bool = Field(description="adds the mirrored view")
    combine: Literal["average", "stack"]
    background: tuple[int, int, int] | list[int] = Field(description="RGB under transparent pixels, 0..255")
    reduced_decode: bool = Field(description="let libjpeg decode large JPEGs at 1/2, 1/4 or 1/8")
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    dtype: Literal["float16", "float32"]
    device: Literal["auto", "cpu", "cuda", "mps"]
    batch_size: int = Field(ge=1, le=4096)
    compile: bool

    @model_validator(mode="after")
    def _check(self) -> CodesParams:
        if len(set(self.layers)) != len(self.layers):
            raise ValueError("codes.layers names a spec twice")
        if any(s < 1 for s in self.scales):
            raise ValueError("codes.scales must be positive")
        if self.view == "crop" and any(s < self.crop for s in self.scales):
            raise ValueError(f"codes.scales {self.scales} must not be below codes.crop {self.crop}")
        if self.view == "squash" and self.scales != [self.crop]:
            raise ValueError("with view: squash, codes.scales must be [codes.crop]")
        if self.view == "whole" and any(LayerSpec.parse(s).pooling == "flatten" for s in self.layers):
            raise ValueError("flatten needs images of one size: use view: crop or squash, or another pooling")
        if len(self.background) != 3 or any(not 0 <= v <= 255 for v in self.background):
            raise ValueError("codes.background must be three numbers from 0 to 255")
        return self


class HeadsParams(Section):
    heads: list[Literal["svm", "svm_cs", "softmax", "softmax_l1", "softmax_elastic", "knn"]] = Field(min_length=1)
    scaling: Literal["l2", "standardise", "none"]
    c_grid: list[float] = Field(min_length=1)
    k_grid: list[int] = Field(min_length=1)
    class_weight: Literal["none", "balanced"]
    memory_mb: int = Field(ge=16, description="codes above this are streamed")
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _check(self) -> HeadsParams:
        if any(c <= 0 for c in self.c_grid) or any(k < 1 for k in self.k_grid):
            raise ValueError("heads.c_grid must be positive and heads.k_grid at least 1")
        return self


ApproximateIndex = Literal["multihash", "ivf", "hnsw"]


class RetrievalParams(Section):
    specs: list[HashSpecName] = Field(min_length=1)
    settings: dict[str, dict[str, int | float | str | list[int]]] = Field(
        description="of a hasher, where they are not its own defaults"
    )
    approximate: dict[ApproximateIndex, dict[str, int]] = Field(
        description="approximate indexes whose recall is measured, with their settings; {} for none"
    )
    k: int = Field(ge=1, description="AP and precision at k; the whole database where it is smaller")
    neighbours: int = Field(ge=1, description="true cosine neighbours of a query that recall asks for")
    radius: int = Field(ge=0, description="bits; precision within it")
    max_queries: int = Field(ge=1, description="of more test images, so many are drawn")
    timed_queries: int = Field(ge=1, le=100_000)
    c_grid: list[float] = Field(min_length=1, description="C of the linear head on the bits, chosen on validation")
    memory_mb: int = Field(ge=16, description="of the linear head's rows; above this they are streamed")
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _check(self) -> RetrievalParams:
        if len(set(self.specs)) != len(self.specs):
            raise ValueError("retrieval.specs names a spec twice")
        if any(c <= 0 for c in self.c_grid):
            raise ValueError("retrieval.c_grid must be positive")
        unknown = sorted(set(self.settings) - (set(HASHER_NUMBERS) - {"cosine"}))
        if unknown:
            raise ValueError(f"retrieval.settings names {unknown}, which are no hashers")
        for hasher, values in self.settings.items():
            if HASHER_NUMBERS[hasher] in values:
                raise ValueError(f"retrieval.settings.{hasher}.{HASHER_NUMBERS[hasher]} belongs in the spec's name")
        return self


class ReportParams(Section):
    selection: Literal["accuracy", "mean_class_recall", "macro_f1"]
    learning_curve: list[Annotated[float, Field(gt=0.0, le=1.0)]]
    map_images: int = Field(ge=0, le=5000)
    map_method: Literal["pca", "tsne"]
    alpha: float = Field(gt=0, lt=0.5, description="level of the tests that mark differences within noise")
    seed: int = Field(ge=0)


SECTIONS: dict[str, type[Section]] = {
    "dataset": DatasetParams,
    "weights": WeightsParams,
    "codes": CodesParams,
    "heads": HeadsParams,
    "retrieval": RetrievalParams,
    "report": ReportParams,
}
S = TypeVar("S", bound=Section)


def load(model: type[S], path: str | Path = "params.yaml") -> S:
    """The section of `model` in a params file.

    Raises UserError that names every bad key, what came, and what is allowed.
    """
    section = next(name for name, m in SECTIONS.items() if m is model)
    values = read_params(path)
    if section not in values:
        raise UserError(f"{path} has no section {section!r}", allowed=list(SECTIONS), see="the shipped params.yaml")
    return validate(model, values[section], where=f"{path}: {section}")


def read_params(path: str | Path) -> dict[str, Any]:
    """The sections of a params file as plain values. Raises UserError if it is missing, not YAML, or has others."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no {path} here", see="README.md, which starts in the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is not YAML: {' '.join(str(e).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds {type(values).__name__}, not sections", allowed=list(SECTIONS))
    unknown = sorted(set(values) - set(SECTIONS), key=str)
    if unknown:
        raise UserError(f"{path} has unknown sections {unknown}", allowed=list(SECTIONS))
    return values


def validate(model: type[S], values: Any, *, where: str) -> S:
    """`values` as a record of `model`. Raises UserError listing every problem with its key."""
    try:
        return model.model_validate(values)
    except ValidationError as e:
        lines = []
        for err in e.errors():
            key = ".".join(str(p) for p in err["loc"]) or "(section)"
            if err["type"] == "extra_forbidden":
                lines.append(f"{key}: unknown key (allowed: {', '.join(model.model_fields)})")
            elif err["type"] == "missing":
                lines.append(f"{key}: missing")
            else:
                got = "" if key == "(section)" else f", got {err['input']!r}"
                lines.append(f"{key}: {err['msg'].removeprefix('Value error, ')}{got}")
        raise UserError(f"{where} has {len(lines)} problem(s): " + " | ".join(lines), see="docs/params.md") from None
