"""The contract check of models passes on every model of the package, and names the broken part of others."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import FreeEnergyRegressor, Sparse, Term
from kernelfe.calculators import FittedModel
from kernelfe.calculators.fitted import fitted_model
from kernelfe.datasets.analytic import EliminatedMode
from kernelfe.datasets.chains import ChainFamily
from kernelfe.descriptors import PairDistances
from kernelfe.kernels import RBF, SecondOrder
from kernelfe.protocol import (
    DifferentiableBase,
    DifferentiableModel,
    FixedCell,
    FixedTemperature,
    LinearBase,
    LinearModel,
    PeriodicFreeEnergyModel,
)
from kernelfe.testing import check_model
from kernelfe.training.linear import linear_model

KINDS = "ABCA"
CHAINS = ChainFamily()
X = torch.from_numpy(CHAINS.configurations(KINDS, np.full(3, 400.0), np.random.default_rng(3)))


class Chain(DifferentiableBase):
    """The analytic free energy of chains as a model."""

    kinds = tuple(KINDS)
    stiff_bonds = ((0, 1, 9.0),)

    def energy(self, positions, temperature):
        return CHAINS.free_energy(positions, KINDS, temperature)


class Bead(DifferentiableBase):
    """The analytic all-atom model with an eliminated mode, as one bead in space."""

    def energy(self, positions, temperature):
        return EliminatedMode(dimension=3).free_energy(positions[:, 0], temperature)


class Distances(LinearBase):
    """Powers of the distance of the outer beads, with a part that grows with T, on top of the chain's energy."""

    def features(self, positions, temperature):
        r = (positions[:, -1] - positions[:, 0]).norm(dim=1)
        t = torch.as_tensor(temperature).to(positions).expand(len(positions))
        return torch.stack([r, r**2, r * t / 300.0], 1)

    def baseline_energy(self, positions, temperature):
        return CHAINS.free_energy(positions, KINDS, temperature)


class Network(DifferentiableBase, torch.nn.Module):
    """A small network of the distances, in double precision."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.layers = torch.nn.Sequential(torch.nn.Linear(7, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()

    def energy(self, positions, temperature):
        i, j = torch.triu_indices(4, 4, 1)
        r = (positions[:, i] - positions[:, j]).norm(dim=-1)
        t = torch.as_tensor(temperature).to(positions).expand(len(positions)) / 300.0
        return self.layers(torch.cat([r, t[:, None]], 1))[:, 0]


def linear():
    return Distances(torch.tensor([0.1, -0.2, 0.05]), 2.0)


@pytest.fixture(scope="module")
def fitted():
    frames = CHAINS.frames(KINDS, np.repeat([300.0, 500.0], 40), np.random.default_rng(0), {"mean_force": 0.02})
    return FreeEnergyRegressor(solver=Sparse(inducing=30), optimizer=None).fit(frames)


@pytest.fixture(scope="module")
def periodic():
    """Pairs within a cutoff in a cell, with forces of a smooth repulsion that depends on T."""
    rng = np.random.default_rng(1)
    cell, n = 7.0 * np.eye(3), 12
    x = np.stack([rng.permutation(27)[:8] for _ in range(n)])
    x = np.stack([x // 9, x // 3 % 3, x % 3], 2) * (7.0 / 3.0) + 0.15 * rng.normal(size=(n, 8, 3))
    t = np.repeat([300.0, 400.0], n // 2)
    d = x[:, :, None] - x[:, None]
    d = d - 7.0 * np.round(d / 7.0)
    r = np.linalg.norm(d, axis=-1)[..., None] + 10.0 * np.eye(8)[None, :, :, None]
    force = (t / 300.0)[:, None, None, None] * d / r * 0.1 * np.exp(-((r - 2.0) ** 2))
    frames = kernelfe.Frames.from_arrays(
        x, temperature=t, cell=np.tile(cell, (n, 1, 1)), labels={"mean_force": force.sum(2)}, noise={"mean_force": 0.01}
    )
    thermal = SecondOrder(reference_temperature=350.0, energy=0.1, entropy=3e-4, heat_capacity=1e-4)
    term = Term(PairDistances(cutoff=3.4), RBF(lengthscale=0.7), thermal)
    return FreeEnergyRegressor(term, Sparse(inducing=15), baseline=False, optimizer=None).fit(frames), frames


def test_analytic_models():
    check_model(Chain(), X, 400.0)
    check_model(Chain(), X, [300.0, 400.0, 500.0])
    check_model(Bead(), 0.4 * torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0)), 350.0)
    check_model(FixedTemperature(Chain(), 350.0), X, 400.0)


def test_fitted_models(fitted):
    for model in (fitted.frozen(), FittedModel(fitted), linear_model(fitted)):
        check_model(model, X, 400.0)
    assert isinstance(linear_model(fitted), LinearModel)


def test_periodic_models(periodic):
    model, frames = periodic
    x, cell = frames.positions[:3], frames.cell[0]
    frozen = model.frozen()
    assert isinstance(frozen, PeriodicFreeEnergyModel)
    check_model(frozen, x, 350.0, cell)
    check_model(FixedCell(frozen, torch.from_numpy(cell.copy())), x, 350.0)
    check_model(fitted_model(model), x, 350.0, cell)


def test_linear_and_differentiable_models():
    check_model(linear(), X, 400.0)
    torch.manual_seed(0)
    model = Network()
    assert isinstance(model, DifferentiableModel)
    check_model(model, X, 400.0)


class Wrong(Chain):
    """A chain with one fault."""

    def __init__(self, fault):
        self.fault, self.buffer, self.seen = fault, torch.zeros(X.shape[1:], dtype=torch.float64), {}

    def energy_and_forces(self, positions, temperature):
        return getattr(self, self.fault)(positions, temperature, *super().energy_and_forces(positions, temperature))

    def sign(self, positions, temperature, energy, forces):
        return energy, -forces

    def summed(self, positions, temperature, energy, forces):
        return energy.sum(), forces

    def array(self, positions, temperature, energy, forces):
        return energy.numpy(), forces

    def shifts(self, positions, temperature, energy, forces):
        positions += 0.01
        return energy, forces

    def batch(self, positions, temperature, energy, forces):
        return energy - energy.mean(), forces

    def first_temperature(self, positions, temperature, energy, forces):
        t = torch.as_tensor(temperature, dtype=torch.float64).reshape(-1)[:1].expand(len(positions))
        return super().energy_and_forces(positions, t)

    def buffered(self, positions, temperature, energy, forces):
        if positions.shape != self.buffer.shape:
            self.buffer = torch.zeros_like(positions)
        return energy, self.buffer.copy_(forces)

    def aliased(self, positions, temperature, energy, forces):
        return -0.5 * positions.square().sum((1, 2)), positions

    def cached(self, positions, temperature, energy, forces):
        key = positions.data_ptr(), positions.shape
        if key not in self.seen:
            self.seen[key] = positions, energy, forces
        return tuple(value.clone() for value in self.seen[key][1:])

    def raises(self, positions, temperature, energy, forces):
        if not bool(torch.isfinite(energy).all()):
            raise ValueError("outside")
        return energy, forces

    def spreads(self, positions, temperature, energy, forces):
        return energy + 0.0 * energy.sum(), forces


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("sign", "forces are not −∂A/∂R"),
        ("summed", "energy has the shape"),
        ("array", "energy is a ndarray"),
        ("shifts", "changes the positions"),
        ("aliased", "share memory with the positions"),
        ("batch", "row 0 of a batch differs"),
        ("first_temperature", "row 1 of a batch differs"),
        ("buffered", "change with the next one"),
        ("cached", "do not keep positions"),
        ("raises", "raises ValueError"),
        ("spreads", "changes another row"),
    ],
)
def test_faults_of_energies_and_forces_are_named(fault, message):
    with pytest.raises(AssertionError, match=message):
        check_model(Wrong(fault), X, 400.0)


class Observing(Chain):
    """Observables of the chain by automatic differentiation, one of them wrong."""

    def __init__(self, wrong=""):
        self.wrong = wrong

    def observables(self, positions, temperature, keys, return_std=False, cell=None):
        x = positions.clone().requires_grad_()
        t = torch.as_tensor(temperature, dtype=torch.float64).expand(len(x)).clone().requires_grad_()

        def slope(value, by):
            return torch.autograd.grad(value.sum(), by, create_graph=True)[0]

        a = self.energy(x, t)
        s = -slope(a, t)
        found = {
            "free_energy": a,
            "mean_force": -slope(a, x),
            "mean_energy": a + t * s,
            "entropy": s,
            "heat_capacity": t * slope(s, t),
            "thermal_response_force": slope(s, x),
        }
        if self.wrong in found:
            found[self.wrong] = 1.01 * found[self.wrong]
        out = {key: found[key].detach() for key in keys}
        spread = {key + "_std": (-1.0 if self.wrong == "std" else 1.0) + 0.0 * value for key, value in out.items()}
        return out | spread if return_std else out


def test_observables():
    check_model(Observing(), X, 400.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("free_energy", "free_energy is not the energy"),
        ("mean_force", "mean_force is not the forces"),
        ("mean_energy", r"mean_energy is not A \+ T S"),
        ("entropy", "entropy is not|mean_energy is not"),
        ("heat_capacity", "heat_capacity is not T ∂S/∂T"),
        ("thermal_response_force", "thermal_response_force is not ∂F/∂T"),
        ("std", "_std is negative"),
    ],
)
def test_broken_identities_are_named(wrong, message):
    with pytest.raises(AssertionError, match=message):
        check_model(Observing(wrong), X, 400.0)


class WrongLinear(Distances):
    fault = ""

    def features(self, positions, temperature):
        phi = super().features(positions, temperature)
        if self.fault == "features" and not positions.requires_grad:
            return 1.01 * phi
        return phi.sum(0, keepdim=True).expand_as(phi) if self.fault == "batch" else phi

    def with_weights(self, mean, lower):
        if self.fault == "itself":
            self.mean = mean
            return copy.copy(self)
        out = super().with_weights(mean, lower)
        return linear().with_weights(mean, lower) if self.fault == "type" else out


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("features", "does not change A by features"),
        ("batch", "differs from the same configuration alone"),
        ("itself", "changes the model itself"),
        ("type", "gives a Distances"),
    ],
)
def test_broken_linear_models_are_named(fault, message):
    model = WrongLinear(torch.tensor([0.1, -0.2, 0.05]), 2.0)
    model.fault = fault
    with pytest.raises(AssertionError, match=message):
        check_model(model, X, 400.0)


def test_other_faults_are_named(periodic):
    model = linear()
    model.lower = -model.lower
    with pytest.raises(AssertionError, match="not a Cholesky factor"):
        check_model(model, X, 400.0)

    class Detached(Network):
        def energy(self, positions, temperature):
            with torch.no_grad():
                bias = self.layers[2].bias.square().sum()
            return super().energy(positions, temperature) + bias

    with pytest.raises(AssertionError, match="by parameter 3"):
        check_model(Detached(), X, 400.0)
    chain = Chain()
    chain.kinds = ("A",)
    with pytest.raises(AssertionError, match="kinds names 1 beads of 4"):
        check_model(chain, X, 400.0)
    with pytest.raises(AssertionError, match="no method energy_and_forces"):
        check_model(object(), X, 400.0)
    with pytest.raises(AssertionError, match="energy_forces_stress"):
        check_model(Chain(), X, 400.0, 9.0 * np.eye(3))

    class Pressed:
        domain = None

        def energy_and_forces(self, positions, temperature):
            raise NotImplementedError

        def energy_forces_stress(self, positions, cell, temperature):
            energy, forces, stress = periodic[0].frozen().energy_forces_stress(positions, cell, temperature)
            return energy, forces, 1.01 * stress

    with pytest.raises(AssertionError, match="stress is not"):
        check_model(Pressed(), periodic[1].positions[:3], 350.0, periodic[1].cell[0])


def test_a_base_class_without_its_method_is_refused():
    with pytest.raises(TypeError, match="features"):
        LinearBase(torch.zeros(2), 1.0)
