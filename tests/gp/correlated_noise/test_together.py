"""Features used together: each works with the other, or is refused in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import CorrelatedNoise, FreeEnergyRegressor, RelativeNoise, Sparse, Term
from kernelfe.datasets import ChainFamily
from kernelfe.errors import DataError
from kernelfe.gp import (
    condition,
    enforce_concavity,
    hyperparameter_ensemble,
    joint_predictive,
    local_terms,
    noise_covariance,
)
from kernelfe.gp.fitted import ensemble as hyperparameters
from kernelfe.kernels import RBF, SecondOrder
from kernelfe.training import minimize_relative_entropy

from ..systems import molecule, one_term

FAMILY = ChainFamily()
NOISE = {"mean_force": 0.02, "mean_energy": 0.02}
NUMBERS = RBF(lengthscale=1.0), SecondOrder(400.0, 0.3, entropy=3e-4, heat_capacity=1e-4)


def chain(kinds, n=12, seed=0, stated=True):
    """Frames of a chain; their labels are noisy whether that is stated or not."""
    frames = FAMILY.frames(kinds, np.resize([300.0, 400.0, 500.0], n), np.random.default_rng(seed), NOISE)
    return frames if stated else frames.replace(noise={})


def several(parts, solver="dense", **more):
    # few free numbers, because an ensemble needs their curvature
    terms = [(name, Term(term.descriptor, *NUMBERS, fixed=k > 0)) for k, (name, term) in enumerate(local_terms(parts))]
    return FreeEnergyRegressor(terms, solver=solver, optimizer=None, baseline=False, **more).fit(parts)


SMALL, LARGE, MORE = chain("ABA", stated=False), chain("ABBAB", seed=1, stated=False), chain("ABA", 6, 3, False)


@pytest.fixture(scope="module")
def molecules():
    return several([SMALL, LARGE])


# --- several molecules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=12)], ids=["dense", "sparse"])
def test_the_view_of_a_molecule_takes_more_labels(solver):
    """As if they had been in the fit of all."""
    model = several([SMALL, LARGE], solver, noise=NOISE)
    later = condition(model.for_molecule(SMALL), MORE, noise=NOISE)
    if solver == "dense":
        whole = FreeEnergyRegressor(model.fitted_terms(), solver=solver, optimizer=None, baseline=False, noise=NOISE)
        wanted = whole.fit([SMALL, MORE, LARGE]).predict(SMALL, "mean_force")
        # the broad prior of the mean functions follows the data
        np.testing.assert_allclose(later.predict(SMALL, "mean_force"), wanted, rtol=0, atol=1e-4)
    before, after = (m.predict(MORE, "mean_force", return_std=True)[1] for m in (model, later))
    assert (after <= before * (1.0 + 1e-9)).all() and after.mean() < 0.9 * before.mean()


def test_joint_predictive_density_of_one_of_several_molecules(molecules):
    """One label per frame: the density of a normal with the model's own mean and error bar."""
    mean, std = molecules.predict(MORE, "mean_energy", return_std=True)
    sigma, power = molecules.noise_["mean_energy"]
    variance = std**2 + (sigma * (MORE.temperature / molecules.noise_temperature_) ** power) ** 2
    for model in (molecules, molecules.for_molecule(MORE)):
        found = joint_predictive(model, MORE, ["mean_energy"])
        np.testing.assert_allclose(found.mahalanobis2, (MORE.labels["mean_energy"] - mean) ** 2 / variance, rtol=1e-6)


def test_lists_of_molecules(molecules):
    one, two = molecules.concavity_violation([SMALL, LARGE])
    np.testing.assert_array_equal(two, molecules.concavity_violation(LARGE))
    assert one.shape == (len(SMALL),)
    with pytest.raises(DataError, match="one at a time"):
        enforce_concavity(molecules, [SMALL, LARGE])


@pytest.mark.slow  # quick: ensembles of one molecule, and views of several
def test_an_ensemble_of_several_molecules(monkeypatch):
    """Whatever is drawn; how well the draws represent the posterior is asked in test_hyperparameters."""
    few = hyperparameters.SamplingSettings(points=(12, 4))
    monkeypatch.setattr(hyperparameters, "SamplingSettings", lambda: few)
    molecules = several([SMALL[:3], LARGE[:3]])
    many = hyperparameter_ensemble(molecules, draws=2)
    means, stds = many.predict([SMALL, LARGE], "mean_force", return_std=True)
    mean, std = many.predict(LARGE, "mean_force", return_std=True)
    np.testing.assert_array_equal(means[1], mean)
    np.testing.assert_array_equal(stds[1], std)
    assert many.predict([SMALL, LARGE], "mean_energy")[0].shape == (len(SMALL),)
    view = hyperparameter_ensemble(molecules.for_molecule(SMALL), draws=2).models[0]
    energy, _ = view.frozen().energy_and_forces(torch.from_numpy(SMALL.positions.copy()), 350.0)
    np.testing.assert_allclose(energy, view.predict(SMALL, temperature=350.0, reference=None), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("noise", "words"),
    [(CorrelatedNoise(), "one molecule"), ({"mean_energy": RelativeNoise(np.ones(12))}, "one number")],
)
def test_noise_that_belongs_to_the_rows_of_one_molecule(noise, words):
    with pytest.raises(DataError, match=words):
        several([SMALL, LARGE], noise=noise)


# --- concavity ----------------------------------------------------------------------------------------------


def violating(solver):
    """A model that predicts negative heat capacities somewhere, and where."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        frames = molecule(9, seed).with_labels(["mean_force", "mean_energy"])
        frames = frames.replace(noise=dict.fromkeys(frames.labels, 0.05))
        model = FreeEnergyRegressor(one_term(), solver=solver, optimizer=None, baseline=False).fit(frames)
        x = frames.positions + 0.2 * rng.normal(size=frames.positions.shape)
        if model.predict(x, "heat_capacity", temperature=400.0).min() < 0.0:
            return model, frames, x
    raise AssertionError("no model predicts a negative heat capacity")


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=20)], ids=["dense", "sparse"])
def test_what_would_undo_the_constraint_is_refused(solver, tmp_path):
    """The virtual observations hold for these labels and hyperparameters only; a file stores this fact."""
    model, frames, x = violating(solver)
    new = enforce_concavity(model, x, temperature=400.0)
    new.save(tmp_path / "new.kfe")
    assert new.concave_ and not model.concave_
    for constrained in (new, kernelfe.load(tmp_path / "new.kfe")):
        with pytest.raises(DataError, match="C ≥ 0"):
            condition(constrained, frames)
        with pytest.raises(DataError, match="C ≥ 0"):
            hyperparameter_ensemble(constrained)
        if solver != "dense":
            with pytest.raises(DataError, match="C ≥ 0"):
                minimize_relative_entropy(constrained, frames)


# --- correlated noise and ensembles -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def correlated():
    frames = chain("ABA", 40, 5, stated=False)
    term = Term(None, RBF(), SecondOrder())
    return FreeEnergyRegressor(term, solver="dense", baseline=False, noise=CorrelatedNoise(rounds=1)).fit(frames)


def test_a_covariance_symmetric_to_rounding_is_loaded(correlated, tmp_path):
    """As sums of products leave it; what is fitted is symmetric to the bit."""
    noise = correlated.noise_model_
    assert torch.equal(noise.covariance, noise.covariance.mT)
    rough = noise.covariance.clone()
    rough[0, 1] += 1e-13 * rough[0, 0]
    learned = replace(correlated.model_.noise, correlated=replace(noise, covariance=rough))
    correlated.with_model(replace(correlated.model_, noise=learned)).save(tmp_path / "rough.kfe")
    again = kernelfe.load(tmp_path / "rough.kfe")
    np.testing.assert_allclose(noise_covariance(again, MORE), noise_covariance(correlated, MORE), rtol=1e-9, atol=1e-12)


def test_members_of_an_ensemble_with_correlated_noise_are_models(correlated, tmp_path):
    """They contain their own noise by label kind, and loading does not change them."""
    member = hyperparameter_ensemble(correlated, draws=2).models[0]
    assert list(member.noise_) == list(correlated.noise_)
    assert member.noise_levels_ != correlated.noise_levels_
    size = np.trace(noise_covariance(member, MORE, ["mean_force"]), axis1=1, axis2=2)
    assert size == pytest.approx(
        np.trace(noise_covariance(correlated, MORE, ["mean_force"]), axis1=1, axis2=2), rel=0.5
    )
    member.save(tmp_path / "member.kfe")
    again = kernelfe.load(tmp_path / "member.kfe")
    for found, wanted in zip(*(m.predict(MORE, "mean_energy", return_std=True) for m in (again, member)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_array_equal(noise_covariance(again, MORE), noise_covariance(member, MORE))


def test_the_domain_of_a_member_is_not_stored_in_columns_of_another_kernel(correlated, tmp_path):
    member = hyperparameter_ensemble(correlated, draws=1).models[0]
    np.testing.assert_array_equal(member.domain_score(MORE), correlated.domain_score(MORE))
    member.save(tmp_path / "member.kfe")
    with pytest.raises(DataError, match="members of an ensemble"):
        kernelfe.load(tmp_path / "member.kfe").domain_score(MORE)
