"""Exact conditioning against an independent naive oracle, for every pair of label kinds."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from torch.func import jacfwd

from kernelfe import Frames, FreeEnergyRegressor, ParameterExpansion, Term
from kernelfe.descriptors import Distances, PairDistances
from kernelfe.functionals import OBSERVABLES
from kernelfe.kernels import RBF, Matern52, SecondOrder

from .naive import TABLE, NaiveGP, NaiveMean, NaiveTerm, Points, condition, matern52, rbf

EXACT = 1e-8
T0, TRAIN = 370.0, 5
TERMS = [
    (
        "molecule",
        Term(
            Distances(),
            RBF(lengthscale=(0.9, 1.1, 1.4)),
            SecondOrder(T0, energy=0.2, entropy=4e-4, heat_capacity=3e-4),
            (ParameterExpansion("lambda", reference=0.8, scale=1.5, order=2),),
        ),
    ),
    (
        "pairs",
        Term(
            PairDistances(cutoff=4.0),
            Matern52(lengthscale=1.7),
            SecondOrder(T0, energy=0.1, entropy=2e-4, heat_capacity=1e-4),
            (ParameterExpansion("lambda", reference=0.7, scale=0.9, order=1),),
        ),
    ),
]
NAIVE_TERMS = [
    NaiveTerm(rbf, (0.9, 1.1, 1.4), (0.2, 4e-4, 3e-4), T0, (0.8, 1.5, 2)),
    NaiveTerm(matern52, (1.7,), (0.1, 2e-4, 1e-4), T0, (0.7, 0.9, 1), together=False),
]
KEYS = list(OBSERVABLES)


def points():
    g = torch.Generator().manual_seed(3)

    def randn(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    n = TRAIN + 2
    corner = torch.tensor([[0.2, 0.1, 0.0], [1.4, 0.2, 0.3], [0.9, 1.5, -0.2]], dtype=torch.float64)
    r = corner + 0.25 * randn(n, 3, 3)
    r[:, 2, 0] += 9.0  # beads apart by a lattice vector: nearest images count
    cell = 9.0 * torch.eye(3, dtype=torch.float64) + 0.3 * randn(n, 3, 3)
    t = torch.linspace(290, 510, n, dtype=torch.float64)
    return Points(r, cell, t, 0.5 + 0.1 * randn(n).abs() + 0.1 * torch.arange(n), randn(n, 2, 3, 3))


ALL = points()
SEEN, UNSEEN = ALL[torch.arange(TRAIN)], ALL[torch.arange(TRAIN, TRAIN + 2)]
BARE = NaiveGP(NAIVE_TERMS)
SIZE = {key: {"value": 1, "gradient": 9, "along": 2, "strain": 6, "volume": 1}[TABLE[key][0]] for key in KEYS}


@pytest.fixture(scope="module")
def frames():
    """Labels drawn at the size of their prior, with noise of a third of it."""
    rng = np.random.default_rng(0)
    labels, noise = {}, {}
    for key in KEYS:
        std = np.sqrt(np.diag(BARE.gram(key, SEEN, key, SEEN)))
        shape = OBSERVABLES[key]().shape((3, 3), 2)
        labels[key] = (std * rng.normal(size=len(std))).reshape(TRAIN, *shape)
        noise[key] = 0.3 * float(std.mean())
    labels["free_energy"] += 1.5
    labels["mean_energy"] += 1.5
    return make(SEEN, labels=labels, noise=noise)


def make(p, **more):
    return Frames.from_arrays(
        p.r.numpy(),
        temperature=p.t.numpy(),
        parameters={"lambda": p.lam.numpy()},
        displacements=p.fields.numpy(),
        cell=p.cell.numpy(),
        **more,
    )


def fitted(frames, labels=None, **options):
    options = {"terms": TERMS, "solver": "dense", "optimizer": None, "baseline": False} | options
    return FreeEnergyRegressor(labels=labels, **options).fit(frames)


def oracle_of(model):
    """The naive GP with the numbers of the model's mean function, which come from the data."""
    mean = model.posterior_.prior.mean
    if mean is None:
        return BARE
    (expansion,) = mean.parameters
    state = (expansion.reference, expansion.scale, expansion.order)
    (offset,) = mean.offset
    t0 = mean.thermal.reference_temperature
    extra = NaiveMean(rbf, (), (mean.energy, 0.0, mean.heat_capacity), t0, state, offset=offset)
    return NaiveGP([*NAIVE_TERMS, extra])


def condition_on(gp, blocks, noise, y, targets):
    """Posterior of ``targets`` given ``blocks``, both lists of sums [(coefficient, key, points)]."""

    def cov(left, right):
        return sum(c * c2 * gp.gram(k, p, k2, p2) for c, k, p in left for c2, k2, p2 in right)

    def mean(rows):
        return sum(c * gp.prior_mean(k, p, SIZE[k]) for c, k, p in rows)

    k = np.block([[cov(a, b) for b in blocks] for a in blocks]) + noise
    prior = np.concatenate([mean(b) for b in blocks])
    out = []
    for target in targets:
        kx = np.concatenate([cov(target, b) for b in blocks], 1)
        out.append(condition(k, y, prior, kx, cov(target, target), mean(target)))
    return out


def compare(found, expected, what, scale=None):
    scale = np.abs(expected).max() if scale is None else scale
    error = np.abs(np.asarray(found).reshape(expected.shape) - expected).max() / scale
    assert error < EXACT, f"{what}: {error:.1e}"


def compare_all(model, blocks, noise, y, keys=KEYS, share=1e-3, gp=None):
    """Errors are relative to the largest mean, or to ``share`` of the prior's standard deviation if that is more."""
    gp = gp or oracle_of(model)
    test = make(UNSEEN)
    results = condition_on(gp, blocks, noise, y, [[(1, key, UNSEEN)] for key in keys])
    *_, (_, _, evidence) = results
    for key, (mean, covariance, _) in zip(keys, results, strict=True):
        prior = np.abs(gp.gram(key, UNSEEN, key, UNSEEN)).max()
        found, std = model.predict(test, key, return_std=True, reference=None)
        compare(found, mean, f"mean of {key}", max(np.abs(mean).max(), share * prior**0.5))
        compare(model.covariance(test, key), covariance, f"covariance of {key}", prior)
        np.testing.assert_allclose(std.reshape(-1) ** 2, np.diag(covariance), rtol=0, atol=EXACT * prior)
    assert model.log_evidence_ == pytest.approx(evidence, rel=EXACT, abs=1e-6)


def plain_noise(frames, keys):
    return np.diag(np.concatenate([np.full(TRAIN * SIZE[k], frames.noise[k] ** 2) for k in keys]))


def plain_y(frames, keys):
    return np.concatenate([frames.labels[k].reshape(-1) for k in keys])


@pytest.mark.parametrize(("first", "second"), list(combinations_with_replacement(KEYS, 2)))
def test_every_pair_of_label_kinds(frames, first, second):
    """Trained on one or both kinds: mean, covariance and standard deviation of these and of A, evidence."""
    keys = [first] if first == second else [first, second]
    model = fitted(frames, keys)
    blocks = [[(1, key, SEEN)] for key in keys]
    targets = list(dict.fromkeys([*keys, "free_energy"]))
    compare_all(model, blocks, plain_noise(frames, keys), plain_y(frames, keys), targets)


def test_all_kinds_at_once(frames):
    model = fitted(frames)
    blocks = [[(1, key, SEEN)] for key in KEYS]
    # broad mean functions next to heat capacities: a condition number of 3e9 leaves eight digits of the prior's scale
    compare_all(model, blocks, plain_noise(frames, KEYS), plain_y(frames, KEYS), share=0.1)
    gp, test = oracle_of(model), make(UNSEEN)
    cross = model.covariance(test, "mean_force", "mean_energy")
    k = np.block([[gp.gram(a, SEEN, b, SEEN) for b in KEYS] for a in KEYS]) + plain_noise(frames, KEYS)
    left, right = (
        np.concatenate([gp.gram(q, UNSEEN, b, SEEN) for b in KEYS], 1) for q in ("mean_force", "mean_energy")
    )
    expected = gp.gram("mean_force", UNSEEN, "mean_energy", UNSEEN) - left @ np.linalg.solve(k, right.T)
    compare(cross, expected, "cross covariance", np.abs(gp.gram("mean_force", UNSEEN, "mean_force", UNSEEN)).max())


def test_rows_without_labels_noise_arrays_and_covariance_blocks(frames):
    rng = np.random.default_rng(1)
    force = rng.normal(size=(TRAIN, 9, 9))
    blocks_of_noise = 1e-3 * (force @ force.transpose(0, 2, 1) + np.eye(9))
    energy_noise = rng.uniform(0.01, 0.1, TRAIN)
    couple_noise = rng.uniform(0.05, 0.2, (TRAIN, 2))
    here = np.array([True, False, True, True, False])
    energy = np.where(here, frames.labels["mean_energy"], np.nan)
    data = make(
        SEEN,
        labels={k: frames.labels[k] for k in ("mean_force", "generalized_force")} | {"mean_energy": energy},
        noise={"mean_force": blocks_of_noise, "generalized_force": couple_noise, "mean_energy": energy_noise},
        present={"mean_energy": here},
    )
    model = fitted(data)
    seen = SEEN[torch.from_numpy(np.flatnonzero(here))]
    blocks = [[(1, "mean_force", SEEN)], [(1, "generalized_force", SEEN)], [(1, "mean_energy", seen)]]
    noise = np.zeros((9 * TRAIN + 2 * TRAIN + 3,) * 2)
    for k in range(TRAIN):
        noise[9 * k : 9 * k + 9, 9 * k : 9 * k + 9] = blocks_of_noise[k]
    at = np.arange(9 * TRAIN, len(noise))
    noise[at, at] = np.concatenate([couple_noise.reshape(-1), energy_noise[here]]) ** 2
    y = np.concatenate(
        [data.labels["mean_force"].reshape(-1), data.labels["generalized_force"].reshape(-1), energy[here]]
    )
    compare_all(model, blocks, noise, y)
    # the same noise, given to the estimator instead
    other = fitted(make(SEEN, labels=dict(data.labels), present={"mean_energy": here}), noise=dict(data.noise))
    assert other.log_evidence_ == pytest.approx(model.log_evidence_, rel=1e-12)


def test_pair_labels(frames):
    data = frames.with_labels(["mean_force"])
    i, j, std = [0, 1, 3], [2, 4, 1], np.array([0.01, 0.02, 0.05])
    value = np.array([0.2, -0.1, 0.05])
    data.add_pair_labels(i, j, value, std)
    model = fitted(data)
    pairs = [(1, "free_energy", SEEN[torch.tensor(j)]), (-1, "free_energy", SEEN[torch.tensor(i)])]
    noise = np.zeros((9 * TRAIN + 3,) * 2)
    noise[: 9 * TRAIN, : 9 * TRAIN] = plain_noise(frames, ["mean_force"])
    noise[9 * TRAIN + np.arange(3), 9 * TRAIN + np.arange(3)] = std**2
    y = np.concatenate([plain_y(frames, ["mean_force"]), value])
    blocks = [[(1, "mean_force", SEEN)], pairs]
    compare_all(model, blocks, noise, y)
    gp = oracle_of(model)
    test = make(UNSEEN)
    for first, second in ((0, 1), (1, 0)):
        found, cov = model.predict_difference(test[first], test[second], return_cov=True)
        ends = [(1, "free_energy", UNSEEN[[second]]), (-1, "free_energy", UNSEEN[[first]])]
        ((mean, covariance, _),) = condition_on(gp, blocks, noise, y, [ends])
        compare(found, mean, "difference")
        compare(cov, covariance, "its variance", gp.gram("free_energy", UNSEEN, "free_energy", UNSEEN).max())
    only = fitted(data, labels=["free_energy_difference"])
    at = np.ix_(range(9 * TRAIN, len(noise)), range(9 * TRAIN, len(noise)))
    compare_all(only, [pairs], noise[at], value)


class Spring:
    """A baseline V = ½ k (|R₁ − R₀| − r₀)² with nearest images."""

    k, r0 = 3.0, 1.3

    def fit(self, positions, temperature, cell=None):
        assert positions.shape[1:] == (3, 3) and cell is not None
        return self

    def energy(self, r, strain, cell, images):
        from .naive import distances

        return 0.5 * self.k * (distances(r, strain, cell, images)[0] - self.r0) ** 2

    def _each(self, function, positions, cell):
        p = Points(positions, cell, positions[:, 0, 0], positions[:, 0, 0], positions[:, None])
        zero = torch.zeros(6, dtype=torch.float64)
        return torch.stack([function(r, zero, c, m) for r, c, m in zip(p.r, p.cell, p.images, strict=True)])

    def energy_and_gradient(self, positions, cell=None):
        return self._each(self.energy, positions, cell), self._each(jacfwd(self.energy, 0), positions, cell)

    def strain_derivative(self, positions, cell=None):
        return self._each(jacfwd(self.energy, 1), positions, cell)


def of_spring(key, p):
    """Value of a functional for a function of R alone."""
    spring, zero = Spring(), torch.zeros(6, dtype=torch.float64)
    where, thermal, order = TABLE[key]
    if order or not (weight := sum(c for c, power, n in thermal if n == 0)):
        return np.zeros(len(p.t) * SIZE[key])
    out = []
    for r, cell, images, fields in zip(p.r, p.cell, p.images, p.fields, strict=True):
        gradient = jacfwd(spring.energy, 0)(r, zero, cell, images).reshape(-1)
        strain = jacfwd(spring.energy, 1)(r, zero, cell, images) / torch.linalg.det(cell).abs()
        value = spring.energy(r, zero, cell, images).reshape(1)
        out.append(
            {
                "value": value,
                "gradient": gradient,
                "strain": strain,
                "volume": strain[:3].sum(0, keepdims=True) / 3.0,
                "along": fields.flatten(1) @ gradient,
            }[where]
        )
    return weight * torch.cat(out).numpy()


def test_a_baseline_is_taken_from_every_label_and_given_back(frames):
    model = fitted(frames, baseline=Spring())
    y = plain_y(frames, KEYS) - np.concatenate([of_spring(key, SEEN) for key in KEYS])
    gp = oracle_of(model)
    blocks = [[(1, key, SEEN)] for key in KEYS]
    results = condition_on(gp, blocks, plain_noise(frames, KEYS), y, [[(1, key, UNSEEN)] for key in KEYS])
    *_, (_, _, evidence) = results
    for key, (mean, _, _) in zip(KEYS, results, strict=True):
        mean = mean + of_spring(key, UNSEEN)
        prior = np.abs(gp.gram(key, UNSEEN, key, UNSEEN)).max()
        scale = max(np.abs(mean).max(), 0.1 * prior**0.5)
        compare(model.predict(make(UNSEEN), key, reference=None), mean, f"mean of {key}", scale)
    assert model.log_evidence_ == pytest.approx(evidence, rel=EXACT)
    assert np.abs(of_spring("stress", SEEN)).max() > 1e-6 and np.abs(of_spring("mean_energy", SEEN)).max() > 1e-3
    difference = model.predict_difference(make(UNSEEN)[0], make(UNSEEN)[1])
    absolute = model.predict(make(UNSEEN), "free_energy", reference=None)
    np.testing.assert_allclose(difference, absolute[1:] - absolute[:1], atol=1e-12)


@pytest.mark.parametrize(
    ("key", "key2"), [("second_thermal_response_force", "parameter_response_force"), ("mean_energy", "stress")]
)
def test_the_oracle_is_the_derivative_of_the_whole_kernel(key, key2):
    """The factorized oracle against nested derivatives of k((R, ε, T, λ), (R', ε', T', λ')) itself."""
    a, b = SEEN[[0]], SEEN[[1]]
    cells = (a.cell[0], a.images[0], b.cell[0], b.images[0])
    zero = torch.zeros(6, dtype=torch.float64)

    def operator(f, key, at):
        where, thermal, order = TABLE[key]
        for _ in range(order):
            f = jacfwd(f, at + 3)

        def total(*x):
            out = 0.0
            for c, p, n in thermal:
                g = f
                for _ in range(n):
                    g = jacfwd(g, at + 2)
                out = out + c * x[at + 2] ** p * g(*x)
            return out

        if where in ("gradient", "strain"):
            return jacfwd(total, at + (where == "strain"))
        return total

    def whole(*x):
        return sum(term.kernel(*x, *cells) for term in NAIVE_TERMS)

    found = operator(operator(whole, key, 0), key2, 4)(a.r[0], zero, a.t[0], a.lam[0], b.r[0], zero, b.t[0], b.lam[0])
    found = found / (torch.linalg.det(b.cell[0]).abs() if key2 == "stress" else 1.0)
    compare(found.numpy(), BARE.gram(key, a, key2, b), "whole kernel")
