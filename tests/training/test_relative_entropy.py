"""Conditioning on the density of frames, against a bead in a double well whose density is known exactly."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from scipy.stats import chi2

import kernelfe
from kernelfe import Frames, FreeEnergyRegressor, Term
from kernelfe.descriptors import Distances, PairDistances
from kernelfe.errors import DataError
from kernelfe.gp import BoltzmannInversion, Dense, Sparse
from kernelfe.kernels import RBF, SecondOrder
from kernelfe.simulate import SamplingError, TorsionMoves
from kernelfe.statistics import samples_per_replica
from kernelfe.training import minimize_relative_entropy, replicas
from kernelfe.training.linear import linear_model
from kernelfe.training.sides import SlowVariables
from kernelfe.units import BOLTZMANN

TEMPERATURES = (300.0, 500.0)
NOISE = 0.3  # eV/Å of single-frame forces: the well depths are then hardly known from forces
THERMAL = SecondOrder(reference_temperature=400.0, energy=0.17, entropy=2e-4, heat_capacity=2e-5)
#: Light beads and a barrier of some kT: replicas cross it many times, so that averages of the model are its own.
QUIET = {"progress": False, "replicas": 400, "timestep": 6.0, "masses": np.ones(2), "steps": 900, "burn_in": 200}


def height(t):
    return 0.06 - 1e-4 * (t - 400.0)


def profile(r, t):
    """A of a dimer at distance r, eV: wells at 2.2 and 3.8 Å, the inner one deeper by 2·0.8·0.04 eV."""
    return height(t) * (((r - 3.0) / 0.8) ** 2 - 1) ** 2 + 0.04 * (r - 3.0)


def slope(r, t):
    return 4.0 * height(t) * (r - 3.0) / 0.64 * (((r - 3.0) / 0.8) ** 2 - 1) + 0.04


GRID = np.linspace(1.2, 4.8, 3601)


def density(a, t):
    """Density of the distance on GRID: r² exp(−A/kT)."""
    p = GRID**2 * np.exp(-(a - a.min()) / (BOLTZMANN * t))
    return p / p.sum()


def probability_far(t):
    return density(profile(GRID, t), t)[GRID > 3.0].sum()


def dimers(r, rng=None):
    """Dimers along z, or turned at random."""
    u = np.tile([0.0, 0.0, 1.0], (len(r), 1)) if rng is None else rng.standard_normal((len(r), 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    return np.stack([np.zeros_like(u), r[:, None] * u], 1)


def distances(frames):
    return np.linalg.norm(frames.positions[:, 1] - frames.positions[:, 0], axis=1)


def frames(n, rng, temperatures=TEMPERATURES):
    """Exact draws, with noisy forces."""
    r = np.concatenate([np.interp(rng.random(n), np.cumsum(density(profile(GRID, t), t)), GRID) for t in temperatures])
    t, x = np.repeat(temperatures, n), dimers(r, rng)
    pull = -slope(r, t)[:, None] * (x[:, 1] - x[:, 0]) / r[:, None]
    labels = {"mean_force": np.stack([-pull, pull], 1) + NOISE * rng.standard_normal(x.shape)}
    return Frames.from_arrays(x, temperature=t, labels=labels, noise={"mean_force": NOISE})


def fitted(train, solver=None, **arguments):
    solver = Sparse(inducing=60) if solver is None else solver
    term = Term(Distances(), RBF(lengthscale=0.5), THERMAL)
    # without a bond the model of a dimer is bounded nowhere, and its replicas would part
    baseline = BoltzmannInversion(bonds=((0, 1),))
    return FreeEnergyRegressor(term, solver, baseline=baseline, optimizer=None, **arguments).fit(train)


def far(model, t):
    """P(r > 3 Å) of a model by quadrature."""
    a = model.predict(dimers(GRID), "free_energy", temperature=t, reference=None)
    return density(a, t)[GRID > 3.0].sum()


NEAR, FAR = dimers(np.array([2.2])), dimers(np.array([3.8]))


@pytest.fixture(scope="module")
def case():
    train = frames(400, np.random.default_rng(1))
    model = fitted(train)
    return train, model, minimize_relative_entropy(model, train, inefficiency=1.0, **QUIET)


def test_populations_follow_the_frames(case):
    train, model, found = case
    assert found.converged and found.improved and "converged" in found.outcome
    assert found.gain == sum(one.gain for one in found.rounds if one.kept) > 4.0 * found.gain_error > 0.0
    for t in TEMPERATURES:
        exact, r = probability_far(t), distances(train[train.temperature == t])
        scatter = np.sqrt(exact * (1 - exact) / len(r))
        assert abs(far(found.model, t) - np.mean(r > 3.0)) < 2.0 * scatter
        assert abs(far(found.model, t) - exact) < 3.0 * scatter
        assert abs(far(found.model, t) - exact) < abs(far(model, t) - exact)


def test_error_bars_shrink_and_the_first_model_is_left_alone(case):
    train, model, found = case
    before, after = (
        np.sqrt(m.predict_difference(NEAR, FAR, 400.0, 400.0, return_cov=True)[1][0, 0]) for m in (model, found.model)
    )
    assert after < 0.8 * before
    # no better than counting in both wells at both temperatures can be
    assert after > 0.3 * BOLTZMANN * 400.0 / np.sqrt(len(train) * 0.25)
    again = fitted(train)
    assert torch.equal(again.posterior_.weights, model.posterior_.weights)
    assert torch.equal(again.posterior_.lower, model.posterior_.lower)


def test_the_maximum_is_that_of_newton_by_quadrature(case):
    """The same maximum without a sample: Newton's method with averages over a grid."""
    train, model, found = case
    posterior, read = model.posterior_, kernelfe.functionals.get("free_energy")

    def features(x, t):
        states = model.model_.states(Frames.from_arrays(x, temperature=t))
        wide = posterior.basis.wide(posterior.prior.rows(read, states))[0] * posterior.basis.amplitudes()
        return torch.linalg.solve_triangular(posterior.lower, wide.T, upper=False).T.numpy()

    grid = {t: features(dimers(GRID), t) for t in TEMPERATURES}
    start = {t: model.predict(dimers(GRID), "free_energy", temperature=t, reference=None) for t in TEMPERATURES}
    v = np.zeros(len(posterior.weights))
    for _ in range(30):
        gradient, hessian = v.copy(), np.eye(len(v))
        for t in TEMPERATURES:
            x, kt = train.positions[train.temperature == t], BOLTZMANN * t
            p = density(start[t] + grid[t] @ v, t)
            mean = p @ grid[t]
            gradient += len(x) / kt * (features(x, t).mean(0) - mean)
            hessian += len(x) / kt**2 * ((grid[t] - mean).T * p) @ (grid[t] - mean)
        v -= np.linalg.solve(hessian, gradient)
    assert np.abs(gradient).max() < 1e-8
    places = dimers(np.array([2.2, 2.6, 3.0, 3.4, 3.8]))
    exact = model.predict(places, "free_energy", temperature=400.0, reference=None) + features(places, 400.0) @ v
    value = found.model.predict(places, "free_energy", temperature=400.0, reference=None)
    std = np.sqrt(np.diag(found.model.predict_difference(places[:-1], places[1:], 400.0, 400.0, return_cov=True)[1]))
    # the samples of the model are several times the frames: less than a standard deviation is theirs
    assert (np.abs(np.diff(value) - np.diff(exact)) < std).all()
    assert np.abs(features(places, 400.0) @ v).max() > 3.0 * std.max()
    # and the curvature there is the precision
    covariance = np.linalg.solve(hessian, features(places, 400.0).T).T @ features(places, 400.0).T
    newton = np.sqrt(np.diag(np.diff(np.diff(covariance, axis=0), axis=1)))
    np.testing.assert_allclose(std, newton, rtol=0.25)


def test_frames_without_weight_change_nothing(case):
    train, model, _ = case
    found = minimize_relative_entropy(model, train, inefficiency=1e9, **QUIET)
    torch.testing.assert_close(found.model.posterior_.weights, model.posterior_.weights, atol=1e-5, rtol=0)
    assert found.converged and not found.improved and "agrees with the density" in found.outcome


def test_same_seed_same_model_and_it_is_saved(case, tmp_path):
    train, model, _ = case
    short = QUIET | {"rounds": 2, "steps": 100, "longest": 100, "replicas": 100}
    one, two = (minimize_relative_entropy(model, train, seed=3, **short).model for _ in range(2))
    assert torch.equal(one.posterior_.weights, two.posterior_.weights)
    one.save(tmp_path / "m.kfe")
    again = kernelfe.load(tmp_path / "m.kfe")
    for a, b in zip(
        again.predict(train[:5], "mean_force", return_std=True),
        one.predict(train[:5], "mean_force", return_std=True),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_inefficiency_is_estimated_from_the_order_of_the_frames():
    rng = np.random.default_rng(5)
    train = frames(200, rng)
    repeated = train[np.repeat(np.arange(len(train)), 4)]
    model = fitted(repeated)
    short = QUIET | {"rounds": 1, "steps": 40, "longest": 40}
    found = minimize_relative_entropy(model, repeated, **short).inefficiency
    assert list(found) == list(TEMPERATURES) and all(3.0 < g[0] < 9.0 for g in found.values())
    plain = minimize_relative_entropy(fitted(train), train, **(QUIET | {"rounds": 3, "steps": 400}))
    assert all(g[0] < 2.5 for g in plain.inefficiency.values())
    assert plain.model.density_ == {t: pytest.approx(200 / g[0]) for t, g in plain.inefficiency.items()}
    assert all(n > 80 for n in plain.model.density_.values())  # nearly all of 200 independent frames


def test_models_on_many_environments_have_their_inefficiency_measured():
    """Pairs within a cutoff have no names: their mean shows that the frames repeat."""
    few = frames(20, np.random.default_rng(6))
    repeated = few[np.repeat(np.arange(len(few)), 20)]
    term = Term(PairDistances(cutoff=20.0), RBF(lengthscale=0.5), THERMAL)
    baseline = BoltzmannInversion(bonds=((0, 1),))
    model = FreeEnergyRegressor(term, Sparse(inducing=20), baseline=baseline, optimizer=None).fit(repeated)
    found = minimize_relative_entropy(model, repeated, **(QUIET | {"rounds": 1, "steps": 40, "longest": 40}))
    assert all(10.0 < g[0] < 40.0 for g in found.inefficiency.values())
    # of a dimer the mean over pairs is the one distance: measured alike, whatever the descriptor
    named = fitted(repeated)
    by_mean, by_distance = (SlowVariables.of(linear_model(m), None, repeated.positions).columns for m in (model, named))
    np.testing.assert_allclose(by_mean, by_distance, atol=1e-12)
    by_mean, by_distance = (samples_per_replica(x.reshape(20, -1, x.shape[1])) for x in (by_mean, by_distance))
    np.testing.assert_allclose(by_mean, by_distance, rtol=1e-9)


def test_not_converged_is_said(case, caplog):
    train, model, _ = case
    with caplog.at_level(logging.WARNING, "kernelfe"):
        found = minimize_relative_entropy(model, train, **(QUIET | {"rounds": 1, "steps": 400, "replicas": 200}))
    assert not found.converged and "1 models sampled: not converged" in caplog.text and found.model is model


def test_frames_that_no_model_follows_leave_that_of_the_labels(case, caplog):
    """Ten labels and frames of a thousand times their weight: every step leads to a model that cannot be sampled."""
    few = case[0][:200]
    model, short = fitted(few[::20]), QUIET | {"rounds": 2, "steps": 100, "longest": 100, "replicas": 100}
    with caplog.at_level(logging.WARNING, "kernelfe"):
        found = minimize_relative_entropy(model, few, inefficiency=1e-3, **short)
    assert found.model is model and not found.improved and "which is returned" in caplog.text


def test_a_model_that_keeps_the_memory_of_its_start_is_not_used(case, caplog):
    train, model, found = case
    assert found.rounds[-1].samples_per_replica > 3.0 and all(one.memory <= 0.1 for one in found.rounds)
    heavy = {"steps": 40, "burn_in": 0, "masses": np.full(2, 1e4), "longest": 80}
    with caplog.at_level(logging.WARNING, "kernelfe"):
        stuck = minimize_relative_entropy(model, train, **(QUIET | heavy))
    assert "still depend on their start" in caplog.text and "returned as it was" in stuck.outcome
    assert stuck.model is model and not stuck.converged and not stuck.improved and stuck.rounds[0].steps == 80


#: Known defect: with seed 1 the stated gain, 94.1 ± 2.2 nats, is 4.2 of its errors above the exact one, 84.8. The model
#: is better, as it must be. At 00c8509 it was 3.9. Over 40 seeds the stated gain is about half an error too high on
#: average: a step is measured partly with the samples from which it was chosen.
TOO_SURE = pytest.mark.xfail(
    reason="the error of the gain is too small by a twentieth for the limit of four", strict=False
)


@pytest.mark.parametrize(
    "seed",
    [
        0,
        pytest.param(1, marks=[pytest.mark.slow, TOO_SURE]),
        *(pytest.param(k, marks=pytest.mark.slow) for k in range(2, 6)),
    ],
)
def test_the_objective_never_rises(seed):
    """Few frames, few replicas, short runs: the exact relative entropy of the model returned is below that before.

    By quadrature, up to the error that is stated; the exact populations are within reach of the frames'.
    """
    rng = np.random.default_rng([11, seed])
    train = frames(60, rng, (400.0,))
    model = fitted(train[::3])
    short = QUIET | {"replicas": 100, "steps": 200, "burn_in": 50, "rounds": 4}
    found = minimize_relative_entropy(model, train, inefficiency=1.0, seed=seed, **short)

    def objective(m):
        a = m.predict(dimers(GRID), "free_energy", temperature=400.0, reference=None) / (BOLTZMANN * 400.0)
        z = np.log(np.sum(GRID**2 * np.exp(-(a - a.min())))) - a.min()
        here = m.predict(train.positions, "free_energy", temperature=400.0, reference=None) / (BOLTZMANN * 400.0)
        weight = 1.0 / (1.0 / len(train) + 1.0 / (100 * found.rounds[0].samples_per_replica))
        v = model.posterior_.lower.T @ (m.posterior_.weights - model.posterior_.weights)
        return weight * (here.mean() + z) + 0.5 * float(v @ v)

    lower = objective(model) - objective(found.model)
    assert lower >= 0.0 and abs(lower - found.gain) <= 4.0 * found.gain_error + 1e-9
    assert found.rounds[0].kept and all(one.gain > 2.0 * one.gain_error for one in found.rounds[1:] if one.kept)


def test_a_proposal_that_cannot_be_sampled_is_refused_and_the_step_shrinks(case, monkeypatch):
    train, model, _ = case
    calls, sample = [], replicas.Replicas.sample

    def fails_once(self, proposed):
        calls.append(proposed)
        if len(calls) == 2:
            raise SamplingError("as of an explosion")
        return sample(self, proposed)

    monkeypatch.setattr(replicas.Replicas, "sample", fails_once)
    short = QUIET | {"rounds": 3, "steps": 400, "replicas": 200}
    found = minimize_relative_entropy(model, train, inefficiency=1.0, **short)
    first, second = found.rounds[1:3]
    assert not first.kept and first.gain == -np.inf and second.kept and second.distance < 0.6 * first.distance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"replicas": 1}, "replicas=1"),
        ({"replicas": 3}, "two replicas for each of 2"),
        ({"inefficiency": 0.0}, "inefficiency=0.0"),
        ({"inefficiency": np.nan}, "inefficiency=nan"),
        ({"inefficiency": "a"}, "inefficiency='a'"),
        ({"rounds": 2.5}, "rounds=2.5"),
        ({"seed": -1}, "seed=-1"),
        ({"moves": "none"}, "moves='none'"),
        ({"moves": 3}, "moves=3"),
    ],
)
def test_arguments_out_of_range_are_named(case, change, message):
    train, model, _ = case
    with pytest.raises(DataError, match=message):
        minimize_relative_entropy(model, train, **(QUIET | change))


def test_models_and_frames_that_cannot_be_used_are_refused(case):
    train, model, _ = case
    with pytest.raises(DataError, match="solver='sparse'"):
        minimize_relative_entropy(fitted(train[::20], solver=Dense()), train)
    flat = Frames.from_arrays(variables=train.positions[:, 1], temperature=train.temperature)
    with pytest.raises(DataError, match="bead positions"):
        minimize_relative_entropy(model, flat)
    with pytest.raises(DataError, match="another molecule"):
        minimize_relative_entropy(model, Frames.from_arrays(np.arange(27.0).reshape(3, 3, 3), temperature=300.0))
    with pytest.raises(DataError, match="must be kernelfe"):
        minimize_relative_entropy(model, train.positions)
    with pytest.raises(DataError, match="density of frames already"):
        minimize_relative_entropy(case[2].model, train)
    with pytest.raises(DataError, match="0 frames"):
        minimize_relative_entropy(model, train[:0])
    with pytest.raises(Exception, match="not fitted"):
        minimize_relative_entropy(FreeEnergyRegressor(), train)


def test_stiff_bonds_get_a_smaller_time_step():
    rng = np.random.default_rng(0)
    r = 1.5 + 0.01 * rng.standard_normal(60)
    x = dimers(r, rng)
    pull = -(r - 1.5) * BOLTZMANN * 300.0 / 1e-4
    u = (x[:, 1] - x[:, 0]) / r[:, None]
    labels = {"mean_force": np.stack([-pull[:, None] * u, pull[:, None] * u], 1)}
    stiff = Frames.from_arrays(x, temperature=300.0, labels=labels, noise={"mean_force": NOISE})
    found = minimize_relative_entropy(fitted(stiff), stiff, replicas=50, steps=40, longest=40, rounds=1, progress=False)
    assert np.isfinite(found.model.posterior_.weights.numpy()).all()
    with pytest.raises(SamplingError):
        minimize_relative_entropy(fitted(stiff), stiff, timestep=5.0, replicas=50, steps=40, longest=40, progress=False)


def test_frames_outside_the_temperatures_of_the_model_are_reported(case, caplog):
    hot = frames(50, np.random.default_rng(8), (700.0,))
    with caplog.at_level(logging.WARNING, "kernelfe"):
        minimize_relative_entropy(case[1], hot, **(QUIET | {"rounds": 1, "steps": 40, "longest": 40}))
    assert "outside the 300 to 500 K" in caplog.text


def test_a_molecule_gets_its_torsion_moves(monkeypatch, caplog):
    """And its cold frames, which never turn φ to the other side, are reported to contain no information about it."""
    data, used = kernelfe.datasets.load("alanine-dipeptide"), []
    run = replicas.run_langevin
    monkeypatch.setattr(replicas, "run_langevin", lambda *a, **k: used.append(a[3].moves) or run(*a, **k))
    part = data[np.isin(data.temperature, (300.0, 600.0))][::100]
    model = FreeEnergyRegressor(Term(Distances()), Sparse(inducing=30), labels=["mean_force"]).fit(part)
    with caplog.at_level(logging.WARNING, "kernelfe"):
        found = minimize_relative_entropy(model, part, replicas=100, steps=40, rounds=2, longest=160, progress=False)
    assert all(isinstance(moves, TorsionMoves) for moves in used) and len(used) == len(found.rounds)
    assert "frames at 300 K never visit one side" in caplog.text and "600 K never" not in caplog.text
    assert 10.0 < found.model.density_[300.0] <= 50.0


@pytest.mark.slow
def test_error_bars_of_the_difference_between_the_wells_are_calibrated():
    """z of A(far) − A(near) over independent data sets: the sum of its squares follows χ²."""
    truth, z = profile(3.8, 400.0) - profile(2.2, 400.0), []
    for seed in range(60):
        train = frames(150, np.random.default_rng([7, seed]))
        found = minimize_relative_entropy(fitted(train), train, inefficiency=1.0, seed=seed, **QUIET)
        value, cov = found.model.predict_difference(NEAR, FAR, 400.0, 400.0, return_cov=True)
        z.append((value[0] - truth) / np.sqrt(cov[0, 0]))
    assert abs(np.mean(z)) < 4.0 / np.sqrt(len(z))
    assert chi2.ppf(0.0005, len(z)) < np.sum(np.square(z)) < chi2.ppf(0.9995, len(z))
