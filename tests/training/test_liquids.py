"""Relative entropy by Newton steps: against quadrature on small systems, what is refused, and what is left open."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import Frames
from kernelfe.descriptors import PairSplines
from kernelfe.errors import DataError
from kernelfe.kernels import SecondOrder
from kernelfe.simulate import LangevinProtocol, SamplingError
from kernelfe.training import LiquidFit, LiquidPlan, RelativeEntropyPlan, minimize_relative_entropy
from kernelfe.training.liquids import LiquidRefinement

from .analytic_wells import KT, Grid, T, Well, coupled, double_well, harmonic

PROTOCOL = LangevinProtocol(timestep=20.0, friction=10.0, steps=300, stride=15, burn_in=75, guard=None, seed=4)
PLAN = LiquidPlan(rounds=10, replicas=400, enough=0.0)
SYSTEMS = {
    "harmonic": (harmonic, 1, [0.02], [0.06]),
    "double well": (double_well, 1, [0.0, 0.01, 0.01], [0.005, -0.06, 0.03]),
    "coupled wells": (coupled, 2, [0.01, 0.01, 0.0, 0.06], [-0.05, 0.03, 0.02, 0.05]),
}


def refine(well, frames, **options):
    return minimize_relative_entropy(well, frames, PROTOCOL, plan=PLAN, inefficiency=1.0, progress=False, **options)


@pytest.mark.parametrize("name", ["harmonic", "double well", pytest.param("coupled wells", marks=pytest.mark.slow)])
def test_the_minimum_of_an_analytic_system(name):
    functions, dimension, start, truth = SYSTEMS[name]
    well = Well(functions, dimension, start, 5.0)
    grid = Grid(well, points=401 if dimension == 1 else 121)
    frames = grid.frames(torch.tensor(truth, dtype=torch.float64), 4000)
    mean = well.features(torch.from_numpy(frames.positions.copy()), T).mean(0)
    found = refine(well, frames)
    assert found.converged and len(found.rounds) <= 10 and found.improved
    weight = found.label_weight**0.5 * 5.0
    _, least = grid.best(mean, start, weight, 4000)
    w = found.model.mean
    reached = grid.objective(w, mean) + 0.5 * weight**2 * float((w - well.mean).square().sum()) / 4000
    assert 0.0 <= float(reached) - least < 1e-3
    # frames narrow the weights: Laplace's precision with the exact covariance, to the error of that of the samples
    _, covariance = grid.moments(w)
    independent = 1.0 / (1.0 / 4000 + 1.0 / (400 * found.rounds[0].samples_per_replica))
    precision = weight**2 * torch.eye(len(w)) + independent * covariance / KT**2
    errors = torch.linalg.inv(found.model.lower @ found.model.lower.T).diagonal().sqrt()
    torch.testing.assert_close(errors, torch.linalg.inv(precision).diagonal().sqrt(), rtol=0.15, atol=0.0)


def test_gradient_and_curvature_agree_with_quadrature():
    functions, dimension, start, truth = SYSTEMS["double well"]
    well = Well(functions, dimension, start, 5.0)
    grid = Grid(well)
    frames = grid.frames(torch.tensor(truth, dtype=torch.float64), 500)
    refinement = LiquidRefinement(well, frames, PROTOCOL, PLAN, 1.0, None)
    one = refinement._sample(well, torch.zeros(3, dtype=torch.float64)).samples[0]
    mean, covariance = grid.moments(well.mean)
    wanted = (mean - well.features(torch.from_numpy(frames.positions.copy()), T).mean(0)) / 5.0
    by_replica = one.features.mean(0)
    error = by_replica.std(0) / len(by_replica) ** 0.5
    assert bool(((one.mean - wanted).abs() < 3.0 * error).all())
    off = one.features - one.mean
    squares = (off[..., :, None] * off[..., None, :]).mean(0)
    error = squares.std(0) / len(squares) ** 0.5
    assert bool(((one.covariance - covariance / 25.0).abs() < 3.0 * error).all())


def test_what_frames_leave_open_is_named():
    def functions(x, y):
        return [0.5 * x**2, x**2, torch.ones_like(x), x]

    well = Well(functions, 1, [0.02, 0.0, 0.3, 0.0], 1e-4)  # hardly any prior
    truth = Well(harmonic, 1, [0.06], 1.0)
    found = refine(well, Grid(truth).frames(truth.mean, 2000))
    assert found.converged and bool(torch.isfinite(found.model.mean).all())
    assert float(found.model.mean[0] + 2.0 * found.model.mean[1]) == pytest.approx(0.06, rel=0.1)
    assert found.open_directions.shape == (2, 4)
    # the two springs cannot be told apart, and a constant has no effect
    for direction in ([2.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]):
        _, rest, *_ = np.linalg.lstsq(found.open_directions.T, direction, rcond=None)
        assert rest.size and float(rest[0]) < 1e-6
    assert 2 in found.open_weights and 3 not in found.open_weights
    assert float(found.model.mean[2]) == pytest.approx(0.3)
    assert "leave 2 directions" in found.outcome


def test_labels_count_as_far_as_frames_bear_them_out():
    truth = Well(harmonic, 1, [0.06], 1.0)
    frames = Grid(truth).frames(truth.mean, 2000)
    right = refine(Well(harmonic, 1, [0.06], 1e3), frames, rounds=2)
    wrong = refine(Well(harmonic, 1, [0.03], 1e3), frames)  # 30 standard errors off
    assert right.label_weight > 0.1 and wrong.label_weight < 0.1
    assert float(wrong.model.mean[0]) == pytest.approx(0.06, rel=0.1)
    held = refine(Well(harmonic, 1, [0.03], 1e3), frames, label_weight=1.0)
    assert held.label_weight == 1.0 and 0.03 < float(held.model.mean[0]) < 0.055


class Fragile(Well):
    """Not finite where the spring is stiffer than some number."""

    def energy(self, positions, temperature):
        return super().energy(positions, temperature) + (torch.nan if float(self.mean[0]) > 0.04 else 0.0)


def test_models_that_cannot_be_sampled():
    truth = Well(harmonic, 1, [0.06], 1.0)
    frames = Grid(truth).frames(truth.mean, 1000)
    found = refine(Fragile(harmonic, 1, [0.03], 1.0), frames, rounds=5)
    assert not found.converged and 0.03 < float(found.model.mean[0]) <= 0.04  # the last good one
    assert any(np.isneginf(one.gain) for one in found.rounds)
    with pytest.raises(SamplingError, match="not finite") as caught:
        refine(Fragile(harmonic, 1, [0.05], 1.0), frames)
    assert "relative entropy" in "".join(caught.value.__notes__)


def test_frames_it_cannot_use_are_refused():
    well, x = Well(harmonic, 1, [0.06], 1.0), np.zeros((40, 1, 3))
    x[:, 0, 0] = np.linspace(-1.0, 1.0, 40)
    cells = np.eye(3) * np.linspace(9.0, 10.0, 40)[:, None, None]
    with pytest.raises(DataError, match="energy_forces_stress"):
        minimize_relative_entropy(well, Frames.from_arrays(x, temperature=T, cell=cells), progress=False)
    well.energy_forces_stress = None
    with pytest.raises(DataError, match="constant volume"):
        minimize_relative_entropy(well, Frames.from_arrays(x, temperature=T, cell=cells), progress=False)
    with pytest.raises(DataError, match="replicas"):
        LiquidPlan(replicas=1)


def test_a_fit_to_forces_of_a_liquid(tmp_path):
    rng = np.random.default_rng(0)
    grid = 3.75 * np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3)
    x, cell = grid + 0.4 * rng.standard_normal((40, 8, 3)), np.repeat(7.5 * np.eye(3)[None], 40, 0)
    frames = Frames.from_arrays(
        x,
        temperature=T,
        cell=cell,
        labels={"mean_force": 0.1 * rng.standard_normal(x.shape)},
        kinds=["W"] * 8,
    )
    term = kernelfe.Term(PairSplines(3.6, start=1.2, spacing=0.4), thermal=SecondOrder(T, 0.1, 1e-4, 1e-4))
    fit = kernelfe.FreeEnergyRegressor(
        [("pairs", term)], baseline=False, noise={"mean_force": 0.1}, optimizer=None, progress=False
    ).fit(frames)
    found = minimize_relative_entropy(
        fit, frames, PROTOCOL, replicas=4, timestep=5.0, steps=80, stride=8, rounds=2, enough=0.0, progress=False
    )
    assert isinstance(found, LiquidFit) and isinstance(found.model, kernelfe.FreeEnergyRegressor), found.outcome
    assert found.improved and 0.0 < found.label_weight <= 1.0
    # frames at one temperature change A(T0) alone
    s = [m.predict(frames, "entropy") for m in (fit, found.model)]
    a = [m.predict(frames, "free_energy") for m in (fit, found.model)]
    np.testing.assert_allclose(s[1], s[0], rtol=0.0, atol=1e-9 * max(1.0, np.abs(s[0]).max()))
    assert np.abs(a[1] - a[0]).max() > 1e-3
    found.model.save(tmp_path / "refined.kfe")
    again = kernelfe.load(tmp_path / "refined.kfe")
    forces = [m.predict(frames, "mean_force") for m in (again, found.model)]
    np.testing.assert_allclose(*forces, rtol=0.0, atol=1e-12)
    with pytest.raises(DataError, match="density of frames already"):
        minimize_relative_entropy(found.model, frames, progress=False)
    with pytest.raises(DataError, match="LiquidPlan"):
        minimize_relative_entropy(fit, frames, plan=RelativeEntropyPlan(), progress=False)
