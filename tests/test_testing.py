"""The contract checks pass on kernelfe's own classes and catch broken ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from kernelfe.descriptors import Distances, InternalCoordinates, InverseDistances, PairDistances, Variables
from kernelfe.functionals import OBSERVABLES, Functional, MeanEnergy, Read, Spatial, get
from kernelfe.kernels import RBF, Matern52
from kernelfe.testing import apply_functional, check_descriptor, check_functional, check_kernel

X = np.array([[0.0, 0, 0], [1.3, 0.1, 0], [1.8, 1.4, 0.3], [3.1, 1.6, 1.0]]) + np.random.default_rng(0).normal(
    scale=0.1, size=(4, 4, 3)
)
CELL = 9.0 * np.eye(3) + 0.3


@pytest.mark.parametrize("key", [*OBSERVABLES, "parameter_derivative:charge"])
def test_functionals(key):
    check_functional(get(key))


def test_a_functional_is_compared_with_its_formula():
    def formula(free_energy, x, t, lam, fields, cell):
        t = t.clone().requires_grad_()
        a = free_energy(x, t, lam, cell)
        return a - t * torch.autograd.grad(a.sum(), t)[0]

    check_functional(MeanEnergy(), formula)
    with pytest.raises(AssertionError, match="differ from the formula"):
        check_functional(get("entropy"), formula)
    with pytest.raises(AssertionError, match="order"):
        check_functional(Functional("x", "eV", (Read(Spatial.VALUE, ((1.0, 0, -1),)),)))
    with pytest.raises(AssertionError, match="needs a cell"):
        r = torch.zeros(1, 1, 3, dtype=torch.float64)
        apply_functional(get("stress"), lambda *a: a[0].sum((1, 2)), r, torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("kernel", [RBF(), Matern52(), RBF(lengthscale=(0.5, 1.0))])
@pytest.mark.parametrize("dimension", [1, 3])
def test_kernels(kernel, dimension):
    check_kernel(kernel, dimension)


@dataclass(frozen=True)
class WrongSlope(RBF):
    def functions(self, s):
        k0, k1, k2 = super().functions(s)
        return k0, k1 * (1.0 + 1e-6), k2


@dataclass(frozen=True)
class NotUnit(RBF):
    def functions(self, s):
        return tuple(2.0 * k for k in super().functions(s))


def test_broken_kernels_are_caught():
    with pytest.raises(AssertionError, match="not the derivative"):
        check_kernel(WrongSlope())
    with pytest.raises(AssertionError, match="must be 1"):
        check_kernel(NotUnit())
    with pytest.raises(AssertionError, match="frozen dataclass"):
        check_kernel(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    "descriptor",
    [Distances(), InverseDistances(), Distances(pairs=((0, 2),)), PairDistances(cutoff=4.0),
     InternalCoordinates(bonds=((0, 1),), angles=((0, 1, 2),), dihedrals=((0, 1, 2, 3),))],
)  # fmt: skip
def test_descriptors(descriptor):
    check_descriptor(descriptor, X)
    check_descriptor(descriptor, X, CELL)


def test_variables():
    check_descriptor(Variables(), X[:, 0])
    check_descriptor(Variables(columns=(2, 0), periodic=(6.0, None)), X[:, 0])


@dataclass(frozen=True)
class Doubled(Distances):
    part: str = "jacobian"

    def environments(self, coordinates, cell=None):
        found = super().environments(coordinates, cell)
        return replace(found, **{self.part: 2.0 * getattr(found, self.part)})


@pytest.mark.parametrize(
    ("part", "message"),
    [("jacobian", "jacobian is not"), ("z", "jacobian is not"), ("strain", "strain is not")],
)
def test_broken_descriptors_are_caught(part, message):
    with pytest.raises(AssertionError, match=message):
        check_descriptor(Doubled(part=part), X, CELL)


def test_environments_that_vanish_nearby_are_named():
    edge = float(np.linalg.norm(X[0, 1] - X[0, 0])) + 5e-4
    with pytest.raises(AssertionError, match="appear or vanish"):
        check_descriptor(PairDistances(cutoff=edge), X)
