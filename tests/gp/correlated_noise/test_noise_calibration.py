"""Error bars under correlated noise, on simulated data whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe import CorrelatedNoise, Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.datasets import EliminatedMode
from kernelfe.descriptors import Variables
from kernelfe.gp import noise_covariance
from kernelfe.kernels import RBF, SecondOrder

BOLTZMANN = 8.617330337217213e-05
T0, ELL, SCALES = 400.0, 1.2, (0.05, 3e-4, 1e-4)
#: The true prior, so that only the noise is fitted.
TERM = Term(Variables(), RBF(ELL), SecondOrder(T0, *SCALES), fixed=True)


SOLVER = Sparse(inducing=40, gradients=True, evidence_inducing=40)


class Truth:
    """A(R; T) drawn from the prior, by random Fourier features; forces, energies and dF/dT follow by hand."""

    def __init__(self, rng, dimension, features=400):
        self.k = rng.normal(size=(features, dimension)) / ELL
        self.phase = rng.uniform(0, 2 * np.pi, features)
        self.weights = rng.normal(size=(3, features)) * np.sqrt(2 / features) * np.array(SCALES)[:, None]

    def values(self, x):
        return self.weights @ np.cos(x @ self.k.T + self.phase).T  # A(T0), s, c

    def slopes(self, x):
        return -np.einsum("kf,nf,fd->knd", self.weights, np.sin(x @ self.k.T + self.phase), self.k)

    def free_energy(self, x, t):
        a, s, c = self.values(x)
        return a - (t - T0) * s + c * (t - T0 - t * np.log(t / T0))

    def mean_energy(self, x, t):
        a, s, c = self.values(x)
        return a + T0 * s + c * (t - T0)

    def force(self, x, t):
        a, s, c = self.slopes(x)
        return -(a - (t[:, None] - T0) * s + c * (t - T0 - t * np.log(t / T0))[:, None])

    def response(self, x, t):
        _, s, c = self.slopes(x)
        return s + c * np.log(t / T0)[:, None]


RHO = 0.9
C0 = 0.12**2 * np.array([[1.0, RHO], [RHO, 1.0]])
OWN = 0.04
COUNT = 300


def correlated_data(seed, n=COUNT):
    """Forces with covariance C0·T/T0, energies with covariance kT² dF/dT to them, exactly."""
    rng = np.random.default_rng(seed)
    truth = Truth(rng, 2)
    x, t = rng.uniform(-1.5, 1.5, (n, 2)), np.resize([300.0, 400.0, 500.0], n)
    c = C0 * (t / T0)[:, None, None]
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(c), rng.normal(size=(n, 2)))
    cross = BOLTZMANN * t[:, None] ** 2 * truth.response(x, t)
    energy_noise = np.einsum("ni,ni->n", np.linalg.solve(c, cross[:, :, None])[:, :, 0], noise)
    energy_noise += OWN * t / T0 * rng.normal(size=n)
    labels = {"mean_force": truth.force(x, t) + noise, "mean_energy": truth.mean_energy(x, t) + energy_noise}
    return truth, Frames.from_arrays(variables=x, temperature=t, labels=labels)


SEEDS = range(14)
DESCRIPTIONS = {
    "plain": None,
    "forces": CorrelatedNoise(force_energy=False, rounds=3),
    "all": CorrelatedNoise(rounds=3),
}


@pytest.fixture(scope="module")
def fits():
    """Truth, frames and the models under each description of the noise, for every data set."""
    out = []
    for seed in SEEDS:
        truth, frames = correlated_data(seed)
        models = {
            name: FreeEnergyRegressor(terms=TERM, solver=SOLVER, noise=noise).fit(frames)
            for name, noise in DESCRIPTIONS.items()
        }
        out.append((truth, frames, models))
    return out


def along_both(truth, model):
    """z of A differences along (1, 1), which the common part of the noise of both forces blurs."""
    ends = np.array([[-1.2, -1.2], [-0.6, -0.6], [0.0, 0.0], [0.6, 0.6], [1.2, 1.2]])
    t = np.full(4, T0)
    found, cov = model.predict_difference(ends[:-1], ends[1:], T0, T0, return_cov=True)
    true = truth.free_energy(ends[1:], t) - truth.free_energy(ends[:-1], t)
    return (found - true) / np.sqrt(np.diag(cov))


@pytest.mark.slow
def test_error_bars_under_noise_within_frames(fits):
    """Independent noise claims too much along the common direction: its variance there is 1 + ρ, not 1."""
    plain, full = (np.array([along_both(t, m[name]) for t, _, m in fits]) for name in ("plain", "all"))
    assert np.mean(plain**2) > 1.35 * np.mean(full**2)
    assert np.mean(full**2) == pytest.approx(1.0, abs=0.4)  # 56 values, correlated in fours
    assert np.mean(np.abs(full) < 1.96) > 0.9


@pytest.mark.slow
def test_covariance_within_frames_is_the_true_one(fits):
    found = []
    for _, _, models in fits:
        where = Frames.from_arrays(variables=np.zeros((1, 2)), temperature=T0)
        c = noise_covariance(models["all"], where, ["mean_force"])[0]
        found.append([c[0, 0] / C0[0, 0], c[1, 1] / C0[0, 0], c[0, 1] / C0[0, 1]])
    found = np.array(found)
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - 1.0) < 3.0 * error).all()
    np.testing.assert_allclose(found.std(0, ddof=1), np.sqrt(2.0 / COUNT), rtol=0.5)  # as for frames of known mean
    # of T: as T/T0, as it was made
    p = [models["all"].noise_levels_["whitened (mean_force)"][1] for _, _, models in fits]
    p = np.array(p) + [models["all"].noise_model_.exponents[0] for _, _, models in fits]
    assert abs(p.mean() - 0.5) < 3.5 * p.std(ddof=1) / np.sqrt(len(p))


@pytest.mark.slow
def test_covariance_of_force_and_energy_is_right_and_is_information(fits):
    """kT² dF/dT lies within the error bar of dF/dT; energies given the forces scatter by what is their own."""
    z, errors, scaled = [], {"forces": [], "all": []}, []
    at = np.random.default_rng(1).uniform(-1.2, 1.2, (8, 2))
    for truth, frames, models in fits:
        part = frames[:20]
        total = noise_covariance(models["all"], part)
        mean, std = models["all"].predict(part, "thermal_response_force", return_std=True)
        coupling = models["all"].noise_model_.coupling
        factor = coupling * BOLTZMANN * part.temperature[:, None] ** 2
        np.testing.assert_allclose(total[:, :2, 2], factor * mean, rtol=1e-9, atol=1e-15)
        z.append((mean - truth.response(part.variables, part.temperature)) / std)
        for name, out in errors.items():
            found, std = models[name].predict(at, "mean_energy", temperature=T0, return_std=True)
            out.append(found - truth.mean_energy(at, np.full(8, T0)))
            if name == "all":
                scaled.append(out[-1] / std)
    assert np.mean(np.square(z)) == pytest.approx(1.0, abs=0.4)
    assert np.mean(np.square(scaled)) == pytest.approx(1.0, abs=0.4)
    assert np.mean(np.square(errors["all"])) < np.mean(np.square(errors["forces"]))
    own = np.mean([models["all"].noise_levels_["mean_energy given (mean_force)"][0] for *_, models in fits])
    whole = np.mean([models["forces"].noise_["mean_energy"][0] for *_, models in fits])
    assert 0.95 * OWN < own < 0.85 * whole  # what is above their own is the error of dF/dT


def test_physical_frames_have_the_covariance_that_is_taken_for_granted():
    """All-atom frames drawn exactly: Cov(f, U | R) predicted by a model that saw only other frames."""
    system, rng = EliminatedMode(dimension=2), np.random.default_rng(0)
    x, t = rng.uniform(-1.0, 1.0, (400, 2)), np.resize([300.0, 400.0, 500.0], 400)
    frames = system.frames(x, t, ("mean_force", "mean_energy"), rng=rng)
    frames = Frames.from_arrays(variables=x, temperature=t, labels=dict(frames.labels))
    noise = CorrelatedNoise(within_frame=False, rounds=1)
    term = Term(Variables(), RBF(0.9), SecondOrder(T0, 0.1, 3e-4, 1e-4), fixed=True)
    model = FreeEnergyRegressor(terms=term, solver="sparse", noise=noise).fit(frames)
    points, at = rng.uniform(-0.8, 0.8, (30, 2)), np.full(30, 400.0)
    test = Frames.from_arrays(variables=points, temperature=at)
    found = noise_covariance(model, test, ["mean_force", "mean_energy"])[:, :2, 2]
    true = system.statistics(torch.from_numpy(points), torch.from_numpy(at))["force_energy_covariance"].numpy()
    std = model.predict(test, "thermal_response_force", return_std=True)[1] * BOLTZMANN * 400.0**2
    z = (found - true) / std
    assert np.mean(z**2) < 2.0 and np.corrcoef(found.ravel(), true.ravel())[0, 1] > 0.6
    plain = FreeEnergyRegressor(terms=term, solver="sparse").fit(frames)
    given = model.noise_levels_["mean_energy given (mean_force)"][0]
    assert given < 1.02 * plain.noise_["mean_energy"][0]


def sweep(seed, n=1500, rho=0.8):
    """A slow sweep of one variable with AR(1) noise of the force: g = (1 + ρ)/(1 − ρ) = 9."""
    rng = np.random.default_rng(seed)
    truth = Truth(rng, 1)
    x = 1.5 * np.sin(2 * np.pi * np.arange(n) / n + rng.uniform(0, 6))[:, None]
    noise = np.empty(n)
    noise[0] = rng.normal()
    for k in range(1, n):
        noise[k] = rho * noise[k - 1] + np.sqrt(1 - rho**2) * rng.normal()
    t = np.full(n, T0)
    return truth, Frames.from_arrays(
        variables=x, temperature=t, labels={"mean_force": truth.force(x, t) + 0.05 * noise[:, None]}
    )


@pytest.mark.slow
def test_error_bars_of_forces_correlated_in_time():
    """Too small without weights; calibrated with them, whether g is measured or given."""
    ends, at = np.array([[-1.2], [-0.4], [0.4], [1.2]]), np.full(3, T0)
    plain, told, measured, inefficiency = [], [], [], []
    common = {"within_frame": False, "force_energy": False, "rounds": 1}
    for seed in range(20):
        truth, frames = sweep(seed)
        true = truth.free_energy(ends[1:], at) - truth.free_energy(ends[:-1], at)
        for out, noise in (
            (plain, None),
            (told, CorrelatedNoise(time={"mean_force": 9.0}, **common)),
            (measured, CorrelatedNoise(time=True, **common)),
        ):
            model = FreeEnergyRegressor(terms=TERM, solver="sparse", noise=noise).fit(frames)
            found, cov = model.predict_difference(ends[:-1], ends[1:], T0, T0, return_cov=True)
            out.append((found - true) / np.sqrt(np.diag(cov)))
            if out is measured:
                inefficiency.append(model.noise_model_.inefficiency["mean_force"])
    plain, told, measured = (np.mean(np.square(z)) for z in (plain, told, measured))
    assert plain > 3.0
    assert 0.5 < told < 1.5
    assert 0.5 < measured < 1.6
    assert 4.0 < np.mean(inefficiency) < 12.0
