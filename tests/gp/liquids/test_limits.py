"""Limits of fits to liquids: memory, environments, jumps at cutoffs, error bars of energies."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from kernelfe import Dense, Frames, FreeEnergyRegressor, Term
from kernelfe.descriptors import PairDistances, PairSplines
from kernelfe.errors import SolverError
from kernelfe.gp.solvers import specs
from kernelfe.kernels import RBF, SecondOrder
from kernelfe.runtime import memory

EDGE, BEADS = 14.0, 64
NUMBERS = RBF(lengthscale=0.5), SecondOrder(energy=0.1, entropy=1e-4, heat_capacity=1e-4)


def lattice(frames: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sites = np.stack([rng.permutation(64) for _ in range(frames)])
    x = np.stack([sites // 16, sites // 4 % 4, sites % 4], 2) * (EDGE / 4.0)
    return x + 0.3 * rng.normal(size=(frames, BEADS, 3))


def energy_and_forces(x: np.ndarray, cutoff: float = 6.5) -> tuple[np.ndarray, np.ndarray]:
    """Σ (1 − r²/c²)³ of nearest images and its forces."""
    d = x[:, :, None] - x[:, None]
    d -= EDGE * np.rint(d / EDGE)
    inside = np.clip(1.0 - (d**2).sum(-1) / cutoff**2, 0.0, None)
    energy = 0.5 * (inside**3).sum((1, 2)) - 0.5 * BEADS
    return energy, (6.0 * inside[..., None] ** 2 / cutoff**2 * d).sum(2)


def box(frames: int, seed: int = 0) -> Frames:
    x = lattice(frames, seed)
    return Frames.from_arrays(
        x, temperature=300.0, cell=np.tile(EDGE * np.eye(3), (frames, 1, 1)), kinds=["W"] * BEADS,
        labels={"mean_force": 0.1 * energy_and_forces(x)[1]},
    )  # fmt: skip


def fitted(frames: Frames, descriptor, **options) -> FreeEnergyRegressor:
    numbers = NUMBERS if type(descriptor) is PairDistances else ()
    return FreeEnergyRegressor(Term(descriptor, *numbers), optimizer=None, baseline=False, **options).fit(frames)


def test_a_covariance_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 18)
    with pytest.raises(SolverError, match=r"covariance of 192 label rows takes .* GiB are left: use solver='auto'"):
        fitted(box(1), PairDistances(4.0), solver=Dense())


def test_many_environments_of_few_labels_are_not_conditioned_exactly(monkeypatch):
    chosen = fitted(box(3), PairDistances(4.0))
    assert isinstance(chosen.solver_, Dense)
    monkeypatch.setattr(specs, "ENVIRONMENT_LIMIT", 500)
    model = fitted(box(3), PairDistances(4.0))
    assert type(model.solver_).__name__ == "Sparse" and "rows of environments > 500" in model.solver_reason_


def test_pair_functions_that_end_abruptly_are_warned_of():
    with pytest.warns(UserWarning, match=r"pairs cross the cutoff of PairDistances, 4 Å.*PairSplines\(4\)"):
        fitted(box(1), PairDistances(4.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(box(1), PairSplines(4.0))


@pytest.mark.slow
def test_error_bars_of_energies_cover_what_few_frames_leave_open():
    """Energies of three frames at each of two temperatures, noisy: ⟨U⟩ at others is off by as much as is said."""
    heat, scores = 0.02, []  # eV/K
    cell = np.tile(EDGE * np.eye(3), (12, 1, 1))

    def truth(x, temperature):
        """A = (.1 − 2e-4 (T − 330)) E(R) plus a constant heat capacity: U = A − T ∂A/∂T and forces."""
        energy, force = energy_and_forces(x)
        mean_energy = (0.1 + 2e-4 * 330.0) * energy + heat * (temperature - 330.0)
        return mean_energy, (0.1 - 2e-4 * (temperature - 330.0))[:, None, None] * force

    for seed in range(4):
        rng = np.random.default_rng(100 + seed)
        x, temperature = lattice(12, seed), np.repeat([300.0, 360.0], 6)
        energies, forces = truth(x, temperature)
        labels = {"mean_force": forces + 0.02 * rng.normal(size=forces.shape), "mean_energy": energies.copy()}
        labels["mean_energy"] += 1.0 * rng.normal(size=12)
        known = {"mean_force": np.ones(12, bool), "mean_energy": np.tile(np.arange(6) < 3, 2)}
        train = Frames.from_arrays(
            x, temperature=temperature, cell=cell, kinds=["W"] * BEADS, labels=labels, present=known
        )  # fmt: skip
        model = FreeEnergyRegressor(Term(PairSplines(6.5)), baseline=False).fit(train)
        test = lattice(4, 50 + seed)
        for unseen in (250.0, 330.0, 450.0):
            frames = Frames.from_arrays(test, temperature=unseen, cell=cell[:4], kinds=["W"] * BEADS)
            found, std = model.predict(frames, "mean_energy", reference=None, return_std=True)
            scores.append((found - truth(test, np.full(4, unseen))[0]).mean() / std.mean())
    scores = np.array(scores)
    assert np.abs(scores).max() < 3.5 and np.sqrt((scores**2).mean()) < 1.8
