"""Thermal parts, parameter expansions, mean functions, jets of operators, and the specs of terms."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone

from kernelfe.descriptors import Distances, PairDistances, Variables
from kernelfe.descriptors.base import Environments
from kernelfe.errors import DataError, ModelFileError
from kernelfe.functionals import OBSERVABLES, Read, Spatial, get
from kernelfe.gp.prior.mean import MeanFunction
from kernelfe.gp.prior.term import Term, TermModule, state_factors
from kernelfe.kernels import RBF, Matern52, ParameterExpansion, SecondOrder, spatial_jets
from kernelfe.specs import from_dict
from kernelfe.units import BOLTZMANN

T0 = 350.0
THERMAL = SecondOrder(reference_temperature=T0, energy=0.1, entropy=3e-4, heat_capacity=1e-4)
CLASSES = {
    cls.__name__: cls for cls in (Term, RBF, Matern52, SecondOrder, ParameterExpansion, Distances, PairDistances)
}


def tau(t):
    return t - T0 - t * torch.log(t / T0)


def d(value, by):
    if not value.requires_grad:
        return torch.zeros_like(by)
    found = torch.autograd.grad(value.sum(), by, create_graph=True, allow_unused=True)[0]
    return torch.zeros_like(by) if found is None else found


@pytest.mark.parametrize("order", range(5))
def test_thermal_derivatives(order):
    t = torch.tensor([180.0, 300.0, T0, 415.0, 900.0], dtype=torch.float64, requires_grad=True)
    expected = []
    for f in (torch.ones_like(t) * (1 + 0 * t), T0 - t, -t, tau(t)):
        for _ in range(order):
            f = d(f, t)
        expected.append(f.detach())
    one, slope, before, heat = expected
    for thermal, columns in ((THERMAL, (one, slope, heat)), (replace(THERMAL, anchored=False), (one, before, heat))):
        assert torch.allclose(thermal.derivatives(t.detach(), order), torch.stack(columns, 1), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("anchored", [True, False])
def test_factors_are_those_of_the_functionals(anchored):
    """(1, T0 − T, τ): ⟨U⟩ = a + T0 s + c(T − T0), S = s + c ln(T/T0), C = c, Var U = k T² c, by hand; u = a + T0 s."""
    t = torch.tensor([220.0, T0, 510.0], dtype=torch.float64)
    zero, one, log = torch.zeros_like(t), torch.ones_like(t), torch.log(t / T0)
    slope, at_zero = (t - T0, T0 * one) if anchored else (t, zero)
    table = {
        "free_energy": (one, -slope, tau(t)),
        "mean_force": (-one, slope, -tau(t)),
        "generalized_force": (-one, slope, -tau(t)),
        "mean_energy": (one, at_zero, t - T0),
        "entropy": (zero, one, log),
        "heat_capacity": (zero, zero, one),
        "energy_variance": (zero, zero, BOLTZMANN * t**2),
        "thermal_response_force": (zero, one, log),
        "generalized_thermal_response": (zero, one, log),
        "second_thermal_response_force": (zero, zero, 1.0 / t),
        "stress": (one, -slope, tau(t)),
        "excess_pressure": (-one, slope, -tau(t)),
    }
    thermal = replace(THERMAL, anchored=anchored)
    for key, columns in table.items():
        (read,) = get(key).reads
        assert torch.allclose(thermal.factors(read, t), torch.stack(columns, 1), rtol=1e-12, atol=1e-12), key
    assert set(OBSERVABLES) - set(table) == {"parameter_derivative", "parameter_response_force"}


def test_parameter_expansion():
    expansion = ParameterExpansion("a", reference=0.4, scale=1.7, order=3)
    x = torch.tensor([-0.3, 0.4, 1.1], dtype=torch.float64, requires_grad=True)
    powers = torch.stack([(1.7 * (x - 0.4)) ** j / math.factorial(j) for j in range(4)], 1)
    assert torch.allclose(expansion.factors(Read(Spatial.VALUE), x.detach()), powers.detach())
    slopes = torch.stack([d(powers[:, j], x) for j in range(4)], 1).detach()
    assert torch.allclose(expansion.factors(Read(Spatial.VALUE, parameter="a"), x.detach()), slopes)
    assert torch.allclose(expansion.factors(Read(Spatial.VALUE, parameter="b"), x.detach()), powers.detach())
    for bad in ({"scale": 0.0}, {"scale": math.nan}, {"order": 0}):
        with pytest.raises(DataError, match="'a'"):
            ParameterExpansion("a", **bad)


def test_state_factors_are_products():
    t = torch.tensor([300.0, 400.0], dtype=torch.float64)
    lam = {"a": torch.tensor([0.1, 0.9], dtype=torch.float64), "b": torch.tensor([2.0, 3.0], dtype=torch.float64)}
    ea, eb = ParameterExpansion("a", order=1), ParameterExpansion("b", order=2, reference=1.0)
    read = Read(Spatial.VALUE, ((1.0, 0, 0),), "b")
    found = state_factors(THERMAL, (ea, eb), read, t, lam)
    thermal, fa, fb = THERMAL.factors(read, t), ea.factors(read, lam["a"]), eb.factors(read, lam["b"])
    assert torch.allclose(found, torch.einsum("ni,nj,nk->nijk", thermal, fa, fb).reshape(2, 18))
    stranger = state_factors(THERMAL, (ea,), read, t, lam)  # the term does not depend on b
    assert stranger.shape == (2, 6) and not stranger.any()
    with pytest.raises(DataError, match="'b'"):
        state_factors(THERMAL, (eb,), Read(Spatial.VALUE), t, {"a": lam["a"]})


def test_mean_function():
    mean = MeanFunction(THERMAL, (ParameterExpansion("a", order=1),), (2.0, -1.0), energy=3.0, heat_capacity=0.5)
    t, lam = torch.tensor([300.0, 500.0], dtype=torch.float64), {"a": torch.tensor([0.5, 2.0], dtype=torch.float64)}
    (read,) = get("mean_energy").reads
    a, one = lam["a"], torch.ones(2, dtype=torch.float64)
    expected = torch.stack([one, a, (t - T0), (t - T0) * a], 1)
    assert mean.size == 4
    assert torch.allclose(mean.factors(read, t, lam), expected, atol=1e-12)
    assert mean.variances().tolist() == [9.0, 9.0, 0.25, 0.25]
    counts = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(mean.prior_mean(read, t, lam, counts), torch.tensor([0.0, 6.0], dtype=torch.float64))
    (force,) = get("mean_force").reads
    assert mean.features(force.spatial, counts) is None and mean.prior_mean(force, t, lam, counts) == 0.0


def test_jets_of_operators_add_over_environments():
    """Rows of several environments per frame, summed by label, against dense Jacobians."""
    generator = torch.Generator().manual_seed(0)
    x = 1.5 * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    environments = PairDistances(cutoff=50.0).environments(x)
    jets = spatial_jets(environments, Spatial.GRADIENT)
    weights = torch.cos(environments.z[:, 0])  # ∂/∂r of sin r
    rows = jets.w[:, :, 0] * weights[:, None]
    found = torch.zeros(2, 9, dtype=torch.float64).index_put((jets.frame[:, None], jets.label), rows, accumulate=True)
    x = x.requires_grad_()
    total = sum(torch.sin((x[:, i] - x[:, j]).norm(dim=1)).sum() for i, j in ((0, 1), (0, 2), (1, 2)))
    assert torch.allclose(found, torch.autograd.grad(total, x)[0].reshape(2, 9), atol=1e-12)
    fields = torch.randn(2, 4, 9, generator=generator, dtype=torch.float64)
    along = spatial_jets(environments, Spatial.DISPLACEMENT, fields=fields)
    rows = along.w[:, :, 0] * weights[:, None]
    out = torch.zeros(2, 4, dtype=torch.float64).index_put((along.frame[:, None], along.label), rows, accumulate=True)
    assert torch.allclose(out, torch.einsum("nkq,nq->nk", fields, found), atol=1e-12)
    plain = spatial_jets(Variables().environments(x.detach()[:, 0]), Spatial.GRADIENT)
    assert torch.equal(plain.w, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    with pytest.raises(DataError, match="cell"):
        spatial_jets(environments, Spatial.STRAIN, volume=torch.ones(2))
    with pytest.raises(DataError, match="displacements="):
        spatial_jets(Environments(x.detach()[:, 0]), Spatial.DISPLACEMENT)


TERMS = [
    Term(),
    Term(kernel=Matern52(lengthscale=(0.5, 1.5, 2.5)), thermal=THERMAL),
    Term(PairDistances(cutoff=5.0, kinds=("O", "H")), RBF(2.0), SecondOrder(), (ParameterExpansion("a", 0.1, 2.0, 1),)),
    Term(Distances(pairs=((0, 1), (1, 2)))),
]


@pytest.mark.parametrize("term", TERMS)
def test_specs_copy_compare_and_travel(term):
    text = json.dumps(term.to_dict())
    assert from_dict(json.loads(text), CLASSES) == term
    assert clone(term) == term and clone(term) is not term
    assert pickle.loads(pickle.dumps(term)) == term  # specs in memory, for joblib; files never hold pickles
    assert hash(clone(term)) == hash(term)
    assert "Term(" in repr(term)


def test_get_params_and_set_params():
    term = clone(TERMS[1])
    params = term.get_params()
    assert params["kernel__lengthscale"] == (0.5, 1.5, 2.5) and params["thermal__energy"] == 0.1
    term.set_params(kernel__lengthscale=0.9, thermal__energy=0.4)
    assert term.kernel.lengthscale == 0.9 and term.thermal.energy == 0.4
    assert TERMS[1].kernel.lengthscale == (0.5, 1.5, 2.5)
    assert term != TERMS[1]
    with pytest.raises(DataError, match="'kernl'"):
        term.set_params(kernl=RBF())
    with pytest.raises(DataError, match="lengthscale"):
        term.set_params(kernel__lengthscale=-1.0)
    with pytest.raises(DataError, match="'kernel'"):
        Term().set_params(kernel__lengthscale=1.0)


def test_length_scales_become_plain_tuples():
    for given in ([0.5, 1.0], np.array([0.5, 1.0]), torch.tensor([0.5, 1.0])):
        kernel = RBF(lengthscale=given)
        assert kernel == RBF(lengthscale=(0.5, 1.0)) and hash(kernel) == hash(RBF(lengthscale=(0.5, 1.0)))
        assert clone(kernel) == kernel
    plain = (0.5, 1.0)
    assert RBF(lengthscale=plain).lengthscale is plain  # scikit-learn's clone compares identities


def test_unknown_classes_and_refused_parameters_are_named():
    with pytest.raises(ModelFileError, match="'Evil'"):
        from_dict({"class": "Evil"}, CLASSES)
    with pytest.raises(ModelFileError, match="RBF"):
        from_dict({"class": "RBF", "lengthscale": -1.0}, CLASSES)
    with pytest.raises(ModelFileError, match="RBF"):
        from_dict({"class": "RBF", "length": 1.0}, CLASSES)
    with pytest.raises(DataError, match="plain parameter"):
        Term(descriptor=object()).to_dict()


@pytest.mark.parametrize("name", ["reference_temperature", "energy", "entropy", "heat_capacity"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_thermal_numbers_must_be_positive(name, value):
    with pytest.raises(DataError, match=name):
        SecondOrder(**{name: value})


def test_term_modules_hold_numbers_and_give_them_back():
    spec = Term(Variables(), RBF((0.5, 1.0)), THERMAL, (ParameterExpansion("a", order=2),))
    module = TermModule(spec, 2)
    assert module.size == 9
    squares = torch.tensor([0.1, 3e-4, 1e-4], dtype=torch.float64) ** 2
    assert torch.allclose(module.variances(), squares.repeat_interleave(3))
    fitted = module.fitted_spec()
    assert fitted.kernel.lengthscale == pytest.approx((0.5, 1.0)) and fitted.thermal.entropy == pytest.approx(3e-4)
    assert float(module.hyperprior()) == 0.0
    module.log_scales.data += 2.0
    assert float(module.hyperprior()) == pytest.approx(-0.5 * 3)  # one width away, three times
    again = pickle.loads(pickle.dumps(module))
    assert torch.equal(again.log_scales, module.log_scales)
    with pytest.raises(DataError, match="2 length scales"):
        TermModule(spec, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": None},
        {"thermal": None},
        {"parameters": None},
        {"kernel": RBF()},
        {"thermal": SecondOrder(300.0)},
        {"thermal": SecondOrder(energy=0.1, entropy=1e-4, heat_capacity=1e-4)},
    ],
    ids=str,
)
def test_term_modules_want_every_number(changes):
    complete = {"descriptor": Variables(), "kernel": RBF(1.0), "thermal": THERMAL, "parameters": ()}
    with pytest.raises(DataError, match=f"lacks.*{next(iter(changes))}"):
        TermModule(Term(**(complete | changes)), 2)
