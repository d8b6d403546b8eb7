"""The parts of an exported network against those of numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.heads.scaling import KINDS, Scaling
from pipeline.portable.network import Scale


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_is_that_of_heads(kind: str) -> None:
    rows = np.random.default_rng(0).random((6, 5), dtype=np.float32)
    rows[0] = 0
    rows[:, 1] = 2.5
    scaling = Scaling.fit(kind, [rows])
    np.testing.assert_allclose(Scale(scaling)(torch.from_numpy(rows)).numpy(), scaling.apply(rows), atol=1e-6)
