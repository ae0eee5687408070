"""The evidence: gpytorch as the oracle, gradients, bounds, learned noise, calibration."""

from __future__ import annotations

import math

import gpytorch
import linear_operator
import numpy as np
import pytest
import torch

from kernelfe import Frames, FreeEnergyRegressor
from kernelfe.descriptors import Distances
from kernelfe.errors import SolverError
from kernelfe.functionals import get
from kernelfe.gp import starting
from kernelfe.gp.observations import assemble
from kernelfe.gp.observations.levels import NoiseLevels
from kernelfe.gp.observations.molecules import MoleculeSet
from kernelfe.gp.prior.prior import Prior
from kernelfe.gp.prior.term import Term
from kernelfe.gp.solvers.dense import DensePosterior
from kernelfe.gp.solvers.evidence import dense_log_evidence, fit_dense
from kernelfe.gp.solvers.maximise import maximise
from kernelfe.gp.solvers.specs import Dense
from kernelfe.kernels import RBF, Matern52, SecondOrder

from ..systems import LAMBDA, THERMAL, molecule, one_term, two_terms, variables


def problem(frames, terms, labels=None):
    """Label sets, prior and noise of a fit, before any optimisation."""
    sets = assemble.label_sets(frames, labels, None, None, (1.0,))
    _, prior, start, reference = starting.build_prior(terms, MoleculeSet([frames]), sets)
    return sets, prior, NoiseLevels(start, reference, exponent=True)


class Oracle(gpytorch.models.GP):
    """gpytorch's own GP on the Gram of all labels."""

    def __init__(self, prior, sets):
        super().__init__()
        self.prior, self.sets = prior, sets

    def forward(self):
        blocks = [label.rows(self.prior) for label in self.sets]
        gram = torch.cat([torch.cat([self.prior.gram(a, b) for b in blocks], 1) for a in blocks])
        mean = torch.cat([b.prior_mean for b in blocks])
        return gpytorch.distributions.MultivariateNormal(mean, linear_operator.to_linear_operator(gram))


CASES = {
    "molecule": lambda: (molecule(6), two_terms()),
    "variables": lambda: (variables(6), Term(None, Matern52(lengthscale=(0.8, 1.3)), THERMAL, (LAMBDA,))),
}


@pytest.mark.parametrize("case", CASES)
def test_gpytorch_gives_the_same_evidence_and_gradient(case):
    sets, prior, noise = problem(*CASES[case]())
    target = torch.cat([label.y.reshape(-1) for label in sets])
    variance = torch.cat([(label.noise.std**2).reshape(-1) for label in sets])
    ours = dense_log_evidence(prior, sets, noise)
    parameters = list(prior.parameters())
    gradient = torch.autograd.grad(ours, parameters)
    model = Oracle(prior, sets)
    likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise=variance)
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    with gpytorch.settings.max_cholesky_size(10_000):  # no conjugate gradients
        theirs = mll(model(), target) * len(target)
        expected = torch.autograd.grad(theirs, parameters)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-8)
    for a, b in zip(gradient, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-6 * max(float(g.abs().max()) for g in expected))
    posterior = DensePosterior(prior.requires_grad_(False), sets, noise)
    assert posterior.log_evidence == pytest.approx(theirs.item(), rel=1e-8)


@pytest.mark.parametrize("kernel", [RBF(lengthscale=1.5), Matern52(lengthscale=1.5)])
def test_gradient_by_differences_with_learned_noise_and_repeated_rows(kernel):
    frames = molecule(5, noise=False)
    frames = Frames.concatenate([frames, frames[:2]])  # coincident environments
    sets, prior, noise = problem(frames, one_term(kernel))
    parameters = [*prior.parameters(), *noise.parameters()]
    noise.exponent.data += 0.7
    value = dense_log_evidence(prior, sets, noise) + prior.hyperpriors() + noise.hyperprior()
    gradients = torch.autograd.grad(value, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert bool(torch.isfinite(gradient).all())
        for k in range(parameter.numel()):
            values = []
            for step in (-2, -1, 1, 2):
                parameter.data.view(-1)[k] += 1e-3 * step
                with torch.no_grad():
                    values.append(
                        float(dense_log_evidence(prior, sets, noise) + prior.hyperpriors() + noise.hyperprior())
                    )
                parameter.data.view(-1)[k] -= 1e-3 * step
            numeric = (8 * (values[2] - values[1]) - (values[3] - values[0])) / 12e-3
            assert float(gradient.view(-1)[k]) == pytest.approx(numeric, rel=1e-5, abs=1e-4)


def test_labels_of_small_units_keep_their_own_noise():
    """Noise of 1e-6 eV/Å/K and energies with a broad prior: jitter must not exceed the noise."""
    frames = variables(8, labels=("mean_energy", "thermal_response_force"))
    frames = frames.replace(noise={"mean_energy": 0.01, "thermal_response_force": 1e-6})
    sets, prior, noise = problem(frames, Term(None, RBF(lengthscale=1.5), THERMAL, (LAMBDA,)))
    posterior = DensePosterior(prior.requires_grad_(False), sets, noise)
    with torch.no_grad():
        assert float(dense_log_evidence(prior, sets, noise)) == pytest.approx(posterior.log_evidence, rel=1e-7)


def test_the_optimiser_improves_the_evidence_and_finds_the_noise():
    frames = molecule(30, noise=False, seed=2)
    sets, prior, noise = problem(frames, one_term())
    with torch.no_grad():
        before = float(dense_log_evidence(prior, sets, noise))
    fit_dense(prior, sets, noise)
    with torch.no_grad():
        after = float(dense_log_evidence(prior, sets, noise))
    assert after > before + 1.0
    levels = noise.values()
    assert levels["mean_force"][0] == pytest.approx(0.01, rel=0.35)  # the noise that was added


def test_noise_levels_follow_temperature_and_travel():
    noise = NoiseLevels({"a": 0.5, "b": 2.0}, reference=400.0, exponent=True)
    noise.exponent.data[:] = torch.tensor([1.5, 0.0])
    t = torch.tensor([400.0, 800.0, 400.0, 300.0], dtype=torch.float64)
    levels = noise.levels(["a", "a", "b", "given"], t)
    assert torch.allclose(levels, torch.tensor([0.5, 0.5 * 2**1.5, 2.0, 1.0], dtype=torch.float64))
    again = NoiseLevels.of(noise.values(), 400.0)
    assert torch.allclose(again.levels(["a", "a", "b", "given"], t), levels)
    assert NoiseLevels({}).levels(["x"], t[:1]).tolist() == [1.0]


def test_maximise_ends_at_the_best_point_and_survives_breakdowns():
    x = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))

    def objective():
        if float(x.detach()) < 0.5:
            raise SolverError("out of the domain")
        return -((x - 1.0) ** 2).sum()

    assert maximise(objective, [x], 50) == pytest.approx(0.0, abs=1e-8)
    assert x.item() == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(SolverError, match="starting hyperparameters"):
        maximise(lambda: x.sum() * math.nan, [x], 5)


def test_evidence_of_a_subset_uses_whole_frames():
    model = FreeEnergyRegressor(
        terms=one_term(), solver=Dense(evidence_rows=40), baseline=False, noise={"mean_force": 0.01}
    )
    model.fit(molecule(12, noise=False))
    assert math.isfinite(model.log_evidence_) and set(model.noise_) == {"mean_energy"}


def test_calibration_on_data_drawn_from_the_prior():
    """Standardised errors of ΔA, F, S and C have mean square one (χ² over 30 draws)."""
    rng = np.random.default_rng(0)
    n, draws = 10, 30
    x = rng.uniform(-1.5, 1.5, (n, 2))
    t = np.resize([300.0, 400.0, 500.0], n)
    term = Term(None, RBF(lengthscale=1.0), SecondOrder(400.0, energy=0.05, entropy=2e-4, heat_capacity=1e-4))
    keys, noise = ("mean_force", "mean_energy"), {"mean_force": 0.01, "mean_energy": 0.01}
    zeros = {"mean_force": np.zeros((n, 2)), "mean_energy": np.arange(n) * 1e-3}
    frames = Frames.from_arrays(variables=x, temperature=t, labels=zeros, noise=noise)
    test = Frames.from_arrays(variables=rng.uniform(-1.2, 1.2, (5, 2)), temperature=[320.0] * 5)
    options = {"terms": term, "solver": "dense", "optimizer": None, "baseline": False}
    model = FreeEnergyRegressor(**options).fit(frames)
    prior = Prior(list(model.posterior_.prior.terms), None)
    states, at = model.model_.states(frames), model.model_.states(test)
    targets = ("free_energy", "mean_force", "entropy", "heat_capacity")
    with torch.no_grad():
        blocks = [prior.rows(get(k), states) for k in keys] + [prior.rows(get(k), at) for k in targets]
        gram = torch.cat([torch.cat([prior.gram(a, b) for b in blocks], 1) for a in blocks]).numpy()
    values, vectors = np.linalg.eigh(gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram))))
    root = np.sqrt(np.diag(gram))[:, None] * vectors * np.sqrt(values.clip(0))
    squares = {key: [] for key in targets}
    for _ in range(draws):
        f = root @ rng.normal(size=len(root))
        parts = np.split(f, np.cumsum([len(b) for b in blocks])[:-1])
        labels = {
            "mean_force": parts[0].reshape(n, 2) + 0.01 * rng.normal(size=(n, 2)),
            "mean_energy": 3.0 + 2e-3 * (t - 400.0) + parts[1] + 0.01 * rng.normal(size=n),
        }
        model = FreeEnergyRegressor(**options).fit(frames.replace(labels=labels, noise=noise))
        for key, truth in zip(targets, parts[2:], strict=True):
            mean, covariance = model.predict(test, key, reference=None).reshape(-1), model.covariance(test, key)
            if key != "mean_force":  # the mean functions add a constant at one temperature: compare differences
                step = np.eye(5)[1:] - np.eye(5)[:1]
                mean, truth, covariance = step @ mean, step @ truth, step @ covariance @ step.T
            error = mean - truth
            squares[key].append(error @ np.linalg.solve(covariance, error) / len(error))
    for key, found in squares.items():
        degrees = draws * len(truth) if key != "mean_force" else draws * 10
        assert np.mean(found) == pytest.approx(1.0, abs=5 * math.sqrt(2 / degrees)), key


def test_a_search_measures_the_frames_once(monkeypatch):
    """Distances do not depend on hyperparameters: they are taken with the first evidence, the values are the same."""
    sets, prior, noise = problem(molecule(6, noise=False), one_term())
    asked, real = [], Distances.environments

    def counted(self, *arguments, **more):
        asked.append(self)
        return real(self, *arguments, **more)

    monkeypatch.setattr(Distances, "environments", counted)
    first = dense_log_evidence(prior, sets, noise)
    assert len(sets) == 2 and len(asked) == 1  # forces and energies are of the same states
    assert torch.equal(dense_log_evidence(prior, sets, noise), first) and len(asked) == 1
    fit_dense(prior, sets, noise)
    assert len(asked) == 1
    assert dense_log_evidence(prior, sets, noise) > first + 1.0
    fresh = problem(molecule(6, noise=False), one_term())[0]
    assert torch.equal(dense_log_evidence(prior, sets, noise), dense_log_evidence(prior, fresh, noise))
