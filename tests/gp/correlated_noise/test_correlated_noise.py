"""Noise correlated within frames, between forces and energies, and in time: exactness, files, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone

import kernelfe
from kernelfe import CorrelatedNoise, Frames, FreeEnergyRegressor, RelativeNoise, Sparse, Term
from kernelfe.descriptors import Distances
from kernelfe.errors import DataError, ModelFileError
from kernelfe.files import tensors as modelfile
from kernelfe.gp import joint_predictive, noise_covariance
from kernelfe.gp.correlated_noise.estimate import statistical_inefficiency
from kernelfe.kernels import RBF, SecondOrder
from kernelfe.statistics import autocorrelation_time

from ..naive import NaiveGP, NaiveMean, NaiveTerm, Points, condition, rbf
from ..systems import molecule, one_term

EXACT = 1e-6
BOLTZMANN = 8.617330337217213e-05
ELL, SCALES, T0 = (0.9, 1.1, 1.4), (0.06, 1e-4, 1e-4), 370.0  # below the noise, which is then well known
TERM = Term(Distances(), RBF(lengthscale=ELL), SecondOrder(T0, *SCALES))
KINDS = ["mean_force", "generalized_force", "mean_energy"]
COUNT, FIELDS = 20, 1  # as few as the 10 forces of a frame allow


@pytest.fixture(scope="module")
def points():
    """Three beads, a displacement field; a cell so large that the oracle sees none."""
    g = torch.Generator().manual_seed(3)

    def randn(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    n = COUNT + 2
    corner = torch.tensor([[0.2, 0.1, 0.0], [1.4, 0.2, 0.3], [0.9, 1.5, -0.2]], dtype=torch.float64)
    cell = 1e4 * torch.eye(3, dtype=torch.float64).expand(n, 3, 3)
    t = torch.tensor([290.0, 400.0, 510.0], dtype=torch.float64).repeat(n)[:n]
    return Points(corner + 0.2 * randn(n, 3, 3), cell, t, torch.ones(n, dtype=torch.float64), randn(n, FIELDS, 3, 3))


def frames_of(p, labels=None, **more):
    return Frames.from_arrays(
        p.r.numpy(), temperature=p.t.numpy(), displacements=p.fields.numpy(), labels=labels or {}, **more
    )


@pytest.fixture(scope="module")
def labels(points):
    rng = np.random.default_rng(0)
    common = rng.normal(size=(COUNT, 1))
    return {
        "mean_force": (0.2 * rng.normal(size=(COUNT, 9)) + 0.3 * common).reshape(COUNT, 3, 3),
        "generalized_force": 0.1 * rng.normal(size=(COUNT, FIELDS)) + 0.1 * common,
        "mean_energy": 1.5 + 0.2 * rng.normal(size=COUNT) + 0.1 * common[:, 0],
    }


def fit(frames, noise, **options):
    options = {"terms": TERM, "solver": "dense", "optimizer": None, "baseline": False} | options
    return FreeEnergyRegressor(noise=noise, **options).fit(frames)


def axes(r, arms):
    """Rows: along the first arm, in the plane of both, normal to it (written out apart from the package)."""
    out = []
    for bead, (a, b) in enumerate(arms):
        x = r[a] - r[bead]
        x = x / np.linalg.norm(x)
        y = r[b] - r[bead]
        y = y - (y @ x) * x
        y = y / np.linalg.norm(y)
        out.append(np.stack([x, y, np.cross(x, y)]))
    return out


@pytest.mark.parametrize("within", [True, False])
def test_dense_is_conditioning_with_the_whole_noise_covariance(points, labels, within):
    seen, unseen = points[torch.arange(COUNT)], points[torch.arange(COUNT, COUNT + 2)]
    frames = frames_of(seen, labels)
    first = fit(frames, None)
    model = fit(frames, CorrelatedNoise(within_frame=within, rounds=1))
    noise, m = model.noise_model_, 9 + FIELDS
    assert noise.layout.dropped is None and (noise.layout.arms is not None) == within
    # the response of the first fit, and the numbers of the noise, make one covariance of all labels
    response = first.predict(frames, "thermal_response_force").reshape(COUNT, 9)
    big, jacobian = np.zeros(((m + 1) * COUNT,) * 2), 0.0
    c0, p = noise.covariance.numpy(), np.array(noise.exponents)
    level = model.noise_levels_["mean_energy given (mean_force, generalized_force)"]
    for k in range(COUNT):
        t = float(seen.t[k])
        scale = (t / noise.reference) ** p
        c = c0 * np.outer(scale, scale)
        if within:
            turn = np.zeros((m, m))
            for bead, rows in enumerate(axes(seen.r[k].numpy(), noise.layout.arms)):
                turn[3 * bead : 3 * bead + 3, 3 * bead : 3 * bead + 3] = rows
            turn[9:, 9:] = np.eye(FIELDS)
            c = turn.T @ c @ turn
            jacobian -= 0.5 * np.linalg.slogdet(c)[1]
        cross = BOLTZMANN * t**2 * np.concatenate([response[k], seen.fields[k].flatten(1).numpy() @ response[k]])
        cross *= noise.coupling
        own = (level[0] * (t / noise.reference) ** level[1]) ** 2 + cross @ np.linalg.solve(c, cross)
        forces, torques, energy = 9 * k + np.arange(9), 9 * COUNT + FIELDS * k + np.arange(FIELDS), m * COUNT + k
        at = np.concatenate([forces, torques])
        big[np.ix_(at, at)] = c
        big[at, energy] = big[energy, at] = cross
        big[energy, energy] = own
    mean = model.posterior_.prior.mean
    (offset,) = mean.offset
    t_mean = mean.thermal.reference_temperature
    flat = (0.0, 1.0, 0)
    gp = NaiveGP(
        [
            NaiveTerm(rbf, ELL, SCALES, T0, flat),
            NaiveMean(rbf, (), (mean.energy, 0.0, mean.heat_capacity), t_mean, flat, offset=offset),
        ]
    )
    sizes = {"mean_force": 9, "generalized_force": FIELDS, "mean_energy": 1, "free_energy": 1}
    k = np.block([[gp.gram(a, seen, b, seen) for b in KINDS] for a in KINDS]) + big
    y = np.concatenate([labels[kind].reshape(-1) for kind in KINDS])
    prior = np.concatenate([gp.prior_mean(kind, seen, sizes[kind]) for kind in KINDS])
    for kind in [*KINDS, "free_energy"]:
        kx = np.concatenate([gp.gram(kind, unseen, b, seen) for b in KINDS], 1)
        kxx = gp.gram(kind, unseen, kind, unseen)
        expected, covariance, evidence = condition(k, y, prior, kx, kxx, gp.prior_mean(kind, unseen, sizes[kind]))
        test = frames_of(unseen)
        found = model.predict(test, kind, reference=None).reshape(-1)
        size = max(np.abs(expected).max(), 1e-3 * np.abs(kxx).max() ** 0.5)
        assert np.abs(found - expected).max() < EXACT * size, kind
        assert np.abs(model.covariance(test, kind) - covariance).max() < EXACT * np.abs(kxx).max(), kind
        assert (
            np.abs(found - first.predict(test, kind, reference=None).reshape(-1)).max() > 100 * EXACT * size
        )  # it matters
    # whitened labels have the density of the labels over that of the change of variables
    assert model.log_evidence_ == pytest.approx(evidence - jacobian, rel=1e-7, abs=1e-5)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    frames = molecule(40, seed=2, noise=False)
    common = rng.normal(size=(40, 1, 1))
    labels = {
        "mean_force": frames.labels["mean_force"] + 0.05 * common + 0.03 * rng.normal(size=(40, 4, 3)),
        "mean_energy": frames.labels["mean_energy"] + 0.02 * rng.normal(size=40),
    }
    fields = rng.normal(size=(40, 1, 4, 3))
    labels["generalized_force"] = np.einsum("nbi,nkbi->nk", labels["mean_force"], fields) + 0.02 * rng.normal(
        size=(40, 1)
    )
    return Frames.from_arrays(frames.positions, temperature=frames.temperature, labels=labels, displacements=fields)


FIXED = Term(**(one_term().get_params(deep=False) | {"fixed": True})).set_params(thermal__energy=0.09)
ALL = CorrelatedNoise(time={"mean_force": 2.0, "mean_energy": 1.5})


@pytest.mark.parametrize("noise", [ALL, CorrelatedNoise(within_frame=False)], ids=["all", "force-energy"])
def test_sparse_with_all_inducing_is_dense(data, noise):
    options = {"terms": one_term(), "optimizer": None, "baseline": False}
    dense = FreeEnergyRegressor(solver="dense", noise=noise, **options).fit(data)
    sparse = FreeEnergyRegressor(solver=Sparse(inducing=40, gradients=True), noise=noise, **options).fit(data)
    np.testing.assert_allclose(sparse.noise_model_.covariance, dense.noise_model_.covariance, rtol=1e-5, atol=1e-9)
    for kind in ("mean_force", "mean_energy", "thermal_response_force"):
        a, s = dense.predict(data, kind, return_std=True)
        b, r = sparse.predict(data, kind, return_std=True)
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * np.abs(a).max())
        np.testing.assert_allclose(r, s, rtol=0, atol=1e-4 * s.max())
    assert sparse.log_evidence_ == pytest.approx(dense.log_evidence_, rel=1e-4)


def test_rows_may_lack_labels(data):
    """Whitened together where both are there, alone where only one is; energies likewise."""
    here = {kind: np.ones(40, bool) for kind in data.labels}
    here["generalized_force"][:5] = False
    here["mean_energy"][30:] = False
    here["mean_force"][3] = here["generalized_force"][3] = False
    labels = {k: np.where(here[k].reshape(-1, *(1,) * (v.ndim - 1)), v, np.nan) for k, v in data.labels.items()}
    partial = Frames.from_arrays(
        data.positions,
        temperature=data.temperature,
        labels=labels,
        present=here,
        displacements=np.where(here["generalized_force"][:, None, None, None], data.displacements, np.nan),
    )
    model = fit(partial, CorrelatedNoise(), terms=one_term())
    kinds = {label.kind: len(label.y) for label in model.posterior_.labels}
    both = "(mean_force, generalized_force)"
    assert kinds == {
        f"whitened {both}": 35,
        "whitened (mean_force)": 4,
        f"mean_energy given {both}": 25,
        "mean_energy given (mean_force)": 4,
        "mean_energy": 1,
    }
    assert np.isfinite(model.predict(data, "mean_force")).all()


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=20)])
def test_rows_repeated_at_equal_share_are_rows_once(solver):
    """A likelihood to the power 1/g of g copies is the likelihood: predictions, error bars, evidence."""
    frames = molecule(21, seed=4, noise=False)
    thrice = frames[np.repeat(np.arange(21), 3)]
    options = {"terms": one_term(), "baseline": False, "solver": solver, "optimizer": None}
    single = CorrelatedNoise(within_frame=False, force_energy=False, time={}, rounds=1)
    triple = CorrelatedNoise(within_frame=False, force_energy=False, time=dict.fromkeys(frames.labels, 3.0), rounds=1)
    once = FreeEnergyRegressor(noise=single, **options).fit(frames)
    more = FreeEnergyRegressor(noise=triple, **options).fit(thrice)
    plain = FreeEnergyRegressor(**options).fit(thrice)
    a, s = once.predict(frames, "mean_energy", return_std=True)
    b, r = more.predict(frames, "mean_energy", return_std=True)
    np.testing.assert_allclose(b, a, atol=1e-7)
    np.testing.assert_allclose(r, s, rtol=1e-5)
    assert more.log_evidence_ == pytest.approx(once.log_evidence_, rel=1e-6)
    assert (plain.predict(frames, "mean_energy", return_std=True)[1] < 0.9 * s).all()


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=30)])
def test_weights_leave_the_size_of_the_noise(solver):
    """Weights do not increase the noise: the learned level is that of single labels."""
    frames = molecule(30, seed=4, noise=False)
    levels = []
    for g in (1.0, 2.0):
        spec = CorrelatedNoise(within_frame=False, force_energy=False, time=dict.fromkeys(frames.labels, g), rounds=1)
        model = FreeEnergyRegressor(terms=FIXED, baseline=False, solver=solver, noise=spec).fit(frames)
        levels.append(model.noise_["mean_force"][0])
    assert levels[1] == pytest.approx(levels[0], rel=0.1) and levels[0] == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=25)])
def test_relative_noise_is_learned_level_times_given_scale(solver):
    rng = np.random.default_rng(8)
    clean = molecule(40, seed=4, noise=False, temperatures=(400.0,))
    scale = rng.uniform(0.3, 3.0, 40)
    force = clean.labels["mean_force"] + 0.05 * scale[:, None, None] * rng.normal(size=(40, 4, 3))
    frames = clean.with_labels("mean_force").replace(labels={"mean_force": force})
    options = {"terms": one_term(), "baseline": False, "solver": solver}
    noise = {"mean_force": RelativeNoise(scale)}
    model = FreeEnergyRegressor(noise=noise, **options).fit(frames)
    sigma, power = model.noise_["mean_force"]
    assert power == 0.0 and sigma == pytest.approx(0.05, rel=0.1)
    terms = [(name, kernelfe.Term(**(t.get_params(deep=False) | {"fixed": True}))) for name, t in model.fitted_terms()]
    same = FreeEnergyRegressor(
        noise={"mean_force": sigma * scale}, **(options | {"terms": terms, "optimizer": None})
    ).fit(frames)
    a, s = model.predict(frames, "mean_force", return_std=True)
    b, r = same.predict(frames, "mean_force", return_std=True)
    np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(s, r, rtol=1e-5)
    flat = FreeEnergyRegressor(**options).fit(frames)
    assert model.log_evidence_ > flat.log_evidence_ + 20.0
    with pytest.raises(DataError, match="positive"):
        FreeEnergyRegressor(noise={"mean_force": RelativeNoise(-scale)}, **options).fit(frames)
    with pytest.raises(DataError, match="one number per row"):
        RelativeNoise(2.0)


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=20)])
def test_saved_and_loaded(data, solver, tmp_path):
    model = fit(data, ALL, solver=solver, terms=one_term())
    model.save(tmp_path / "x.kfe")
    other = kernelfe.load(tmp_path / "x.kfe")
    for kind in KINDS:
        for a, b in zip(
            model.predict(data, kind, return_std=True), other.predict(data, kind, return_std=True), strict=True
        ):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
    assert other.noise == ALL
    for kind, level in model.noise_.items():
        assert other.noise_[kind] == pytest.approx(level)
    assert other.noise_model_.layout == model.noise_model_.layout
    assert other.noise_model_.inefficiency == model.noise_model_.inefficiency
    np.testing.assert_allclose(noise_covariance(other, data[:3]), noise_covariance(model, data[:3]), rtol=1e-9)
    header, tensors = modelfile.read(tmp_path / "x.kfe")
    header["noise_model"]["layout"]["dropped"] = 17
    modelfile.write(tmp_path / "y.kfe", header, tensors)
    with pytest.raises(ModelFileError, match="noise_model"):
        kernelfe.load(tmp_path / "y.kfe")
    header, tensors = modelfile.read(tmp_path / "x.kfe")
    tensors["noise.covariance"] = -tensors["noise.covariance"]
    modelfile.write(tmp_path / "y.kfe", header, tensors)
    with pytest.raises(ModelFileError, match=r"noise\.covariance"):
        kernelfe.load(tmp_path / "y.kfe")


def test_forces_that_add_up_to_zero_lose_a_bead(data):
    force = np.array(data.labels["mean_force"])
    force -= force.mean(1, keepdims=True)
    frames = data.with_labels(["mean_force", "mean_energy"])
    frames = frames.replace(labels={"mean_force": force, "mean_energy": frames.labels["mean_energy"]})
    model = fit(frames, CorrelatedNoise(), terms=one_term())
    assert model.noise_model_.layout.sizes == (9,) and model.noise_model_.layout.dropped in range(4)
    covariance = noise_covariance(model, frames[:2], ["mean_force"]).reshape(2, 4, 3, 4, 3)
    np.testing.assert_allclose(covariance.sum(1), 0.0, atol=1e-12)
    kept = np.arange(12) >= 3
    found = joint_predictive(model, frames, ["mean_force"], kept)
    assert found.labels == 9 and np.isfinite(found.log_density).all()
    with pytest.raises(DataError, match="singular"):
        joint_predictive(model, frames, ["mean_force"])


def test_the_fit_turns_with_the_molecule(data):
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 3, 3)))
    q = q * np.sign(np.linalg.det(q))[:, None, None]
    turned = Frames.from_arrays(
        np.einsum("nij,nbj->nbi", q, data.positions),
        temperature=data.temperature,
        labels=dict(data.labels) | {"mean_force": np.einsum("nij,nbj->nbi", q, data.labels["mean_force"])},
        displacements=np.einsum("nij,nkbj->nkbi", q, data.displacements),
    )
    a, b = (fit(x, CorrelatedNoise(), terms=one_term()) for x in (data, turned))
    np.testing.assert_allclose(b.predict(turned, "free_energy"), a.predict(data, "free_energy"), atol=1e-9)
    np.testing.assert_allclose(b.noise_model_.covariance, a.noise_model_.covariance, atol=1e-10)


def test_stated_noise_is_kept(data):
    model = FreeEnergyRegressor(terms=one_term(), baseline=False, noise=CorrelatedNoise(), optimizer=None).fit(
        data.replace(noise={"mean_energy": 0.02})
    )
    assert "mean_energy" not in model.noise_ and not any("given" in kind for kind in model.noise_levels_)


def test_statistical_inefficiency_is_twice_the_autocorrelation_time():
    rng = np.random.default_rng(0)
    x = np.zeros((4000, 3))
    for k in range(1, 4000):
        x[k] = np.array([0.0, 0.5, 0.8]) * x[k - 1] + rng.normal(size=3)
    g = statistical_inefficiency([torch.from_numpy(x)]).numpy()
    np.testing.assert_allclose(g[1:], [3.0, 9.0], rtol=0.25)  # (1 + ρ)/(1 − ρ)
    np.testing.assert_allclose(g[1:], 2 * autocorrelation_time(x)[1:], rtol=0.02)
    assert g[0] == 1.0
    assert float(statistical_inefficiency([torch.from_numpy(x[:3])])) == 1.0


def test_refusals(data):
    for options, message in (
        ({"within_frame": 1}, "True or False"),
        ({"rounds": 0}, "whole number"),
        ({"time": 3.0}, "by label kind"),
        ({"time": {"mean_force": 0.5}}, "at least 1"),
    ):
        with pytest.raises(DataError, match=message):
            CorrelatedNoise(**options)
    with pytest.raises(DataError, match="at least 26"):
        fit(data[:20], CorrelatedNoise(), terms=one_term())
    cell = Frames.from_arrays(
        data.positions, temperature=data.temperature, labels=dict(data.labels), displacements=data.displacements,
        cell=50.0 * np.eye(3),
    )  # fmt: skip
    with pytest.raises(DataError, match="within_frame=False"):
        fit(cell, CorrelatedNoise(), terms=one_term())
    assert fit(cell, CorrelatedNoise(within_frame=False), terms=one_term()).noise_model_.layout.arms is None
    with pytest.raises(DataError, match="has not learned"):
        noise_covariance(fit(data, None, terms=one_term()), data, ["entropy"])
    copy = clone(FreeEnergyRegressor(noise=CorrelatedNoise(rounds=3)))
    assert copy.get_params()["noise__rounds"] == 3
