"""Models linear in a few weights: exact against the dense solver, on forces, energies and stress of a liquid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import Dense, FreeEnergyRegressor, Term
from kernelfe.descriptors import PairSplines, TripletSplines
from kernelfe.errors import DataError
from kernelfe.gp.solvers.specs import WeightSpace
from kernelfe.kernels import RBF, SecondOrder
from kernelfe.units import BOLTZMANN

THERMAL = SecondOrder(300.0, energy=0.05, entropy=1e-4, heat_capacity=1e-4)
TERMS = [
    ("pairs", Term(PairSplines(3.4, start=1.2, spacing=0.4), thermal=THERMAL)),
    ("triplets", Term(TripletSplines(2.6, 1.6, 0.5, 1), thermal=THERMAL)),
]


def liquid(frames: int = 12, beads: int = 6, seed: int = 0) -> kernelfe.Frames:
    rng = np.random.default_rng(seed)
    x = 4.0 * rng.random((frames, beads, 3))
    labels = {
        "mean_force": 0.1 * rng.standard_normal((frames, beads, 3)),
        "mean_energy": 0.1 * rng.standard_normal(frames),
        "stress": 1e-3 * rng.standard_normal((frames, 6)),
    }
    cell = np.broadcast_to(7.5 * np.eye(3), (frames, 3, 3))
    temperature = np.where(np.arange(frames) % 2, 330.0, 280.0)
    return kernelfe.Frames.from_arrays(x, temperature=temperature, cell=cell, labels=labels, kinds=["W"] * beads)


NOISE = {"mean_force": 0.1, "mean_energy": 0.05, "stress": 1e-3}


def models(optimizer, frames, noise=NOISE):
    common = {"terms": TERMS, "noise": noise, "baseline": False, "optimizer": optimizer, "random_state": 0}
    weights = FreeEnergyRegressor(**common, progress=False).fit(frames)
    exact = FreeEnergyRegressor(**common, progress=False, solver=Dense(evidence_rows=10_000)).fit(frames)
    return weights, exact


def test_equal_to_the_dense_solver():
    frames = liquid()
    weights, exact = models(None, frames)
    assert isinstance(weights.solver_, WeightSpace)
    assert weights.model_.domain is None  # the default guard of samplers then watches stability alone
    other = liquid(4, seed=1)
    for quantity in ("mean_force", "mean_energy", "entropy", "stress", "thermal_response_force"):
        (mean, std), (wanted, error) = (m.predict(other, quantity, return_std=True) for m in (weights, exact))
        np.testing.assert_allclose(mean, wanted, rtol=0, atol=1e-7 * np.abs(wanted).max())
        np.testing.assert_allclose(std, error, rtol=1e-5)
    assert weights.log_evidence_ == pytest.approx(exact.log_evidence_, abs=1e-5)


def test_the_evidence_finds_at_least_what_the_dense_search_finds():
    frames = liquid(8, 4, seed=2)
    weights, exact = models("evidence", frames, noise=None)
    assert weights.log_evidence_ > exact.log_evidence_ - 0.1


def test_model_file_and_samples_of_the_posterior(tmp_path):
    weights, _ = models(None, liquid())
    weights.save(tmp_path / "liquid.kfe")
    again, other = kernelfe.load(tmp_path / "liquid.kfe"), liquid(3, seed=1)
    for quantity in ("mean_force", "heat_capacity"):
        found, wanted = (m.predict(other, quantity) for m in (again, weights))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())
    frozen, cell = again.frozen(), np.array(other.cell)

    energy, forces, stress = frozen.energy_forces_stress(
        torch.from_numpy(other.positions.copy()), torch.from_numpy(cell), 300.0
    )
    np.testing.assert_allclose(forces.numpy(), weights.predict(other, "mean_force", temperature=300.0), atol=1e-10)
    np.testing.assert_allclose(stress.numpy(), weights.predict(other, "stress", temperature=300.0), atol=1e-12)
    assert np.isfinite(energy.numpy()).all()


def test_with_other_terms_the_sparse_solver_has_all_weights():
    frames = liquid()
    terms = [*TERMS[1:], ("pairs", Term(kernelfe.descriptors.PairDistances(2.4), RBF(0.8), THERMAL))]
    common = {"terms": terms, "noise": NOISE, "baseline": False, "optimizer": None, "progress": False}
    sparse = FreeEnergyRegressor(**common, solver=kernelfe.Sparse(inducing=60)).fit(frames)
    exact = FreeEnergyRegressor(**common, solver=Dense()).fit(frames)
    other = liquid(2, seed=1)
    wanted = exact.predict(other, "mean_force")
    np.testing.assert_allclose(sparse.predict(other, "mean_force"), wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())


def test_pair_potential_beside_other_terms():
    weights, exact = models(None, liquid())
    r = np.array([1.5, 2.5])
    (mean, std), (wanted, error) = (m.pair_potential(r, "pairs", return_std=True) for m in (weights, exact))
    np.testing.assert_allclose(mean, wanted, rtol=0, atol=1e-7)
    np.testing.assert_allclose(std, error, rtol=1e-5)


def test_other_kernels_are_refused_by_name():
    model = FreeEnergyRegressor(Term(kernelfe.descriptors.PairDistances(3.0)), solver="weights", progress=False)
    with pytest.raises(DataError, match="RBF"):
        model.fit(liquid())


def test_boxes_of_different_sizes_share_a_model():
    parts = [liquid(10, 6), liquid(10, 7, seed=3)]
    model = FreeEnergyRegressor(TERMS, noise=NOISE, optimizer=None, baseline=False, progress=False).fit(parts)
    assert model.predict(liquid(2, 6, seed=5), "mean_force").shape == (2, 6, 3)
    assert model.predict(liquid(2, 7, seed=5), "mean_force").shape == (2, 7, 3)


def test_the_core_keeps_beads_apart_where_no_data_are():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*3 * [np.arange(4)], indexing="ij"), -1).reshape(-1, 3) * 3.0
    x = grid + 0.25 * rng.standard_normal((40, 64, 3))
    cell = np.broadcast_to(12.0 * np.eye(3), (40, 3, 3))
    forces = 0.05 * rng.standard_normal(x.shape)
    frames = kernelfe.Frames.from_arrays(
        positions=x, temperature=np.full(40, 300.0), cell=cell, labels={"mean_force": forces}
    )
    model = FreeEnergyRegressor([("pairs", Term(PairSplines(5.0, start=1.8, spacing=0.4)))], progress=False).fit(frames)
    core = model.model_.baseline
    r = np.linspace(1.0, 2.5, 200)
    energy, slope = core.pair(r)
    assert (np.diff(energy) < 0).all() and energy[0] > 20 * BOLTZMANN * 300
    np.testing.assert_allclose(np.gradient(energy, r)[1:-1], slope[1:-1], rtol=1e-2)
    assert core.pair(np.array([5.9]))[0][0] < 1e-6
    shown = model.pair_potential(np.array([1.2, 1.4]), quantity="free_energy")  # where no spline is
    assert shown[0] - shown[1] == pytest.approx(np.subtract(*core.pair(np.array([1.2, 1.4]))[0]))
    shown = model.pair_potential(np.array([1.2]), quantity="mean_force")
    assert shown[0] == pytest.approx(-core.pair(np.array([1.2]))[1][0])
