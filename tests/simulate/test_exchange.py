from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelfe.errors import DataError
from kernelfe.simulate import TorsionMoves, exchange, exchange_exponent, run_replica_exchange, uniform_masses
from kernelfe.simulate.langevin import langevin_init
from kernelfe.units import BOLTZMANN

PAIR = torch.tensor([1, 0])
finite = st.floats(-2.0, 2.0)


def classical(own, cross, beta, partner):
    """The textbook exponent, which takes A to be one function for all temperatures."""
    return (beta - beta[partner]) * (own - own[partner])


@settings(max_examples=25, deadline=None)
@given(a11=finite, a12=finite, a21=finite, a22=finite, b1=st.floats(1, 60), b2=st.floats(1, 60))
def test_exponent_is_the_ratio_of_joint_densities(a11, a12, a21, a22, b1, b2):
    """a12 is A(R1; T2)."""
    own, cross, beta = (torch.tensor(v, dtype=torch.float64) for v in ([a11, a22], [a12, a21], [b1, b2]))
    exponent = exchange_exponent(own, cross, beta, PAIR)
    assert torch.allclose(exponent, torch.tensor(-b1 * a21 - b2 * a12 + b1 * a11 + b2 * a22, dtype=torch.float64))
    # one A for all temperatures: the textbook formula
    assert torch.allclose(exchange_exponent(own, own, beta, PAIR), classical(own, own, beta, PAIR))
    # a term g(T) of A changes nothing
    gauge = torch.tensor([0.7, -0.4], dtype=torch.float64)
    assert torch.allclose(exchange_exponent(own + gauge, cross + gauge[PAIR], beta, PAIR), exponent, atol=1e-10)


TEMPERATURES = (300.0, 360.0, 430.0, 520.0)


def swap_only(model, ladders=4000, rounds=30, formula=exchange_exponent, monkeypatch=None, seed=0):
    """Exact samples of every rung, then swaps and nothing else: only a correct swap keeps them exact."""
    monkeypatch.setattr(exchange, "exchange_exponent", formula)
    rungs = len(TEMPERATURES)
    spread = np.sqrt([model.variance(t) for t in TEMPERATURES])
    start = np.random.default_rng(seed).normal(size=(ladders, rungs, 1, 3)) * spread[:, None, None]
    state = langevin_init(
        model,
        start.reshape(-1, 1, 3),
        np.tile(TEMPERATURES, ladders),
        masses=[12.0],
        timestep=1.0,
        seed=seed,
    )
    swaps = exchange.ExchangeAction(ladders, rungs, 1)
    for _ in range(rounds):
        swaps(model, state)
    return state, swaps, spread


def worst_z(state, spread, ladders=4000):
    x = state.positions.reshape(ladders, len(spread), 3).numpy() / spread[:, None]
    per_ladder = (x**2).mean(axis=2)
    return np.abs((per_ladder.mean(0) - 1) / (per_ladder.std(0, ddof=1) / np.sqrt(ladders))).max()


@pytest.mark.parametrize("power", [0.0, 2.0, -1.5])
def test_swaps_keep_the_stationary_distribution(well, monkeypatch, power):
    model = well(stiffness=3.0, power=power)
    state, swaps, spread = swap_only(model, monkeypatch=monkeypatch)
    assert worst_z(state, spread) < 4
    assert (swaps.accepted > 0.3 * swaps.attempts).all()
    # v/sqrt(T) is still standard normal, energies and forces belong to the configurations
    reduced = state.velocities.square().sum((1, 2)) * 12.0 / (BOLTZMANN * state.temperature)
    assert abs(float(reduced.mean()) - 3) < 4 * np.sqrt(6 / len(reduced))
    energy, forces = model.energy_and_forces(state.positions, state.temperature)
    assert torch.allclose(state.energy, energy) and torch.allclose(state.forces, forces)


def test_the_textbook_exponent_is_wrong_for_a_free_energy_that_depends_on_temperature(well, monkeypatch):
    model = well(stiffness=3.0, power=2.0)
    state, _, spread = swap_only(model, formula=classical, monkeypatch=monkeypatch)
    assert worst_z(state, spread) > 20
    monkeypatch.undo()
    state, _, spread = swap_only(well(stiffness=3.0), formula=classical, monkeypatch=monkeypatch)
    assert worst_z(state, spread) < 4


def test_acceptance_is_that_of_independent_samples(well, monkeypatch):
    model, rng, n = well(stiffness=3.0, power=3.0), np.random.default_rng(5), 200_000
    _, swaps, spread = swap_only(model, rounds=2, monkeypatch=monkeypatch)
    for rung, (t1, t2) in enumerate(pairwise(TEMPERATURES)):
        r1, r2 = (0.5 * (rng.normal(size=(n, 3)) * s).astype(float).__pow__(2).sum(1) for s in spread[rung : rung + 2])
        c1, c2 = (float(model.constant(t)) / (BOLTZMANN * t) for t in (t1, t2))
        expected = np.minimum(1, np.exp((c1 - c2) * (r1 - r2))).mean()
        error = np.sqrt(expected * (1 - expected) / swaps.attempts[rung])
        assert abs(swaps.accepted[rung] / swaps.attempts[rung] - expected) < 4 * error


def options(**kwargs):
    base = {"masses": [12.0], "timestep": 5.0, "friction": 5.0, "steps": 200, "swap_every": 5, "progress": False}
    return {**base, "seed": 3, **kwargs}


def test_exchange_populates_both_wells_of_a_temperature_dependent_profile(double_well, zscore):
    """All replicas start in the left well, which at 250 K dynamics hardly leaves."""
    model = double_well(height=0.17, entropy=4e-4, tilt=0.01)
    temperatures = (250.0, 330.0, 430.0, 550.0)
    start = np.array([[-0.8, 0.0, 0.0]])
    result = run_replica_exchange(
        model, start, temperatures, **options(steps=4000, burn_in=2500, stride=20, ladders=200, swap_every=4)
    )
    assert len(result) == 4 and result.swap_acceptance.shape == (3,)
    for rung, t in enumerate(temperatures):
        run = result[rung]
        assert run.positions.shape == (200, 200, 1, 3) and (run.temperature == t).all()
        assert abs(zscore(run.positions[:, :, 0, 0] > 0, model.probability_right(t))) < 4
    assert (result.swap_acceptance > 0.3).all()
    assert result.round_trips.shape == (200, 4) and result.round_trips.mean() > 1


def test_energies_of_each_temperature_are_those_of_its_free_energy(double_well):
    model = double_well(entropy=3e-4)
    result = run_replica_exchange(model, np.zeros((1, 3)), (300.0, 350.0, 500.0), **options(ladders=3))
    for rung, t in enumerate(result.temperatures):
        expected, _ = model.energy_and_forces(torch.from_numpy(result[rung].flat()), float(t))
        assert np.allclose(result[rung].energies.ravel(), expected.numpy(), atol=1e-13)


def test_same_seed_same_bits(double_well):
    runs = [
        run_replica_exchange(double_well(), np.zeros((1, 3)), (300.0, 400.0), **options(ladders=3, seed=s))
        for s in (1, 1, 2)
    ]
    assert np.array_equal(runs[0][0].positions, runs[1][0].positions)
    assert np.array_equal(runs[0].round_trips, runs[1].round_trips)
    assert not np.array_equal(runs[0][0].positions, runs[2][0].positions)


def test_round_trips_of_a_known_history():
    """Every swap accepted on three rungs, even and odd pairs alternating."""
    swaps = exchange.ExchangeAction(ladders=2, rungs=3, every=1)
    history = []
    for k in range(12):
        partner = swaps.partners(k % 2)
        accept = partner != torch.arange(6)
        swaps._count(partner, accept, torch.where(accept, partner, torch.arange(6)))
        history.append(swaps.walker[:3].tolist())
    assert history[:3] == [[1, 0, 2], [1, 2, 0], [2, 1, 0]]
    assert history[5] == [0, 1, 2] and history[11] == [0, 1, 2]
    trips = np.zeros(3, int)
    for walker in range(3):
        ends = [{0: "b", 2: "t"}[row.index(walker)] for row in history if row.index(walker) != 1]
        trips[walker] = sum(a != b for a, b in pairwise(ends)) // 2
    assert (swaps.half_trips[:3] // 2).tolist() == trips.tolist() and trips.min() >= 1
    assert swaps.attempts.tolist() == [12, 12] and swaps.accepted.tolist() == [12, 12]


def test_two_rungs_swap_at_every_round():
    swaps = exchange.ExchangeAction(ladders=1, rungs=2, every=1)
    assert swaps.partners(0).tolist() == [1, 0]
    state = langevin_init(Flat(), np.zeros((2, 1, 3)), [300.0, 400.0], masses=[1.0], timestep=1.0)
    for _ in range(6):
        swaps(Flat(), state)
    assert swaps.accepted.tolist() == [6]


class Flat:
    def energy_and_forces(self, positions, temperature):
        return torch.zeros(len(positions), dtype=positions.dtype), torch.zeros_like(positions)


def test_positions_outside_the_domain_of_the_other_temperature_are_not_swapped():
    class Hole(Flat):
        def energy_and_forces(self, positions, temperature):
            t = torch.as_tensor(temperature).expand(len(positions))
            energy = torch.where((positions[:, 0, 0] > 0) & (t < 350), float("nan"), 0.0).to(positions)
            return energy, torch.zeros_like(positions)

    start = np.zeros((2, 1, 3))
    start[1, 0, 0] = 1.0
    state = langevin_init(Hole(), start, [300.0, 400.0], masses=[1.0], timestep=1.0)
    swaps = exchange.ExchangeAction(1, 2, 1)
    swaps(Hole(), state)
    assert swaps.attempts.tolist() == [1] and swaps.accepted.tolist() == [0]
    assert np.array_equal(state.positions.numpy(), start)


def test_moves_inside_the_ladder():
    bonds = ((0, 1), (1, 2), (2, 3))
    start = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0]], dtype=float)
    result = run_replica_exchange(
        Flat(),
        start,
        (300.0, 400.0),
        moves=TorsionMoves(bonds),
        moves_every=4,
        **options(masses=uniform_masses(4), steps=40, ladders=2),
    )
    assert result[0].acceptance.attempts.tolist() == [10 * 4] and result[0].acceptance.rate.tolist() == [1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperatures": (300.0,)}, "at least two"),
        ({"temperatures": (300.0, 300.0)}, "monotonic"),
        ({"positions": np.zeros((3, 1, 3))}, "expected"),
        ({"ladders": 0}, "ladders"),
        ({"swap_every": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_named(double_well, change, message):
    arguments = {"positions": np.zeros((1, 3)), "temperatures": (300.0, 400.0), **options(), **change}
    with pytest.raises(DataError, match=message):
        run_replica_exchange(double_well(), arguments.pop("positions"), arguments.pop("temperatures"), **arguments)
