"""Losses of logits (B, k) and soft labels (B, k) whose rows sum to 1: means over the batch, in nats or margins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-sum_c label_c ln softmax(logits)_c, in float32."""
    return F.cross_entropy(logits.float(), labels)


def hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """sum_c label_c sum_{j != c} max(0, 1 + f_j - f_c) (Weston and Watkins 1999), in float32."""
    f = logits.float()
    short = (1 + f[:, None, :] - f[:, :, None]).clamp(min=0)  # (B, c, j)
    own = torch.eye(f.shape[1], dtype=torch.bool, device=f.device)
    return (labels * short.masked_fill(own, 0.0).sum(dim=2)).sum(dim=1).mean()


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "hinge": hinge}


def soft_labels(targets: Tensor, k: int, *, smoothing: float = 0.0) -> Tensor:
    """(B,) class numbers -> (B, k): 1 - smoothing on the class and smoothing / k on every one (Szegedy et al. 2016)."""
    return F.one_hot(targets, k).float() * (1 - smoothing) + smoothing / k


def guessing(loss: str, counts: Sequence[int]) -> float:
    """The loss of a classifier that knows of an image nothing but how many there are of each class, `counts` (k,).

    Cross-entropy: the entropy of their shares, in nats, ln k of equal ones. Hinge: k - 1, where each of the other
    classes is short of the margin by 1.
    """
    if loss == "hinge":
        return len(counts) - 1.0
    shares = np.asarray(counts, dtype=np.float64) / sum(counts)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
