"""One configuration by itself: the same numbers as in batches, also where the geometry is degenerate."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.descriptors import Distances, HandedDistances, InverseDistances, PairDistances
from kernelfe.descriptors.base import single_of

from .test_descriptors import MOLECULAR, name


def straight(x):
    """Bonds 0–1–2 on a line."""
    x[2] = 2.0 * x[1] - x[0]


def together(x):
    """Two beads at one point."""
    x[3] = x[2]


def nothing(x):
    """As it is."""


HANDED = [
    HandedDistances(quadruples=((0, 1, 2, 3), (2, 1, 3, 4))),
    HandedDistances(((0, 1), (2, 5)), ((5, 1, 2, 3),), (0.7,)),
]


@pytest.mark.parametrize("descriptor", [*MOLECULAR, *HANDED], ids=name)
@given(seed=st.integers(0, 2**31), change=st.sampled_from([nothing, nothing, straight, together]))
@settings(max_examples=15, deadline=None)
def test_one_configuration_is_a_batch_of_one(descriptor, seed, change):
    rng = np.random.default_rng(seed)
    x = 1.5 * rng.standard_normal((6, 3))
    change(x)
    z, _, pullback = descriptor.values_and_pullback(torch.from_numpy(x[None]))
    value, pull = single_of(descriptor, (6, 3))(x)
    if change is not together or isinstance(descriptor, Distances):  # a torsion of a bond without length is undefined
        np.testing.assert_allclose(value, z[0], rtol=1e-12, atol=1e-12)
    g = rng.standard_normal(len(value))
    expected = pullback(torch.from_numpy(g[None]))[0].numpy()
    if change is nothing:  # else single slopes have no direction: they are finite where those of batches are
        np.testing.assert_allclose(pull(g), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    assert np.isfinite(value).all() and np.isfinite(pull(g)).all()


def test_a_subclass_with_other_environments_has_no_such_path():
    class Squared(Distances):
        def values_and_pullback(self, coordinates, cell=None):
            z, frame, pull = super().values_and_pullback(coordinates, cell)
            return z * z, frame, lambda g: pull(2.0 * z * g)

    assert single_of(Squared(), (6, 3)) is None
    assert single_of(PairDistances(3.0), (6, 3)) is None
    assert single_of(InverseDistances(), (6, 3)) is not None
    assert single_of(Distances(), (500, 3)) is None  # a matrix of pairs and beads would be large
