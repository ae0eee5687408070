"""Angles in degrees with a period of radians are warned of; labels that single beads lack are advised on."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from kernelfe import Frames, FreeEnergyRegressor, Term
from kernelfe.descriptors import Variables
from kernelfe.errors import DataError
from kernelfe.kernels import RBF, Periodic

TURN = 2.0 * math.pi
PHI = np.linspace(-3.0, 3.0, 8)[:, None]


def fit(x, descriptor, kernel):
    frames = Frames.from_arrays(
        variables=x, temperature=300.0, labels={"mean_force": np.sin(x)}, noise={"mean_force": 0.1}
    )
    return FreeEnergyRegressor(Term(descriptor, kernel), optimizer=None).fit(frames)


@pytest.mark.parametrize(
    ("descriptor", "kernel"),
    [(Variables(periodic=(TURN,)), RBF(lengthscale=1.0)), (None, Periodic(1.0)), (None, Periodic(1.0, (TURN,)))],
)
def test_degrees_with_a_period_of_radians(descriptor, kernel):
    with pytest.warns(UserWarning, match="numpy.radians"):
        fit(np.degrees(PHI), descriptor, kernel)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(PHI, descriptor, kernel)
        fit(np.degrees(PHI), None, Periodic(1.0, 360.0))


def test_forces_that_one_bead_lacks():
    """The error names the remedy, and the remedy works."""
    rng = np.random.default_rng(0)
    x, forces, noise = rng.normal(size=(6, 4, 3)), rng.normal(size=(6, 4, 3)), np.full((1, 4, 3), 0.1)
    forces[:, 2] = np.nan
    with pytest.raises(DataError, match=r"present=.*large noise for these beads.*\(1, 4, 3\)"):
        Frames.from_arrays(x, temperature=300.0, labels={"mean_force": forces})
    forces[:, 2], noise[:, 2] = 0.0, 1e3
    frames = Frames.from_arrays(x, temperature=300.0, labels={"mean_force": forces}, noise={"mean_force": noise})
    assert (frames.noise["mean_force"][:, 2] == 1e3).all()
