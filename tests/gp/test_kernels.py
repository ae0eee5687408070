"""Every kernel wherever the RBF is: dense, sparse, evidence, frozen, on disk, in scikit-learn's searches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV

from kernelfe import Frames, FreeEnergyRegressor, Sparse, Term, load
from kernelfe.descriptors import PairDistances
from kernelfe.errors import DataError, ModelFileError
from kernelfe.files import tensors as modelfile
from kernelfe.gp.observations.assemble import label_sets
from kernelfe.gp.observations.levels import NoiseLevels
from kernelfe.gp.observations.molecules import MoleculeSet
from kernelfe.gp.solvers.evidence import dense_log_evidence
from kernelfe.gp.solvers.sparse.inducing import choose_inducing
from kernelfe.gp.starting import build_prior
from kernelfe.kernels import RBF, DotProduct, Matern52, Periodic, Product, RationalQuadratic, Sum

from .systems import LAMBDA, THERMAL, beads, molecule, one_term, variables

FILES = Path(__file__).parent / "file" / "files"
QUANTITIES = ("free_energy", "mean_force", "mean_energy", "heat_capacity", "thermal_response_force")

#: Kernels on the six distances of four beads.
KERNELS = {
    "rational quadratic": RationalQuadratic(lengthscale=1.5, alpha=0.7),
    "periodic": Periodic(lengthscale=1.2, period=(5.0, 6.0, 7.0, 5.0, 6.0, None)),
    "quadratic": DotProduct(power=2, offset=0.5, lengthscale=1.5, centre=2.0),
    "cubic": DotProduct(power=3, offset=1.0, lengthscale=(1.0, 1.1, 1.2, 1.3, 1.4, 1.5), centre=2.0),
    "sum": Sum((RBF(1.5), DotProduct(2, 1.0, 2.0, 2.0), Matern52(3.0)), weights=(2.0, 1.0, 0.5)),
    "product": Product((RBF(1.2), Matern52(1.5)), columns=((0, 2, 4), (1, 3, 5))),
    "sum of products": RBF(1.0) * RationalQuadratic(2.0, 0.8) + Periodic(lengthscale=1.5, period=6.0),
}


def fit(kernel, solver="dense", frames=None, **options):
    options = {"optimizer": None, "baseline": False} | options
    return FreeEnergyRegressor(one_term(kernel), solver, **options).fit(molecule() if frames is None else frames)


@pytest.mark.parametrize("name", KERNELS)
def test_sparse_with_all_environments_is_dense_and_frozen_is_predict(name):
    kernel, test = KERNELS[name], molecule(5, seed=9, temperatures=(330.0, 440.0))
    dense, many = fit(kernel), fit(kernel, Sparse(inducing=10_000, gradients=True))
    for quantity in QUANTITIES:
        (mean, std), (mean2, std2) = (m.predict(test, quantity, return_std=True, reference=None) for m in (dense, many))
        scale = max(np.abs(mean).max(), std.max())
        assert np.abs(mean - mean2).max() <= 1e-6 * scale, quantity
        assert np.abs(std**2 - std2**2).max() <= 1e-6 * (std**2).max(), quantity
    assert dense.log_evidence_ == pytest.approx(many.log_evidence_, rel=1e-6, abs=1e-6)
    x = beads(6, np.random.default_rng(5))
    for model in (dense, many, fit(kernel, Sparse(inducing=7))):
        frozen = model.frozen()
        for t in (350.0, torch.linspace(290, 510, 6, dtype=torch.float64)):
            energy, forces = frozen.energy_and_forces(torch.from_numpy(x), t)
            at = np.asarray(t)
            expected = model.predict(x, "free_energy", temperature=at, reference=None)
            np.testing.assert_allclose(energy, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
            expected = model.predict(x, "mean_force", temperature=at)
            np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("name", KERNELS)
def test_gradient_of_the_evidence_by_differences(name):
    frames = Frames.concatenate([molecule(4, noise=False), molecule(2, noise=False)])  # coincident environments
    sets = label_sets(frames, None, None, None, (1.0,))
    _, prior, start, reference = build_prior(one_term(KERNELS[name]), MoleculeSet([frames]), sets)
    noise = NoiseLevels(start, reference, exponent=True)
    parameters = list(prior.parameters())
    numbers = prior.terms[0].fitted_spec().kernel.hyperparameters()
    assert sum(p.numel() for p in parameters) == 3 + sum(map(len, numbers.values()))

    def objective():
        return dense_log_evidence(prior, sets, noise) + prior.hyperpriors()

    gradients = torch.autograd.grad(objective(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for k in range(parameter.numel()):
            values = []
            for step in (-2, -1, 1, 2):
                parameter.data.view(-1)[k] += 1e-3 * step
                with torch.no_grad():
                    values.append(float(objective()))
                parameter.data.view(-1)[k] -= 1e-3 * step
            numeric = (8 * (values[2] - values[1]) - (values[3] - values[0])) / 12e-3
            assert float(gradient.view(-1)[k]) == pytest.approx(numeric, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=6, gradients=True)])
def test_round_trip(name, solver, tmp_path):
    model, test = fit(KERNELS[name], solver, molecule(8)), molecule(3, seed=4)
    model.save(tmp_path / "a.kfe")
    again = load(tmp_path / "a.kfe")
    for quantity in ("free_energy", "mean_force"):
        (mean, std), (mean2, std2) = (
            m.predict(test, quantity, return_std=True, reference=None) for m in (model, again)
        )
        np.testing.assert_array_equal(mean2, mean)
        np.testing.assert_allclose(std2**2, std**2, rtol=0, atol=1e-12 * (std**2).max())
    assert again.fitted_terms()[0][1].kernel == model.fitted_terms()[0][1].kernel
    assert again.get_params()["terms"] == model.get_params()["terms"]


NESTED = Sum((RBF(), RationalQuadratic() * DotProduct()))


@pytest.mark.parametrize(
    ("kernel", "solver"),
    [
        (NESTED, "dense"),
        (RationalQuadratic(), Sparse(inducing=9, evidence_inducing=9, gradients=True)),
    ],
)
def test_evidence_fits_every_number(kernel, solver):
    frames = molecule(9, noise=False, seed=4)
    start = fit(kernel, solver, frames)
    model = fit(kernel, solver, frames, optimizer="evidence")
    assert model.log_evidence_ > start.log_evidence_
    before, after = (m.fitted_terms()[0][1].kernel.hyperparameters() for m in (start, model))
    assert list(before) == list(after) == list(kernel.hyperparameters())
    assert all(before[key] != after[key] for key in before)
    assert model.terms.kernel == kernel  # the estimator's own spec is left alone


def test_names_of_nested_numbers():
    assert set(NESTED.hyperparameters()) == {
        "kernels__0__lengthscale",
        "kernels__1__kernels__0__lengthscale",
        "kernels__1__kernels__0__alpha",
        "kernels__1__kernels__1__lengthscale",
        "kernels__1__kernels__1__offset",
        "weights",
    }


def test_a_fixed_term_keeps_all_numbers():
    kernel = Sum((RBF(1.5), RationalQuadratic(2.0, 0.8)), weights=(1.0, 2.0))
    for solver in ("dense", Sparse(inducing=8)):
        term = Term(one_term().descriptor, kernel, THERMAL, fixed=True)
        model = FreeEnergyRegressor(term, solver, baseline=False).fit(molecule(10, noise=False))
        found = model.fitted_terms()[0][1].kernel.hyperparameters()
        for key, values in kernel.hyperparameters().items():
            assert found[key] == pytest.approx(values, rel=1e-12)


def test_several_environments_parameters_and_stress():
    rng, kernel = np.random.default_rng(0), RationalQuadratic(1.2, 0.9) + DotProduct(2, 1.0, 1.0, 3.0)
    x = beads(8, rng)
    labels = {"mean_force": 0.1 * rng.normal(size=x.shape), "mean_energy": 0.1 * rng.normal(size=8)}
    common = {"temperature": 300.0, "cell": 9.0 * np.eye(3)}
    frames = Frames.from_arrays(x, labels=labels, noise={"mean_force": 0.02, "mean_energy": 0.02}, **common)
    term = Term(PairDistances(cutoff=4.0), kernel, THERMAL)
    model = FreeEnergyRegressor(term, optimizer=None).fit(frames)
    test = Frames.from_arrays(beads(4, rng), **common)
    found = model.frozen().energy_forces_stress(
        *(torch.from_numpy(np.array(q)) for q in (test.positions, test.cell, test.temperature))
    )
    for value, quantity in zip(found, ("free_energy", "mean_force", "stress"), strict=True):
        expected = model.predict(test, quantity, reference=None)
        np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    term = Term(None, kernel, THERMAL, (LAMBDA,))
    dense, many = (
        FreeEnergyRegressor(term, solver, optimizer=None, baseline=False).fit(variables(12))
        for solver in ("dense", Sparse(inducing=10_000, gradients=True))
    )
    first, second = (m.predict(variables(4, seed=5), "mean_force") for m in (dense, many))
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-6 * np.abs(first).max())


def test_inducing_environments_of_a_kernel_that_is_not_stationary():
    kernel = DotProduct(1, 1.0, 1.0, 0.0).ready(1)
    z = torch.tensor([[0.1], [3.0], [-1.0], [0.0]], dtype=torch.float64)
    assert choose_inducing(z, kernel, 4).tolist() == [1, 2]  # the largest variance; then a line is determined


def test_what_is_no_kernel_is_named():
    with pytest.raises(DataError, match="kernel='RBF' is not a kernel"):
        fit("RBF")


# ------------------------------------------------------------------ what each is for


def error(kernel, x, y, x_test, y_test, **options):
    """Root mean squared error of free energies, relative to their spread, after a fit by evidence."""
    model = FreeEnergyRegressor(Term(kernel=kernel), **options).fit(x, y)
    found = model.predict(x_test)
    return float(np.sqrt(np.mean((found - y_test) ** 2)) / np.std(y_test))


def test_periodic_data_are_extrapolated():
    rng = np.random.default_rng(0)

    def wave(x):
        return np.cos(2 * np.pi * x[:, 0] / 1.5) + 0.4 * np.sin(6 * np.pi * x[:, 0] / 1.5)

    x, far = rng.uniform(0, 3.0, (25, 1)), np.linspace(7.0, 10.0, 50)[:, None]
    y = wave(x) + 0.01 * rng.normal(size=25)
    assert error(Periodic(period=1.5), x, y, far, wave(far)) < 0.03 < 0.5 < error(RBF(), x, y, far, wave(far))


def test_a_quadratic_surface_is_extrapolated():
    rng = np.random.default_rng(1)

    def bowl(x):
        return 1.0 + 0.3 * x[:, 0] - x[:, 0] * x[:, 1] + 0.5 * x[:, 1] ** 2

    x, far = rng.uniform(-1, 1, (25, 2)), rng.uniform(2.0, 4.0, (50, 2))
    y = bowl(x) + 1e-3 * rng.normal(size=25)
    assert error(DotProduct(power=2), x, y, far, bowl(far)) < 0.01 < 0.2 < error(RBF(), x, y, far, bowl(far))


def test_many_length_scales_at_once():
    rng = np.random.default_rng(2)

    def well(x):  # a narrow dip in a wide one
        return np.log(0.02 + x[:, 0] ** 2)

    # places crowd around the dip, so that its scale and the wide one are both seen
    x, between = 6.0 * np.sort(rng.uniform(-1, 1, (45, 1)), 0) ** 3, 5.5 * np.linspace(-1, 1, 200)[:, None] ** 3
    y = well(x) + 1e-3 * rng.normal(size=45)
    rational, gaussian = (error(k, x, y, between, well(between)) for k in (RationalQuadratic(), RBF()))
    assert rational < 0.6 * gaussian and rational < 0.1


def test_sums_and_products_of_what_is_known():
    rng = np.random.default_rng(3)

    def both(x):  # a slope and a wave; a wave that the other variable switches
        return 0.5 * x[:, 0] + np.sin(2 * np.pi * x[:, 0]), np.sin(2 * np.pi * x[:, 0]) * np.exp(-(x[:, 1] ** 2))

    x = rng.uniform(0, 2.0, (40, 2))
    far = np.stack([rng.uniform(4.0, 5.0, 60), rng.uniform(0.2, 1.8, 60)], 1)
    trend, switched = both(x)
    line = DotProduct(power=1) + Periodic(period=1.0)
    assert error(line, x[:, :1], trend, far[:, :1], both(far)[0]) < 0.02
    assert error(RBF(), x[:, :1], trend, far[:, :1], both(far)[0]) > 0.5
    product = Product((Periodic(period=1.0), RBF()), columns=((0,), (1,)))
    assert error(product, x, switched, far, both(far)[1]) < 0.05
    assert error(RBF(), x, switched, far, both(far)[1]) > 0.5


def test_sparse_fit_finds_what_the_dense_one_finds():
    rng = np.random.default_rng(4)
    x = rng.uniform(0, 2.0, (60, 1))
    far = np.linspace(4.0, 5.0, 40)[:, None]
    y = 0.5 * x[:, 0] + np.sin(2 * np.pi * x[:, 0])
    expected = 0.5 * far[:, 0] + np.sin(2 * np.pi * far[:, 0])
    line = DotProduct(power=1) + Periodic(period=1.0)
    assert error(line, x, y + 0.01 * rng.normal(size=60), far, expected, solver=Sparse(inducing=40)) < 0.05


def test_grid_search_over_a_parameter_of_a_sum():
    rng = np.random.default_rng(5)
    x = rng.uniform(0, 4.0, (40, 1))
    y = 0.5 * x[:, 0] + np.sin(2 * np.pi * x[:, 0]) + 0.01 * rng.normal(size=40)
    model = FreeEnergyRegressor(
        Term(kernel=Sum((DotProduct(1, 1.0, 2.0, 0.0), Periodic(lengthscale=1.0))), thermal=THERMAL),
        optimizer=None,
        noise={"free_energy": 0.01},
    )
    grid = {"terms__kernel__kernels__1__period": [0.37, 1.0], "terms__kernel__kernels__0__lengthscale": [1.0, 2.0]}
    search = GridSearchCV(model, grid, cv=3).fit(x, y)
    assert search.best_params_["terms__kernel__kernels__1__period"] == 1.0
    assert search.best_estimator_.terms.kernel.kernels[1].period == 1.0 and search.best_score_ > 0.9
    assert model.terms.kernel.kernels[1] == Periodic(lengthscale=1.0)


# ------------------------------------------------------------------ files


def test_a_model_from_before_there_were_other_kernels():
    """A file of commit bec9f54: RBF and Matérn terms, values and slopes of inducing environments."""
    model = load(FILES / "before_kernels.kfe")
    expected = json.loads((FILES / "before_kernels.json").read_text())
    grid = np.array([[0.1, 0.2], [0.5, -0.7], [1.5, 0.0]])
    mean, std = model.predict(grid, "free_energy", temperature=330.0, return_std=True, reference=None)
    force = model.predict(grid, "mean_force", temperature=330.0)
    np.testing.assert_allclose(mean, expected["mean"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(std, expected["std"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(force, expected["force"], rtol=0, atol=1e-12)
    frozen = model.frozen().energy_and_forces(torch.from_numpy(grid), 330.0)
    np.testing.assert_allclose(frozen[0], mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kernel: kernel.update(kernels=[]), "kernels"),
        (lambda kernel: kernel["kernels"].reverse(), "term0.log_kernels"),
        (lambda kernel: kernel.update(weights=[1.0]), "2 numbers"),
        (lambda kernel: kernel["kernels"][0].update(lengthscale=None), "lengthscale"),
        (lambda kernel: kernel["kernels"][1].update(power=10**9), "power"),
        (lambda kernel: kernel.update({"class": "Product"}), "Product"),
    ],
)
def test_files_with_wrong_composites_are_refused(change, message, tmp_path):
    fit(Sum((RBF(1.5), DotProduct(2, 1.0, 1.0, 2.0)), weights=(1.0, 2.0))).save(tmp_path / "a.kfe")
    header, tensors = modelfile.read(tmp_path / "a.kfe")
    change(header["terms"][0][1]["kernel"])
    (tmp_path / "a.kfe").write_bytes(modelfile.pack(header, tensors))
    with pytest.raises(ModelFileError, match=message):
        load(tmp_path / "a.kfe")
