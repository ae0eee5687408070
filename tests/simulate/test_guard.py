"""Runs that leave the training data stop, and can be continued from a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import FreeEnergyRegressor, Sparse
from kernelfe.errors import DataError, ModelFileError
from kernelfe.files.npz import load_npz, save_npz
from kernelfe.simulate import (
    DomainGuard,
    SamplingError,
    load_state,
    run_langevin,
    run_replica_exchange,
    sample,
    uniform_masses,
)
from kernelfe.units import BOLTZMANN

from .conftest import Well


class Box:
    """A domain: all coordinates within ±edge score up to 1."""

    def __init__(self, edge):
        self.edge = edge

    def score(self, x, cell=None):
        return x.abs().flatten(1).amax(1) / self.edge

    def culprit(self, x):
        return "a bead is out of its box"


class Watched(Well):
    domain = Box(1.0)


class Cliff:
    """A free particle that a steady force drives out of the domain."""

    domain = Box(1.0)

    def energy_and_forces(self, x, temperature):
        return -0.2 * x[..., 0].sum(1), 0.2 * torch.eye(3, dtype=x.dtype)[0].expand_as(x).clone()


RUN = {"masses": [12.0], "timestep": 5.0, "progress": False}


def test_a_run_stops_with_a_state_that_is_still_sound(tmp_path):
    file = tmp_path / "run.npz"
    guard = DomainGuard(every=5, stop=1.5, restart=file)
    with pytest.raises(SamplingError, match="out of its box") as caught:
        run_langevin(Cliff(), np.zeros((4, 1, 3)), 300.0, steps=5000, stride=1, guard=guard, **RUN)
    error = caught.value
    assert error.replicas
    assert len(error.trajectory) == error.step - 1
    assert (Cliff.domain.score(error.state.positions) <= 1.5).all()
    assert str(file) in error.__notes__[0]
    state = load_state(file)
    assert state.step == error.state.step == error.step - 5
    torch.testing.assert_close(state.positions, error.state.positions, rtol=0, atol=0)


class Leak(Well):
    """A well; replica 0 alone is driven out of the domain."""

    domain = Box(1.0)

    def energy_and_forces(self, x, temperature):
        energy, forces = super().energy_and_forces(x, temperature)
        forces[0, :, 0] += 2.0
        return energy, forces


class Fault(Watched):
    """A well whose forces on one replica are not finite at the 30th call."""

    calls = 0

    def energy_and_forces(self, x, temperature):
        energy, forces = super().energy_and_forces(x, temperature)
        self.calls += 1
        if self.calls == 30:
            forces[3] = float("nan")
        return energy, forces


def test_one_replica_that_leaves_is_set_back_and_the_others_go_on():
    start = np.zeros((100, 1, 3))
    guard = DomainGuard(every=5, stop=1.5, share=0.01)
    with pytest.warns(UserWarning, match=r"1 of 100 replicas .* set back \d+ times"):
        run = run_langevin(Leak(stiffness=1.0), start, 300.0, steps=500, stride=1, guard=guard, **RUN)
    assert len(run) == 500 and run.set_back[0] > 0 and not run.set_back[1:].any()
    assert (Box(1.0).score(run.state.positions) <= 1.5).all()
    other = run_langevin(Well(stiffness=1.0), start, 300.0, steps=500, stride=1, guard=None, **RUN)
    first = int(np.flatnonzero(np.abs(np.diff(run.positions[:, 0, 0, 0])) > 0.5)[:1].sum())  # before any new velocities
    np.testing.assert_array_equal(run.positions[: first // 2, 1:], other.positions[: first // 2, 1:])
    with pytest.raises(SamplingError, match=r"replica 0.*more than 0 %"):
        run_langevin(Leak(stiffness=1.0), start, 300.0, steps=500, guard=DomainGuard(stop=1.5, share=0.0), **RUN)


def test_an_unstable_replica_is_set_back():
    start = np.random.default_rng(0).normal(0.0, 0.01, (200, 1, 3))
    with pytest.warns(UserWarning, match=r"1 of 200 replicas .*replica 3"):
        run = run_langevin(Fault(), start, 300.0, steps=60, stride=1, guard=DomainGuard(every=10), **RUN)
    assert np.isfinite(run.positions).all() and run.set_back.sum() == 1
    repeated = run.positions[21:28, 3]  # steps 22 to 28 repeat the check at step 20
    assert (repeated == run.positions[20, 3]).all() or (repeated == run.positions[19, 3]).all()
    with pytest.raises(SamplingError, match="not finite in 1 of 200"):
        run_langevin(Fault(), start, 300.0, steps=60, stride=1, guard=None, **RUN)


def test_replicas_set_back_sample_the_distribution_within_the_domain():
    """The variance of a coordinate is that of a normal distribution cut off at the limit; errors by replicas."""
    well, limit, kt = Watched(stiffness=0.05), 0.8, BOLTZMANN * 300.0
    guard = DomainGuard(every=4, stop=limit, share=1.0)
    start = np.zeros((300, 1, 3))
    with pytest.warns(UserWarning, match="set back"):
        run = run_langevin(
            well,
            start,
            300.0,
            steps=3000,
            stride=4,
            burn_in=500,
            friction=20.0,
            guard=guard,
            **(RUN | {"timestep": 10.0}),
        )
    x = np.linspace(-limit, limit, 2001)
    weight = np.exp(-0.5 * 0.05 * x**2 / kt)
    expected = (weight * x**2).sum() / weight.sum()
    each = (run.positions**2).mean((0, 2, 3))
    assert abs(each.mean() - expected) < 4 * each.std() / np.sqrt(len(each)) + 0.01 * expected


def test_replicas_of_an_exchange_that_are_set_back_sample_their_own_distributions():
    """A replica that was set back over an exchange would double the configuration of its partner: 8 % too narrow."""
    well, limit, rungs = Watched(stiffness=0.05), 0.8, (300.0, 700.0)
    options = RUN | {"timestep": 10.0, "friction": 20.0, "guard": DomainGuard(every=8, stop=limit, share=1.0)}
    with pytest.warns(UserWarning, match="set back"):
        run = run_replica_exchange(
            well, np.zeros((1, 3)), rungs, ladders=200, swap_every=4, steps=1600, stride=8, burn_in=400, **options
        )
    x = np.linspace(-limit, limit, 2001)
    for one, kelvin in zip(run.trajectories, rungs, strict=True):
        weight = np.exp(-0.5 * 0.05 * x**2 / (BOLTZMANN * kelvin))
        expected = (weight * x**2).sum() / weight.sum()
        each = (one.positions**2).mean((0, 2, 3))
        assert abs(each.mean() - expected) < 4 * each.std() / np.sqrt(len(each)) + 0.01 * expected


def test_the_end_of_a_run_is_checked_so_that_it_can_be_continued():
    guard = DomainGuard(every=50, stop=1.5, share=1.0)
    state = None
    for _ in range(2):  # replica 0 is far away after 22 steps, and no run reaches a check
        with pytest.warns(UserWarning, match="1 of 20 replicas"):
            if state is None:
                start = np.zeros((20, 1, 3))
                run = run_langevin(Leak(stiffness=1.0), start, 300.0, steps=22, stride=1, guard=guard, **RUN)
            else:
                run = sample(Leak(stiffness=1.0), state, steps=22, stride=1, guard=guard, progress=False)
        state = run.state
        assert (Box(1.0).score(state.positions) <= 1.5).all()


def test_an_instability_leaves_a_restart_file_too(tmp_path):
    file = tmp_path / "run.npz"
    with pytest.raises(SamplingError, match=r"kinetic|finite"):  # ω·dt > 2
        options = RUN | {"timestep": 20.0, "masses": [1.0], "guard": DomainGuard(restart=file)}
        run_langevin(Well(stiffness=50.0), np.zeros((2, 1, 3)), 300.0, steps=2000, **options)
    assert torch.isfinite(load_state(file).positions).all()


def test_without_a_guard_a_run_goes_on():
    run = run_langevin(Cliff(), np.zeros((1, 1, 3)), 300.0, steps=2000, guard=None, **RUN)
    assert run.outside is None
    assert run.positions[-1].max() > 2.0


def test_the_share_outside_is_counted_and_the_start_is_checked():
    start = np.zeros((200, 1, 3))
    run = run_langevin(Watched(stiffness=0.1), start, 300.0, steps=2000, guard=DomainGuard(stop=np.inf), **RUN)
    assert 0.0 < run.outside < 1.0
    start[7, 0, 0] = 1.3
    with pytest.warns(UserWarning, match="replica 7"):
        run_langevin(Watched(), start, 300.0, steps=10, **RUN)
    start[7, 0, 0] = 5.0
    with pytest.raises(SamplingError, match=r"replica 7.*Start from"):
        run_langevin(Watched(), start, 300.0, steps=10, **RUN)


def test_a_restarted_run_is_the_run_that_would_have_been(tmp_path):
    whole = run_langevin(Watched(), np.zeros((3, 1, 3)), 300.0, steps=60, stride=1, seed=3, **RUN)
    half = run_langevin(Watched(), np.zeros((3, 1, 3)), 300.0, steps=25, stride=1, seed=3, **RUN)
    half.state.save(tmp_path / "half.npz")
    rest = sample(Watched(), load_state(tmp_path / "half.npz"), steps=35, stride=1, progress=False)
    np.testing.assert_array_equal(np.concatenate([half.positions, rest.positions]), whole.positions)
    other = sample(Watched(), load_state(tmp_path / "half.npz", seed=1), steps=35, stride=1, progress=False)
    assert np.abs(other.positions - rest.positions).max() > 1e-3


def test_same_seed_same_trajectory_of_a_fitted_model_bitwise():
    frames = kernelfe.datasets.load("alanine-dipeptide")[::200]
    frozen = FreeEnergyRegressor(solver=Sparse(inducing=50), optimizer=None).fit(frames).frozen()
    args = (frozen, frames.positions[:5], 350.0)
    options = {"masses": uniform_masses(6), "timestep": 2.0, "steps": 40, "stride": 1, "progress": False}
    one, two = (run_langevin(*args, seed=7, **options) for _ in range(2))
    assert one.positions.tobytes() == two.positions.tobytes()
    assert one.outside is None or one.outside <= 1.0
    three = run_langevin(*args, seed=8, **options)
    assert three.positions.tobytes() != one.positions.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"format": np.array("something else")},
        {"positions": np.zeros((2, 3))},
        {"positions": np.full((3, 1, 3), np.nan)},
        {"masses": -np.ones(1)},
        {"temperature": np.zeros(3)},
        {"numbers": np.array([-1.0, 5.0, 0.0])},
        {"numbers": np.zeros(2)},
        {"generator": np.zeros(7, np.uint8)},
        {"velocities": np.zeros((3, 1, 3), np.float32)},
        {"energy": None},
    ],
)
def test_states_that_cannot_be_are_refused(tmp_path, change):
    file = tmp_path / "state.npz"
    run = run_langevin(Well(), np.zeros((3, 1, 3)), 300.0, steps=2, stride=1, **RUN)
    run.state.save(file)
    arrays = load_npz(file) | change
    save_npz(file, {name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(ModelFileError, match=r"state"):
        load_state(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "at least 1"),
        ({"stop": 0.0}, "positive"),
        ({"stop": float("nan")}, "positive"),
        ({"share": 2.0}, "of at most 1"),
    ],
)
def test_a_guard_needs_positive_numbers(options, message):
    with pytest.raises(DataError, match=message):
        DomainGuard(**options)


def test_a_restart_file_that_cannot_be_written_hides_nothing(tmp_path):
    """The run's own error, its samples and its state survive; what can be known before the run is refused before it."""
    folder = tmp_path / "runs"
    folder.mkdir()
    guard = DomainGuard(every=5, stop=1.5, restart=folder / "run.npz")
    folder.rmdir()
    with pytest.raises(SamplingError, match="out of its box") as caught:
        run_langevin(Cliff(), np.zeros((4, 1, 3)), 300.0, steps=5000, stride=1, guard=guard, **RUN)
    assert len(caught.value.trajectory) == caught.value.step - 1
    assert caught.value.state is not None
    assert "could not be written" in caught.value.__notes__[0]
    for bad in ({"restart": folder / "run.npz"}, {"restart": tmp_path}, {"restart": 3}, {"every": 1.5}, {"stop": "1"}):
        with pytest.raises(DataError, match="DomainGuard"):
            DomainGuard(**bad)


def test_restart_files_that_lie(tmp_path):
    file = tmp_path / "run.npz"
    run_langevin(Well(), np.zeros((4, 1, 3)), 300.0, steps=5, stride=1, **RUN).state.save(file)
    sound = load_npz(file)
    empty = {name: sound[name][:0] for name in ("positions", "velocities", "forces", "energy", "temperature")}
    nothing = {name: sound[name][:, :0] for name in ("positions", "velocities", "forces")} | {"masses": np.zeros(0)}
    for lie in (empty, nothing, {"numbers": np.array([1.0, 1.0, np.inf])}, {"numbers": np.array([1.0, 1.0, 1e300])}):
        save_npz(tmp_path / "lie.npz", sound | lie)
        with pytest.raises(ModelFileError, match="not a valid state"):
            load_state(tmp_path / "lie.npz")
    for seed in (-1, 2**70, "a", 0.5):
        with pytest.raises(DataError, match="seed="):
            load_state(file, seed=seed)
