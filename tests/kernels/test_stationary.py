"""Stationary kernels on T, ln T and λ: the sum of products against the kernel, its derivatives and integrals."""

from __future__ import annotations

import json
import math
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone

from kernelfe.errors import DataError, ModelFileError
from kernelfe.functionals import OBSERVABLES, Read, Spatial, get
from kernelfe.gp.prior.mean import MeanFunction
from kernelfe.gp.prior.term import Term
from kernelfe.kernels import (
    ParameterExpansion,
    ParameterKernel,
    SecondOrder,
    StationaryFreeEnergy,
    StationaryHeatCapacity,
    TemperatureKernel,
)
from kernelfe.kernels.series import MAX_FUNCTIONS, functions_needed
from kernelfe.specs import from_dict

RANGE, T0 = (250.0, 650.0), 340.0
KERNELS = {
    "T": TemperatureKernel(150.0, RANGE),
    "short": TemperatureKernel(60.0, RANGE),
    "lnT": TemperatureKernel(0.4, RANGE, "lnT"),
}
#: Relative to the largest function of a read: the bound the issue sets.
EXACT = 1e-8
TEMPERATURES = (250.0, T0, 650.0)


def part(kernel):
    return StationaryHeatCapacity(kernel, T0, energy=0.1, entropy=3e-4, heat_capacity=1e-4)


def phi(kernel, k):
    """φ_k(T) with mpmath."""
    low, high = (mpmath.mpf(v) for v in kernel.range)

    def function(t):
        if kernel.variable == "T":
            x = (t - (low + high) / 2) / kernel.lengthscale
        else:
            x = mpmath.log(t / mpmath.sqrt(low * high)) / mpmath.mpf(kernel.lengthscale)
        return mpmath.exp(-x * x / 2) * x**k / mpmath.sqrt(mpmath.factorial(k))

    return function


@cache
def expected(name, k, t, order, integrated):
    """∂ⁿ/∂Tⁿ of φ_k, or of its double integral ψ_k: quadrature and differences of many digits."""
    with mpmath.workdps(30):
        f, t, t0 = phi(KERNELS[name], k), mpmath.mpf(t), mpmath.mpf(T0)
        if not integrated:
            return float(mpmath.diff(f, t, order))
        if order == 0:
            return float(-mpmath.quad(lambda s: (t - s) * f(s) / s, mpmath.linspace(t0, t, 3))) if t != t0 else 0.0
        if order == 1:
            return float(-mpmath.quad(lambda s: f(s) / s, mpmath.linspace(t0, t, 3))) if t != t0 else 0.0
        return float(mpmath.diff(lambda s: -f(s) / s, t, order - 2))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("key", ["free_energy", "mean_energy", "entropy", "heat_capacity", "energy_variance"])
def test_factors_of_every_read(name, key):
    """The thermal operators of all observables against mpmath; the others have the same operators but for a sign."""
    kernel = KERNELS[name]
    thermal, plain = part(kernel), StationaryFreeEnergy(kernel, 0.1, anchored=False)
    t = torch.tensor(TEMPERATURES, dtype=torch.float64)
    (read,) = get(key).reads
    for spec, integrated, first in ((thermal, True, 2), (plain, False, 0)):
        found = spec.factors(read, t)
        assert found.shape == (len(t), spec.size)
        for k in (0, 3, kernel.size - 1):
            column = [
                sum(c * v**p * expected(name, k, v, n, integrated) for c, p, n in read.thermal) for v in TEMPERATURES
            ]
            error = np.abs(found[:, first + k].numpy() - column).max()
            assert error <= EXACT * np.abs(column).max(), (key, k, integrated, error)
    second = SecondOrder(T0, 0.1, 3e-4, 1e-4).factors(read, t)
    assert torch.allclose(thermal.factors(read, t)[:, :2], second[:, :2], rtol=1e-15, atol=0)
    changes, at = plain.factors(read, t), torch.tensor([T0], dtype=torch.float64)
    if key in ("free_energy", "mean_energy"):  # that of a constant is the constant
        changes = changes - kernel.derivatives(at, 0)
    anchored = StationaryFreeEnergy(kernel, 0.1, T0).factors(read, t)
    torch.testing.assert_close(anchored[:, 1:], changes, rtol=1e-12, atol=1e-14 * float(changes.abs().max()))
    assert torch.equal(anchored[:, 0], second[:, 0])


def test_those_reads_cover_every_thermal_operator():
    seen = {(p, n) for key in ("free_energy", "mean_energy", "entropy", "heat_capacity") for _, p, n in terms(key)}
    seen |= {(p, n) for _, p, n in terms("energy_variance")} | {(0, 2)}  # the second response: C without T
    assert {(p, n) for key in OBSERVABLES for _, p, n in terms(key)} <= seen


def terms(key):
    return [entry for read in get(key).reads for entry in read.thermal]


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("name", KERNELS)
def test_derivatives_are_those_of_automatic_differentiation(name, order):
    """Any order, one at a time, from the one below."""
    kernel = KERNELS[name]
    for spec in (part(kernel), StationaryFreeEnergy(kernel, 1.0, T0)):
        t = torch.linspace(255, 640, 7, dtype=torch.float64, requires_grad=True)
        below = spec.derivatives(t, order)
        slope = torch.stack(
            [torch.autograd.grad(below[:, k].sum(), t, retain_graph=True)[0] for k in range(2, spec.size)], 1
        )
        found = spec.derivatives(t.detach(), order + 1)[:, 2:]
        assert torch.allclose(found, slope, rtol=1e-9, atol=EXACT * float(found.abs().max()))


@given(
    st.floats(0.05, 30.0),
    st.lists(st.floats(0, 1), min_size=2, max_size=5),
    st.sampled_from(["T", "lnT", "lambda"]),
    st.sampled_from([1e-10, 1e-4]),
)
def test_factors_sum_to_the_kernel(width, points, variable, tolerance):
    """Over the whole range, whatever the length scale, up to the tolerance."""
    lengthscale = 1.0 / width  # the range is one wide, or a factor e
    x = torch.tensor([0.0, 1.0, *points], dtype=torch.float64)
    try:
        if variable == "lambda":
            kernel = ParameterKernel("a", 2.0 * lengthscale, (-1.0, 1.0), tolerance)
            found = kernel.factors(Read(Spatial.VALUE), 2.0 * x - 1.0)
        else:
            low = 300.0
            high = 800.0 if variable == "T" else 300.0 * math.e
            ell = 500.0 * lengthscale if variable == "T" else lengthscale
            kernel = TemperatureKernel(ell, (low, high), variable, tolerance)
            t = low + 500.0 * x if variable == "T" else (low * torch.exp(x)).clamp(low, high)
            found = kernel.derivatives(t, 0)
    except DataError as error:
        assert "longer lengthscale" in str(error) and width > 11.0
        return
    exact = torch.exp(-0.5 * ((x[:, None] - x) * width) ** 2)
    assert found.shape[1] == kernel.size <= MAX_FUNCTIONS
    assert float((found @ found.T - exact).abs().max()) <= tolerance * (1 + 1e-3) + 1e-14


def test_no_more_functions_than_needed():
    for reach in (0.3, 1.0, 3.0):
        count = functions_needed(reach, 1e-10, "it")
        rest = 1.0 - math.exp(-(reach**2)) * sum(reach ** (2 * k) / math.factorial(k) for k in range(count - 1))
        assert rest > 1e-10


@pytest.mark.parametrize("key", sorted(set(OBSERVABLES) - {"parameter_derivative", "parameter_response_force"}))
@pytest.mark.parametrize("variable", ["T", "lnT"])
def test_long_length_scales_are_second_order(key, variable):
    """The covariance of any read over T, with the scales of u, s, c, as the length scale grows: error ∝ 1/ℓ²."""
    t = torch.linspace(*RANGE, 9, dtype=torch.float64)
    (read,) = get(key).reads
    second = SecondOrder(T0, 0.1, 3e-4, 1e-4).factors(read, t) * torch.tensor([0.1, 3e-4, 1e-4], dtype=torch.float64)
    scale = float((second @ second.T).abs().max())
    errors = []
    for factor in (1e2, 1e3, 1e6):
        spec = part(TemperatureKernel(factor * (400.0 if variable == "T" else 1.0), RANGE, variable))
        stds = np.repeat([0.1, 3e-4, 1e-4], spec.functions)
        found = spec.factors(read, t) * torch.from_numpy(stds)
        errors.append(float((found @ found.T - second @ second.T).abs().max()) / scale)
    assert errors[0] < 1e-3 and errors[1] < 1.1e-2 * errors[0] + 1e-13 and errors[2] < 1e-10


def test_energy_entropy_and_heat_capacity_belong_together():
    """C = d⟨U⟩/dT = T dS/dT, ⟨U⟩ = A + T S, for every function; a, s are the free energy and the entropy at T0."""
    spec = part(KERNELS["lnT"])
    t = torch.tensor([250.0, 297.3, T0, 441.0, 650.0], dtype=torch.float64, requires_grad=True)
    a, u, s, c = (
        spec.factors(get(key).reads[0], t) for key in ("free_energy", "mean_energy", "entropy", "heat_capacity")
    )
    assert torch.allclose(a + t[:, None] * s, u, rtol=1e-12, atol=1e-10)
    for k in range(2, spec.size):
        du, ds = (torch.autograd.grad(q[:, k].sum(), t, retain_graph=True)[0] for q in (u, s))
        atol = EXACT * float(c[:, k].detach().abs().max())
        assert torch.allclose(du, c[:, k], atol=atol) and torch.allclose(t * ds, c[:, k], atol=atol)
    at = torch.tensor([T0], dtype=torch.float64)
    for key, column in (("free_energy", 0), ("entropy", 1)):
        found = spec.factors(get(key).reads[0], at)
        assert found[0, column] == 1.0 and found.abs().sum() == 1.0


def test_slopes_by_parameters():
    kernel = ParameterKernel("a", 0.7, (-0.5, 2.0))
    x = torch.tensor([-0.5, 0.1, 1.3, 2.0], dtype=torch.float64, requires_grad=True)
    values = kernel.factors(Read(Spatial.VALUE), x)
    slopes = kernel.factors(Read(Spatial.VALUE, parameter="a"), x.detach())
    for k in range(kernel.size):
        assert torch.allclose(torch.autograd.grad(values[:, k].sum(), x, retain_graph=True)[0], slopes[:, k])
    assert torch.equal(kernel.factors(Read(Spatial.VALUE, parameter="b"), x.detach()), values.detach())
    d = (x[:, None] - x).detach() / 0.7
    kernel_value = torch.exp(-0.5 * d**2)
    assert torch.allclose(slopes @ values.detach().T, -d / 0.7 * kernel_value, atol=1e-8)
    assert torch.allclose(slopes @ slopes.T, (1 - d**2) / 0.49 * kernel_value, atol=1e-7)


def test_mean_functions_change_with_temperature_and_parameters():
    """e, c τ and the ψ_k, each times all functions of λ; the prior mean is a constant energy at every λ."""
    spec, by_lambda = part(KERNELS["T"]), ParameterKernel("a", 1.0, (0.0, 1.0))
    mean = MeanFunction(spec, (by_lambda,), (2.0,), energy=3.0, heat_capacity=0.6)
    t, lam = torch.tensor([300.0, 500.0], dtype=torch.float64), {"a": torch.tensor([0.2, 0.9], dtype=torch.float64)}
    (read,) = get("mean_energy").reads
    functions = by_lambda.factors(read, lam["a"])
    thermal = torch.cat(
        [SecondOrder(T0).factors(read, t)[:, [0, 2]], spec.factors(read, t)[:, 2:]], 1
    )  # ⟨U⟩ = e + c (T − T0) + …
    assert torch.allclose(mean.factors(read, t, lam), (thermal[:, :, None] * functions[:, None]).flatten(1))
    assert mean.size == thermal.shape[1] * by_lambda.size == len(mean.variances())
    assert mean.variances()[0] == 9.0 and float(mean.variances()[-1]) == pytest.approx((0.6 / 30) ** 2)
    counts = torch.ones(2, 1, dtype=torch.float64)
    assert torch.equal(mean.prior_mean(read, t, lam, counts), torch.full((2,), 2.0, dtype=torch.float64))
    slope = Read(Spatial.VALUE, parameter="a")
    assert mean.prior_mean(slope, t, lam, counts) == 0.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: TemperatureKernel(0.0, RANGE),
        lambda: TemperatureKernel(math.inf, RANGE),
        lambda: TemperatureKernel(100.0, (400.0, 300.0)),
        lambda: TemperatureKernel(100.0, (0.0, 300.0)),
        lambda: TemperatureKernel(100.0, (200.0, math.nan)),
        lambda: TemperatureKernel(100.0, (200.0, 300.0, 400.0)),
        lambda: TemperatureKernel(100.0, RANGE, "log"),
        lambda: TemperatureKernel(100.0, RANGE, tolerance=0.0),
        lambda: TemperatureKernel(10.0, RANGE),
        lambda: ParameterKernel("a", -1.0, (0.0, 1.0)),
        lambda: ParameterKernel("a", 1.0, (1.0, 1.0)),
        lambda: ParameterKernel("a", 0.01, (0.0, 1.0)),
        lambda: StationaryHeatCapacity(100.0),
        lambda: StationaryFreeEnergy(SecondOrder()),
        lambda: StationaryHeatCapacity(KERNELS["T"], 700.0),
        lambda: StationaryHeatCapacity(KERNELS["T"], T0, energy=-1.0),
        lambda: StationaryFreeEnergy(KERNELS["T"], math.nan),
        lambda: StationaryFreeEnergy(KERNELS["T"], 0.1, 700.0),
    ],
)
def test_numbers_that_make_no_kernel_are_refused(make):
    with pytest.raises(DataError):
        make()


def test_values_outside_the_range_are_errors_that_name_the_mend():
    t = torch.tensor([300.0, 651.0], dtype=torch.float64)
    for spec in (part(KERNELS["lnT"]), StationaryFreeEnergy(KERNELS["T"], 0.1, T0)):
        for order in range(3):
            with pytest.raises(DataError, match=r"651 lies outside the range \(250, 650\).*range="):
                spec.derivatives(t, order)
    with pytest.raises(DataError, match="'a'"):
        ParameterKernel("a", 1.0, (0.0, 1.0)).factors(Read(Spatial.VALUE), torch.tensor([1.1]))


CLASSES = {
    cls.__name__: cls
    for cls in (Term, TemperatureKernel, StationaryHeatCapacity, StationaryFreeEnergy, ParameterKernel)
}


@pytest.mark.parametrize(
    "spec",
    [
        StationaryHeatCapacity(KERNELS["lnT"], energy=0.1),
        StationaryFreeEnergy(TemperatureKernel(100, [250, 650])),
        ParameterKernel("a", 0.3, np.array([0.0, 1.0])),
    ],
    ids=str,
)
def test_specs_travel(spec):
    again = from_dict(json.loads(json.dumps(spec.to_dict())), CLASSES)
    assert again == spec and hash(again) == hash(spec) and clone(spec) == spec
    term = Term(thermal=spec) if not isinstance(spec, ParameterKernel) else Term(parameters=(spec,))
    assert clone(term) == term
    with pytest.raises(ModelFileError):
        from_dict(spec.to_dict() | {"lengthscale": "x", "kernel": 3}, CLASSES)


def test_parameters_of_nested_specs():
    term = Term(thermal=StationaryHeatCapacity(KERNELS["T"]), parameters=(ParameterExpansion("a"),))
    changed = clone(term).set_params(thermal__kernel__lengthscale=200.0)
    assert changed.thermal.kernel.lengthscale == 200.0 and term.thermal.kernel.lengthscale == 150.0
