"""Relative entropy alone recovers the pair potential of a periodic liquid, at one and at several temperatures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe.geometry.neighbours import neighbours
from kernelfe.training import minimize_relative_entropy

from .pair_liquid import CENTRES, RESPONSE, TRUE, PairLiquid, pair_energy, true_frames

OPTIONS = {"timestep": 10.0, "stride": 50, "steps": 4000, "burn_in": 600, "replicas": 10, "enough": 0.8, "seed": 3}


BINS = np.arange(2.3, 6.5, 0.05)


def seen(frames, bins=BINS):
    """Distances at which g(r) > 0.1."""
    x, cell = torch.from_numpy(frames.positions.copy()), torch.from_numpy(np.array(frames.cell))
    r = neighbours(x, cell, 6.5).v.norm(dim=1)
    counts, _ = np.histogram(r.numpy(), bins)
    beads, volume = x.shape[1], float(torch.linalg.det(cell[0]))
    ideal = len(x) * beads * (beads - 1) / 2 * 4.0 / 3.0 * np.pi * np.diff(bins**3) / volume
    return torch.from_numpy((0.5 * (bins[1:] + bins[:-1]))[counts / ideal > 0.1])


def error(found, true, r):
    """Largest error of the pair potential over its largest value."""
    wanted = pair_energy(r, true)
    return float((pair_energy(r, found) - wanted).abs().max() / wanted.abs().max())


@pytest.mark.slow
def test_the_true_pair_potential_is_recovered_from_positions_alone():
    frames = true_frames([300.0], [13.2], samples=100)
    weak = PairLiquid(torch.zeros(len(CENTRES)), 1.0)  # a standard deviation of 1 eV
    found = minimize_relative_entropy(weak, frames, progress=False, **OPTIONS)
    assert found.converged and found.improved and len(found.rounds) <= 8
    r = seen(frames)
    assert r.min() < 2.7 and error(found.model.mean, TRUE, r) < 0.02
    spread = torch.linalg.inv(found.model.lower @ found.model.lower.T).diagonal().sqrt()
    assert bool(((found.model.mean - TRUE).abs() < 3.5 * spread).all())


@pytest.mark.slow
def test_several_temperatures_determine_the_response():
    frames = true_frames([260.0, 340.0], [13.2, 13.5], samples=50)
    weak = PairLiquid(torch.zeros(2 * len(CENTRES)), 1.0)
    found = minimize_relative_entropy(weak, frames, progress=False, **OPTIONS)
    assert found.converged and set(found.inefficiency) == {260.0, 340.0}
    for one in (300.0, 320.0):
        w = found.model.pair_weights(one)
        assert error(w, TRUE - 0.01 * (one - 300.0) * RESPONSE, seen(frames)) < 0.03
