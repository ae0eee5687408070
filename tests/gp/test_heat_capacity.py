"""Heat capacities that change with temperature: learned from energies and forces, with error bars that hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from kernelfe import Frames, FreeEnergyRegressor, Term
from kernelfe.datasets import EliminatedMode
from kernelfe.descriptors import Variables
from kernelfe.functionals import get
from kernelfe.gp.fitted.concavity import violation_probability
from kernelfe.gp.observations.labels import LabelSet
from kernelfe.gp.observations.levels import NoiseLevels
from kernelfe.gp.observations.noise_models import Given
from kernelfe.gp.posterior import predict_mean
from kernelfe.gp.prior.mean import MeanFunction
from kernelfe.gp.prior.prior import Prior
from kernelfe.gp.prior.term import TermModule
from kernelfe.gp.solvers.dense import DensePosterior
from kernelfe.gp.states import States
from kernelfe.kernels import RBF, SecondOrder, StationaryFreeEnergy, StationaryHeatCapacity, TemperatureKernel

#: A soft, anharmonic mode: C falls from 0.58 k at 100 K to 0.31 k at 1000 K, differently at every R.
SYSTEM = EliminatedMode(dimension=1, stiffness=0.15, stiffness_change=0.8, quartic=1.5)
NOISE = {"mean_force": 2e-3, "mean_energy": 3e-4}
RANGE = (100.0, 900.0)
PARTS = {
    "T": StationaryHeatCapacity(TemperatureKernel(300.0, RANGE)),
    "lnT": StationaryHeatCapacity(TemperatureKernel(0.8, RANGE, "lnT")),
    "free energy": StationaryFreeEnergy(TemperatureKernel(400.0, RANGE)),
    "second order": SecondOrder(),
}


def data(seed, n=180):
    rng = np.random.default_rng(seed)
    x, t = rng.uniform(-1.2, 1.2, (n, 1)), rng.uniform(*RANGE, n)
    exact = SYSTEM.frames(x, t, list(NOISE)).labels
    labels = {key: exact[key] + sigma * rng.normal(size=exact[key].shape) for key, sigma in NOISE.items()}
    test, at = rng.uniform(-1, 1, (150, 1)), rng.uniform(120, 880, 150)
    truth = SYSTEM.frames(test, at, ["heat_capacity"]).labels["heat_capacity"]
    return Frames.from_arrays(variables=x, temperature=t, labels=labels, noise=NOISE), test, at, truth


def errors(part, seed):
    frames, test, at, truth = data(seed)
    model = FreeEnergyRegressor(terms=Term(thermal=PARTS[part])).fit(frames)
    c, std = model.predict(test, "heat_capacity", temperature=at, return_std=True)
    return np.sqrt(((c - truth) ** 2).mean()), (c - truth) / std, model


@pytest.fixture(scope="module")
def found():
    return errors("T", 0)


def test_better_than_second_order(found):
    """From exact averages with noise at temperatures from 100 to 900 K: C within its error bars."""
    rmse, z, model = found
    plain, _, other = errors("second order", 0)
    assert rmse < plain / 5 and model.log_evidence_ > other.log_evidence_ + 100
    assert np.sqrt((z**2).mean()) < 1.5
    ((_, term),) = model.fitted_terms()
    fitted = term.thermal
    assert fitted.kernel == PARTS["T"].kernel and fitted.heat_capacity != fitted.entropy


@pytest.mark.slow
@pytest.mark.parametrize("part", ["T", "lnT", "free energy"])
def test_error_bars_over_many_data_sets(part):
    """Mean squared z of C about one over data sets: fitted hyperparameters, a system not drawn from the prior."""
    found = [errors(part, seed)[1] for seed in range(8)]
    squared = np.mean(np.square(found))
    covered = np.mean(np.abs(found) < 1.96)
    assert 0.3 < squared < 1.7 and covered > 0.88, (squared, covered)


def test_entropies_and_energies_follow(found):
    """The Gibbs–Helmholtz relations of predictions, by differences in T."""
    _, _, model = found
    x = np.linspace(-1, 1, 5)[:, None]

    def at(key, t):
        return model.predict(x, key, temperature=t, reference=None)

    t, h = 430.0, 0.5
    assert np.allclose(at("entropy", t), -(at("free_energy", t + h) - at("free_energy", t - h)) / (2 * h), rtol=1e-6)
    slope = (at("mean_energy", t + h) - at("mean_energy", t - h)) / (2 * h)
    assert np.allclose(at("heat_capacity", t), slope, rtol=1e-5)
    assert np.allclose(at("mean_energy", t), at("free_energy", t) + t * at("entropy", t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", ["T", pytest.param("second order", marks=pytest.mark.slow)])
def test_probabilities_of_violation_are_frequencies(part):
    """Truths drawn from the prior: P(C < 0) against how often C < 0, and the PIT of C uniform."""
    repeats, n = 250, 12
    scales = {"reference_temperature": 400.0, "energy": 0.1, "entropy": 2e-4, "heat_capacity": 1e-4}
    thermal = SecondOrder(**scales) if part == "second order" else StationaryHeatCapacity(PARTS["T"].kernel, **scales)
    term = TermModule(Term(Variables(), RBF(0.6), thermal, ()), 1).requires_grad_(False)
    prior = Prior([term], MeanFunction(thermal, (), (0.0,), 0.3, 2e-4))
    rng = np.random.default_rng(5)
    x, t = torch.from_numpy(rng.uniform(-1, 1, (n + 1, 1))), torch.from_numpy(rng.uniform(200, 800, n + 1))
    states = States(x, t, {}, torch.ones(n + 1, 1, dtype=torch.float64))
    energy, heat = get("mean_energy"), get("heat_capacity")
    blocks = [prior.rows(energy, states[:n]), prior.rows(heat, states[n:])]
    joint = torch.cat([torch.cat([prior.gram(a, b) for b in blocks], 1) for a in blocks])
    scale = joint.diagonal().sqrt()
    root = torch.linalg.cholesky(joint / torch.outer(scale, scale) + 1e-12 * torch.eye(n + 1, dtype=torch.float64))
    sigma, violated, pit, probability = 0.02, [], [], []
    for _ in range(repeats):
        truth = scale * (root @ torch.from_numpy(rng.normal(size=n + 1)))
        y = (truth[:n] + sigma * torch.from_numpy(rng.normal(size=n)))[:, None]
        label = LabelSet("mean_energy", energy, states[:n], y, Given(torch.full((n, 1), sigma, dtype=torch.float64)))
        posterior = DensePosterior(prior, [label], NoiseLevels({}, 400.0))
        mean, std = predict_mean(posterior, blocks[1]), posterior.variance(blocks[1]).sqrt()
        probability.append(float(violation_probability(mean.numpy(), std.numpy())[0]))
        violated.append(float(truth[n]) < 0)
        pit.append(float(torch.special.ndtr((truth[n:] - mean) / std)[0]))
    p = np.array(probability)
    z = (np.sum(violated) - p.sum()) / np.sqrt((p * (1 - p)).sum())
    assert abs(z) < 3.3 and kstest(pit, "uniform").pvalue > 1e-3
    assert p.std() > 0.05  # probabilities that are not all equal
