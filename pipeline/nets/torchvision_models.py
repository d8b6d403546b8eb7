"""`torchvision:NAME`: the classification networks of torchvision.models."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.nets.modules.backbone import Family, require_name
from pipeline.nets.modules.library import Loaded, Prepared

if TYPE_CHECKING:
    from torch import nn


class Torchvision:
    """See `library.Library`."""

    name = "torchvision"

    def version(self) -> str:
        return importlib.metadata.version("torchvision")

    def names(self) -> Sequence[str]:
        from torchvision import models

        # Of the whole module are networks for detection, segmentation and video too, which take other inputs.
        return [str(name) for name in models.list_models(module=models)]

    def build(self, name: str, *, num_classes: int | None = None) -> nn.Module:
        from torchvision import models

        require_name(self, name)
        changes: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        if name in ("googlenet", "inception_v3"):
            changes |= {"init_weights": True}  # without it they warn
        module: nn.Module = models.get_model(name, weights=None, **changes)
        return module.eval()

    def prefix_tokens(self, module: nn.Module) -> int:
        return 1 if hasattr(module, "class_token") else 0

    def prepared(self, name: str, tag: str = "") -> Prepared:
        from pipeline.nets.weights.record import Preprocessing

        entry = self._entry(name, tag)
        preset = entry.transforms()
        preprocessing = Preprocessing(
            "rgb",
            1 / 255,
            tuple(preset.mean),
            tuple(preset.std),
            resampling=preset.interpolation.value,
            geometry="torchvision",
        )
        classes = entry.meta.get("categories")
        size, scale = preset.crop_size[0], preset.resize_size[0]
        return Prepared(preprocessing, size, max(size, scale), None if classes is None else tuple(classes))

    def demo(self, name: str, cache: Path) -> None:
        """There are none."""

    def load(self, name: str, tag: str, cache: Path) -> Loaded:
        from pipeline.nets.weights.legacy import torch_file, torchvision_entry

        entry = self._entry(name, tag)
        path = torchvision_entry.download(entry.url, cache / "torchvision")
        return Loaded(
            torch_file.read(path).own(),
            self.prepared(name, tag),
            {"entry": str(entry), "file": path.name, "file_sha256": disk.sha256(path)},
        )

    def _entry(self, name: str, tag: str) -> Any:
        from torchvision import models

        require_name(self, name)
        entries = models.get_model_weights(name)
        known = [entry.name for entry in entries]
        if tag and tag not in known:
            raise UserError(f"torchvision has no weights {tag!r} of {name}", allowed=known)
        return entries[tag] if tag else entries.DEFAULT


FAMILY = Family(Torchvision(), "torchvision:NAME for a network of torchvision.models")
