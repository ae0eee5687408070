"""Cross-fitted product labels against the exact answers of an analytic all-atom model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from kernelfe.datasets import EliminatedMode, load_atoms
from kernelfe.errors import DataError
from kernelfe.statistics import (
    Variates,
    cross_fit,
    distance_features,
    fragment_motions,
    heat_capacity_labels,
    reduce_noise,
    response_labels,
    response_variates,
)
from kernelfe.units import BOLTZMANN

#: COPIES of the model share one R in a "molecule": U is then as skewed as that of a molecule.
MODEL, T, FRAMES, REPEATS, COPIES = EliminatedMode(dimension=2), 400.0, 600, 220, 12


def basis(r, degree):
    """All monomials of two variables up to a degree."""
    return np.stack([r[:, 0] ** i * r[:, 1] ** j for i in range(degree + 1) for j in range(degree + 1 - i)], 1)


def means(r, f, u, degree):
    """Least squares of f and u in the basis: ``fit_predict`` of :func:`cross_fit`."""
    x, y = basis(r, degree), np.concatenate([f, u[:, None]], 1)

    def fit_predict(train, rows):
        out = x[rows] @ np.linalg.lstsq(x[train], y[train], rcond=None)[0]
        return out[:, :-1], out[:, -1]

    return fit_predict


@pytest.fixture(scope="module")
def repeats():
    """R, sampled f and U, exact response and heat capacity, by repeat."""
    rng = np.random.default_rng(1)
    points = rng.uniform([-0.6, -1.0], [0.6, 1.0], (400, 2))  # few enough for the quadrature of the exact answers
    which = rng.integers(len(points), size=REPEATS * FRAMES)
    r = points[which]
    drawn = MODEL.sample(np.repeat(r, COPIES, 0), T, 1.0, rng)
    f, u = (drawn[key].reshape(len(r), COPIES, -1).sum(1) for key in ("mean_force", "mean_energy"))
    exact = MODEL.statistics(torch.from_numpy(points), T)
    truth = [COPIES * exact[key].numpy()[which] for key in ("thermal_response_force", "heat_capacity")]
    columns = (r, f, u[:, 0], *truth)
    return [tuple(np.asarray(c).reshape(REPEATS, FRAMES, *c.shape[1:])[k] for c in columns) for k in range(REPEATS)]


def estimates(repeats, kind, degree=5):
    """Per repeat, label minus truth averaged with 1 and with a function of R, and slopes against the truth."""
    gaps, products = [], []
    for r, f, u, response, capacity in repeats:
        fit = means(r, f, u, degree)
        everything = np.arange(len(u))
        if kind == "halves":
            force, energy = cross_fit(fit, len(u))
        elif kind == "one model":
            fold = np.arange(len(u)) % 5
            force, energy = np.empty_like(f), np.empty_like(u)
            for k in range(5):
                force[fold == k], energy[fold == k] = fit(everything[fold != k], everything[fold == k])
        else:
            force, energy = fit(everything, everything)
        y = np.column_stack([response_labels(f, u, T, force, energy), heat_capacity_labels(u, T, energy)])
        x = np.column_stack([response, capacity])
        gaps.append(np.concatenate([(y - x).mean(0), ((y - x) * r[:, :1]).mean(0)]))
        products.append([(y * x).mean(0), (x * x).mean(0)])
    gaps, products = np.array(gaps), np.array(products)
    slopes = products[:, 0].sum(0) / products[:, 1].sum(0)
    return gaps, slopes


def test_labels_of_disjoint_halves_are_unbiased(repeats):
    """Aggregate z over 220 repeats and slope through the origin 1 ± 0.05; both simpler ways are off by p/n."""
    gaps, slopes = estimates(repeats, "halves")
    z = gaps.mean(0) / gaps.std(0) * np.sqrt(len(gaps))
    assert chi2.sf(z @ np.linalg.pinv(np.corrcoef(gaps.T)) @ z, len(z)) > 1e-3, z
    np.testing.assert_allclose(slopes, 1.0, atol=0.05)
    inside, _ = estimates(repeats, "in sample")
    outside, _ = estimates(repeats, "one model")
    for wrong, sign in ((inside, -1.0), (outside, 1.0)):
        z = wrong[:, 2] / wrong[:, 2].std() * np.sqrt(len(wrong))  # mean heat capacity
        assert sign * z.mean() > 3.3


def test_errors_of_averaged_labels_are_calibrated(repeats):
    """The standard error of the average of labels, from their scatter, covers the truth while p ≪ n."""
    z = []
    for r, f, u, response, capacity in repeats:
        force, energy = cross_fit(means(r, f, u, 3), len(u))
        y = np.column_stack([response_labels(f, u, T, force, energy), heat_capacity_labels(u, T, energy)])
        gap = y - np.column_stack([response, capacity])
        z.append(gap.mean(0) / (gap.std(0, ddof=1) / np.sqrt(len(gap))))
    total = (np.array(z) ** 2).sum(0)
    p = chi2.cdf(total, len(z))
    assert ((1e-3 < p) & (p < 1 - 1e-3)).all(), total / len(z)


def test_folds_halves_and_gaps():
    seen = []

    def fit_predict(train, rows):
        seen.append((train, rows))
        return np.zeros(len(rows)), np.zeros((len(rows), 2, 3))

    groups = np.repeat([1.0, 2.0], [40, 60])
    first, second = cross_fit(fit_predict, 100, groups=groups, folds=4, gap=3)
    assert first[0].shape == (100,) and second[1].shape == (100, 2, 3)
    assert len(seen) == 8
    for k in range(4):
        (a, rows), (b, again) = seen[k], seen[4 + k]
        np.testing.assert_array_equal(rows, again)
        assert not set(a) & set(b) and abs(len(a) - len(b)) <= 4
        apart = np.abs(np.concatenate([a, b])[:, None] - rows[None])
        same = groups[np.concatenate([a, b])][:, None] == groups[rows][None]
        assert apart[same].min() == 4
    assert sorted(np.concatenate([rows for _, rows in seen[:4]])) == list(range(100))


def harmonic(n, rng, k=(3.0, 5.0, 8.0)):
    """Atom 1 in an anisotropic harmonic well about bead 0 at the origin: Var U = 3/2 (kT)², C = 3k/2."""
    stiff = np.array(k)
    x = np.zeros((n, 2, 3))
    x[:, 1] = rng.standard_normal((n, 3)) * np.sqrt(BOLTZMANN * T / stiff)
    f = np.zeros_like(x)
    f[:, 1] = -stiff * x[:, 1]
    return x, f, 0.5 * (stiff * x[:, 1] ** 2).sum(1)


def test_response_variates_have_zero_mean_and_take_the_noise_of_harmonic_modes():
    x, f, u = harmonic(4000, np.random.default_rng(2))
    v = x[:, 1] * f[:, 1] + BOLTZMANN * T  # w = x along each axis: div w = 1
    d = np.ones_like(v)
    mean = np.full(len(u), 1.5 * BOLTZMANN * T + 2e-3)  # a wrong Ū does no harm
    z = response_variates(v, d, u, T, mean)
    assert (np.abs(z.mean(0)) < 4 * z.std(0) / np.sqrt(len(z))).all()
    capacity = heat_capacity_labels(u, T, np.full(len(u), 1.5 * BOLTZMANN * T))
    both = np.concatenate([v, response_variates(v, d, u, T, np.full(len(u), 1.5 * BOLTZMANN * T))], 1)
    quiet = reduce_noise(capacity, both)
    assert quiet.values.std() < 0.02 * capacity.std()
    assert quiet.values.mean() == pytest.approx(1.5 * BOLTZMANN, rel=1e-3)
    assert reduce_noise(capacity, v).values.std() > 0.3 * capacity.std()  # v alone do much less


def test_product_labels_of_real_frames_lose_noise():
    """Alanine dipeptide at 300 K: variates of products have zero mean, and the noise of heat-capacity labels falls."""
    atoms = load_atoms("alanine-dipeptide")
    rows = atoms.temperature == 300.0
    x, f, u = atoms.positions[rows], atoms.forces[rows], atoms.energies[rows]
    motions = fragment_motions(atoms.bonds, atoms.bead_atoms, atoms.constraints, atoms.masses)
    library = Variates.of(motions, x)
    keep = [k for k, name in enumerate(library.names) if name.endswith(("power 0", "power 1"))]
    v, d = library.evaluate(x, f, 300.0)[:, keep], library.divergences(x)[:, keep]
    features = distance_features(x[:, atoms.bead_atoms], 1)
    design = np.column_stack([np.ones(len(u)), features])
    (energy,) = cross_fit(lambda a, b: design[b] @ np.linalg.lstsq(design[a], u[a], rcond=None)[0], len(u))
    response = response_variates(v, d, u, 300.0, energy)
    z = response.mean(0) / response.std(0) * np.sqrt(len(u))
    assert np.mean(z**2) < 2.0 and np.abs(z).max() < 4.5  # 116 correlated columns
    labels = heat_capacity_labels(u, 300.0, energy)
    quiet = reduce_noise(labels, np.concatenate([v, response], 1), features=features)
    assert quiet.std_after < 0.75 * quiet.std_before
    gap = quiet.values.mean() - labels.mean()
    assert abs(gap) < 4.0 * (quiet.values - labels).std() / np.sqrt(len(u))


def test_nonlinear_variables_add_their_divergence():
    rng = np.random.default_rng(3)
    f, u, d = rng.standard_normal((50, 2)), rng.standard_normal(50), rng.standard_normal((50, 2))
    zero = (np.zeros_like(f), np.zeros_like(u))
    plain, with_term = response_labels(f, u, T, *zero), response_labels(f, u, T, *zero, divergences=d)
    np.testing.assert_allclose(with_term - plain, BOLTZMANN * d, rtol=1e-8, atol=1e-15)
    np.testing.assert_allclose(plain, f * u[:, None] / (BOLTZMANN * T**2), rtol=1e-12)


def test_what_cannot_be_used_is_refused():
    f, u = np.ones((20, 3)), np.ones(20)
    for call, message in (
        (lambda: cross_fit(lambda a, b: np.zeros(len(b)), 20, folds=2), "at least 3"),
        (lambda: cross_fit(lambda a, b: np.zeros(3), 20), "must return"),
        (lambda: cross_fit(lambda a, b: np.zeros(len(b)), 20, gap=20), "leaves no frames"),
        (lambda: cross_fit(lambda a, b: np.zeros(len(b)), 20, groups=[1]), "groups has shape"),
        (lambda: response_labels(f, u[:5], T, f, u), "must be \\(n,\\)"),
        (lambda: response_labels(f, u, T, f[:, :1], u), "mean_force must be"),
        (lambda: response_labels(f, u, -T, f, u), "positive"),
        (lambda: heat_capacity_labels(u, [T, T], u), "temperature has shape"),
        (lambda: response_variates(f, f[:, :1], u, T, u), "divergences must be"),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_fits_that_return_something_else_now_and_then():
    """Else rows of one quantity would stay whatever memory held."""
    calls = []

    def fewer(train, rows):
        calls.append(0)
        return (np.zeros(len(rows)),) * (2 if len(calls) % 5 == 1 else 1)

    def wider(train, rows):
        calls.append(0)
        return np.zeros((len(rows), len(calls)))

    with pytest.raises(DataError, match="quantities for block 1"):
        cross_fit(fewer, 40)
    with pytest.raises(DataError, match="another shape"):
        cross_fit(wider, 40)
    for wrong in ({"frames": 10.5}, {"frames": -3}, {"folds": "5"}, {"folds": 3.5}, {"gap": np.nan}):
        with pytest.raises(DataError):
            cross_fit(lambda train, rows: np.zeros(len(rows)), **({"frames": 40} | wrong))
    with pytest.raises(DataError, match="real numbers"):
        cross_fit(lambda train, rows: "x", 40)
    with pytest.raises(DataError, match=r"\(n, p\)"):
        response_variates(np.ones((5, 2, 3)), np.ones((5, 2, 3)), np.ones(5), 300.0, np.ones(5))
