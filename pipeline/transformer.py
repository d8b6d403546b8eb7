"""Images to rows as a transformer of scikit-learn's, for its pipelines, searches and ensembles.

```python
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from pipeline import CNNCodes
model = make_pipeline(CNNCodes(layer="conv5_2-avg"), LinearSVC())
model.fit(["cat/1.jpg", "dog/1.jpg"], ["cat", "dog"]).predict(["new.jpg"])
```
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.codes import Embedder
from pipeline.codes.plan import check
from pipeline.codes.settings import Settings, settings_here
from pipeline.codes.weights_header import WeightsHeader
from pipeline.config import MEMORY_MB, CodesParams
from pipeline.data.room import Room
from pipeline.nets import backbone
from pipeline.workspace import canonical_weights, network, preset

# Images that are held as bytes at once.
_BLOCK = 64
# What PNG stores as it is, transparency and 16 bits too.
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_ORIENTATION_TAG = 0x0112
_IMAGE = "a path, a PIL image, or an array (H, W, 3) or (H, W) of uint8"


class InputError(UserError, ValueError):
    """What is no image, or no sequence of them. scikit-learn expects a ValueError."""


class CNNCodes(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Codes of images, with the bytes that extraction gives them, but in float32 unless `codes` says otherwise.

    `network`: an architecture, that of the weights if None. `layer`: a spec such as `conv5_3-avg`; if None the average
    of the one that collections take by default. `weights`: what `--weights` takes. `size`: pixels a side of what the
    network sees. `codes`: other keys of the section `codes` of params.yaml, such as `{"flip": True}`. `memory_mb`: of
    images that are decoded at once. They are plain values, and are checked by `fit`.

    Nothing is learned of the images. `fit` finds the weights and pins how codes are made in `settings_`; tensors are
    loaded by the first `transform` and are no part of a pickle, which needs the same weights where it is used.
    """

    def __init__(
        self,
        network: str | None = None,
        layer: str | None = None,
        *,
        weights: str = "demo",
        size: int | None = None,
        codes: Mapping[str, Any] | None = None,
        memory_mb: int = MEMORY_MB,
    ) -> None:
        self.network = network
        self.layer = layer
        self.weights = weights
        self.size = size
        self.codes = codes
        self.memory_mb = memory_mb

    def fit(self, X: object = None, y: object = None) -> Self:
        """Looks at no image. Raises UserError on unknown networks, layers and keys, and if there are no such weights,
        and InputError if `X` is no sequence."""
        if X is not None:
            _images(X)
        file, view = self._found()
        square = {} if self.size is None else {"crop": self.size, "scales": [self.size]}
        header = WeightsHeader.of(file)
        layer = self.layer or f"{backbone.find(header.arch).short}-avg"
        asked = {"dtype": "float32", **view, **square, **(self.codes or {}), "layers": [layer]}
        (settings,) = check(header, preset(CodesParams, **asked)).values()
        self.settings_: dict[str, Any] = settings.as_json()
        self.n_features_out_ = settings.dim(num_classes=header.num_classes)
        self._embedder: Embedder | None = None
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """n images -> (n, d). An image is a path, a PIL image, or an array (H, W, 3) RGB or (H, W) grey of uint8;
        `X` is a sequence or an array of them, or a column of paths (n, 1).

        Raises InputError on anything else, `codes.embedder.ImagesError` naming every image that can't be read, and
        UserError if the weights are others than those of `fit`.
        """
        check_is_fitted(self, "settings_")
        blocks = [self._ready()(block) for block in _blocks(_images(X))]
        empty = np.zeros((0, self.n_features_out_), dtype=self.settings_["dtype"])
        return np.concatenate([empty, *blocks])

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """(d,) `conv5_3-avg_0`, `conv5_3-avg_1`, ..."""
        check_is_fitted(self, "settings_")
        spec = Settings.from_json(self.settings_).spec.name
        return np.array([f"{spec}_{i}" for i in range(self.n_features_out_)], dtype=object)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        return state | {"_embedder": None} if "_embedder" in state else state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.no_validation = True  # of tables: X is none
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _found(self) -> tuple[Path, dict[str, Any]]:
        params, view = network(self.network, self.weights)
        return canonical_weights(params, cache_root()), view

    def _ready(self) -> Embedder:
        if self._embedder is None:
            settings = settings_here(self.settings_)
            self._embedder = Embedder(self._found()[0], settings, room=Room(self.memory_mb))
        return self._embedder


def _images(images: Any) -> Iterable[Any]:
    """One after the other. Raises InputError if they are no sequence of images."""
    if isinstance(images, str | bytes | os.PathLike | Image.Image):
        raise InputError("one image where a sequence of them is wanted", allowed=f"a list; an image is {_IMAGE}")
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim < 3:
        raise InputError(f"an array of shape {images.shape}", allowed="(n, H, W, 3) or (n, H, W) of uint8")
    if hasattr(images, "tocsr"):
        raise InputError(
            "a sparse matrix in place of images: sparse data is not supported",
            allowed=f"a sequence; an image is {_IMAGE}",
        )
    if not isinstance(images, Sequence) and getattr(images, "shape", ())[1:] == (1,):
        return np.asarray(images, dtype=object)[:, 0]
    if not isinstance(images, Iterable) or hasattr(images, "columns"):
        raise InputError(f"a {type(images).__name__} in place of images", allowed=f"a sequence; an image is {_IMAGE}")
    return images


def _blocks(images: Iterable[Any]) -> Iterator[list[str | Path | bytes]]:
    block: list[str | Path | bytes] = []
    for position, image in enumerate(images):
        block.append(_readable(image, position))
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


def _readable(image: Any, position: int) -> str | Path | bytes:
    """A path, or the bytes of an image file: so there is one decoder, and one set of limits."""
    if isinstance(image, str | os.PathLike):
        return Path(image)
    if isinstance(image, Image.Image):
        return _file_of(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3):
            return _file_of(Image.fromarray(image))
        came = f"an array of shape {image.shape}"
    else:
        came = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
    raise InputError(f"image {position + 1} is {came}", allowed=_IMAGE)


def _file_of(image: Image.Image) -> bytes:
    """A file from which the decoder makes the same pixels."""
    buffer = io.BytesIO()
    exif = image.getexif()
    if image.mode in ("L", "RGB") and "transparency" not in image.info and _ORIENTATION_TAG not in exif:
        image.save(buffer, "BMP")  # nothing to pack
        return buffer.getvalue()
    if image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    image.save(buffer, "PNG", compress_level=1, exif=exif)
    return buffer.getvalue()
