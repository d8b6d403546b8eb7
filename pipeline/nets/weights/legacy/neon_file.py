"""Reads neon's models: VGG_D.p and VGG_E.p of its model zoo, and .prm files of `save_params`.

Their layout is not written down in neon's manual; these facts are from its source (repository NervanaSystems/neon):

- neon/util/persist.py: a model is one pickle.
- neon/models/model.py, `get_description` and `serialize`: a dict with `model`, `backend` (whose `type` is the class of
  the backend), `neon_version`, `epoch_index`, and what the optimiser needs.
- neon/layers/container.py: a container is `{"type", "config": {"layers": [...]}, "container": True}`; Sequential is a
  chain, other containers branch.
- neon/layers/layer.py: a layer is `{"type", "config", "params", "states"}`, `type` being the class with its module.
  Convolution has `params` W (C*R*S, K) and `config` fshape (R, S, K), a tuple or a dict, and is followed by Bias with
  W (K, 1); in later versions Convolution_bias holds both, as W and weight_bias. Linear has W (out, in). BatchNorm has
  beta, gamma, gmean and gvar, each (K, 1), and adds eps (1e-3 unless `config` says otherwise) to the variance.
- neon/backends/layer_cpu.py: filters are (C, T, R, S, K), slid without a flip; activations (C, H, W, N), so that Linear
  reads a map in the order C, H, W, which is ours.

examples/VGG/readme.md: VGG_D.p and VGG_E.p are Oxford's weights, ported from Caffe. Hence their preprocessing; the
file itself states none. It has other files for the MKL backend, whose order of filters is not written down: what that
backend saved is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.base.budget import OBJECT_BYTES, Budget
from pipeline.base.errors import UserError
from pipeline.nets.weights.foreign import InOrder, native, variance_for_our_eps
from pipeline.nets.weights.legacy import plain_pickle
from pipeline.nets.weights.legacy.plain_pickle import BrokenError
from pipeline.nets.weights.preprocessings import CAFFE

_NORM_EPS = 1e-3
_MOST_LAYERS = 10_000
# Layers without weights that leave the order of the others as it is.
_WEIGHTLESS = frozenset({"Activation", "Pooling", "Dropout", "DataTransform", "LRN", "Reshape"})


def read(path: Path) -> InOrder:
    """The layers in a file; no code in it is run.

    Raises UserError if the file can't be read, is cut short, holds anything but plain values, is of the MKL backend or
    in neon's oldest format, is no chain of convolutions, norms and linear layers, or asks for more than its length
    allows.
    """
    try:
        data = path.read_bytes()
        budget = Budget(path, len(data))
        value = plain_pickle.loads(data, budget)
    except OSError as e:
        raise UserError(f"can't read {path} ({e.strerror})") from None
    except BrokenError as e:
        raise UserError(
            f"{path} is not a model of neon's: {e}", allowed="a whole .p or .prm file of plain values"
        ) from None
    try:
        return _layers(_model(value), budget)
    except BrokenError as e:
        raise UserError(f"{path} is not a model of neon's that can be read: {e}", see="docs/params.md") from None


def conv_kernel(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """(C*R*S, K) -> (K, C, R, S): ours[k, c, r, s] = theirs[(c*R + r)*S + s, k]."""
    return matrix.reshape(-1, height, width, matrix.shape[1]).transpose(3, 0, 1, 2)


def _model(value: Any) -> Any:
    if not isinstance(value, dict):
        raise BrokenError("it holds no dict")
    if "model" not in value:
        old = "layer_params_states" in value
        raise BrokenError("it is in neon's oldest format, without layer types" if old else "it has no entry `model`")
    backend = value.get("backend")
    if isinstance(backend, dict) and backend.get("type") == "NervanaMKL":
        raise BrokenError(
            "the MKL backend saved it, whose order of filters is unknown; save it from the cpu or gpu backend"
        )
    return value["model"]


def _layers(model: Any, budget: Budget) -> InOrder:
    convs: list[dict[str, Tensor]] = []
    norms: list[dict[str, Tensor]] = []
    fcs: list[dict[str, Tensor]] = []
    biased: dict[str, Tensor] | None = None  # the layer that a Bias right after it belongs to
    for kind, config, params in _flat(model, budget):
        # A layer that is there many times is copied as often.
        budget.make(sum(held.nbytes for held in params.values() if isinstance(held, np.ndarray)))
        if kind in ("Convolution", "Convolution_bias"):
            convs.append({"weight": _convolution(config, params)})
            if kind == "Convolution_bias":
                convs[-1]["bias"] = _column(params, "weight_bias")
        elif kind == "Linear":
            fcs.append({"weight": native(_matrix(params, "W"))})
        elif kind == "BatchNorm":
            norms.append(_norm(config, params))
        elif kind == "Bias":
            if biased is None:
                raise BrokenError("a Bias follows neither a Convolution nor a Linear layer")
            biased["bias"] = _column(params, "W")
        elif kind not in _WEIGHTLESS:
            raise BrokenError(f"it has a layer {kind[:40]!r}, which is not a part of a VGG")
        biased = {"Convolution": convs, "Linear": fcs}[kind][-1] if kind in ("Convolution", "Linear") else None
    if not convs:
        raise BrokenError("it has no convolutions")
    return InOrder(convs, norms, fcs, CAFFE)


def _flat(model: Any, budget: Budget) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """(class, config, params) of every layer in order, through nested chains."""
    waiting = [model]
    for _ in range(_MOST_LAYERS):
        if not waiting:
            return
        layer = waiting.pop()
        if not isinstance(layer, dict) or not isinstance(layer.get("type"), str):
            raise BrokenError("a layer has no type")
        kind = layer["type"].rpartition(".")[2]
        config, params = layer.get("config", {}), layer.get("params", {})
        if not isinstance(config, dict) or not isinstance(params, dict):
            raise BrokenError(f"a layer {kind[:40]!r} has no config or no params")
        if not isinstance(config.get("layers"), list):
            yield kind, config, params
        elif kind == "Sequential":
            budget.make(OBJECT_BYTES * len(config["layers"]))
            waiting.extend(reversed(config["layers"]))
        else:
            raise BrokenError(
                f"its container {kind[:40]!r} branches",
            )
    raise BrokenError(f"it has more than {_MOST_LAYERS:,} layers")


def _convolution(config: Mapping[str, Any], params: Mapping[str, Any]) -> Tensor:
    matrix = _matrix(params, "W")
    fshape = config.get("fshape")
    sizes = [fshape.get(k) for k in "RSK"] if isinstance(fshape, dict) else fshape
    if not isinstance(sizes, list | tuple) or len(sizes) != 3 or not all(type(n) is int and n > 0 for n in sizes):
        raise BrokenError("a Convolution doesn't say how large its filters are (fshape)")
    height, width, filters = sizes
    if matrix.shape[1] != filters or matrix.shape[0] % (height * width):
        raise BrokenError(f"a Convolution with W {matrix.shape} says that its filters are {tuple(sizes)}")
    return native(conv_kernel(matrix, height, width))


def _norm(config: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Tensor]:
    eps = config.get("eps", _NORM_EPS)
    if not isinstance(eps, float) or not 0 <= eps < 1:
        raise BrokenError("a BatchNorm has no usable eps")
    return {
        "weight": _column(params, "gamma"),
        "bias": _column(params, "beta"),
        "running_mean": _column(params, "gmean"),
        "running_var": variance_for_our_eps(_column(params, "gvar"), eps),
    }


def _column(params: Mapping[str, Any], name: str) -> Tensor:
    """(K, 1) -> (K,)."""
    matrix = _matrix(params, name)
    if matrix.shape[1] != 1:
        raise BrokenError(f"{name} is {matrix.shape} where a column is wanted")
    return native(matrix[:, 0])


def _matrix(params: Mapping[str, Any], name: str) -> np.ndarray:
    matrix = params.get(name)
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise BrokenError(f"a layer has no matrix {name} of floats")
    return matrix
