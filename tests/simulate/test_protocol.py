"""One specification of a run: its numbers, the old keyword arguments, and what it chooses by itself."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from sklearn.base import clone

from kernelfe.errors import DataError
from kernelfe.simulate import (
    DomainGuard,
    LangevinProtocol,
    TorsionMoves,
    langevin_init,
    run_langevin,
    run_replica_exchange,
    sample,
    uniform_masses,
)
from kernelfe.specs import from_dict
from kernelfe.training import ActivePlan, learn_actively, minimize_relative_entropy

X = np.zeros((3, 2, 3))
QUIET = {"masses": uniform_masses(2), "progress": False}


def test_a_protocol_and_its_fields_as_keywords_are_the_same_run(well):
    model, numbers = well(), {"timestep": 2.0, "friction": 7.0, "steps": 30, "stride": 3, "burn_in": 5, "seed": 4}
    old = run_langevin(model, X, 300.0, **numbers, **QUIET)
    new = run_langevin(model, X, 300.0, LangevinProtocol(**numbers), **QUIET)
    both = run_langevin(model, X, 300.0, LangevinProtocol(timestep=9.0, seed=4), **(numbers | QUIET))
    assert np.array_equal(old.positions, new.positions) and np.array_equal(old.positions, both.positions)
    assert old.positions.shape == (10, 3, 2, 3) and new.state.timestep == 2.0
    more = [sample(model, run.state, LangevinProtocol(steps=20, stride=5), progress=False) for run in (old, new)]
    assert np.array_equal(more[0].positions, more[1].positions) and len(more[0]) == 4
    exchanged = [
        run_replica_exchange(model, X[0], (300.0, 400.0), *args, **options, **QUIET)[0].positions
        for args, options in (((LangevinProtocol(**numbers),), {}), ((), numbers))
    ]
    assert np.array_equal(*exchanged)


def test_the_defaults_are_those_of_0_2_with_five_femtoseconds(well):
    run = run_langevin(well(), X, 300.0, timestep=5.0, friction=5.0, steps=1000, stride=10, seed=0, **QUIET)
    assert np.array_equal(run.positions, run_langevin(well(), X, 300.0, **QUIET).positions)


def test_an_unknown_option_is_named(well):
    with pytest.raises(TypeError, match="time_step"):
        run_langevin(well(), X, 300.0, time_step=2.0, **QUIET)
    with pytest.raises(TypeError, match="stepz"):
        langevin_init(well(), X, 300.0, masses=uniform_masses(2), stepz=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestep": -1.0}, "timestep=-1.0"),
        ({"timestep": "fast"}, "timestep='fast'"),
        ({"friction": np.inf}, "friction=inf"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 5, "stride": 6}, "steps=5 is less than stride=6"),
        ({"moves_every": 0}, "moves_every=0"),
        ({"move_rounds": 1.5}, "move_rounds=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"moves": "some"}, "moves='some'"),
        ({"dtype": torch.int64}, "dtype='int64'"),
        ({"largest_phase": 2.0}, "largest_phase=2.0"),
    ],
)
def test_wrong_numbers_are_named(change, message):
    with pytest.raises(DataError, match=message):
        LangevinProtocol(**change)


def test_it_is_a_spec_with_everything_in_it():
    moves = TorsionMoves(((0, 1), (1, 2), (2, 3)), width=(0.3, 1.0))
    one = LangevinProtocol(timestep=2.0, moves=moves, guard=DomainGuard(every=7), dtype=torch.float32)
    classes = {cls.__name__: cls for cls in (LangevinProtocol, TorsionMoves, DomainGuard)}
    assert from_dict(one.to_dict(), classes) == one == clone(one, safe=False) != LangevinProtocol(timestep=2.0)
    assert one.torch_dtype == torch.float32 and LangevinProtocol().torch_dtype == torch.float64
    assert one.get_params()["guard__every"] == 7
    with pytest.raises(AttributeError):
        one.steps = 3


def test_automatic_moves_turn_about_bonds_that_can_turn():
    chain, auto = ((0, 1), (1, 2), (2, 3)), LangevinProtocol(moves="auto", moves_every=2)
    assert auto.for_bonds(chain) == LangevinProtocol(moves=TorsionMoves(chain), moves_every=2)
    assert auto.for_bonds(None).moves is None and auto.for_bonds(((0, 1),)).moves is None
    given = LangevinProtocol(moves=TorsionMoves(chain))
    assert given.for_bonds(None) is given


class Chain:
    """Free beads that declare stiff bonds."""

    stiff_bonds = ((0, 1, 30.0), (1, 2, 400.0), (2, 3, 30.0))

    def energy_and_forces(self, positions, temperature):
        return torch.zeros(len(positions), dtype=positions.dtype), torch.zeros_like(positions)


def test_the_stiffest_bond_limits_the_time_step_unless_one_is_given():
    auto, masses = LangevinProtocol(), np.array([12.0, 3.0, 12.0, 12.0])
    state = langevin_init(Chain(), np.ones((1, 4, 3)), 300.0, masses=masses)
    omega = np.sqrt(400.0 * (1 / 3.0 + 1 / 12.0)) / 10.1805  # 1/fs: one Å·sqrt(u/eV) are 10.18 fs
    assert state.timestep == auto.time_step(Chain(), masses) == pytest.approx(1.4 / omega, rel=1e-4)
    assert state.timestep < 5.0 == auto.time_step(object(), masses)
    assert LangevinProtocol(largest_phase=0.7).time_step(Chain(), masses) == pytest.approx(0.5 * state.timestep)
    assert LangevinProtocol(timestep=8.0).time_step(Chain(), masses) == 8.0
    start = np.array([[[0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0]]], dtype=float)
    run = run_langevin(Chain(), start, 300.0, masses=masses, steps=20, moves="auto", progress=False)
    assert run.acceptance.names == ("torsion 1-2",)


def test_no_function_that_samples_has_more_than_eight_parameters():
    for function in (run_langevin, sample, langevin_init, run_replica_exchange, minimize_relative_entropy):
        names = inspect.signature(function).parameters
        assert len(names) - ("options" in names) <= 8 and "protocol" in names, function.__name__
    assert len(inspect.signature(learn_actively).parameters) - 1 <= 8


def test_an_active_plan_has_a_protocol_and_takes_the_numbers_of_0_2():
    plan = ActivePlan(steps=40, burn_in=7, timestep=2.0)
    assert plan.protocol == ActivePlan().protocol.with_options(steps=40, burn_in=7, timestep=2.0)
    assert plan == ActivePlan(protocol=plan.protocol) and plan.get_params(deep=False)["protocol"] == plan.protocol
    assert ActivePlan(target=350, temperatures=[400, 300]).temperatures == (400.0, 300.0)
