"""Conjugate gradients give what the Cholesky factor gives, for every mix of labels, terms and kernels."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import Dense, FreeEnergyRegressor, Iterative, Term
from kernelfe.descriptors import Distances, InverseDistances, Symmetrized, Variables
from kernelfe.errors import DataError, SolverError
from kernelfe.gp import condition
from kernelfe.gp.solvers.exact import gram_matrix
from kernelfe.gp.solvers.iterative.neighbours import Neighbourhoods, spread_out
from kernelfe.gp.solvers.iterative.operator import JetGram, factor_basis
from kernelfe.gp.solvers.iterative.preconditioner import SmoothPart, left_over, precondition, rank_rule
from kernelfe.gp.solvers.iterative.settings import PreconditionerSettings
from kernelfe.kernels import RBF, Matern52, Periodic, RationalQuadratic, SecondOrder, Sum

from ...systems import LAMBDA, THERMAL, molecule, one_term, two_terms, variables
from .covariances import problem

TIGHT = Iterative(tolerance=1e-10)
#: Draws of a preconditioner: a covariance that is 6 % off in size is noticed.
DRAWS = 100
ALL_NEIGHBOURS = PreconditionerSettings().for_evidence()
MEAN, VARIANCE = 1e-6, 1e-3  # relative to the prior standard deviation, and variance


def iterative(frames, solver=TIGHT, **more):
    return FreeEnergyRegressor(solver=solver, optimizer=None, baseline=False, **more).fit(frames)


def with_pairs(frames):
    frames.add_pair_labels([0, 1], [3, 4], [0.02, -0.01], [0.01, 0.01])
    return frames


def with_blocks(frames):
    n = len(frames)
    rng = np.random.default_rng(5)
    root = 0.01 * (np.eye(12) + 0.2 * rng.normal(size=(n, 12, 12)))
    return frames.replace(noise={"mean_force": root @ root.transpose(0, 2, 1), "mean_energy": 0.01})


def permuted():
    swap = ((0, 1, 2, 3), (3, 2, 1, 0))
    return Term(Symmetrized(Distances(), swap), RBF(lengthscale=1.5), THERMAL)


def inverse():
    swap = ((0, 1, 2, 3), (3, 2, 1, 0))
    return Term(Symmetrized(InverseDistances(), swap), Matern52(lengthscale=0.7), THERMAL)


def uneven():
    """Length scales that do not respect the permutation: no copy may stand for the others."""
    swap = ((0, 1, 2, 3), (3, 2, 1, 0))
    return Term(Symmetrized(Distances(), swap), RBF(lengthscale=(1.0, 1.2, 1.4, 1.6, 1.8, 2.0)), THERMAL)


CASES = {
    "one term": (molecule, one_term),
    "two terms, several environments": (molecule, two_terms),
    "pair labels": (lambda: with_pairs(molecule()), one_term),
    "covariance blocks": (lambda: with_blocks(molecule()), one_term),
    "permutations": (molecule, permuted),
    "permutations, Matérn of inverse distances": (molecule, inverse),
    "permutations that the kernel does not respect": (molecule, uneven),
    "one temperature": (lambda: molecule(temperatures=(350.0,)), one_term),
    "parameters": (variables, lambda: Term(Variables(), RBF(lengthscale=1.1), SecondOrder(380.0, 0.1, 2e-4, 1e-4))),
    "sum of kernels": (molecule, lambda: one_term(Sum((RBF(1.5), RationalQuadratic(2.0, 1.0))))),
    "periodic": (variables, lambda: Term(Variables(), Periodic(lengthscale=1.0, period=3.0), THERMAL, (LAMBDA,))),
}


@functools.cache
def cholesky(case):
    """Frames of a case and its dense model: what all tests of it compare with."""
    frames, terms = CASES[case][0](), CASES[case][1]()
    return frames, FreeEnergyRegressor(terms=terms, solver=Dense(), optimizer=None, baseline=False).fit(frames)


def exact(case="one term"):
    return cholesky(case)[1].posterior_


@functools.cache
def gram_of(case):
    posterior = exact(case)
    with torch.no_grad():
        return JetGram(posterior.prior, posterior.labels, posterior.noise)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_cholesky(case):
    frames, dense = cholesky(case)
    model = iterative(frames, terms=dense.terms)
    test = frames[:2]
    for key in ("free_energy", "mean_force", "mean_energy", "entropy", "heat_capacity"):
        rows = dense.model_.rows(test, key)[0]
        scale = float(dense.posterior_.prior.diagonal(rows).max()) ** 0.5
        if scale == 0.0:
            continue
        a, sa = dense.predict(test, key, return_std=True, reference=None)
        b, sb = model.predict(test, key, return_std=True, reference=None)
        assert np.abs(a - b).max() <= MEAN * scale, key
        assert np.abs(sa**2 - sb**2).max() <= VARIANCE * scale**2, key
    expected, found = (m.covariance(test, "mean_energy") for m in (dense, model))
    assert np.abs(found - expected).max() <= 1e-6 * expected.max()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_product_is_that_of_the_gram(case, precision):
    posterior = exact(case)
    with torch.no_grad():
        lower = gram_matrix(posterior.prior, posterior.labels, posterior.noise).tril()
        matrix = lower + lower.tril(-1).T
        gram = JetGram(posterior.prior, posterior.labels, posterior.noise, dtype=precision)
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(len(matrix), 3, generator=generator, dtype=torch.float64) / matrix.diagonal().sqrt()[:, None]
        expected = matrix @ x
        error = ((gram.product(x) - expected) / matrix.diagonal().sqrt()[:, None]).abs().max()
        size = (expected / matrix.diagonal().sqrt()[:, None]).abs().max()
        assert error <= (1e-12 if precision == torch.float64 else 1e-5) * size
        torch.testing.assert_close(gram.diagonal(), matrix.diagonal(), rtol=1e-12, atol=0)
        again = gram.product(x)  # from the kept kernel matrices
        assert torch.equal(again, gram.product(x))


def test_frames_with_several_labels_are_one_environment():
    gram = gram_of("one term")
    assert len(gram.label_sets) == 2 and len(gram.terms[0].nodes) == len(cholesky("one term")[0])


def test_thermal_factors_in_the_fewest_columns():
    t = torch.tensor([300.0, 400.0, 500.0], dtype=torch.float64)
    factors = torch.stack([torch.ones_like(t), -t, t - 400 - t * torch.log(t / 400)], 1)
    variances = torch.tensor([0.05, 2e-4, 1e-4], dtype=torch.float64) ** 2
    for rows, columns in ((factors[:1], 1), (factors[:2], 2), (factors, 3), (factors[[0, 0, 0]], 1)):
        basis = factor_basis([rows], variances)
        assert basis.shape == (3, columns)
        expected = rows @ torch.diag(variances) @ rows.T
        torch.testing.assert_close((rows @ basis) @ (rows @ basis).T, expected, rtol=1e-11, atol=0)


def test_the_form_for_gradients_is_the_product():
    labels, prior, noise = problem(molecule(4), two_terms())  # of its own: parameters are moved
    u, v = torch.randn(
        2, sum(len(label) for label in labels), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    gram = JetGram(prior, labels, noise)
    value = gram.bilinear(u, v)
    assert float(value.detach()) == pytest.approx(float((u * gram.product(v)).sum()), rel=1e-10)
    value.backward()
    size = abs(float(value.detach()))
    for term in prior.terms:
        for name, parameter in term.named_parameters():
            at = parameter.detach().clone()
            found = parameter.grad.clone()
            for k in range(len(at)):
                step = torch.zeros_like(at)
                step[k] = 1e-5
                sides = []
                for sign in (1.0, -1.0):
                    parameter.data.copy_(at + sign * step)
                    with torch.no_grad():
                        sides.append(float((u * JetGram(prior, labels, noise).product(v)).sum()))
                parameter.data.copy_(at)
                assert float(found[k]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4, abs=1e-6 * size), name


def test_single_precision_products_reach_the_same_tolerance():
    frames, dense = cholesky("one term")
    mixed = iterative(frames, Iterative(tolerance=1e-9, precision="mixed", rank=0), terms=one_term())
    assert mixed.posterior_.solution.residual <= 1e-9 and mixed.posterior_.solution.iterations > 5
    test = molecule(5, seed=3)
    np.testing.assert_allclose(dense.predict(test, "mean_force"), mixed.predict(test, "mean_force"), atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_preconditioner_is_symmetric_positive_definite_and_close(case):
    gram = gram_of(case)
    with torch.no_grad():
        found = precondition(gram, replace(ALL_NEIGHBOURS, group_rows=160), rank=60)  # of frames of 13 to 26 labels
        one = torch.eye(gram.rows, dtype=torch.float64)
        root = gram.diagonal().sqrt()
        inverse = found.solve(one) * root[:, None] * root
        assert (inverse - inverse.T).abs().max() <= 1e-6 * inverse.abs().max()
        spread = torch.linalg.eigvals(found.solve(gram.product(one))).real
        assert float(spread.min()) > 0.02 and float(spread.max()) < 50.0
        draws = found.sample(DRAWS, torch.Generator().manual_seed(1))
        whitened = (draws * found.solve(draws)).sum(0)  # χ² of N degrees of freedom
        assert abs(float(whitened.mean()) / gram.rows - 1.0) < 5.0 * (2.0 / gram.rows / DRAWS) ** 0.5 + 1e-6
        assert found.logdet() == pytest.approx(-float(torch.linalg.slogdet(found.solve(one))[1]), rel=1e-6)


def test_no_neighbours_where_the_low_rank_part_leaves_little():
    gram = gram_of("one term")
    with torch.no_grad():
        with_them, without = (
            precondition(gram, replace(ALL_NEIGHBOURS, group_rows=160, little=x), rank=60) for x in (0.0, 1e9)
        )
        assert max(with_them.local.used) > 1 and max(without.local.used) == 1
        smooth = SmoothPart(gram, 60, ALL_NEIGHBOURS)
        features = smooth.features(None)
        noise = gram.noise_diagonal()
        mean = gram.mean_features.square().sum(1)
        left = (gram.diagonal() - noise - mean - features.square().sum(1)) / noise
        tested = ALL_NEIGHBOURS.tested
        assert left_over(gram, features, None, tested) == pytest.approx(float(left.mean()), rel=1e-9)
        order = torch.randperm(gram.rows, generator=torch.Generator().manual_seed(1))
        assert left_over(gram, features[order], order, tested) == pytest.approx(float(left.mean()), rel=1e-9)
        one = torch.eye(gram.rows, dtype=torch.float64)
        spread = torch.linalg.eigvals(without.solve(gram.product(one))).real
        assert 0.0 < float(spread.min()) < 1.0 < float(spread.max())


def test_neighbourhoods_far_from_the_origin():
    """Single precision sees differences within a neighbourhood, wherever that is."""
    frames = molecule(30)
    z = torch.from_numpy(frames.positions.reshape(len(frames), -1)[:, :3].copy())
    for offset in (0.0, 1e6):
        model = FreeEnergyRegressor(
            terms=Term(Variables(), RBF(0.8), SecondOrder(reference_temperature=300.0)),
            solver=Iterative(),
            optimizer=None,
            noise={"mean_force": 0.05},
        ).fit((z + offset).numpy(), {"temperature": 300.0, "mean_force": np.ones((len(z), 3))})
        near = Neighbourhoods(model.posterior_.gram)._uniform
        who = torch.arange(24).reshape(4, 6)
        exact, found = near.block(who), near.block(who, torch.float32)
        assert found.dtype == torch.float32
        assert float((found - exact).abs().max()) < 1e-6 * float(exact.abs().max())


def test_places_are_spread_out_once_each():
    where = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for places in (where, where[:1].expand(50, 3), torch.cat([where, where]), where * 1e200, where[:0]):
        assert sorted(spread_out(places).tolist()) == list(range(len(places)))
    first, second = spread_out(where)[:2].tolist()
    middle = (where - where.mean(0)).square().sum(1)
    apart = (where - where[first]).square().sum(1)
    assert first == int(middle.argmax()) and second == int(torch.minimum(middle, apart).argmax())


def test_rank_rule():
    """As many columns as cost so many products."""
    gram = gram_of("one term")
    settings = PreconditionerSettings(products=20.0)
    nodes = gram.terms[0]
    product = 6.0 * (1 + nodes.nodes.shape[1]) * len(nodes.nodes) * len(nodes.targets) * nodes.columns
    read = sum(len(each.jets.z) * each.jets.rows for each in nodes.reads) / nodes.columns
    rank = rank_rule(gram, settings)
    cost = [gram.rows * r**2 + settings.number_cost * read * r for r in (rank, rank + 1)]
    assert 0 < rank < gram.rows // 4 and cost[0] <= 20.0 * product < cost[1]


def test_one_group_of_all_rows_is_exact():
    gram = gram_of("one term")
    with torch.no_grad():
        found = precondition(gram, replace(ALL_NEIGHBOURS, group_rows=10_000), rank=20)
        x = torch.randn(gram.rows, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        torch.testing.assert_close(found.solve(gram.product(x)), x, rtol=1e-6, atol=1e-6)


def test_no_convergence_is_an_error_with_advice():
    with pytest.raises(SolverError, match="raise max_iterations, the rank of the preconditioner, the noise"):
        iterative(molecule(40), Iterative(tolerance=1e-12, max_iterations=2, rank=0), terms=one_term())


def test_save_and_load(tmp_path):
    model = iterative(molecule(), terms=one_term())
    model.save(tmp_path / "model.kfe")
    again = kernelfe.load(tmp_path / "model.kfe")
    test = molecule(4, seed=9)
    for key in ("mean_force", "entropy"):
        a, sa = model.predict(test, key, return_std=True)
        b, sb = again.predict(test, key, return_std=True)
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(sa, sb, rtol=1e-6)


def test_more_labels_later():
    frames = molecule(32)
    first = iterative(frames[:31], Iterative(tolerance=1e-10, rank=0), terms=one_term())
    model = condition(first, frames[31:])
    exact = condition(iterative(frames[:31], Dense(), terms=one_term()), frames[31:])  # with the same prior mean
    test = molecule(4, seed=9)
    for key in ("mean_force", "entropy"):
        a, b = model.predict(test, key), exact.predict(test, key)
        np.testing.assert_allclose(a, b, rtol=0, atol=MEAN * np.abs(b).max())
    assert len(first.posterior_.weights) == 31 * 13  # the one passed in is as it was
    # labels that the model has foreseen change nothing: the solve starts where it ends
    foreseen = {key: first.predict(test, key, reference=None) for key in ("mean_force", "mean_energy")}
    found = condition(first, test.replace(labels=foreseen, noise=dict.fromkeys(foreseen, 0.01))).posterior_
    assert found.solution.iterations <= 6 < model.posterior_.solution.iterations
    assert found.weights[-4 * 13 :].abs().max() <= 1e-6 * found.weights.abs().max()


@pytest.mark.parametrize(
    "bad",
    [{"tolerance": 0.0}, {"tolerance": "x"}, {"rank": -1}, {"rank": 2.5}, {"precision": "half"}, {"max_iterations": 0}],
)
def test_bad_numbers_are_named(bad):
    with pytest.raises(DataError, match=next(iter(bad))):
        Iterative(**bad)


@functools.cache
def in_units(scale):
    """A model whose energies, priors and noise are all in another unit; predictions back in eV."""
    frames = molecule()
    labels = {k: scale * v for k, v in frames.labels.items()}
    frames = frames.replace(labels=labels, noise={k: scale * np.asarray(v) for k, v in frames.noise.items()})
    term = Term(Distances(), RBF(lengthscale=1.5), SecondOrder(400.0, 0.05 * scale, 2e-4 * scale, 1e-4 * scale))
    model, test = iterative(frames, terms=term), molecule(2, seed=4)
    return [np.stack(model.predict(test, key, return_std=True)) / scale for key in ("mean_force", "entropy")]


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_other_units_of_energy_change_nothing(factor):
    for (a, sa), (b, sb) in zip(in_units(1.0), in_units(factor), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6 * np.abs(a).max())
        np.testing.assert_allclose(sb, sa, rtol=1e-6)


@pytest.mark.parametrize("noise", [1e-3, 1e-4])
def test_where_single_precision_does_not_converge_it_goes_on_in_double(noise):
    """Smooth and nearly without noise: single precision makes the residual grow."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.5, 1.5, (150, 2))
    labels = {"temperature": 300.0, "mean_force": np.sin(2.0 * x)}
    term = Term(None, RBF(lengthscale=1.5), SecondOrder(300.0, 1.0, 1e-12, 1e-12))
    own = {"terms": term, "noise": {"mean_force": noise}, "optimizer": None}
    mixed, dense = (FreeEnergyRegressor(solver=solver, **own).fit(x, labels) for solver in (Iterative(), Dense()))
    a, b = mixed.predict(x[:20], "mean_force"), dense.predict(x[:20], "mean_force")
    assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()
    assert mixed.posterior_.solution.iterations < 300


def test_a_kernel_that_tells_copies_apart_is_noticed_behind_symmetric_frames():
    frames = molecule(12)
    x = np.array(frames.positions)
    for k in range(4):  # chains equal to their mirror images do not test the kernel
        a, b, h = 1.5 + 0.04 * k, 0.7 + 0.02 * k, 1.0 + 0.03 * k
        x[k] = [[-a, 0.0, 0.0], [-b, h, 0.0], [b, h, 0.0], [a, 0.0, 0.0]]
    frames = frames.replace(positions=x)
    iterative_model, dense = (iterative(frames, solver, terms=uneven()) for solver in (TIGHT, Dense()))
    test = molecule(3, seed=4)
    a, b = (model.predict(test, "mean_force") for model in (iterative_model, dense))
    assert np.abs(a - b).max() <= MEAN * np.abs(b).max()


def test_covariances_between_two_sets_are_of_second_order():
    frames, dense = cholesky("one term")
    model = iterative(frames, Iterative(), terms=dense.terms)
    a, b = molecule(3, seed=5), molecule(4, seed=6)
    found, expected = (m.covariance(a, "mean_energy", X2=b) for m in (model, dense))
    scale = np.sqrt(np.outer(*(np.diag(dense.covariance(f, "mean_energy")) for f in (a, b))))
    assert (np.abs(found - expected) <= 1e-4 * scale).all()
