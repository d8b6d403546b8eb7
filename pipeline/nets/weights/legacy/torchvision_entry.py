"""`torchvision:<entry>`: torchvision's own weights by name, downloaded once, hash checked at every use.

torchvision states the first 8 of 64 digits of a file's sha256, and no more anywhere. What a first download gave is
written down beside it in full, and what is there later must be the same; provenance has all digits.
"""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import torch

from pipeline.base import disk
from pipeline.base.errors import UserError
from pipeline.nets.weights.legacy import torch_file
from pipeline.nets.weights.record import Preprocessing, Weights

_HASH_DIGITS = 8
# The only entry that all of these architectures have.
DEFAULT = "IMAGENET1K_V1"


def read(arch: str, name: str, cache: Path) -> Weights:
    """The weights of torchvision's entry `name` for `arch`, with the preprocessing that belongs to that entry.

    Raises UserError if there is no such entry, it can't be downloaded, or its hash is wrong.
    """
    known = entries(arch)
    if name not in known:
        raise UserError(f"torchvision has no weights {name!r} for {arch}", allowed=known or "other architectures")
    path = download(known[name].url, cache / "torchvision")
    return from_file(arch, name, path, kept=path.with_name(f"{path.name}.sha256"))


def entries(arch: str) -> dict[str, Any]:
    """Name -> torchvision's record of the weights; empty for architectures that torchvision doesn't have."""
    from torchvision.models import get_model_weights, list_models

    return {entry.name: entry.value for entry in get_model_weights(arch)} if arch in list_models() else {}


def entry_of(arch: str, sha256: str) -> str | None:
    """The name of the entry whose file has this sha256, which torchvision states by its first digits."""
    return next((name for name, entry in entries(arch).items() if sha256.startswith(_stated(entry.url))), None)


def from_file(arch: str, name: str, path: Path, *, kept: Path | None = None) -> Weights:
    """The weights of an entry from its file.

    `kept`: where the digest of the file is written down in full when it is first read. Raises UserError if the file is
    not what torchvision states, or another one than it was then.
    """
    entry = entries(arch)[name]
    sha256 = disk.sha256(path)
    if not sha256.startswith(_stated(entry.url)):
        raise UserError(
            f"{path} has sha256 {sha256}, torchvision states {_stated(entry.url)}...; delete it and run again"
        )
    if kept is not None:
        _require_same(path, sha256, kept)
    tensors = torch_file.read(path).named(arch)
    classes = entry.meta.get("categories")
    if classes is None:
        # An entry without classes is for its features alone: its fc layers are placeholders of NaN.
        tensors = {key: t for key, t in tensors.items() if not key.startswith("fc")}
    provenance = {"source": f"torchvision:{name}", "file": path.name, "file_sha256": sha256}
    return Weights.make(arch, tensors, _preprocessing(entry), provenance, None if classes is None else tuple(classes))


def _preprocessing(entry: Any) -> Preprocessing:
    preset = entry.transforms()
    return Preprocessing("rgb", 1 / 255, tuple(preset.mean), tuple(preset.std))


def download(url: str, folder: Path) -> Path:
    """The file of that address in `folder`, fetched if it is not there. Raises UserError if it can't be had, or has not
    the hash that its name states."""
    path = folder / url.rpartition("/")[2]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=_stated(url), progress=False)
        except (urllib.error.URLError, OSError) as e:
            raise UserError(
                f"can't download {url} ({getattr(e, 'reason', e)})",
                allowed=f"a network, the file at {path}, or weights.source: demo",
            ) from None
        except RuntimeError as e:
            raise UserError(f"what came from {url} is not what torchvision states ({e})") from None
    return path


def _require_same(path: Path, sha256: str, kept: Path) -> None:
    if not kept.exists():
        disk.write_text(kept, f"{sha256}  {path.name}\n")  # as sha256sum has it
    first, _, _ = disk.small_text(kept).partition(" ")
    if first != sha256:
        raise UserError(
            f"{path} has sha256 {sha256}, when it was downloaded it had {first[:64]}",
            see=f"delete it and {kept.name} to download it again",
        )


def _stated(url: str) -> str:
    """vgg16-397923af.pth -> 397923af."""
    return Path(url).stem.rpartition("-")[2][:_HASH_DIGITS]
