from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.analysis import liquids
from kernelfe.statistics import series_mean

from .systems import TILTED, diamond, ideal_gas, vectors

#: Bins of an ideal gas are checked by their z-scores: 4.5 is exceeded once in 1.5e5 bins.
FAR = 4.5


@pytest.fixture(scope="module")
def gas():
    """An ideal gas in triclinic cells whose volume breathes by 6 %."""
    return ideal_gas(300, 40, TILTED, breathing=0.02)


def cells():
    """Cells of any shape and handedness, not reduced."""
    entry = st.floats(-6.0, 6.0)
    return st.lists(entry, min_size=9, max_size=9).map(lambda v: 7.0 * np.eye(3) + np.array(v).reshape(3, 3))


def thick(cell, least=3.0):
    return abs(np.linalg.det(cell)) > 1.0 and (1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)).min() > least


def test_g_of_an_ideal_gas_is_one(gas):
    found = liquids.radial_distribution(*gas, width=0.2)
    assert found.edges[-1] <= 0.5 * 10.0 * np.exp(-0.06) and len(found.g) > 20
    z = (found.g - 1.0)[2:] / found.error[2:]
    assert np.abs(z).max() < FAR and 0.6 < np.mean(z**2) < 1.6
    # running number of neighbours: (N − 1) times the share of the volume
    volume = 4.0 / 3.0 * np.pi * found.edges[-1] ** 3 * np.mean(1.0 / np.abs(np.linalg.det(gas[1])))
    assert found.coordination[-1] == pytest.approx(39 * volume, rel=0.03)


def test_structure_factor_of_an_ideal_gas_is_one(gas):
    found = liquids.structure_factor(*gas, k_max=4.0, width=0.2)
    z = (found.s - 1.0) / found.error
    assert np.abs(z).max() < FAR and found.s.mean() == pytest.approx(1.0, abs=0.02)
    assert (np.diff(found.k) > 0).all()
    assert liquids.structure_factor(gas[0][:1], TILTED, k_max=4.0, width=0.2).vectors.max() == 24


def test_angles_of_an_ideal_gas(gas):
    found = liquids.angular_distribution(*gas, 3.0, bins=30)
    low, high = found.edges[:-1], found.edges[1:]
    exact = 0.5 * (np.cos(low) - np.cos(high)) / (high - low)
    assert np.abs((found.density - exact) / found.error).max() < FAR
    assert found.density.sum() * np.pi / 30 == pytest.approx(1.0, abs=1e-12)
    q = liquids.tetrahedral_order(*gas)
    assert abs(q.mean.value) < FAR * q.mean.error and q.mean.error < 0.02
    assert q.density.sum() * 4.0 / 160 == pytest.approx(1.0)


def test_neighbours_of_an_ideal_gas(gas):
    found = liquids.coordination_number(*gas, 3.0)
    share = 4.0 / 3.0 * np.pi * 27.0 * np.mean(1.0 / np.abs(np.linalg.det(gas[1])))
    assert abs(found.mean.value - 39 * share) < FAR * found.mean.error
    assert found.probability.sum() == pytest.approx(1.0)
    assert found.probability @ np.arange(len(found.probability)) == pytest.approx(found.mean.value)


@given(cells().filter(thick), st.integers(0, 999))
@settings(max_examples=8)
def test_against_all_images_in_cells_of_any_shape(cell, seed):
    x = np.random.default_rng(seed).uniform(-2.0, 2.0, (1, 9, 3)) @ cell
    g = liquids.radial_distribution(x, cell, width=0.25)
    reach = g.edges[-1]
    pairs = vectors(x[0], cell, reach)
    r = np.concatenate([np.linalg.norm(v, axis=1) for (i, j), v in pairs.items() if i < j])
    shells = 4.0 / 3.0 * np.pi * np.diff(g.edges**3)
    expected = np.histogram(r, g.edges)[0] * abs(np.linalg.det(cell)) / (36.0 * shells)
    np.testing.assert_allclose(g.g, expected, atol=1e-9)
    around = [np.concatenate([pairs[i, j] for j in range(9)]) for i in range(9)]
    found = liquids.coordination_number(x, cell, reach)
    assert found.mean.value == pytest.approx(np.mean([len(v) for v in around]))


@given(cells().filter(lambda c: thick(c, 2.5)), st.integers(0, 999))
@settings(max_examples=6)
def test_order_and_angles_against_all_images(cell, seed):
    x = np.random.default_rng(seed).uniform(-2.0, 2.0, (1, 6, 3)) @ cell
    pairs = vectors(x[0], cell, 14.0)
    around = [np.concatenate([pairs[i, j] for j in range(6)]) for i in range(6)]
    nearest = [v[np.argsort(np.linalg.norm(v, axis=1))[:4]] for v in around]
    expected = []
    for v in nearest:
        u = v / np.linalg.norm(v, axis=1, keepdims=True)
        expected.append(1.0 - 0.375 * sum((u[a] @ u[b] + 1.0 / 3.0) ** 2 for a in range(4) for b in range(a)))
    assert liquids.tetrahedral_order(x, cell).mean.value == pytest.approx(np.mean(expected))


def test_the_same_lattice_in_another_basis():
    x, _ = ideal_gas(3, 30, TILTED)
    turned = np.array([[0, 1, 0], [1, 2, 0], [-1, 1, 1]])  # left-handed and skewed
    assert np.linalg.det(turned) == -1.0
    for measure in (
        lambda c: liquids.radial_distribution(x, c).g,
        lambda c: liquids.angular_distribution(x, c, 3.5).density,
        lambda c: liquids.tetrahedral_order(x, c).density,
        lambda c: liquids.structure_factor(x, c, k_max=2.0, vectors=10**6).s,
    ):
        np.testing.assert_allclose(measure(turned @ TILTED), measure(TILTED), atol=1e-9)


def test_wrapping_and_order_of_beads_change_nothing():
    x, cell = ideal_gas(4, 20, TILTED)
    rng = np.random.default_rng(1)
    moved = (x + rng.integers(-3, 4, size=(4, 20, 3)) @ TILTED)[:, rng.permutation(20)] + 5.0
    for measure in (liquids.radial_distribution, liquids.tetrahedral_order, liquids.structure_factor):
        a, b = measure(x, cell).curve.value, measure(moved, cell).curve.value
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_large_boxes_are_searched_and_give_the_same():
    x, cell = ideal_gas(2, 500, 40.0 * np.eye(3))
    kinds = ["a", "b"] * 250
    for pair in (None, ("a", "b"), ("b", "b")):
        searched = liquids.radial_distribution(x, cell, r_max=3.0, kinds=kinds, pair=pair)
        tried = liquids.radial_distribution(x, cell, r_max=20.0, kinds=kinds, pair=pair)
        np.testing.assert_allclose(searched.g, tried.g[:60], atol=1e-9)


def test_pairs_of_kinds_add_up():
    x, cell = ideal_gas(20, 30, TILTED)
    kinds = ["a"] * 10 + ["b"] * 20
    parts = liquids.radial_distributions(x, cell, kinds, width=0.5)
    assert set(parts) == {("a", "a"), ("a", "b"), ("b", "b")}
    total = sum(parts[pair].g * n for pair, n in ((("a", "a"), 45), (("a", "b"), 200), (("b", "b"), 190)))
    np.testing.assert_allclose(total / 435, liquids.radial_distribution(x, cell, width=0.5).g)
    np.testing.assert_allclose(
        liquids.radial_distribution(x, cell, kinds=kinds, pair=("b", "a"), width=0.5).g, parts["a", "b"].g
    )
    # neighbours of b around a and of a around b: the same pairs
    ab, ba = (
        liquids.coordination_number(x, cell, 4.0, kinds=kinds, pair=p).mean.value for p in (("a", "b"), ("b", "a"))
    )
    assert 10 * ab == pytest.approx(20 * ba)
    waves = {
        p: liquids.structure_factor(x, cell, kinds=kinds, pair=p, k_max=2.0)
        for p in (("a", "a"), ("a", "b"), ("b", "b"))
    }
    total = (10 * waves["a", "a"].s + 2 * np.sqrt(200) * waves["a", "b"].s + 20 * waves["b", "b"].s) / 30
    np.testing.assert_allclose(total, liquids.structure_factor(x, cell, k_max=2.0).s)
    only = liquids.tetrahedral_order(x, cell, kinds=kinds, kind="b").mean.value
    assert only == pytest.approx(liquids.tetrahedral_order(x[:, 10:], cell).mean.value)


def test_triplets_of_kinds_add_up():
    x, cell = ideal_gas(10, 24, TILTED)
    kinds = np.array(["a"] * 8 + ["b"] * 16)
    whole = liquids.angular_distribution(x, cell, 4.0, bins=12)
    total = 0.0
    for centre, number in (("a", 8), ("b", 16)):
        for ends in (("a", "a"), ("a", "b"), ("b", "b")):
            part = liquids.angular_distribution(x, cell, 4.0, kinds=kinds, triplet=(ends[0], centre, ends[1]), bins=12)
            total = total + part.density * part.triplets.value * number
    np.testing.assert_allclose(total, whole.density * whole.triplets.value * 24)


def test_diamond():
    x, cell = diamond()
    assert liquids.tetrahedral_order(x, cell).mean.value == pytest.approx(1.0, abs=1e-12)
    neighbours = liquids.coordination_number(x, cell, 1.7)
    assert neighbours.mean.value == 4.0 and neighbours.probability.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    angles = liquids.angular_distribution(x, cell, 1.7, bins=180)
    assert angles.density.argmax() == 109 and angles.density.max() == pytest.approx(180 / np.pi)
    assert angles.triplets.value == 6.0
    waves = liquids.structure_factor(x, cell, k_max=4.0, width=0.01, vectors=10**6)
    bragg = dict(zip(np.rint((waves.k * 3.567 / 2 / np.pi) ** 2).astype(int), waves.s, strict=True))
    assert bragg[3] == pytest.approx(4.0)  # 4²·|1 ± i|²/8
    assert bragg[1] == pytest.approx(0.0, abs=1e-9) and bragg[2] == pytest.approx(0.0, abs=1e-9)


def test_distances_and_their_floors():
    """Two exact samples are as far apart as the floor says; errors of 150 frames are 5 % too large on average."""
    samples = [ideal_gas(150, 20, 9.0 * np.eye(3), seed=k) for k in range(12)]
    g = [liquids.radial_distribution(*s, width=0.1, r_max=4.0) for s in samples]
    p = [liquids.angular_distribution(*s, 3.0, bins=30) for s in samples]
    for measure, found in ((lambda a, b: liquids.l1_distance(a, b, 2.0, 4.0), g), (liquids.total_variation, p)):
        pairs = [measure(a, b) for a, b in zip(found[::2], found[1::2], strict=True)]
        assert np.mean([d.value for d in pairs]) == pytest.approx(np.mean([d.floor for d in pairs]), rel=0.12)
        far = measure(found[0], found[0])
        assert far.value == 0.0 and "floor" in str(far)


def test_error_of_a_distance():
    """Samples of two gases, one with a correlation hole: the scatter of L1 is its error."""
    values = []
    reference = liquids.radial_distribution(*ideal_gas(400, 20, 9.0 * np.eye(3), seed=99), width=0.5)
    for seed in range(24):
        x, cell = ideal_gas(60, 20, 9.0 * np.eye(3), seed=seed)
        x[:, 10:] = x[:, :10] + np.array([2.7, 0.0, 0.0])  # dimers
        values.append(liquids.l1_distance(liquids.radial_distribution(x, cell, width=0.5), reference, 2.0, 4.5))
    spread = np.std([d.value for d in values], ddof=1)
    assert np.mean([d.error for d in values]) == pytest.approx(spread, rel=0.4)
    assert min(d.value for d in values) > 3 * values[0].floor


def test_replicas_are_series_of_their_own():
    """Ten replicas that never move are ten independent frames, not a thousand."""
    x, _ = ideal_gas(10, 20, TILTED)
    many = np.tile(x, (20, 1, 1))
    once = liquids.tetrahedral_order(x, TILTED, series=np.arange(10)).mean
    found = liquids.tetrahedral_order(many, TILTED, series=np.tile(np.arange(10), 20)).mean
    assert found.error == pytest.approx(once.error, rel=1e-6)
    blind = liquids.tetrahedral_order(many, TILTED).mean
    assert blind.error < 0.7 * found.error
    assert found.value == pytest.approx(
        series_mean([liquids.tetrahedral_order(f[None], TILTED).mean.value for f in x]).value
    )


@pytest.mark.slow
def test_errors_cover_the_truth_on_walkers():
    """Beads that walk by 1 Å per frame are an ideal gas of correlated frames: everything about it is known."""
    cell, beads, replicas, z = 9.0 * np.eye(3), 16, 2, {"g": [], "angles": [], "S": [], "q": [], "neighbours": []}
    for seed in range(50):
        rng = np.random.default_rng(seed)
        steps = rng.normal(size=(75, replicas, beads, 3))
        steps[0] = rng.uniform(0.0, 9.0, size=steps.shape[1:])
        x, series = np.cumsum(steps, axis=0).reshape(-1, beads, 3), np.tile(np.arange(replicas), 75)
        g = liquids.radial_distribution(x, cell, width=0.5, series=series)
        z["g"].append((g.g - 1.0)[2:] / g.error[2:])
        p = liquids.angular_distribution(x, cell, 4.0, bins=12, series=series)
        exact = -0.5 * np.diff(np.cos(p.edges)) / np.diff(p.edges)
        z["angles"].append((p.density - exact) / p.error)
        s = liquids.structure_factor(x, cell, k_max=3.0, width=0.5, series=series)
        z["S"].append((s.s - 1.0) / s.error)
        q = liquids.tetrahedral_order(x, cell, series=series).mean
        z["q"].append(q.value / q.error)
        n = liquids.coordination_number(x, cell, 4.0, series=series).mean
        z["neighbours"].append((n.value - (beads - 1) * 4.0 / 3.0 * np.pi * 64.0 / 729.0) / n.error)
    for name, found in z.items():
        size = np.abs(np.ravel(found))
        for limit, share in ((1.0, 0.68), (1.96, 0.94)):  # within three standard errors of a share, and .03
            allowed = 0.03 + 3.0 * np.sqrt(share * (1.0 - share) / size.size)
            assert np.mean(size < limit) == pytest.approx(share, abs=allowed), name
