"""Dependence on a parameter λ: learned at a few values, predicted at others, with all its derivatives."""

from __future__ import annotations

import numpy as np
import pytest

from kernelfe import Frames, FreeEnergyRegressor, Term
from kernelfe.datasets import EliminatedMode
from kernelfe.errors import DataError
from kernelfe.kernels import ParameterKernel

#: U = … − λ m(R) x + ¼ g x⁴: a field on a soft dipole, whose response saturates.
SYSTEM = EliminatedMode(dimension=2, shift=0.25, quartic=1.0)
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0)
NOISE = {"mean_force": 2e-3, "parameter_derivative": 1e-3, "mean_energy": 1e-3}
KERNEL = ParameterKernel("lambda", 1.0, (0.0, 2.0))
T = 300.0


def data(seed, labels=("mean_force", "parameter_derivative"), n=100, values=VALUES):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.2, 1.2, (n, 2))
    frames = SYSTEM.frames(x, T, list(labels), np.resize(values, n))
    noisy = {key: frames.labels[key] + NOISE[key] * rng.normal(size=frames.labels[key].shape) for key in labels}
    return Frames.from_arrays(
        variables=x,
        temperature=T,
        labels=noisy,
        noise={k: NOISE[k] for k in labels},
        parameters=dict(frames.parameters),
    )


def fit(frames, parameters=(KERNEL,)):
    return FreeEnergyRegressor(terms=Term(parameters=parameters), temperature=T).fit(frames)


@pytest.fixture(scope="module")
def model():
    return fit(data(0))


def exact(x, lam, keys):
    return SYSTEM.frames(x, T, list(keys), lam).labels


@pytest.mark.parametrize("lam", [0.25, 1.25, 1.8])
def test_unseen_values(model, lam):
    """A, forces and the response at values of λ between those of the data: right within error bars."""
    x = np.random.default_rng(9).uniform(-1, 1, (60, 2))
    truth = exact(x, lam, ("free_energy", "mean_force", "parameter_derivative", "parameter_response_force"))
    a = truth["free_energy"] - truth["free_energy"].mean()
    for key, want in {**truth, "free_energy": a}.items():
        value, std = model.predict(x, key, parameters={"lambda": lam}, return_std=True)
        z = (value - want) / std
        assert np.sqrt((z**2).mean()) < 2.0, key
        assert np.sqrt(((value - want) ** 2).mean()) < 0.15 * want.std(), key


def test_identities(model):
    """∂A/∂λ and −∇∂A/∂λ are the derivatives of the predicted A and F by λ; A(λ₂) − A(λ₁) is the integral."""
    x, lam, h = np.random.default_rng(1).uniform(-1, 1, (6, 2)), 1.1, 1e-4

    def at(key, value):
        return model.predict(x, key, parameters={"lambda": value}, reference=None)

    for key, slope in (("free_energy", "parameter_derivative"), ("mean_force", "parameter_response_force")):
        difference = (at(key, lam + h) - at(key, lam - h)) / (2 * h)
        assert np.allclose(at(slope, lam), difference, rtol=1e-6, atol=1e-8)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    integral = sum(w * at("parameter_derivative", 1.0 + v) for v, w in zip(nodes, weights, strict=True))
    assert np.allclose(at("free_energy", 2.0) - at("free_energy", 0.0), integral, rtol=0, atol=1e-9)


def test_response_forces_condition():
    """Labels of −∇∂A/∂λ at one λ alone: they carry what forces at two values carry."""
    rng = np.random.default_rng(4)
    x = rng.uniform(-1.2, 1.2, (80, 2))
    labels = exact(x, 1.0, ("mean_force", "parameter_response_force"))
    frames = Frames.from_arrays(
        variables=x, temperature=T, labels=labels, noise=dict.fromkeys(labels, 1e-3), parameters={"lambda": 1.0}
    )
    model, without = fit(frames), fit(frames.drop_labels(["parameter_response_force"]))
    test = rng.uniform(-1, 1, (60, 2))
    want = exact(test, 1.3, ("mean_force",))["mean_force"]
    found, std = model.predict(test, "mean_force", parameters={"lambda": 1.3}, return_std=True)
    other = without.predict(test, "mean_force", parameters={"lambda": 1.3})
    rmse = np.sqrt(((found - want) ** 2).mean())
    assert rmse < 0.5 * np.sqrt(((other - want) ** 2).mean())
    assert np.sqrt((((found - want) / std) ** 2).mean()) < 2.0


def test_better_than_an_expansion_of_second_order():
    """With a response that saturates, the evidence and the error prefer the kernel."""
    frames = data(2, n=160, values=np.linspace(0, 2, 9))
    kernel, expansion = fit(frames), fit(frames, None)
    x = np.random.default_rng(3).uniform(-1, 1, (60, 2))
    want = exact(x, 2.0, ("parameter_derivative",))["parameter_derivative"]
    errors = [
        np.sqrt(((m.predict(x, "parameter_derivative", parameters={"lambda": 2.0}) - want) ** 2).mean())
        for m in (kernel, expansion)
    ]
    assert errors[0] < 0.5 * errors[1] and kernel.log_evidence_ > expansion.log_evidence_


def test_a_common_dependence_on_the_parameter():
    """A part that depends on λ alone, of any size: learned from ⟨∂U/∂λ⟩, predicted inside the range only."""
    frames = data(5, ("mean_energy", "parameter_derivative"))
    lam = frames.parameters["lambda"]
    labels = {
        "mean_energy": frames.labels["mean_energy"] + 40.0 * np.sin(lam),
        "parameter_derivative": frames.labels["parameter_derivative"] + 40.0 * np.cos(lam),
    }
    model = fit(
        Frames.from_arrays(
            variables=frames.variables,
            temperature=T,
            labels=labels,
            noise=dict(frames.noise),
            parameters=dict(frames.parameters),
        )
    )
    x = np.zeros((1, 2))
    found, std = model.predict(x, "parameter_derivative", parameters={"lambda": 1.2}, return_std=True)
    want = exact(x, 1.2, ("parameter_derivative",))["parameter_derivative"] + 40.0 * np.cos(1.2)
    assert abs(found[0] - want[0]) < 0.05 and abs(found[0] - want[0]) < 3 * std[0]
    with pytest.raises(DataError, match=r"range \(0, 2\) of the parameter 'lambda'"):
        model.predict(x, "mean_energy", parameters={"lambda": 2.1})


@pytest.mark.slow
def test_error_bars_over_many_data_sets():
    """Mean squared z at an unseen λ over data sets."""
    x = np.random.default_rng(9).uniform(-1, 1, (60, 2))
    truth = exact(x, 1.25, ("mean_force", "parameter_derivative", "parameter_response_force"))
    squares = {key: [] for key in truth}
    for seed in range(12):
        model = fit(data(seed))
        for key, want in truth.items():
            value, std = model.predict(x, key, parameters={"lambda": 1.25}, return_std=True)
            squares[key].append((((value - want) / std) ** 2).mean())
    for key, found in squares.items():
        assert 0.3 < np.mean(found) < 1.7, (key, np.mean(found))
