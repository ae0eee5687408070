"""The family of chains: its labels are derivatives of its free energy, which is a sum over what chains share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe.datasets import ChainFamily
from kernelfe.errors import DataError

FAMILY = ChainFamily()


def test_labels_are_derivatives_of_the_free_energy():
    frames = FAMILY.frames("ABCA", np.array([300.0, 450.0, 600.0]), np.random.default_rng(0))
    x, t, h = frames.positions, frames.temperature, 1e-5

    def a(positions, temperature):
        return FAMILY.free_energy(torch.tensor(positions), "ABCA", torch.tensor(temperature)).numpy()

    for bead, axis in ((0, 0), (2, 1), (3, 2)):
        step = np.zeros((4, 3))
        step[bead, axis] = h
        force = -(a(x + step, t) - a(x - step, t)) / (2 * h)
        np.testing.assert_allclose(frames.labels["mean_force"][:, bead, axis], force, rtol=0.0, atol=1e-8)
    slope = (a(x, t + 0.01) - a(x, t - 0.01)) / 0.02
    np.testing.assert_allclose(frames.labels["mean_energy"], a(x, t) - t * slope, rtol=0.0, atol=1e-7)


def test_free_energy_does_not_depend_on_the_direction_of_a_chain():
    x = FAMILY.configurations("AABCB", np.full(5, 300.0), np.random.default_rng(1))
    one, two = (FAMILY.free_energy(torch.tensor(p.copy()), k, 350.0) for p, k in ((x, "AABCB"), (x[:, ::-1], "BCBAA")))
    torch.testing.assert_close(one, two, rtol=0.0, atol=1e-12)


def test_configurations_have_the_stated_widths():
    x = FAMILY.configurations("AAAA", np.full(4000, 300.0), np.random.default_rng(2))
    r = np.linalg.norm(np.diff(x, axis=1), axis=-1)
    np.testing.assert_allclose(r.mean(0), 1.4, atol=0.005)
    np.testing.assert_allclose(r.std(0), 0.06, atol=0.003)
    a, b = x[:, :2] - x[:, 1:3], x[:, 2:] - x[:, 1:3]
    angle = np.arccos((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1))
    np.testing.assert_allclose(angle.mean(0), 1.9, atol=0.02)
    np.testing.assert_allclose(angle.std(0), 0.15, atol=0.01)


def test_noise_is_added_and_stated():
    args = ("AB", np.full(3000, 300.0))
    exact, noisy = (FAMILY.frames(*args, np.random.default_rng(3), n) for n in (None, {"mean_energy": 0.1}))
    assert noisy.noise == {"mean_energy": 0.1} and not exact.noise
    assert np.std(noisy.labels["mean_energy"] - exact.labels["mean_energy"]) == pytest.approx(0.1, rel=0.06)


def test_unknown_kinds():
    with pytest.raises(DataError, match="kinds A, B and C"):
        FAMILY.frames("AD", np.array([300.0]), np.random.default_rng(0))
