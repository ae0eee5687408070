"""Labels at one temperature: no change with temperature is predicted, and error bars grow away from it.

The property holds for every thermal part and for parameters λ, whatever the data: what is known at one state says
nothing about changes from there, so that the best guess is that there are none.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe import Frames, FreeEnergyRegressor, Term
from kernelfe.kernels import (
    ParameterExpansion,
    SecondOrder,
    StationaryFreeEnergy,
    StationaryHeatCapacity,
    TemperatureKernel,
)

RANGE = (200.0, 800.0)
THERMAL = {
    "second order": SecondOrder(),
    "stationary C in T": StationaryHeatCapacity(TemperatureKernel(200.0, RANGE)),
    "stationary C in ln T": StationaryHeatCapacity(TemperatureKernel(0.5, RANGE, "lnT")),
    "stationary A": StationaryFreeEnergy(TemperatureKernel(200.0, RANGE)),
}


def forces(seed, temperature, **more):
    """Forces of a random polynomial at eight points, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (8, 2))
    f = 0.1 * (x @ rng.normal(size=(2, 2)) + rng.normal(size=2)) + 0.01 * rng.normal(size=x.shape)
    labels, noise = {"mean_force": f}, {"mean_force": 0.01}
    return Frames.from_arrays(variables=x, temperature=temperature, labels=labels, noise=noise, **more)


def at(model, x, quantity, temperature, **more):
    return model.predict(x, quantity, temperature=temperature, return_std=True, **more)


@pytest.mark.parametrize("part", THERMAL)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), temperature=st.floats(300.0, 500.0))
def test_forces_at_one_temperature(part, seed, temperature):
    model = FreeEnergyRegressor(terms=Term(thermal=THERMAL[part])).fit(forces(seed, temperature))
    x = np.random.default_rng(seed).uniform(-1, 1, (5, 2))
    mean, std = at(model, x, "mean_force", temperature)
    for direction in (-1.0, 1.0):
        below = std
        for step in (1.0, 30.0, 90.0):
            other, wider = at(model, x, "mean_force", temperature + direction * step)
            np.testing.assert_allclose(other, mean, rtol=1e-8, atol=1e-8 * np.abs(mean).max())
            assert (wider > below).all()
            below = wider
    response, spread = at(model, x, "thermal_response_force", temperature)
    assert (np.abs(response) <= 1e-8 * spread).all() and (spread > 0).all()


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), value=st.floats(-2.0, 2.0))
def test_forces_at_one_value_of_a_parameter(seed, value):
    model = FreeEnergyRegressor().fit(forces(seed, 300.0, parameters={"field": value}))
    x = np.random.default_rng(seed).uniform(-1, 1, (5, 2))
    mean, std = at(model, x, "mean_force", 300.0, parameters={"field": value})
    other, wider = at(model, x, "mean_force", 300.0, parameters={"field": value + 0.5})
    np.testing.assert_allclose(other, mean, rtol=1e-8, atol=1e-8 * np.abs(mean).max())
    assert (wider > std).all()


def test_the_prior_of_earlier_releases_implies_a_change():
    """With u and s independent forces at one temperature are split between them by their prior scales."""
    scales = {"energy": 0.3, "entropy": 1e-3, "heat_capacity": 1e-3}
    before = SecondOrder(300.0, **scales, anchored=False)
    model = FreeEnergyRegressor(terms=Term(thermal=before), optimizer=None).fit(forces(0, 300.0))
    x = np.random.default_rng(0).uniform(-1, 1, (5, 2))
    np.testing.assert_allclose(
        at(model, x, "mean_force", 400.0)[0], (1 + 100 / 600) * at(model, x, "mean_force", 300.0)[0], rtol=1e-9
    )


def test_an_expansion_about_a_point_outside_the_data_is_told():
    frames = forces(0, 300.0, parameters={"field": 1.0})
    fixed = {"energy": 0.1, "entropy": 3e-4, "heat_capacity": 1e-4}
    inside, outside = ParameterExpansion("field", reference=1.0), ParameterExpansion("field")
    for thermal, parameter, culprit in (
        (SecondOrder(350.0, **fixed), inside, "reference_temperature.*350.*300 to 300"),
        (SecondOrder(**fixed), outside, "'field'.*is 0, outside"),
        (SecondOrder(300.0, **fixed), inside, None),
    ):
        model = FreeEnergyRegressor(terms=Term(thermal=thermal, parameters=(parameter,)), optimizer=None)
        if culprit is None:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                model.fit(frames)
        else:
            with pytest.warns(UserWarning, match=culprit):
                model.fit(frames)
