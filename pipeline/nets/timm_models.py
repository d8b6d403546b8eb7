"""`timm:NAME`: the networks of timm."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import UserError
from pipeline.nets.modules.backbone import Family, require_name
from pipeline.nets.modules.library import Loaded, Prepared

if TYPE_CHECKING:
    from torch import nn


class Timm:
    """See `library.Library`."""

    name = "timm"

    def version(self) -> str:
        try:
            return importlib.metadata.version("timm")
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                "networks of timm need the package timm", allowed="`pip install 'cnn-codes[timm]'`"
            ) from None

    def names(self) -> Sequence[str]:
        import timm

        plain = [str(name) for name in timm.list_models()]
        return plain + [str(name) for name in timm.list_pretrained()]

    def build(self, name: str, *, num_classes: int | None = None) -> nn.Module:
        import timm

        require_name(self, name)
        changes: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        try:
            # Position embeddings are interpolated for images of another size.
            module: nn.Module = timm.create_model(name, pretrained=False, dynamic_img_size=True, **changes)
        except TypeError:
            module = timm.create_model(name, pretrained=False, **changes)
        return module.eval()

    def prefix_tokens(self, module: nn.Module) -> int:
        return int(getattr(module, "num_prefix_tokens", 0))

    def prepared(self, name: str, tag: str = "") -> Prepared:
        from timm.data.config import resolve_data_config

        from pipeline.nets.weights.record import Preprocessing

        entry = self._entry(name, tag)
        wanted = resolve_data_config(pretrained_cfg=entry.to_dict())  # type: ignore[no-untyped-call]
        size = wanted["input_size"][1]
        preprocessing = Preprocessing(
            "rgb",
            1 / 255,
            tuple(wanted["mean"]),
            tuple(wanted["std"]),
            resampling=wanted["interpolation"],
            geometry="torchvision",
        )
        classes = entry.label_names
        return Prepared(
            preprocessing, size, int(size / wanted["crop_pct"]), None if classes is None else tuple(classes)
        )

    def demo(self, name: str, cache: Path) -> Loaded | None:
        from pipeline.nets.weights import lite0_demo

        if name.partition(".")[0] != lite0_demo.NAME:
            return None
        return Loaded(lite0_demo.read(cache), self.prepared(name), lite0_demo.provenance())

    def load(self, name: str, tag: str, cache: Path) -> Loaded:
        import timm

        entry = self._entry(name, tag)
        tagged = f"{entry.architecture}.{entry.tag}" if entry.tag else entry.architecture
        try:
            module = timm.create_model(tagged, pretrained=True)
        except (OSError, RuntimeError) as e:
            raise UserError(
                f"timm can't get the weights of {tagged} ({' '.join(str(e).split())[:200]})",
                allowed="a network, the weights in the cache of the Hugging Face Hub, a file of them, or random:SEED",
            ) from None
        about = {"entry": tagged, "licence": entry.license or "not stated"}
        return Loaded(dict(module.state_dict()), self.prepared(name, tag), about)

    def _entry(self, name: str, tag: str) -> Any:
        import timm

        require_name(self, name)
        base = name.partition(".")[0]
        tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{base}.*")]
        if tag and tag not in tags:
            raise UserError(f"timm has no weights {tag!r} of {base}", allowed=tags or "random:SEED, or a file")
        entry = timm.get_pretrained_cfg(f"{base}.{tag}" if tag else name, allow_unregistered=False)
        return entry


FAMILY = Family(Timm(), "timm:NAME for a network of timm")
