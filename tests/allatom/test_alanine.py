"""Held beads of alanine dipeptide against free dynamics: at the R of equilibrium frames, frame minus mean is noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kernelfe import datasets
from kernelfe.units import BOLTZMANN

pytest.importorskip("openmm")

pytestmark = pytest.mark.slow


def test_free_frames_scatter_about_the_held_averages(monkeypatch):
    """An equilibrium frame is one draw from the conditional ensemble at its own R: ⟨U⟩, Var U and torques agree."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "data" / "alanine_dipeptide"))
    import generate_restrained

    frames, atoms = datasets.load("alanine-dipeptide"), datasets.load_atoms("alanine-dipeptide")

    rows = np.flatnonzero(frames.temperature == 350.0)[7::62]
    free = frames[rows]
    driver = generate_restrained.ensemble()
    held = driver.sample(free, atoms.positions, 4.0, seed=5, progress=False)
    u = free.labels["mean_energy"] - held.labels["mean_energy"]
    variance = held.labels["heat_capacity"] * BOLTZMANN * free.temperature**2
    z = u / np.sqrt(variance + held.noise["mean_energy"] ** 2)
    assert len(z) > 35
    assert abs(z.sum()) < 4.0 * np.sqrt(len(z))
    assert 1e-4 < stats.chi2.cdf((z**2).sum(), len(z)) < 1 - 1e-4
    q = free.labels["generalized_force"] - held.labels["generalized_force"]
    assert (np.abs(q.mean(0)) < 4.0 * q.std(0) / np.sqrt(len(q))).all()
    # and the averages explain much of the torques: their scatter is that within small bins, not that over all angles
    assert (q.std(0) < 0.9 * free.labels["generalized_force"].std(0)).all()
