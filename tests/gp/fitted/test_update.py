"""Conditioning on more labels afterwards is conditioning on all of them at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import Frames, FreeEnergyRegressor, Sparse
from kernelfe.errors import DataError
from kernelfe.gp import condition
from kernelfe.gp.observations import assemble
from kernelfe.gp.observations.levels import NoiseLevels
from kernelfe.gp.solvers.dense import DensePosterior
from kernelfe.gp.solvers.sparse.posterior import SparsePosterior
from kernelfe.gp.solvers.sparse.streaming import accumulate
from kernelfe.linalg import CholeskyFactor

#: Two orders of the same sums.
ROUNDING = 1e-8
KINDS = ["mean_force", "mean_energy"]


@pytest.fixture(scope="module")
def halves():
    frames = kernelfe.datasets.load("alanine-dipeptide").with_labels(KINDS)
    return frames[::2500], frames[1200::2500]


@pytest.fixture(scope="module", params=["dense", "sparse"])
def model(request, halves):
    return FreeEnergyRegressor(solver="dense" if request.param == "dense" else Sparse(inducing=8)).fit(halves[0])


def at_once(model, frames):
    """A model with the hyperparameters of another, conditioned on all frames by the code of the fit."""
    noise = NoiseLevels.of(model.noise_, model.noise_temperature_)
    labels = assemble.label_sets(frames, None, None, model.baseline_, model.composition_.counts)
    if isinstance(model.posterior_, DensePosterior):
        posterior = DensePosterior(model.posterior_.prior, labels, noise)
    else:
        basis = model.posterior_.basis
        posterior = SparsePosterior.fit(basis, accumulate(basis, labels, 4096), noise)
    return model.with_model(replace(model.model_, posterior=posterior))


def test_equals_all_at_once(model, halves):
    first, second = halves
    later, once = condition(model, second), at_once(model, Frames.concatenate([first, second]))
    for quantity in ("free_energy", "mean_force", "entropy", "mean_energy"):
        mean, std = later.predict(second, quantity, return_std=True)
        wanted, wanted_std = once.predict(second, quantity, return_std=True)
        assert np.abs(mean - wanted).max() <= ROUNDING * np.abs(wanted).max()
        # square roots of variances that cancel to rounding
        assert np.abs(std - wanted_std).max() <= 1e-5 * wanted_std.max()
    assert later.log_evidence_ == pytest.approx(once.posterior_.log_evidence, rel=1e-9)


def test_given_noise_is_taken_though_the_kind_has_a_learned_one(model, halves):
    """Stating what was learned changes nothing: the learned level must not come on top of it."""
    _, second = halves
    level, power = model.noise_["mean_force"]
    stated = level * (second.temperature / model.noise_temperature_) ** power
    forces = second.with_labels("mean_force")
    learned, given = (
        condition(model, f) for f in (forces, forces.replace(noise={"mean_force": stated[:, None, None]}))
    )
    for quantity in ("mean_force", "free_energy"):
        for a, b in zip(*(m.predict(second, quantity, return_std=True) for m in (learned, given)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    weak = condition(model, forces.replace(noise={"mean_force": 1e4}))
    np.testing.assert_allclose(weak.predict(second, "mean_force"), model.predict(second, "mean_force"), atol=1e-5)


def test_the_model_passed_in_stays(model, halves):
    before = model.predict(halves[1], "mean_force"), model.log_evidence_, model.temperatures_
    hot = halves[1][:2].replace(temperature=700.0, noise={"mean_force": 0.1, "mean_energy": 0.1})
    later = condition(model, hot)
    np.testing.assert_array_equal(model.predict(halves[1], "mean_force"), before[0])
    assert (model.log_evidence_, model.temperatures_) == before[1:]
    assert later.temperatures_ == [*model.temperatures_, 700.0]


def test_the_domain_grows(model, halves):
    far = np.array(halves[1].positions[:1])
    far[0, 0] += 0.6 * (far[0, 0] - far[0, 1]) / np.linalg.norm(far[0, 0] - far[0, 1])
    frames = halves[1][:1].replace(positions=far)
    assert model.domain_score(far)[0] > 1.0
    assert condition(model, frames).domain_score(far)[0] <= 1.0


def test_the_updated_model_is_saved(model, halves, tmp_path):
    later = condition(model, halves[1].replace(noise={"mean_force": 0.3, "mean_energy": 0.2}))
    later.save(tmp_path / "later.kfe")
    again = kernelfe.load(tmp_path / "later.kfe")
    for quantity in ("mean_force", "free_energy"):
        mean, std = later.predict(halves[1], quantity, return_std=True)
        loaded, loaded_std = again.predict(halves[1], quantity, return_std=True)
        np.testing.assert_allclose(loaded, mean, rtol=1e-9, atol=1e-12)
        # variances, which cancel to rounding where nothing is left unknown; their roots would magnify that
        np.testing.assert_allclose(loaded_std**2, std**2, rtol=1e-6, atol=1e-10 * (std**2).max())


def test_what_cannot_be_conditioned_on(model, halves):
    with pytest.raises(DataError, match=r"heat_capacity.*no noise"):
        condition(model, halves[1].replace(labels={"heat_capacity": np.ones(len(halves[1]))}))
    with pytest.raises(DataError, match="Frames"):
        condition(model, halves[1].positions)
    with pytest.raises(DataError, match="shape"):
        condition(model, kernelfe.Frames.from_arrays(np.zeros((2, 3, 3)), temperature=300.0))


def test_an_extended_factor_is_the_factor_of_the_whole():
    rng = np.random.default_rng(0)
    root = torch.from_numpy(rng.normal(size=(30, 40)))
    whole = root @ root.T
    small = CholeskyFactor(lambda: whole[:18, :18].clone())
    both = small.extended(whole[18:, :18].clone(), lambda: whole[18:, 18:].clone())
    torch.testing.assert_close(both.lower.tril(), CholeskyFactor(lambda: whole.clone()).lower.tril())
