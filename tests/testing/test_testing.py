"""The contract checks pass on kernelfe's own classes and catch broken ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from kernelfe.descriptors import Distances, InternalCoordinates, InverseDistances, PairDistances, Variables
from kernelfe.errors import DataError
from kernelfe.functionals import OBSERVABLES, Functional, MeanEnergy, Read, Spatial, get
from kernelfe.kernels import RBF, DotProduct, Kernel, Matern52, Periodic, RationalQuadratic
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
@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_kernels(kernel, dimension):
    if isinstance(kernel.lengthscale, tuple) and dimension != 2:
        with pytest.raises(DataError, match="2 length scales"):
            check_kernel(kernel, dimension)
        return
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


@dataclass(frozen=True)
class OtherProfile(RBF):
    """Another κ(s), but still the RBF's fast path."""

    SLOPE = None

    def functions(self, s):
        return Matern52().functions(s)


@dataclass(frozen=True)
class WrongFastPath(OtherProfile):
    SLOPE = -1.0

    def value_(self, s):
        return self.functions(s)[0]


@dataclass(frozen=True)
class NumberInsteadOfTensor(RationalQuadratic):
    def functions(self, s):
        return replace(self, alpha=float(torch.as_tensor(self.alpha).detach()), lengthscale=None).functions_(s)

    def functions_(self, s):
        return RationalQuadratic.functions(self, s)


@dataclass(frozen=True)
class WrongPush(Periodic):
    def embedding(self, z):
        found = super().embedding(z)
        return replace(found, push=lambda w: 1.001 * found.push(w))


@dataclass(frozen=True)
class WrongPull(Periodic):
    def embedding(self, z):
        found = super().embedding(z)
        return replace(found, pull=lambda g: -found.pull(g))


@dataclass(frozen=True)
class WrongCurvature(DotProduct):
    def profile(self, s):
        f, first, second = super().profile(s)
        return f, first, {key: 1.001 * value for key, value in second.items()}


@dataclass(frozen=True)
class Forgetful(RationalQuadratic):
    def with_numbers(self, values):
        return super().with_numbers(values | {"alpha": [self.alpha]})


@dataclass(frozen=True)
class OnlyGram(Kernel):
    """The least that a kernel needs: one gram. Here that of the Gaussian, pair by pair of rows."""

    lengthscale: float | None = None

    def gram(self, a, b, weight=None):
        return RBF().gram(a, b, weight)


def test_a_kernel_may_have_its_gram_only():
    check_kernel(OnlyGram())
    check_kernel(OnlyGram(0.7), 1)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (OtherProfile(), "value_"),
        (WrongFastPath(), "SLOPE"),
        (NumberInsteadOfTensor(), "gradient by alpha"),
        (WrongPush(), "push"),
        (WrongPull(), "pull"),
        (WrongCurvature(), "not the derivative"),
        (Forgetful(), "with_numbers"),
    ],
)
def test_every_part_of_the_contract_of_kernels_is_checked(kernel, message):
    with pytest.raises(AssertionError, match=message):
        check_kernel(kernel)


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
