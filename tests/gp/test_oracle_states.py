"""Stationary kernels on T and λ against the naive oracle, which uses the kernels without a sum of products."""

from __future__ import annotations

import numpy as np
import pytest

from kernelfe import Frames, Term
from kernelfe.descriptors import Distances, PairDistances
from kernelfe.kernels import (
    RBF,
    Matern52,
    ParameterKernel,
    StationaryFreeEnergy,
    StationaryHeatCapacity,
    TemperatureKernel,
)

from .naive import Axis, NaiveGP, NaiveStationaryMean, NaiveStationaryTerm, matern52, rbf
from .test_oracle import KEYS, SEEN, SIZE, T0, TRAIN, compare_all, fitted, make, plain_noise, plain_y

RANGE = (280.0, 520.0)
#: The sum of products misses 1e-10 of the kernel; its fourth derivatives, read by pairs of heat capacities, some more.
EXACT_KERNEL = 1e-13
LAMBDA = ParameterKernel("lambda", 0.8, (0.3, 1.9), EXACT_KERNEL)
TERMS = [
    (
        "molecule",
        Term(
            Distances(),
            RBF(lengthscale=(0.9, 1.1, 1.4)),
            StationaryHeatCapacity(TemperatureKernel(120.0, RANGE, tolerance=EXACT_KERNEL), T0, 0.2, 4e-4, 3e-4),
            (LAMBDA,),
        ),
    ),
    (
        "pairs",
        Term(
            PairDistances(cutoff=4.0),
            Matern52(lengthscale=1.7),
            StationaryFreeEnergy(TemperatureKernel(0.35, RANGE, "lnT", tolerance=EXACT_KERNEL), 0.1, T0),
            (LAMBDA,),
        ),
    ),
]
FIELD = Axis(0.8)
NAIVE_TERMS = [
    NaiveStationaryTerm(rbf, (0.9, 1.1, 1.4), (0.2, 4e-4, 3e-4), T0, (), temperature=Axis(120.0), field=FIELD),
    NaiveStationaryTerm(
        matern52, (1.7,), (0.1, 0.0, 0.0), T0, (), together=False, temperature=Axis(0.35, True), field=FIELD
    ),
]
BARE = NaiveGP(NAIVE_TERMS)


def draw(keys) -> Frames:
    """Labels of the size of their prior, with noise of a third of it."""
    rng = np.random.default_rng(1)
    labels, noise = {}, {}
    for key in keys:
        std = np.sqrt(np.diag(BARE.gram(key, SEEN, key, SEEN)))
        shape = {1: (), 9: (3, 3), 2: (2,), 6: (6,)}[SIZE[key]]
        labels[key] = (std * rng.normal(size=len(std))).reshape(TRAIN, *shape)
        noise[key] = 0.3 * float(std.mean())
    return make(SEEN, labels=labels, noise=noise)


def oracle_of(model):
    mean = model.posterior_.prior.mean
    if mean is None:
        return BARE
    (expansion,) = mean.parameters
    state = (expansion.reference, expansion.scale, expansion.order)
    (offset,), t0 = mean.offset, mean.thermal.reference_temperature
    scales = (mean.energy, 0.0, mean.heat_capacity)
    extra = NaiveStationaryMean(rbf, (), scales, t0, state, offset=offset, temperature=Axis(120.0))
    return NaiveGP([*NAIVE_TERMS, extra])


def check(keys, targets, share=1e-3):
    frames = draw(keys)
    model = fitted(frames, keys, terms=TERMS)
    blocks = [[(1, key, SEEN)] for key in keys]
    noise, y = plain_noise(frames, keys), plain_y(frames, keys)
    compare_all(model, blocks, noise, y, targets, share=share, gp=oracle_of(model))


@pytest.mark.slow
def test_energies():
    check(["mean_energy"], ["mean_energy"])


def test_parameter_derivatives():
    check(["parameter_derivative"], ["parameter_derivative", "mean_force"])


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_one_kind_with_forces(key):
    check(list(dict.fromkeys(["mean_force", key])), list(dict.fromkeys([key, "free_energy", "heat_capacity"])))


@pytest.mark.slow
def test_all_kinds_at_once():
    check(KEYS, KEYS, share=0.1)
