"""The facts of a library's network: one forward pass without values, on torch's `meta` device, with hooks.

What was found is kept in the cache, so that a later run needs neither torch nor the library for it.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.base import json_files
from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.nets.modules.library import Library

if TYPE_CHECKING:
    from torch import Tensor, nn

# Raised whenever facts of the same network could be found otherwise than before.
_VERSION = 1
# Images of the pass: two, so that a value whose first side counts something else than images, as windows do, shows.
_IMAGES = 2
# What a module raises on images that it can't take.
FORWARD_ERRORS = (RuntimeError, ValueError, AssertionError, TypeError, IndexError, NotImplementedError)
# Strides and patches in pixels; a size that a network takes is often a multiple of one.
_STEPS = (14, 16, 32)
# One pass at a time: a module has its hooks once.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Tap:
    """A module whose output is one tensor, of one forward pass. `shape`: (C, h, w), (T, D) of tokens, for one image.

    `channels_last`: it gives (B, h, w, C). `needs`: how many of the network's tensors, in the order of `Facts`, its
    value depends on. `signed`, `inner`, `kind` as of `backbone.Layer`.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    channels_last: bool
    signed: bool
    inner: bool
    needs: int

    @property
    def tokens(self) -> bool:
        return len(self.shape) == 2

    @property
    def channels(self) -> int:
        return self.shape[1] if self.tokens else self.shape[0]


@dataclass(frozen=True)
class Facts:
    """`taps` in computing order. `tensors`: (name, shape) in the order in which they are needed; those that no pass
    needs come last. `prefix`: tokens before the patches'. `largest`: values of the largest map. `classifier`: the
    tensor with a row for each of `num_classes`, "" without one. `size`, `codes`, `preprocessing`: how its weights want
    images: side of the input, keys of the section `codes`, and a `Preprocessing` as plain values.
    """

    taps: tuple[Tap, ...]
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    prefix: int
    largest: int
    num_classes: int
    classifier: str
    size: int
    codes: dict[str, Any]
    preprocessing: dict[str, Any]

    @functools.cached_property
    def by_name(self) -> dict[str, Tap]:
        return {tap.name: tap for tap in self.taps}


@functools.cache
def facts(library: Library, name: str) -> Facts:
    """The facts of a network, at the size that its weights are made for. Raises UserError on an unknown name."""
    return _kept(library, name, None)


@functools.cache
def shapes(library: Library, name: str, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Layer -> shape for one image of height x width pixels. Raises UserError if the network can't take one."""
    known = facts(library, name)
    if (height, width) == (known.size, known.size):
        return {tap.name: tap.shape for tap in known.taps}
    found = {tap.name: tap for tap in _kept(library, name, (height, width)).taps}
    return {tap.name: _as(found[tap.name], tap.channels_last) for tap in known.taps if tap.name in found}


def _as(tap: Tap, channels_last: bool) -> tuple[int, ...]:
    """A map's shape, where its axes are known from another size."""
    if len(tap.shape) != 3 or tap.channels_last == channels_last:
        return tap.shape
    c, h, w = tap.shape
    return (w, c, h) if channels_last else (h, w, c)


def _kept(library: Library, name: str, size: tuple[int, int] | None) -> Facts:
    mark = {"version": _VERSION, "library": library.name, "of": library.version(), "name": name, "size": size}
    path = cache_root() / "facts" / f"{json_files.fingerprint(mark)}.json"
    if path.is_file():
        try:
            return _from_json(json_files.read(path))
        except (KeyError, TypeError, ValueError, UserError):
            path.unlink(missing_ok=True)  # another's, or cut short: made again
    found = _found(library, name, size)
    json_files.write(path, asdict(found))
    return found


def _from_json(value: Any) -> Facts:
    taps = tuple(Tap(**(tap | {"shape": tuple(tap["shape"])})) for tap in value["taps"])
    tensors = tuple((name, tuple(shape)) for name, shape in value["tensors"])
    return Facts(**(value | {"taps": taps, "tensors": tensors}))


def _found(library: Library, name: str, size: tuple[int, int] | None) -> Facts:
    from pipeline.nets.weights.record import plain_preprocessing

    prepared = library.prepared(name)
    height, width = size or (prepared.size, prepared.size)
    module = _empty(library, name)
    try:
        taps, tensors, largest = trace(module, height, width)
    except FORWARD_ERRORS as e:
        raise UserError(
            f"{library.name}:{name} can't take images of {height} x {width} pixels ({_first_line(e)})",
            allowed=_sizes(module, prepared.size, max(height, width)),
            see="--size, codes.image.crop and codes.image.scales",
        ) from None
    classes, classifier = _classifier(getattr(module, "num_classes", taps[-1].channels), tensors)
    return Facts(
        taps=taps,
        tensors=tensors,
        prefix=library.prefix_tokens(module),
        largest=largest,
        num_classes=classes,
        classifier=classifier,
        size=prepared.size,
        codes={"crop": prepared.size, "scales": [prepared.scale]},
        preprocessing=plain_preprocessing(prepared.preprocessing),
    )


def _empty(library: Library, name: str) -> nn.Module:
    """The network without values."""
    import torch

    try:
        with torch.device("meta"):
            return library.build(name)
    except (RuntimeError, NotImplementedError):  # some look at values while they are made
        return library.build(name).to("meta")


def _first_line(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words.split(". ")[0][:200] or type(error).__name__


def _sizes(module: nn.Module, own: int, asked: int) -> str:
    """Sizes near the asked one that the network takes, in words."""
    near = sorted({own, *(max(step, round(asked / step) * step) for step in _STEPS)})
    fine = [side for side in near if _takes(module, side)]
    return f"squares of {' or '.join(map(str, fine or [own]))} pixels"


def _takes(module: nn.Module, side: int) -> bool:
    try:
        trace(module, side, side)
    except FORWARD_ERRORS:
        return False
    return True


def _classifier(classes: int, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[int, str]:
    """How many classes the network tells apart, and the tensor with a row for each; (0, "") without a classifier."""
    for name, shape in reversed(tensors):
        if name.endswith(".weight") and len(shape) >= 2 and shape[0] == classes:
            return classes, name
    return 0, ""


Shaped = tuple[tuple[Tap, ...], tuple[tuple[str, tuple[int, ...]], ...], int]


def trace(module: nn.Module, height: int, width: int) -> Shaped:
    """Taps, tensors as of `Facts`, and values of the largest map, by a pass of images of this size. `module` is on
    `meta`. Raises what the module raises on images that it can't take."""
    import torch

    with _LOCK, torch.no_grad():
        seen = _Seen(module)
        handles = seen.hooks()
        try:
            module(torch.zeros(_IMAGES, 3, height, width, device="meta"))
        finally:
            for handle in handles:
                handle.remove()
        taps = seen.taps()
        unclear = {tap.name for tap in taps if len(tap.shape) == 3 and len({*tap.shape}) == 1 and tap.shape[0] > 1}
    if unclear and height == width:
        taps = _cleared(module, taps, unclear, 2 * height)
    return taps, seen.tensors(), seen.largest


def _cleared(module: nn.Module, taps: tuple[Tap, ...], unclear: set[str], side: int) -> tuple[Tap, ...]:
    """Where a map has as many channels as positions a side, an image of another size says which is which."""
    try:
        other = {tap.name: tap for tap in trace(module, side, side)[0]}
    except FORWARD_ERRORS:
        return taps
    told = {name: other[name].channels_last for name in unclear if name in other}
    return tuple(Tap(**(asdict(t) | {"channels_last": told.get(t.name, t.channels_last)})) for t in taps)


class _Seen:
    """What hooks see of one pass."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.largest = 0
        self._modules = dict(module.named_modules())
        self._entered: dict[str, None] = {}
        self._begun: list[str] = []
        self._calls: dict[str, int] = {}
        self._outputs: dict[str, tuple[tuple[int, ...], bool, int]] = {}
        self._never_below_0: dict[int, Tensor] = {}
        self._owned = self._owners()

    def hooks(self) -> list[Any]:
        return [
            handle
            for name, part in self._modules.items()
            for handle in (
                part.register_forward_pre_hook(functools.partial(self._before, name)),
                part.register_forward_hook(functools.partial(self._after, name)),
            )
        ]

    def _before(self, name: str, _: nn.Module, __: Any) -> None:
        if name not in self._entered:
            self._entered[name] = None
        self._calls[name] = self._calls.get(name, 0) + 1

    def _after(self, name: str, part: nn.Module, inputs: Any, output: Any) -> None:
        from torch import Tensor

        if not isinstance(output, Tensor):
            return
        self.largest = max(self.largest, output.numel() // _IMAGES)
        if self._at_least_0(part, inputs, output):
            self._never_below_0[id(output)] = output
        if name and output.ndim in (2, 3, 4) and output.shape[0] == _IMAGES and output.is_floating_point():
            shape = tuple(output.shape[1:])
            self._outputs.setdefault(name, (shape, id(output) not in self._never_below_0, len(self._entered)))

    def _at_least_0(self, part: nn.Module, inputs: Any, output: Tensor) -> bool:
        from torch import nn

        if isinstance(part, nn.ReLU | nn.ReLU6 | nn.Sigmoid | nn.Hardsigmoid | nn.Softmax):
            return True
        keeps = nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.Dropout | nn.Identity | nn.Flatten
        given = inputs[0] if inputs else None
        return id(output) in self._never_below_0 or (isinstance(part, keeps) and id(given) in self._never_below_0)

    def taps(self) -> tuple[Tap, ...]:
        places, before = {}, 0
        for place, name in enumerate(self._entered, 1):
            before += len(self._own_tensors(name))
            places[place] = before
        return tuple(
            _tap(name, self._modules[name], shape, signed=signed, inner=self._is_inner(name), needs=places[entered])
            for name, (shape, signed, entered) in self._outputs.items()
            if self._calls[name] == 1
        )

    def tensors(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        every = {n: tuple(t.shape) for n, t in self.module.state_dict().items() if t.is_floating_point()}
        ordered = [n for name in self._entered for n in self._own_tensors(name)]
        return tuple((name, every[name]) for name in dict.fromkeys([*ordered, *every]))

    def _owners(self) -> dict[str, list[str]]:
        """Module -> its own tensors, without those of modules in it."""
        owned: dict[str, list[str]] = {}
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                owned.setdefault(name.rpartition(".")[0], []).append(name)
        return owned

    @functools.cache  # noqa: B019 (it lives as long as one pass)
    def _own_tensors(self, name: str) -> list[str]:
        """Its own, and those of modules in it that are never called: it takes their tensors itself."""
        found = list(self._owned.get(name, []))
        if name:
            for other, tensors in self._owned.items():
                if other.startswith(f"{name}.") and self._caller(other) == name:
                    found += tensors
        return found

    def _caller(self, name: str) -> str:
        """The nearest module around this one that was called, itself included."""
        while name and name not in self._entered:
            name = name.rpartition(".")[0]
        return name

    def _is_inner(self, name: str) -> bool:
        """Whether it lies within a block, and not in what only holds blocks."""
        parts = name.split(".")
        return any(not _holds_blocks(self._modules[".".join(parts[:i])]) for i in range(1, len(parts)))


def _holds_blocks(module: nn.Module) -> bool:
    from torch import nn

    if isinstance(module, nn.Sequential | nn.ModuleList):
        return True
    lists = [child for child in module.children() if isinstance(child, nn.Sequential | nn.ModuleList) and len(child)]
    return any(len({type(item) for item in held}) == 1 and any(True for _ in held[0].children()) for held in lists)


def _tap(name: str, module: nn.Module, shape: tuple[int, ...], *, signed: bool, inner: bool, needs: int) -> Tap:
    """What one module gave. A map is taken to have its channels last if its first two sides are equal and the last
    one differs."""
    last = False
    if len(shape) == 1:
        shape = (shape[0], 1, 1)
    elif len(shape) == 3:
        a, b, c = shape
        last = b != c and (a == b or (a < c and abs(a - b) < abs(b - c)))
        shape = (c, a, b) if last else shape
    return Tap(name, _kind(module), shape, last, signed, inner, needs)


def _kind(module: nn.Module) -> str:
    name = type(module).__name__
    if any(True for _ in module.children()) and not re.search(r"Norm|Pool", name):
        return "block"
    known = (("Conv", "conv"), ("Linear", "linear"), ("Norm", "norm"), ("Pool", "pool"))
    return next((kind for part, kind in known if part in name), name.lower())
