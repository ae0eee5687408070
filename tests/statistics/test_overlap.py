"""States that do not overlap are refused, and what is not refused has an honest error bar."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.errors import DataError
from kernelfe.statistics import bin_free_energies, temperature_weights
from kernelfe.statistics.overlap import shared_samples
from kernelfe.units import BOLTZMANN

pytest.importorskip("pymbar")
KT, TILT = BOLTZMANN * 300.0, 0.06  # eV, eV/Å: A = TILT·x


def difference(centres, stiffness, rng, count=300, inefficiency=1):
    """Error and σ of A between the bins at the outer windows of a linear A, both exact and by windows."""
    centres = np.asarray(centres, float)
    width = np.sqrt(KT / stiffness)
    middle = np.repeat(centres - TILT / stiffness, count // inefficiency)
    x = np.repeat(middle + width * rng.normal(size=len(middle)), inefficiency)
    bias = 0.5 * stiffness * (x - centres[:, None]) ** 2
    state = np.repeat(np.arange(len(centres)), len(x) // len(centres))
    low, high = centres[0] - TILT / stiffness, centres[-1] - TILT / stiffness
    step = (high - low) / max(1, round((high - low) / width))
    edges = np.arange(low - 0.5 * step, high + 0.6 * step, step)
    found = bin_free_energies(x[:, None], [edges], state, 300.0, biases=bias, inefficiency=float(inefficiency))
    truth = TILT * (found.centres[-1, 0] - found.centres[0, 0])  # bins of one size on a line: exact
    return found.free_energy[-1] - truth, found.std[0, -1]


def z_or_refused(*arguments, **options):
    try:
        error, std = difference(*arguments, **options)
    except DataError as refused:
        assert "overlap" in str(refused)
        return None
    return error / std


@settings(max_examples=25)
@given(st.floats(0.2, 5.0), st.floats(0.3, 30.0), st.integers(1, 3), st.sampled_from([1, 4]), st.integers(0, 10_000))
def test_the_error_is_within_its_bar_or_windows_are_refused(apart, stiffness, more, inefficiency, seed):
    """Two to four windows, near or far, soft or stiff, of independent and of repeated samples."""
    centres = apart * np.linspace(-1.0, 1.0, 1 + more)
    z = z_or_refused(centres, stiffness, np.random.default_rng(seed), inefficiency=inefficiency)
    assert z is None or abs(z) < 3.0


@pytest.mark.parametrize(("apart", "refused"), [(0.2, False), (0.3, False), (1.0, True), (1.5, True), (5.0, True)])
def test_two_windows_on_a_tilted_line(apart, refused):
    z = [z_or_refused([-apart, apart], 0.6, np.random.default_rng(seed)) for seed in range(4)]
    assert all(one is None for one in z) if refused else max(map(abs, z)) < 3.0


def test_a_gap_in_a_chain_is_named():
    with pytest.raises(DataError, match=r"states 5, 6 and 0, 1, 2, 3, 4 .* overlap"):
        difference([-1.0, -0.7, -0.4, -0.1, 0.2, 2.0, 2.3], 0.8, np.random.default_rng(1))


def test_many_states_of_few_samples_are_one_chain():
    """One temperature per sample: no pair shares a whole sample, and yet everything overlaps."""
    rng = np.random.default_rng(0)
    kelvin = np.linspace(300.0, 600.0, 40)
    energies = BOLTZMANN * kelvin * rng.gamma(3.0, size=40)
    assert temperature_weights(energies, kelvin, 450.0).sum() == pytest.approx(1.0)


@settings(max_examples=15)
@given(st.integers(1, 4000), st.floats(0.0, 300.0), st.integers(0, 1000))
def test_reweighting_in_temperature_is_right_or_refused(modes, rise, seed):
    """The mean of a quadratic energy of many modes, 300 K (and 330 K) reweighted to a higher temperature."""
    rng, target = np.random.default_rng(seed), 300.0 + rise
    kelvin = np.repeat([300.0, 330.0], 400)
    energies = BOLTZMANN * kelvin * rng.gamma(0.5 * modes, size=800)
    try:
        weights = temperature_weights(energies, kelvin, target)
    except DataError as refused:
        assert "effective" in str(refused) or "overlap" in str(refused)
        return
    found, truth = weights @ energies, 0.5 * modes * BOLTZMANN * target
    error = np.sqrt((weights**2) @ (energies - found) ** 2)
    assert abs(found - truth) < 4.5 * error


def test_shared_samples_of_two_states():
    p = np.array([0.9, 0.8, 0.5, 0.1, 0.1, 0.6])  # of being of state 0: its samples in all are 3
    weights = np.stack([p, 1.0 - p], 1) / 3.0
    shared, sides = shared_samples((weights.T @ weights) * 3.0, np.array([3, 3]))
    assert shared == pytest.approx([(p * (1.0 - p)).sum()]) and sides.sum() == 1
