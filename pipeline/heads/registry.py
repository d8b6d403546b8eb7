"""Every kind of head, by its name in params.yaml."""

from __future__ import annotations

from pipeline.base.errors import UserError
from pipeline.heads.base import Head
from pipeline.heads.crammer_singer import CrammerSinger
from pipeline.heads.knn import Knn
from pipeline.heads.softmax import Softmax, SoftmaxElastic, SoftmaxL1
from pipeline.heads.svm import Svm

HEADS: dict[str, type[Head]] = {
    "svm": Svm,
    "svm_cs": CrammerSinger,
    "softmax": Softmax,
    "softmax_l1": SoftmaxL1,
    "softmax_elastic": SoftmaxElastic,
    "knn": Knn,
}


def head_type(name: str) -> type[Head]:
    """Raises UserError listing the names."""
    if name not in HEADS:
        raise UserError(f"unknown head {name!r}", allowed=HEADS, see="heads.heads in params.yaml")
    return HEADS[name]
