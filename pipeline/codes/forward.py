"""Batches of uint8 views through the network: all asked layers of an image from one pass, pooled and combined.

What is particular to a GPU is here and nowhere else: pinned copies, half weights, running out of its memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Activations of 2 MB and more in huge pages: without them every batch pays for tens of thousands of page faults.
# torch reads this at its first large allocation; it changes no value.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.base.errors import UserError
from pipeline.codes.loading import Batch
from pipeline.codes.settings import Precision, Settings
from pipeline.nets import backbone
from pipeline.nets.pooling import l2_normalise, pooled, soft
from pipeline.nets.weights import Weights

log = logging.getLogger(__name__)

_TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Result:
    """Spec name -> (images, dim) rows of the stored dtype, in the batch's order; padding and failed images included.

    `sound`: spec name -> (images,) whether the row was finite before it was rounded to that dtype.
    """

    rows: dict[str, NDArray[Any]]
    sound: dict[str, NDArray[np.bool_]]


class TooLargeError(UserError):
    """One input alone does not fit the GPU's memory."""


class Forward:
    """The network of some weights, ready on its device, for specs that share all settings but layer and pooling."""

    def __init__(self, weights: Weights, specs: Sequence[Settings]) -> None:
        """Raises UserError if the weights are not those of the settings."""
        common = specs[0]
        network = backbone.of(weights)
        if network.key()["weights_sha256"] != common.weights_sha256:
            raise UserError(
                f"these are not the weights that made the codes: sha256 {weights.sha256[:16]}...",
                allowed=f"{common.weights_sha256[:16]}...",
            )
        self.specs = list(specs)
        self.common = common
        self.layers = sorted({s.layer for s in specs}, key=backbone.names(network.about).index)
        self._known = {name: network.about.require(name) for name in self.layers}
        self.device = torch.device(common.device)
        self.dtype = _TORCH_DTYPES[common.precision]
        # Inputs that the GPU's memory held at once; None until it ran out.
        self.limit: int | None = None
        self._copies = (
            torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        )
        norm = common.normalisation
        self._scale = norm.scale
        self._mean = torch.tensor(norm.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(norm.std, device=self.device).view(1, 3, 1, 1)
        self._network = network.runner(
            self.layers, device=common.device, precision=common.precision, compile=common.compile
        )

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Callable[[], Result]:
        """Starts a batch and returns how to get its rows, so that a GPU works while the last batch is written."""
        pooled: dict[str, list[Tensor]] = {s.spec.name: [] for s in self.specs}
        for images in batch.images:
            scales, count, mirrored = images.shape[:3]
            flat = torch.from_numpy(images.reshape(-1, *images.shape[3:]))  # (scales * count * mirrored, H, W, 3)
            for name, rows in self._pooled(flat).items():
                pooled[name].append(rows.view(scales, count, mirrored, -1))
        stored: dict[str, Tensor] = {}
        sound: dict[str, Tensor] = {}
        for settings in self.specs:
            name = settings.spec.name
            exact = self._combined(torch.cat(pooled[name]), settings)
            rounded = exact.to(torch.float16 if settings.dtype == "float16" else torch.float32)
            stored[name] = rounded.to("cpu", non_blocking=True)
            sound[name] = exact.isfinite().all(dim=1).to("cpu", non_blocking=True)
        event = torch.cuda.current_stream(self.device).record_event() if self.device.type == "cuda" else None

        def result() -> Result:
            if event is not None:
                event.synchronize()
            elif self.device.type == "mps":
                torch.mps.synchronize()
            return Result({n: t.numpy() for n, t in stored.items()}, {n: t.numpy() for n, t in sound.items()})

        return result

    def normalised(self, images: Tensor) -> Tensor:
        """(n, H, W, 3) uint8 RGB on any device -> (n, 3, H, W) of the precision, channels last, as the weights want it.

        Arithmetic is in float32 whatever the precision.
        """
        x = self._on_device(images).permute(0, 3, 1, 2)
        if self.common.normalisation.channels == "bgr":
            x = x.flip(1)
        x = (x.float() * self._scale - self._mean) / self._std
        return x.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _on_device(self, images: Tensor) -> Tensor:
        """The batch in the device's memory; a GPU copies it while it still works on the batch before."""
        if self._copies is None:
            return images.to(self.device)
        with torch.cuda.stream(self._copies):
            there = images.to(self.device, non_blocking=True)
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(self._copies)
        there.record_stream(now)
        return there

    def _pooled(self, images: Tensor) -> dict[str, Tensor]:
        """(n, H, W, 3) uint8 -> spec name -> (n, pooled dim) float32 on the device, in as many parts as memory asks."""
        size = min(self.limit or len(images), len(images))
        parts: list[dict[str, Tensor]] = []
        start = 0
        while start < len(images):
            part = self._try(images[start : start + size])
            if part is not None:
                parts.append(part)
                start += size
                continue
            if size == 1:
                raise TooLargeError(
                    f"one input of {images.shape[1]} x {images.shape[2]} pixels does not fit the GPU's memory",
                    allowed="a smaller codes.image.crop or codes.image.scales, or device: cpu",
                )
            size = self.limit = max(1, size // 2)
            log.warning("out of GPU memory: going on with %d inputs at a time", size)
            torch.cuda.empty_cache()
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}

    def _try(self, images: Tensor) -> dict[str, Tensor] | None:
        """None if memory ran out. What was held is free again once this has returned."""
        try:
            return self._pool_maps(self._run(self.normalised(images)), height=images.shape[1], width=images.shape[2])
        except torch.OutOfMemoryError:
            return None

    def _run(self, x: Tensor) -> dict[str, Tensor]:
        # cuDNN's tensor-core float32 keeps 10 bits of mantissa; asked-for float32 must be float32.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            return self._network(x)

    def _pool_maps(self, maps: dict[str, Tensor], *, height: int, width: int) -> dict[str, Tensor]:
        return {
            s.spec.name: pooled(s.pooling, maps[s.layer], self._known[s.layer], height=height, width=width)
            for s in self.specs
        }

    def _combined(self, rows: Tensor, settings: Settings) -> Tensor:
        """(scales, n, mirrored, d) float32 -> (n, dim): an image and its mirror are averaged, scales too or stacked; of
        that come the sigmoid and the length 1, where they are asked for."""
        per_scale = rows.mean(dim=2) if rows.shape[2] > 1 else rows[:, :, 0]
        if settings.combine == "stack":
            one = per_scale.transpose(0, 1).flatten(1)  # (n, scales * d)
        else:
            one = per_scale.mean(dim=0) if len(per_scale) > 1 else per_scale[0]
        if settings.sigmoid:
            one = soft(one)
        return l2_normalise(one) if settings.l2 else one
