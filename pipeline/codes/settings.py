"""The record of everything that changes a code's value: its fingerprint is the store's key.

`auto` is resolved here, before anything is keyed: codes of two precisions or devices never meet under one key. Torch is
loaded only where there may be a GPU to ask for.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, model_validator

from pipeline.base import json_files
from pipeline.base.errors import UserError
from pipeline.config import CodesParams, LayerSpec, Section
from pipeline.data import views
from pipeline.nets import backbone, pooling
from pipeline.nets.pooling import POOLINGS

log = logging.getLogger(__name__)

# Raised whenever the same pixels, or the same file of any kind, could give other values than before: every key changes
# with it. What a version of the decoder changed of some kinds of file alone is in the names of their rows, and their
# rows alone are made again (`Manifest.pixel_digests`).
PREPROCESSING_VERSION = "1.1"

Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["cpu", "cuda", "mps"]

# Says what `auto` means of a precision, in place of what suits the device; see `resolve_precision`.
AUTO_PRECISION = "CNNCODES_PRECISION"

# Processors that multiply bf16 faster than float32 say so by one of these words in /proc/cpuinfo (x86, then ARM).
_FAST_BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}
_CPUINFO = Path("/proc/cpuinfo")
# One of these exists where a Linux machine could have a GPU that torch can use (NVIDIA, WSL, AMD).
_GPU_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


class Normalisation(Section):
    """y = (x * scale - mean) / std for x in 0..255, per channel in the order `channels`."""

    channels: Literal["rgb", "bgr"]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Settings(Section):
    """How the codes of one spec are made, with nothing left to a default. `resolve` makes one per spec."""

    arch: str
    weights_sha256: str
    normalisation: Normalisation
    preprocessing_version: str
    layer: str
    pooling: str
    pooling_settings: dict[str, float | list[int]]
    sigmoid: bool = False  # in the record of soft codes alone: those of others are older than it, and keep their keys
    l2: bool
    view: Literal["crop", "whole", "squash"]
    crop: int | None
    scales: tuple[int, ...]
    flip: bool
    combine: Literal["average", "stack"]
    resampling: str
    geometry: views.Geometry = "rounded"  # in the record of others alone, as `sigmoid` is
    background: tuple[int, int, int]
    reduced_decode: bool
    precision: Precision
    dtype: Literal["float16", "float32"]
    device: Device
    images_per_batch: int
    compile: bool

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.pooling not in POOLINGS:
            raise ValueError(f"unknown pooling {self.pooling!r}")
        if self.resampling not in views.FILTERS:
            raise ValueError(f"unknown resampling {self.resampling!r}")
        return self

    @property
    def spec(self) -> LayerSpec:
        return LayerSpec(layer=self.layer, pooling=self.pooling, sigmoid=self.sigmoid, l2=self.l2)

    @property
    def key(self) -> str:
        """64 hex digits, the store's folder for these codes."""
        return json_files.fingerprint(self.as_json())

    @property
    def views_per_image(self) -> int:
        return len(self.scales) * (2 if self.flip else 1)

    @property
    def row_bytes_per_value(self) -> int:
        return 2 if self.dtype == "float16" else 4

    def as_json(self) -> dict[str, Any]:
        """Plain values: what `cnncodes info` prints and every file of codes carries."""
        usual = {"sigmoid"} if not self.sigmoid else set()
        usual |= {"geometry"} if self.geometry == "rounded" else set()
        return self.model_dump(mode="json", exclude=usual)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """The record that `as_json` gave. Raises UserError if this version cannot make such codes."""
        try:
            found = cls.model_validate_json(json.dumps(dict(values)))
        except ValidationError as e:
            keys = ", ".join(".".join(map(str, err["loc"])) or err["msg"] for err in e.errors())
            raise UserError(
                f"these codes were made by another version: {keys} do not fit", see="run `dvc repro`"
            ) from None
        if found.preprocessing_version != PREPROCESSING_VERSION:
            raise UserError(
                f"these codes have preprocessing version {found.preprocessing_version}",
                allowed=f"version {PREPROCESSING_VERSION}; extract them again",
            )
        return found

    def dim(self, *, num_classes: int) -> int:
        """Values a row. Raises UserError if the layer does not fit the size of the images."""
        # The smallest view decides whether a layer fits; where views differ in size, no pooling's dim depends on it.
        side = self.crop if self.crop is not None else min(self.scales)
        about = backbone.find(self.arch)
        shape = about.shape(self.layer, side, side, num_classes=num_classes)
        pooled = pooling.dim(self.pooling, about.require(self.layer), shape, height=side, width=side)
        return pooled * (len(self.scales) if self.combine == "stack" else 1)


def resolve(
    params: CodesParams,
    *,
    arch: str,
    weights_sha256: str,
    normalisation: Normalisation,
    resampling: str = views.RESAMPLING,
    geometry: views.Geometry = "rounded",
) -> dict[str, Settings]:
    """Spec name -> settings, in the order asked, with `auto` made concrete for this machine.

    Raises UserError on an unknown layer, and on a device or precision that this machine lacks.
    """
    device = resolve_device(params.device)
    whole = params.view == "whole"
    views_per_image = len(params.scales) * (2 if params.flip else 1)
    common: dict[str, Any] = {
        "arch": arch,
        "weights_sha256": weights_sha256,
        "normalisation": normalisation,
        "preprocessing_version": PREPROCESSING_VERSION,
        "view": params.view,
        "crop": None if whole else params.crop,
        "scales": tuple(params.scales),
        "flip": params.flip,
        "combine": params.combine,
        "resampling": resampling,
        "geometry": geometry,
        "background": tuple(params.background),
        "reduced_decode": params.reduced_decode,
        "precision": resolve_precision(params.precision, device),
        "dtype": params.dtype,
        "device": device,
        # A row in float32 can depend on the size of its batch, so that size is part of the key. Whole images differ in
        # size from one to the next: each is a batch of its own.
        "images_per_batch": 1 if whole else max(1, params.batch_size // views_per_image),
        "compile": params.compile,
    }
    found = {}
    for text in params.layers:
        spec = LayerSpec.parse(text)
        pooling.require(spec.pooling, backbone.find(arch).require(spec.layer))
        found[spec.name] = Settings(
            layer=spec.layer,
            pooling=spec.pooling,
            pooling_settings=POOLINGS[spec.pooling].settings,
            sigmoid=spec.sigmoid,
            l2=spec.l2,
            **common,
        )
    return found


def resolve_device(asked: str) -> Device:
    """auto -> cuda, else mps, else cpu. Raises UserError if the asked device is not there."""
    if asked == "cpu" or (asked == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    here: dict[Device, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    usable = [name for name, there in here.items() if there]
    if asked == "auto":
        return usable[0]
    for name in usable:
        if name == asked:
            return name
    raise UserError(f"device {asked} is not on this machine", allowed=["auto", *usable], see="codes.compute.device")


def resolve_precision(asked: str, device: Device) -> Precision:
    """auto -> `$CNNCODES_PRECISION`, fp32 or bf16; without it bf16 where the device is fast at it, else float16 on a
    GPU and float32 on a processor. Raises UserError on another value of that variable."""
    explicit: dict[str, Precision] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
    if asked in explicit:
        return explicit[asked]
    if asked != "auto":
        raise UserError(f"unknown precision {asked!r}", allowed=["auto", *explicit], see="codes.compute.precision")
    if chosen := os.environ.get(AUTO_PRECISION):
        if chosen not in ("fp32", "bf16"):
            raise UserError(f"{AUTO_PRECISION} is {chosen!r}", allowed="fp32 or bf16, or not set", see="docs/params.md")
        return explicit[chosen]
    if device == "cuda":
        import torch

        # Emulated bf16 (before Ampere) is slower than float16.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device == "mps":
        return "fp16"
    return "bf16" if _fast_bf16_processor() else "fp32"


def settings_here(
    made: Mapping[str, Any], *, device: str | None = None, precision: str | None = None
) -> dict[str, Any]:
    """How this machine makes more codes of the kind that `made` (`Codes.settings`) says, as `Settings.as_json`.

    On the same device and in the same precision, so that they agree to the last digit, unless others are named; and on
    the processor where that device is not here, with a warning. Raises UserError if a named device is not here, or
    there is no such precision.
    """
    settings = Settings.from_json(made).as_json()
    try:
        found = resolve_device(device or settings["device"])
    except UserError:
        if device is not None:
            raise
        log.warning(
            "%s made these codes and is not here: on the processor values may differ in their last digits",
            settings["device"],
        )
        found, precision = "cpu", precision or "auto"
    chosen = settings["precision"] if precision is None else resolve_precision(precision, found)
    compiled = settings["compile"] and found == settings["device"]
    return settings | {"device": found, "precision": chosen, "compile": compiled}


def _may_have_gpu() -> bool:
    """False only where there is surely none, which spares loading torch to find out."""
    return sys.platform != "linux" or any(Path(name).exists() for name in _GPU_DEVICE_FILES)


def _fast_bf16_processor() -> bool:
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    return found is not None and not _FAST_BF16_FLAGS.isdisjoint(found[1].split())
