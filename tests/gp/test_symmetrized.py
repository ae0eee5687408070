"""Terms averaged over permutations of like beads: exact symmetry, what it buys, and what it is equal to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import BoltzmannInversion, Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.descriptors import Distances, InternalCoordinates, Symmetrized, Variables, automorphisms, permutations
from kernelfe.errors import DataError
from kernelfe.functionals import get
from kernelfe.kernels import RBF, SecondOrder

from .systems import THERMAL

BONDS = ((0, 1), (0, 2), (0, 3))
KINDS = ("A", "B", "B", "B")
GROUP = automorphisms(BONDS, KINDS)
T0 = 400.0


def exact(x, t):
    """A smooth A(R; T) of a star A–B₃ that no relabelling of the B changes, with forces and ⟨U⟩, by autograd."""
    x, t = torch.tensor(x, requires_grad=True), torch.tensor(t)
    i, j = np.triu_indices(4, 1)
    slopes = torch.linspace(0.3, 1.2, 6, dtype=torch.float64)
    u = s = c = 0.0
    for p in GROUP:
        y = x[:, list(p)]
        phase = (y[:, i] - y[:, j]).norm(dim=-1) @ slopes
        u, s, c = u + 0.05 * torch.sin(phase), s + 1e-4 * torch.cos(1.3 * phase), c + 5e-5 * torch.cos(0.7 * phase)
    a = u - t * s + c * (t - T0 - t * torch.log(t / T0))
    (gradient,) = torch.autograd.grad(a.sum(), x)
    return a.detach().numpy(), -gradient.numpy(), (u + c * (t - T0)).detach().numpy()


def star(n, seed=0, noise=0.01):
    """Frames of the star, its arms unlike each other as in thermal motion."""
    rng = np.random.default_rng(seed)
    arms = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [-0.7, 1.3, 0.2], [-0.6, -1.2, 0.5]])
    x, t = arms + 0.3 * rng.normal(size=(n, 4, 3)), np.resize([300.0, 400.0, 500.0], n)
    _, force, energy = exact(x, t)
    labels = {
        "mean_force": force + noise * rng.normal(size=force.shape),
        "mean_energy": 2.0 + energy + noise * rng.normal(size=n),
    }
    return Frames.from_arrays(
        x, temperature=t, labels=labels, kinds=KINDS, bonds=BONDS, noise=dict.fromkeys(labels, noise)
    )


def term(symmetric=True, inner=None):
    inner = inner or Distances()
    return Term(Symmetrized(inner, GROUP) if symmetric else inner, RBF(lengthscale=1.5), THERMAL)


def fitted(frames, spec=None, solver="dense", optimizer=None):
    return FreeEnergyRegressor(spec or term(), solver=solver, baseline=False, optimizer=optimizer).fit(frames)


def relabelled(frames, p):
    return frames.replace(positions=frames.positions[:, list(p)])


INTERNAL = InternalCoordinates(bonds=BONDS[:2], angles=((1, 0, 2),), dihedrals=((1, 0, 2, 3),))


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=20)], ids=["dense", "sparse"])
@pytest.mark.parametrize("inner", [Distances(), INTERNAL], ids=["distances", "internal"])
def test_predictions_are_exactly_symmetric(solver, inner, tmp_path):
    model, test = fitted(star(15), term(inner=inner), solver), star(6, seed=1)
    model.save(tmp_path / "m.kfe")
    again = kernelfe.load(tmp_path / "m.kfe")
    for p in GROUP[1:]:
        moved = relabelled(test, p)
        for quantity in ("free_energy", "mean_energy", "entropy", "heat_capacity"):
            for a, b in zip(
                model.predict(test, quantity, return_std=True, reference=None),
                model.predict(moved, quantity, return_std=True, reference=None),
                strict=True,
            ):
                np.testing.assert_allclose(a, b, rtol=0.0, atol=1e-10)
        for a, b in zip(
            model.predict(test, "mean_force", return_std=True),
            model.predict(moved, "mean_force", return_std=True),
            strict=True,
        ):
            np.testing.assert_allclose(a[:, list(p)], b, rtol=0.0, atol=1e-10)
    force = model.predict(test, "mean_force")
    np.testing.assert_allclose(again.predict(test, "mean_force"), force, rtol=0.0, atol=1e-12)
    energy, fast = model.frozen().energy_and_forces(torch.tensor(test.positions), torch.tensor(test.temperature))
    np.testing.assert_allclose(fast, force, rtol=0.0, atol=1e-10)
    np.testing.assert_allclose(energy, model.predict(test, reference=None), rtol=0.0, atol=1e-9)


def test_a_baseline_by_kinds_is_symmetric_too():
    """All parts of it: like bonds, angles, the improper at A, and predictions with their error bars."""
    model = FreeEnergyRegressor(term(), baseline=BoltzmannInversion(by_kinds=True), optimizer=None).fit(star(15))
    test = star(6, seed=1)
    assert len(set(model.baseline_.bond_parameters)) == 1 and len(model.baseline_.bonds) == 3
    for p in GROUP[1:]:
        one, two = (model.predict(f, "mean_force", return_std=True) for f in (test, relabelled(test, p)))
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a[:, list(p)], b, rtol=0.0, atol=1e-10)
    plain = FreeEnergyRegressor(term(), optimizer=None).fit(star(15))
    assert len(set(plain.baseline_.bond_parameters)) == 3  # the default does not use kinds
    with pytest.raises(DataError, match="needs kinds= and bonds="):
        FreeEnergyRegressor(term(), baseline=BoltzmannInversion(by_kinds=True)).fit(star(15).replace(bonds=None))


def test_conditioning_is_that_of_all_copies():
    """f with noise σ, and g with all copies of every frame and noise σ√P: the same means, term and mean functions."""
    frames, test, copies = star(5), star(4, seed=1), len(GROUP)
    every = Frames.concatenate(
        [
            relabelled(frames, p).replace(
                labels={
                    "mean_force": frames.labels["mean_force"][:, list(p)],
                    "mean_energy": frames.labels["mean_energy"],
                },
                noise=dict.fromkeys(frames.labels, 0.01 * copies**0.5),
            )
            for p in GROUP
        ]
    )
    one, all_of_them = fitted(frames), fitted(every, term(symmetric=False))
    # both take the same mean function: its prior comes from the same energies
    assert one.posterior_.prior.mean.offset == pytest.approx(all_of_them.posterior_.prior.mean.offset, rel=1e-12)
    for quantity in ("mean_force", "mean_energy", "entropy", "free_energy"):
        np.testing.assert_allclose(
            one.predict(test, quantity), all_of_them.predict(test, quantity), rtol=0.0, atol=1e-9, err_msg=quantity
        )
    # g may be asymmetric, so it is less certain than f
    narrow, wide = (m.predict(test, "mean_energy", return_std=True)[1] for m in (one, all_of_them))
    assert (narrow <= wide + 1e-12).all()


def test_the_scale_is_the_prior_standard_deviation_of_the_term():
    """Prior standard deviation: a if all copies coincide, a/√P if they are far apart."""
    model = fitted(star(4))
    prior = model.posterior_.prior
    together = np.zeros((1, 4, 3))  # all distances alike
    apart = np.array([[[0.0, 0.0, 0.0], [90.0, 0.0, 0.0], [0.0, 300.0, 0.0], [0.0, 0.0, 1000.0]]])
    for x, wanted in ((together, THERMAL.energy), (apart, THERMAL.energy / 6**0.5)):
        states = model.model_.states(Frames.from_arrays(x, temperature=T0))
        rows = prior.rows(get("free_energy"), states)
        value = (prior.kernel_diagonal(rows, 0) @ prior.terms[0].variances()).sqrt()
        assert float(value) == pytest.approx(wanted, rel=1e-12)


def test_sparse_with_enough_orbits_is_dense():
    frames, test = star(12), star(5, seed=1)
    dense = fitted(frames)
    sparse = fitted(frames, solver=Sparse(inducing=12, gradients=True))
    for quantity in ("mean_force", "mean_energy"):
        for a, b in zip(
            dense.predict(test, quantity, return_std=True), sparse.predict(test, quantity, return_std=True), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=0.0, atol=2e-4)


def test_inducing_orbits_hold_no_copies():
    """Frames that are images of each other give one inducing variable each orbit, and as many unknowns as orbits."""
    frames = star(10)
    twice = Frames.concatenate([frames, relabelled(frames, GROUP[3]), relabelled(frames, GROUP[5])])
    model = fitted(twice, solver=Sparse(inducing=25))
    basis = model.posterior_.basis
    assert len(basis.inducing[0]) == 10 * len(GROUP) and basis.ranks[0] == 10


def error(frames, symmetric, optimizer=None):
    test = star(60, seed=5, noise=1e-6)
    kernel, thermal = RBF(lengthscale=1.2), SecondOrder(T0, energy=0.3, entropy=6e-4, heat_capacity=3e-4)
    descriptor = term(symmetric).descriptor
    spec = Term(descriptor, kernel, thermal) if optimizer is None else Term(descriptor)
    model = fitted(frames, spec, optimizer=optimizer)
    return float(np.sqrt(np.mean((model.predict(test, "mean_force") - test.labels["mean_force"]) ** 2)))


def test_symmetry_saves_frames():
    """At equal data and hyperparameters the symmetric model errs less than the plain one with three times as many."""
    few, more = star(15), star(45)
    symmetric, plain, plain_with_more = error(few, True), error(few, False), error(more, False)
    assert symmetric < 0.5 * plain and symmetric < plain_with_more


@pytest.mark.slow
def test_symmetry_saves_frames_with_fitted_hyperparameters():
    few, more = star(20), star(50)
    symmetric, plain = error(few, True, "evidence"), error(few, False, "evidence")
    assert symmetric < 0.6 * plain and symmetric < error(more, False, "evidence")


def test_variables_that_are_alike():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (20, 3))
    a = np.sin(x[:, 0]) + np.cos(2.0 * x[:, 1]) * np.cos(2.0 * x[:, 2])
    frames = Frames.from_arrays(variables=x, temperature=300.0, labels={"free_energy": a}, noise={"free_energy": 0.01})
    swap = permutations(3, [(1, 2)])
    model = FreeEnergyRegressor(Term(Symmetrized(Variables(), swap))).fit(frames)
    test = rng.uniform(-1.0, 1.0, (30, 3))
    mean, std = model.predict(test, return_std=True)
    other = model.predict(test[:, [0, 2, 1]], return_std=True)
    np.testing.assert_allclose((mean, std), other, rtol=0.0, atol=1e-10)
    truth = np.sin(test[:, 0]) + np.cos(2.0 * test[:, 1]) * np.cos(2.0 * test[:, 2])
    plain = FreeEnergyRegressor(Term(Variables())).fit(frames).predict(test)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.8 * np.sqrt(np.mean((plain - truth) ** 2))
    assert len(model.fitted_terms()[0][1].kernel.lengthscale) == 3
