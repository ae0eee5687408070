from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import jensenshannon

from kernelfe.analysis import (
    basin_populations,
    dihedral_angles,
    divergence_floor,
    frames_for_divergence,
    free_energy_surface,
    jensen_shannon_divergence,
    periodic_histogram,
    surface_rmsd,
)
from kernelfe.errors import DataError
from kernelfe.statistics import replica_effective_sample_size, samples_per_replica
from kernelfe.units import BOLTZMANN

weights = hnp.arrays(float, 12, elements=st.floats(0.0, 10.0)).filter(lambda p: p.sum() > 0.1)


@given(weights, weights)
def test_divergence_is_the_square_of_scipys_and_bounded(p, q):
    d = jensen_shannon_divergence(p, q)
    assert d == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-9)  # scipy returns the root, with natural logarithm
    assert 0.0 <= d <= math.log(2.0) + 1e-12
    assert d == pytest.approx(jensen_shannon_divergence(q, p), abs=1e-12)
    assert jensen_shannon_divergence(p, 3.0 * p) == pytest.approx(0.0, abs=1e-15)


def test_divergence_of_disjoint_distributions_is_ln_2():
    assert jensen_shannon_divergence([1, 0, 0], [0, 2, 2]) == pytest.approx(math.log(2.0))


@pytest.mark.parametrize("p, q", [([1, 2], [1, 2, 3]), ([0, 0], [1, 1]), ([1, -1], [1, 1]), ([1, np.nan], [1, 1])])
def test_divergence_refuses_what_is_no_distribution(p, q):
    with pytest.raises(DataError):
        jensen_shannon_divergence(p, q)


@pytest.mark.parametrize("n, expected", [(30_000, 0.0098), (100_000, 0.0032)])
def test_floor_of_two_samples_on_36_by_36_bins(n, expected):
    """(bins − 1)/8·(2/n) for well visited bins, two samples of one uniform distribution."""
    floor = divergence_floor(np.ones((36, 36)), (n, n), np.random.default_rng(0), draws=5)
    assert floor == pytest.approx(expected, rel=0.15)


def test_floor_against_an_exact_distribution_is_half_and_quarter_of_halves():
    rng, p, n = np.random.default_rng(1), np.ones(50), 20_000
    exact = divergence_floor(p, (n, math.inf), rng, draws=200)
    assert exact == pytest.approx(49 / 8 / n, rel=0.1)
    assert divergence_floor(p, (n / 2, n / 2), rng, draws=200) == pytest.approx(4 * exact, rel=0.15)


def test_dihedrals_follow_the_iupac_sign_and_any_leading_shape():
    trans, cis = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [-1, -1, 1]], [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1]]
    # looking along j → k, l is reached from i clockwise by +90°
    plus = [[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]]
    x = np.array([[trans, cis], [plus, plus]], float)
    angles = dihedral_angles(x, [(0, 1, 2, 3), (3, 2, 1, 0)])
    assert angles.shape == (2, 2, 2)
    np.testing.assert_allclose(np.abs(angles[0, 0]), math.pi)
    np.testing.assert_allclose(angles[0, 1], 0.0, atol=1e-12)
    np.testing.assert_allclose(angles[1], math.pi / 2)  # reversal keeps the sign
    with pytest.raises(DataError, match="bead 9"):
        dihedral_angles(x, [(0, 1, 2, 9)])


def test_histogram_is_periodic_and_counts_axes_in_order():
    edge = math.pi - 1e-9
    angles = np.array([[edge, 0.1], [edge + 2 * math.pi, 0.1], [-math.pi, 0.1 + 4 * math.pi], [math.pi, -0.1]])
    p = periodic_histogram(angles, bins=4)
    assert p.sum() == pytest.approx(1.0)
    assert p[3, 2] == 0.5 and p[0, 2] == 0.25 and p[0, 1] == 0.25
    assert periodic_histogram(angles, 4, weights=[1, 0, 0, 0])[3, 2] == 1.0
    with pytest.raises(DataError, match="sample 1"):
        periodic_histogram([[0.0, 0.0], [np.nan, 0.0]])


def test_effective_sample_size_of_autoregressive_replicas():
    """AR(1) with coefficient a has 2τ = (1 + a)/(1 − a)."""
    rng, a, samples, replicas = np.random.default_rng(3), 0.8, 400, 400
    x = np.empty((samples, replicas))
    x[0] = rng.normal(size=replicas)
    for k in range(1, samples):
        x[k] = a * x[k - 1] + math.sqrt(1 - a * a) * rng.normal(size=replicas)
    expected = samples * replicas * (1 - a) / (1 + a)
    independent = rng.normal(size=(samples, replicas))
    found = replica_effective_sample_size(np.stack([x, independent], -1))
    assert found[0] == pytest.approx(expected, rel=0.2)
    assert found[1] == pytest.approx(samples * replicas, rel=0.2)
    each = samples_per_replica(np.stack([x, np.ones_like(x)], -1))  # the one formula, by replica
    assert each[0] == pytest.approx(found[0] / replicas, rel=1e-12) and each[1] == samples
    few = replica_effective_sample_size(x[:, :5])  # few replicas: their own autocorrelation
    assert few == pytest.approx(expected * 5 / replicas, rel=0.4)
    stuck = np.repeat(rng.normal(size=(1, replicas)), samples, axis=0)
    assert replica_effective_sample_size(stuck) == pytest.approx(replicas, rel=0.01)


def test_free_energy_and_rmsd():
    p = np.array([0.5, 0.25, 0.25, 0.0])
    a = free_energy_surface(p, 350.0)
    np.testing.assert_allclose(a[:3], BOLTZMANN * 350.0 * np.array([0.0, math.log(2), math.log(2)]))
    assert np.isinf(a[3])
    assert surface_rmsd(p, p, 350.0) == pytest.approx(0.0, abs=1e-15)
    q = np.array([0.25, 0.5, 0.25, 0.0])
    d = BOLTZMANN * 350.0 * np.array([math.log(0.5), math.log(2), 0.0])
    mean = q[:3] @ d
    assert surface_rmsd(p, q, 350.0) == pytest.approx(math.sqrt(q[:3] @ (d - mean) ** 2))


def test_basins_share_all_of_the_probability():
    p = np.zeros((36, 36))
    p[10, 17], p[11, 34], p[24, 21] = 0.3, 0.6, 0.1  # (−75°, −5°), (−65°, 165°), (65°, 35°)
    assert basin_populations(p) == pytest.approx({"alpha_R": 0.3, "beta": 0.6, "alpha_L": 0.1})


def test_frames_for_equal_divergence():
    curve = {75: 0.4, 300: 0.1, 1200: 0.025}  # falls as 1/n
    assert frames_for_divergence(curve, 0.05) == (pytest.approx(600.0), False)
    assert frames_for_divergence(curve, 0.01) == (1200.0, True)
    assert frames_for_divergence(curve, 0.5) == (75.0, False)
