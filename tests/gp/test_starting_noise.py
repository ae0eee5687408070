"""The learned noise does not depend on how many frames share a temperature: ramps, tempering, kinetic temperatures."""

from __future__ import annotations

import numpy as np
import pytest

import kernelfe
from kernelfe.gp.observations.molecules import MoleculeSet
from kernelfe.gp.starting import build_prior

SYSTEM = kernelfe.datasets.EliminatedMode(dimension=1, stiffness=0.15, stiffness_change=0.8, quartic=1.5)
NOISE = {"mean_energy": 0.02, "mean_force": 0.03}


def ramp(size, distinct, seed=0):
    """Frames at ``distinct`` temperatures from 300 to 500 K in random order, and the noise that was drawn."""
    rng = np.random.default_rng(seed)
    x, t = rng.uniform(-1.2, 1.2, (size, 1)), np.resize(np.linspace(300.0, 500.0, distinct), size)
    exact = SYSTEM.frames(x, t, list(NOISE)).labels
    drawn = {kind: level * rng.normal(size=exact[kind].shape) for kind, level in NOISE.items()}
    labels = {kind: exact[kind] + drawn[kind] for kind in NOISE}
    # the zero of a force field, and the heat capacity of what was eliminated
    labels["mean_energy"] = labels["mean_energy"] - 35.0 + 2e-3 * (t - 400.0)
    return kernelfe.Frames.from_arrays(variables=x, temperature=t, labels=labels), drawn


def starting_noise(*parts):
    data = MoleculeSet(list(parts))
    return build_prior(kernelfe.Term(), data, data.labels(None, None, None))[2]


@pytest.mark.parametrize("distinct", [1, 2, 5, 120])
def test_learned_noise(distinct):
    frames, drawn = ramp(120, distinct)
    model = kernelfe.FreeEnergyRegressor().fit(frames)
    for kind, (level, power) in model.noise_.items():
        found = level * (frames.temperature / model.noise_temperature_) ** power
        true = np.sqrt(np.mean(drawn[kind] ** 2))
        assert np.sqrt(np.mean(found**2)) == pytest.approx(true, rel=0.1), kind


@pytest.mark.parametrize("size", [20, 32, 48])
def test_few_frames_each_at_its_own_temperature(size):
    """The noise was 1e-6 of the truth, or error bars 1e6 eV."""
    frames, drawn = ramp(size, size, seed=1)
    model = kernelfe.FreeEnergyRegressor().fit(frames)
    for kind, (level, _) in model.noise_.items():
        assert 0.4 < level / np.sqrt(np.mean(drawn[kind] ** 2)) < 1.5
    _, std = model.predict(np.linspace(-1, 1, 5)[:, None], "mean_energy", temperature=400.0, return_std=True)
    assert std.max() < 0.02


def test_the_start_is_continuous_in_the_grouping():
    """A jitter of the temperatures by a millikelvin changes nothing."""
    frames, _ = ramp(48, 4)
    jitter = frames.temperature + 1e-3 * np.random.default_rng(0).normal(size=48)
    moved = kernelfe.Frames.from_arrays(variables=frames.variables, temperature=jitter, labels=dict(frames.labels))
    assert starting_noise(moved) == pytest.approx(starting_noise(frames), rel=1e-3)


def test_molecules_are_taken_together():
    """One frame each of many molecules scatters about an energy per bead."""
    rng = np.random.default_rng(0)
    parts, energies = [], []
    for number in range(24):
        kinds = ("A",) * (2 + number % 3) + ("B",) * (1 + number % 2)
        positions = rng.normal(size=(1, len(kinds), 3)) + 3.0 * np.arange(len(kinds))[:, None]
        energies.append(-20.0 * kinds.count("A") - 7.0 * kinds.count("B") + 0.05 * rng.normal())
        labels = {"mean_energy": np.array(energies[-1:])}
        parts.append(kernelfe.Frames.from_arrays(positions, kinds=kinds, temperature=300.0, labels=labels))
    data = MoleculeSet(parts)
    terms = kernelfe.Term(kernelfe.descriptors.PairDistances(30.0))
    start = build_prior(terms, data, data.labels(None, None, None))[2]["mean_energy"]
    assert 0.02 < start < 0.06
