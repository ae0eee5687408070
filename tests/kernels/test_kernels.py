"""Kernels that are functions of scalars, against automatic differentiation of κ(z, z') written out."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from kernelfe.errors import DataError, ModelFileError
from kernelfe.gp.prior.term import Term
from kernelfe.kernels import KERNELS as BY_NAME
from kernelfe.kernels import RBF, DotProduct, Jets, Kernel, Matern52, Periodic, Product, RationalQuadratic, Sum
from kernelfe.specs import from_dict
from kernelfe.testing import check_kernel

from .systems import KERNELS

EXACT = 1e-10


def points(n, seed, dimension=3):
    return torch.randn(n, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_jets(z, rows, seed):
    g = torch.Generator().manual_seed(seed)
    c = torch.randn(len(z), rows, generator=g, dtype=torch.float64)
    return Jets(z, c, torch.randn(len(z), rows, z.shape[1], generator=g, dtype=torch.float64))


def covariance(kappa, x, y):
    """(1 + D, 1 + D): value and gradient of κ by either point, by nested automatic differentiation."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    size, value = len(x), kappa(x, y)
    (gx,) = torch.autograd.grad(value, x, create_graph=True)
    (gy,) = torch.autograd.grad(value, y, create_graph=True)
    out = torch.zeros(1 + size, 1 + size, dtype=torch.float64)
    out[0, 0], out[1:, 0], out[0, 1:] = value.detach(), gx.detach(), gy.detach()
    for k in range(size):
        (row,) = torch.autograd.grad(gx[k], y, retain_graph=True, allow_unused=True)
        out[1 + k, 1:] = 0.0 if row is None else row
    return out


@pytest.mark.parametrize("name", KERNELS)
def test_gram_is_the_derivative_of_the_formula(name):
    spec, kappa = KERNELS[name]
    kernel, z = spec.ready(3), points(3, 0)
    other = torch.cat([z[:2], z[2:] + 1e-7, points(2, 1)])  # coincident, nearly coincident and other points
    a, b = random_jets(z, 2, 2), random_jets(other, 3, 3)
    found = kernel.gram(kernel.embed(a), kernel.embed(b))
    expected = torch.zeros_like(found)
    for i in range(3):
        for j in range(5):
            full = covariance(kappa, z[i], other[j])
            left, right = (torch.cat([q.c[k, :, None], q.w[k]], 1) for q, k in ((a, i), (b, j)))
            expected[i, :, j] = left @ full @ right.T
    # Matérn near coincidence is known to 1e-15^(1/2) only: the formula's root loses digits there
    tolerance = 1e-8 if name == "sum" else EXACT
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("name", KERNELS)
def test_everything_that_models_use(name):
    check_kernel(KERNELS[name][0])


@pytest.mark.parametrize(
    "kernel",
    [
        RationalQuadratic(),
        Periodic(period=2.0),
        DotProduct(),
        RBF() + RBF() + DotProduct(power=3),
        (RBF() + Matern52()) * (RBF() + DotProduct()) + RationalQuadratic(),
        Matern52() * Periodic(period=(1.5,)),
    ],
)
def test_kernels_without_numbers(kernel):
    check_kernel(kernel, dimension=1)
    check_kernel(kernel, dimension=2)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(KERNELS)),
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([1e-6, 0.03, 1.0, 30.0]),
)
def test_any_rows_have_a_positive_semidefinite_gram(name, seed, spread):
    kernel, z = KERNELS[name][0].ready(3), spread * points(9, seed)
    jets = kernel.embed(random_jets(torch.cat([z, z[:2]]), 2, seed + 1))
    gram = kernel.gram(jets, jets).reshape(22, 22)
    scale = gram.diagonal().sqrt()
    correlation = gram / scale[:, None] / scale
    torch.testing.assert_close(correlation, correlation.T, rtol=0, atol=1e-9)
    assert float(torch.linalg.eigvalsh(0.5 * (correlation + correlation.T))[0]) > -1e-9
    torch.testing.assert_close(kernel.diagonal(jets).reshape(-1), gram.diagonal(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["rational quadratic", "periodic", "product on columns"])
def test_at_coincident_points_slopes_are_uncorrelated_with_values(name):
    kernel = KERNELS[name][0].ready(3)
    jets = kernel.embed(Jets.full(points(1, 5)))
    gram = kernel.gram(jets, jets)[0, :, 0]
    assert float(gram[0, 0]) == pytest.approx(1.0, abs=1e-14)
    assert float(gram[0, 1:].abs().max()) <= 1e-14 and bool((gram.diagonal() > 0).all())


def test_rational_quadratic_becomes_the_gaussian():
    s = torch.linspace(0.0, 4.0, 9, dtype=torch.float64)
    for found, expected in zip(RationalQuadratic(alpha=1e9).functions(s), RBF().functions(s), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-8)  # (1 + s/α)^(−α) = e^(−s) (1 + s²/2α + …)
    far = RationalQuadratic(alpha=0.5).functions(torch.tensor([1e300], dtype=torch.float64))
    assert all(bool(torch.isfinite(k).all()) for k in far)


def test_periodic_kernels_repeat():
    kernel, z = Periodic(lengthscale=0.7, period=(1.3, None, 3.1)).ready(3), points(4, 0)
    moved = z + torch.tensor([2 * 1.3, 0.0, -3 * 3.1], dtype=torch.float64)
    torch.testing.assert_close(kernel.embedding(moved).z, kernel.embedding(z).z, rtol=0, atol=1e-13)
    half = z + torch.tensor([0.65, 0.0, 0.0], dtype=torch.float64)
    correlation = kernel.value(kernel.embedding(z).z, kernel.embedding(half).z).diagonal()
    torch.testing.assert_close(correlation, torch.full_like(correlation, math.exp(-2.0 / 0.49)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_dot_products_span_the_polynomials(power):
    kernel, z = DotProduct(power, 0.5, 1.3, 0.2).ready(2), points(40, 0, 2)
    x = kernel.embedding(z).z
    values = torch.linalg.eigvalsh(kernel.value(x, x))
    assert int((values > 1e-10 * values[-1]).sum()) == math.comb(2 + power, power)
    one = torch.tensor([[0.2 + 1.3, 0.2]], dtype=torch.float64)  # at a length scale from the centre
    assert float(kernel.diagonal(kernel.embed(Jets.values(one)))) == pytest.approx(1.0, abs=1e-14)


def test_what_the_data_set():
    z = 3.0 + points(500, 0, 2) * torch.tensor([1.0, 4.0], dtype=torch.float64)
    for per_column in (True, False):
        dot = DotProduct().completed(z, per_column)
        assert dot.centre == pytest.approx((3.0, 3.0), abs=0.5)
        x = dot.embedding(z).z
        assert float(x.square().sum(1).mean()) == pytest.approx(1.0, rel=1e-9)
    both = (RBF() + RBF() + RBF(0.5)).completed(z, False)
    scales = [kernel.lengthscale for kernel in both.kernels]
    assert scales[0] == pytest.approx(RBF().completed(z, False).lengthscale)
    assert scales[1] == pytest.approx(0.3 * scales[0]) and scales[2] == 0.5  # alike they would stay alike
    assert both.hyperparameters()["weights"] == (1.0, 1.0, 1.0)
    apart = Sum((RBF(), RBF()), columns=((0,), (1,))).completed(z, True)  # on columns of their own they may be alike
    ratio = apart.kernels[1].lengthscale[0] / apart.kernels[0].lengthscale[0]
    assert ratio == pytest.approx(4.0, rel=0.1)
    narrow = Periodic(period=100.0).completed(z[:, :1], True).lengthscale[0]
    assert narrow == pytest.approx(2.0 * math.pi / 100.0 * RBF().completed(z[:, :1], True).lengthscale[0], rel=0.05)
    assert Periodic(period=1.0).completed(torch.ones(1, 2, dtype=torch.float64), False).lengthscale > 0


def test_operators():
    a, b, c = RBF(1.0), Matern52(2.0), DotProduct(2, lengthscale=1.0)
    assert a + b + c == Sum((a, b, c)) and a * b * c == Product((a, b, c))
    assert a + b * c == Sum((a, Product((b, c)))) and (a + b) * c == Product((Sum((a, b)), c))
    weighted = Sum((a, b), weights=(1.0, 2.0))
    assert weighted + c == Sum((weighted, c))  # its shares are its own
    with pytest.raises(TypeError):
        a + 1.0
    with pytest.raises(TypeError):
        a * 2.0


def test_parameters_by_name():
    term = Term(kernel=Sum((RBF(0.5), Periodic(period=2.0) * RationalQuadratic())))
    names = term.get_params()
    assert names["kernel__kernels__0__lengthscale"] == 0.5
    assert (
        names["kernel__kernels__1__kernels__1__alpha"] == 1.0 and names["kernel__kernels__1__kernels__0__period"] == 2.0
    )
    copy = clone(term)
    assert copy == term and copy.kernel.kernels[0] is not term.kernel.kernels[0]
    copy.set_params(kernel__kernels__0__lengthscale=0.9, kernel__kernels__1__kernels__1__alpha=3.0)
    assert copy.kernel.kernels[0] == RBF(0.9) and copy.kernel.kernels[1].kernels[1].alpha == 3.0
    assert term.kernel.kernels[0] == RBF(0.5)
    copy.set_params(kernel__kernels__0=Matern52(1.0), kernel__weights=(1.0, 2.0))
    assert copy.kernel.kernels[0] == Matern52(1.0) and copy.kernel.weights == (1.0, 2.0)
    copy.kernel.set_params(kernels__0__lengthscale=0.4, kernels=(RBF(1.0), RBF(2.0)))
    assert copy.kernel.kernels == (RBF(0.4), RBF(2.0))
    with pytest.raises(DataError, match="a kernel that can be combined"):
        clone(copy).set_params(kernel__kernels__0=1.0)
    copy.set_params(kernel__kernels__1=RBF() * RationalQuadratic())
    with pytest.raises(DataError, match="holds 2 kernels"):
        copy.set_params(kernel__kernels__2__lengthscale=1.0)
    with pytest.raises(DataError, match="no parameter 'alpha'"):
        copy.set_params(kernel__kernels__0__alpha=1.0)
    with pytest.raises(DataError, match="alpha"):
        copy.set_params(kernel__kernels__1__kernels__1__alpha=-1.0)


@pytest.mark.parametrize("name", KERNELS)
def test_specs_as_json(name):
    kernel = KERNELS[name][0]
    assert from_dict(json.loads(json.dumps(kernel.to_dict())), BY_NAME) == kernel and hash(kernel) == hash(kernel)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RationalQuadratic(alpha=0.0), "alpha"),
        (lambda: RationalQuadratic(alpha=None), "alpha"),
        (lambda: RationalQuadratic(lengthscale="long"), "lengthscale"),
        (lambda: Periodic(period=-1.0), "period"),
        (lambda: Periodic(period=(None, None)), "period"),
        (lambda: Periodic(period="day"), "period"),
        (lambda: DotProduct(power=0), "power"),
        (lambda: DotProduct(power=2.5), "power"),
        (lambda: DotProduct(power=13), "power"),
        (lambda: DotProduct(offset=-1.0), "offset"),
        (lambda: DotProduct(centre=math.nan), "centre"),
        (lambda: DotProduct(centre="here"), "centre"),
        (lambda: Sum(()), "kernels"),
        (lambda: Sum(RBF()), "kernels"),
        (lambda: Sum((RBF(), 1.0)), "a kernel that can be combined"),
        (lambda: Sum((RBF(), RBF()), weights=(1.0,)), "2 numbers"),
        (lambda: Sum((RBF(), RBF()), weights=(1.0, -1.0)), "weights"),
        (lambda: Product((RBF(), RBF()), columns=((0,),)), "columns"),
        (lambda: Product((RBF(), RBF()), columns=((0, 0), (1,))), "columns"),
        (lambda: Product((RBF(), RBF()), columns=((), (1,))), "columns"),
        (lambda: Product((RBF(), RBF()), columns=3), "columns"),
    ],
)
def test_wrong_numbers_are_named(make, message):
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (RBF((1.0, 2.0)), "2 length scales"),
        (Periodic(lengthscale=1.0, period=(1.0, 2.0)), "2 periods"),
        (DotProduct(lengthscale=1.0, centre=(1.0, 2.0)), "centre of 2"),
        (Product((RBF(1.0), RBF(1.0)), columns=((0,), (3,))), "column 3 of 3"),
        (Product((RBF((1.0, 2.0)), RBF(1.0)), columns=((0,), (1,))), "2 length scales"),
        (RBF(), "lacks lengthscale"),
    ],
)
def test_numbers_that_do_not_fit_the_columns_are_named(kernel, message):
    with pytest.raises(DataError, match=message):
        kernel.check(3)


def test_lists_become_tuples():
    assert Sum([RBF(1.0), RBF(2.0)], columns=[[0], None], weights=[1, 2]) == Sum(
        (RBF(1.0), RBF(2.0)), columns=((0,), None), weights=(1.0, 2.0)
    )
    assert Periodic(period=[1.0, None]) == Periodic(period=(1.0, None))
    assert DotProduct(centre=[1, 2]) == DotProduct(centre=(1.0, 2.0))
    hash(Sum([RBF(1.0)], columns=[[0]]))


def test_a_composite_must_know_its_columns_first():
    with pytest.raises(DataError, match="ready"):
        (RBF(1.0) + RBF(2.0)).gram(Jets.values(points(2, 0)), Jets.values(points(2, 0)))


def test_files_cannot_smuggle_other_specs_into_composites():
    inside = Term(kernel=RBF(1.0)).to_dict()
    with pytest.raises(ModelFileError, match="combined"):
        from_dict({"class": "Sum", "kernels": [inside]}, BY_NAME | {"Term": Term})


def test_a_kernel_needs_its_gram():
    class Nothing(Kernel):
        pass

    with pytest.raises(NotImplementedError, match="Nothing"):
        Nothing().gram(None, None)
