"""The machines against enumeration, the network against its machines, and a killed fit against an undisturbed one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.base import stopping, unfinished
from pipeline.base.errors import UserError
from pipeline.hashing.dbn.autoencoder import Autoencoder
from pipeline.hashing.dbn.hasher import Dbn
from pipeline.hashing.dbn.rbm import Rbm

torch.set_num_threads(1)
QUICK: dict[str, Any] = {
    "nbits": 8,
    "hidden": [12],
    "rbm_epochs": 2,
    "epochs": 4,
    "batch": 25,
    "device": "cpu",
}


def machine(visible: str, d: int = 4, h: int = 3) -> Rbm:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return Rbm(visible, draw(d, h), draw(d), draw(h))


def codes(rows: int = 150, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(7).exponential(1, (6, 24))
    return np.maximum(middle[np.arange(rows) % 6] + rng.normal(0, 0.5, (rows, 24)), 0).astype(np.float32)


def states(n: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)), dtype=torch.float64)


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_free_energy_is_the_energy_with_every_hidden_state_summed_out(visible: str) -> None:
    rbm = machine(visible)
    v = states(4) if visible == "bernoulli" else torch.randn(5, 4, dtype=torch.float64)
    for row, free in zip(v, rbm.free_energy(v), strict=True):
        own = -(row @ rbm.visible_bias) if visible == "bernoulli" else ((row - rbm.visible_bias) ** 2).sum() / 2
        energies = torch.stack([own - row @ rbm.weights @ h - rbm.hidden_bias @ h for h in states(3)])
        torch.testing.assert_close(free, -torch.logsumexp(-energies, 0))


def test_conditionals_are_those_of_the_joint_distribution() -> None:
    rbm = machine("bernoulli")
    v, h = states(4), states(3)
    joint = torch.exp(v @ rbm.weights @ h.T + (v @ rbm.visible_bias)[:, None] + h @ rbm.hidden_bias)
    torch.testing.assert_close(rbm.hidden(v), joint @ h / joint.sum(1, keepdim=True))
    torch.testing.assert_close(rbm.reconstruct(h), joint.T @ v / joint.T.sum(1, keepdim=True))


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_cd1_statistics_equal_a_loop_over_units(visible: str) -> None:
    rbm = machine(visible)
    rng = np.random.default_rng(3)
    v, uniform = rng.random((6, 4)), rng.random((6, 3))
    w, b, c = (t.numpy() for t in (rbm.weights, rbm.visible_bias, rbm.hidden_bias))

    def logistic(x: float) -> float:
        return 1 / (1 + np.exp(-x))

    by_weight, by_visible, by_hidden = np.zeros((4, 3)), np.zeros(4), np.zeros(3)
    for n in range(6):
        first = [logistic(c[j] + sum(v[n, i] * w[i, j] for i in range(4))) for j in range(3)]
        drawn = [float(uniform[n, j] < first[j]) for j in range(3)]
        total = [b[i] + sum(w[i, j] * drawn[j] for j in range(3)) for i in range(4)]
        again = [logistic(t) for t in total] if visible == "bernoulli" else total
        second = [logistic(c[j] + sum(again[i] * w[i, j] for i in range(4))) for j in range(3)]
        for i in range(4):
            by_visible[i] += (v[n, i] - again[i]) / 6
            for j in range(3):
                by_weight[i, j] += (v[n, i] * first[j] - again[i] * second[j]) / 6
        for j in range(3):
            by_hidden[j] += (first[j] - second[j]) / 6
    step = rbm.cd1(torch.from_numpy(v), torch.from_numpy(uniform))
    np.testing.assert_allclose(step.weights, by_weight, atol=1e-12)
    np.testing.assert_allclose(step.visible_bias, by_visible, atol=1e-12)
    np.testing.assert_allclose(step.hidden_bias, by_hidden, atol=1e-12)


def test_the_unrolled_network_goes_up_and_down_the_machines() -> None:
    low, high = machine("bernoulli", 6, 4), machine("bernoulli", 4, 3)
    net = Autoencoder.unrolled([low, high])
    v = torch.rand(5, 6, dtype=torch.float64)
    code = torch.sigmoid(net.code_input(v))
    torch.testing.assert_close(code, high.hidden(low.hidden(v)))
    torch.testing.assert_close(torch.sigmoid(net.output_input(code)), low.reconstruct(high.reconstruct(code)))
    net.encoder[0][0].zero_()
    assert low.weights.any()


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("hidden", [[], [12], [16, 12]])
def test_training_lowers_the_error_and_the_log_says_how(visible: str, hidden: list[int]) -> None:
    told: list[Any] = []
    hasher = Dbn(**QUICK | {"visible": visible, "hidden": hidden, "epochs": 8, "patience": 8})
    hasher.fit(codes(), watch=told.append, rounding=lambda soft, bits: {"near_half": float((soft - bits).max())})
    assert told == hasher.history
    phases = [f"rbm{i}" for i in range(len(hidden) + 1) for _ in range(2)] + ["finetune"] * 8
    assert [r["phase"] for r in told] == phases
    assert all(np.isfinite(v) for r in told for k, v in r.items() if k != "phase")
    assert all("free_energy_gap" in r for r in told if r["phase"] != "finetune")
    fine = told[-8:]
    assert fine[-1]["reconstruction"] < fine[0]["reconstruction"]
    assert all(0 <= r["near_half"] <= 0.5 for r in fine)
    assert hasher.bits(codes()).shape == (150, 8)


def test_bits_are_the_soft_code_above_one_half_of_the_trained_network() -> None:
    hasher = Dbn(**QUICK).fit(codes())
    a = hasher.arrays()
    soft = np.tanh(codes(20, 1).astype(np.float64) / 2)
    up = 1 / (1 + np.exp(-(soft @ a["weights0"] + a["bias0"])))
    code = 1 / (1 + np.exp(-(up @ a["weights1"] + a["bias1"])))
    np.testing.assert_allclose(hasher.soft(codes(20, 1)), code, atol=1e-5)
    np.testing.assert_array_equal(hasher.bits(codes(20, 1)), code > 0.5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3, 4, 6])
def test_a_killed_fit_goes_on_to_the_same_bytes(tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Dbn(**QUICK).fit(codes())
    monkeypatch.setattr(stopping.Timer, "is_due", lambda self: True)
    seen: list[Any] = []

    def kill(record: Any) -> None:
        seen.append(record)
        if len(seen) == after:
            raise Killed

    with pytest.raises(Killed), unfinished.of(tmp_path, {}) as so_far:
        Dbn(**QUICK).fit(codes(), so_far=so_far, watch=kill)
    rest: list[Any] = []
    with unfinished.of(tmp_path, {}) as so_far:
        resumed = Dbn(**QUICK).fit(codes(), so_far=so_far, watch=rest.append)
    assert seen + rest == plain.history == resumed.history
    for name, value in plain.arrays().items():
        assert value.tobytes() == resumed.arrays()[name].tobytes(), name


def test_it_stops_early_and_keeps_the_best() -> None:
    hasher = Dbn(**QUICK | {"epochs": 60, "rate": 0.3, "patience": 2}).fit(codes())
    errors = [r["rounded_held_out"] for r in hasher.history if r["phase"] == "finetune"]
    assert len(errors) == int(np.argmin(errors)) + 1 + 2 < 60


def test_torch_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    Dbn(**QUICK).fit(codes())
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("change", "words"),
    [({"visible": "poisson"}, "bernoulli"), ({"hidden": [0]}, "positive"), ({"device": "tpu"}, "cpu")],
)
def test_bad_params_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Dbn(**QUICK | change).fit(codes())


def test_bernoulli_units_refuse_codes_below_zero_and_gaussian_take_them() -> None:
    with pytest.raises(UserError, match="negative"):
        Dbn(**QUICK).fit(codes() - 1)
    constant = codes() - 1
    constant[:, 3] = 2  # a dimension without spread
    assert np.isfinite(Dbn(**QUICK | {"visible": "gaussian"}).fit(constant).soft(constant)).all()
