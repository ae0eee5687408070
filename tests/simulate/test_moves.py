from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from kernelfe.errors import DataError
from kernelfe.simulate import MoveStatistics, TorsionMoves, langevin_init, metropolis, run_langevin, uniform_masses
from kernelfe.units import BOLTZMANN

CHAIN = ((0, 1), (1, 2), (2, 3))
PEPTIDE = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (2, 6))  # a chain with one branch
ZIGZAG = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [1.5, 1.0, 0.0]], dtype=torch.float64)


def torsion(positions):
    """Torsion 0-1-2-3, rad, (...)."""
    a, b, c, d = positions.unbind(-2)
    b1, b2, b3 = b - a, c - b, d - c
    n1, n2 = torch.linalg.cross(b1, b2), torch.linalg.cross(b2, b3)
    return torch.atan2((torch.linalg.vector_norm(b2, dim=-1) * (b1 * n2).sum(-1)), (n1 * n2).sum(-1))


@dataclass(frozen=True)
class TorsionChain:
    """Four beads, stiff bonds and angles, V(φ) = ½·barrier·(1 − cos 2φ)·(T/300)^power + tilt·cos φ."""

    barrier: float = 0.3
    tilt: float = 0.02
    power: float = 0.0

    def profile(self, phi, temperature):
        scale = (temperature / 300.0) ** self.power
        return 0.5 * self.barrier * scale * (1 - (2 * phi).cos()) + self.tilt * phi.cos()

    def energy_and_forces(self, positions, temperature):
        with torch.enable_grad():
            x = positions.detach().requires_grad_(True)
            bonds = torch.linalg.vector_norm(x[:, 1:] - x[:, :-1], dim=-1)
            energy = 10 * (bonds - torch.tensor([1.0, 1.5, 1.0])).square().sum(1)
            u = (x[:, 1:] - x[:, :-1]) / bonds[..., None]
            energy = energy + 4 * (u[:, 1:] * u[:, :-1]).sum(-1).square().sum(1)
            energy = energy + self.profile(torsion(x), temperature)
            return energy, -torch.autograd.grad(energy.sum(), x)[0]

    def density(self, edges, temperature):
        """Probability of each bin of φ, by quadrature."""
        grid = torch.linspace(-math.pi, math.pi, 72001, dtype=torch.float64)[:-1] + math.pi / 72000
        weight = torch.exp(-self.profile(grid, temperature) / (BOLTZMANN * temperature)).numpy()
        counts, _ = np.histogram(grid.numpy(), edges, weights=weight)
        return counts / counts.sum()


def chi_square(phi, expected, edges):
    counts, _ = np.histogram(phi, edges)
    assert counts.sum() == len(phi)
    keep = expected * len(phi) > 5
    return float((((counts - expected * len(phi)) ** 2)[keep] / (expected * len(phi))[keep]).sum()), int(keep.sum()) - 1


def relax(moves, model, temperature, rounds, n=2500, seed=0):
    """Torsions of n independent replicas after so many rounds of moves and no dynamics, all from φ = 0."""
    start = ZIGZAG.expand(n, 4, 3)
    state = langevin_init(model, start, temperature, masses=uniform_masses(4), timestep=1.0, seed=seed)
    statistics = MoveStatistics(moves.names, np.zeros(len(moves.names), int), np.zeros(len(moves.names), int))
    for _ in range(rounds):
        metropolis(model, state, moves, statistics)
    return state, statistics


EDGES = np.linspace(-math.pi, math.pi, 25)


@pytest.mark.parametrize("width", [math.pi, (0.4, math.pi)])
def test_detailed_balance_against_quadrature(width):
    model = TorsionChain(power=0.5)
    state, statistics = relax(TorsionMoves(CHAIN, width=width), model, 500.0, 120)
    value, freedom = chi_square(torsion(state.positions).numpy(), model.density(EDGES, 500.0), EDGES)
    assert value < chi2.isf(1e-4, freedom)
    assert statistics.attempts.tolist() == [120 * 2500] and 0.1 < statistics.rate[0] < 0.9


def test_the_chi_square_detects_a_proposal_that_is_not_symmetric():
    class Biased(TorsionMoves):
        def propose(self, positions, generator):
            phi = torsion(positions)
            angle = torch.rand(len(phi), generator=generator, dtype=phi.dtype) * (1 + phi.cos() / 2)
            cosine, sine = (phi + angle).cos(), (phi + angle).sin()
            proposal = positions.clone()
            proposal[:, 3] = torch.stack([torch.full_like(phi, 1.5), cosine, sine], dim=1)
            return proposal, torch.zeros(len(phi), dtype=torch.long)

    model = TorsionChain()
    state, _ = relax(Biased(CHAIN), model, 500.0, 120)
    value, freedom = chi_square(torsion(state.positions).numpy(), model.density(EDGES, 500.0), EDGES)
    assert value > 2 * chi2.isf(1e-4, freedom)


def test_moves_cross_a_barrier_that_dynamics_does_not(zscore):
    """0.5 eV at 300 K is 19 kT. With moves the populations of the wells at 0 and π follow the quadrature."""
    model, n = TorsionChain(barrier=0.5, tilt=0.02), 150
    options = {"masses": uniform_masses(4), "timestep": 3.0, "friction": 20.0, "progress": False, "seed": 1}
    start = ZIGZAG.expand(n, 4, 3)
    alone = run_langevin(model, start, 300.0, steps=200, **options)
    assert (np.abs(torsion(torch.from_numpy(alone.positions)).numpy()) < math.pi / 2).all()
    run = run_langevin(
        model, start, 300.0, steps=900, burn_in=300, moves=TorsionMoves(CHAIN), moves_every=3, stride=15, **options
    )
    inside = np.abs(torsion(torch.from_numpy(run.positions)).numpy()) < math.pi / 2
    expected = model.density(np.array([-math.pi, -math.pi / 2, math.pi / 2, math.pi]), 300.0)[1]
    assert 0.15 < expected < 0.35
    assert abs(zscore(inside, expected)) < 4
    assert run.acceptance.names == ("torsion 1-2",)
    assert run.acceptance.attempts.tolist() == [n * 300] and 0.05 < run.acceptance.rate[0] < 0.5


def test_energy_and_forces_belong_to_the_positions_after_moves():
    model = TorsionChain(power=1.0)
    start = ZIGZAG.expand(50, 4, 3)
    temperature = np.linspace(200.0, 600.0, 50)
    state = langevin_init(model, start, temperature, masses=uniform_masses(4), timestep=1.0)
    before, velocities = state.positions.clone(), state.velocities.clone()
    accept = metropolis(model, state, TorsionMoves(CHAIN, width=1.5))
    assert 0 < int(accept.sum()) < 50
    assert torch.equal(state.positions[~accept], before[~accept])
    assert not torch.isclose(torsion(state.positions[accept]), torsion(before[accept])).any()
    energy, forces = model.energy_and_forces(state.positions, state.temperature)
    assert torch.allclose(state.energy, energy, atol=1e-13) and torch.allclose(state.forces, forces, atol=1e-12)
    assert torch.equal(state.velocities, velocities)


class ChainWithEnergies(TorsionChain):
    """The same with the optional method ``energies``; counts the configurations whose forces are computed."""

    forces = 0

    def energies(self, positions, temperature):
        return super().energy_and_forces(positions, temperature)[0]

    def energy_and_forces(self, positions, temperature):
        ChainWithEnergies.forces += len(positions)
        return super().energy_and_forces(positions, temperature)


@pytest.mark.parametrize("temperature", [300.0, torch.linspace(280.0, 600.0, 50).double()])
def test_energies_alone_give_the_same_moves_and_forces_of_the_moved_only(temperature):
    moves, rounds, states, moved = TorsionMoves(CHAIN), 4, [], []
    for model in (TorsionChain(power=1.0), ChainWithEnergies(power=1.0)):
        start = ZIGZAG[None].repeat(50, 1, 1)
        state = langevin_init(model, start, temperature, masses=uniform_masses(4), seed=5, timestep=1.0)
        before, ChainWithEnergies.forces = state.forces, 0
        kept = before.clone()
        moved.append(metropolis(model, state, moves, rounds=rounds))
        states.append(state)
        assert torch.equal(before, kept)  # tensors that the model returned are not written to
    plain, quick = states
    assert torch.equal(*moved) and 0 < ChainWithEnergies.forces == int(moved[1].sum()) < 50
    for name in ("positions", "energy", "forces"):
        torch.testing.assert_close(getattr(quick, name), getattr(plain, name), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_proposals_without_finite_energy_are_rejected(value):
    class Wall(TorsionChain):
        def energy_and_forces(self, positions, temperature):
            energy, forces = super().energy_and_forces(positions, temperature)
            return torch.where(torsion(positions).abs() > 1e-9, value, energy), forces

    state = langevin_init(Wall(), ZIGZAG.expand(20, 4, 3), 300.0, masses=uniform_masses(4), timestep=1.0)
    assert not metropolis(Wall(), state, TorsionMoves(CHAIN)).any()
    assert torch.equal(state.positions, ZIGZAG.expand(20, 4, 3))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.floats(0.01, math.pi))
def test_bonds_angles_and_one_side_stay_and_the_map_has_unit_jacobian(seed, width):
    """And only one side moves."""
    positions = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 7, 3)) * 2)
    moves = TorsionMoves(PEPTIDE, width=width)

    def propose(x):
        return moves.propose(x, torch.Generator().manual_seed(seed))

    proposal, kind = propose(positions)
    neighbours = [{b for bond in PEPTIDE for b in bond if a in bond and b != a} for a in range(7)]
    for x, y, axis in zip(positions, proposal, kind, strict=True):
        distance, turned = torch.cdist(x[None], x[None])[0], torch.cdist(y[None], y[None])[0]
        for a, b in PEPTIDE:
            assert torch.isclose(distance[a, b], turned[a, b], atol=1e-10)
        for centre in range(7):
            for a in neighbours[centre]:
                for b in neighbours[centre]:
                    assert torch.isclose(distance[a, b], turned[a, b], atol=1e-9)
        moved = {bead for bead in range(7) if not torch.allclose(x[bead], y[bead], rtol=0, atol=0)}
        assert not moved & set(moves.rotated[int(axis)])
    jacobian = torch.autograd.functional.jacobian(lambda x: propose(x)[0][0], positions)[:, :, 0].reshape(21, 21)
    assert abs(float(torch.linalg.det(jacobian)) - 1) < 1e-8


def test_default_axes_are_the_inner_bonds_and_turn_the_smaller_side():
    assert TorsionMoves(PEPTIDE).rotated == ((2, 1), (2, 3), (3, 4))
    ring = ((0, 1), (1, 2), (2, 0), (2, 3), (3, 4))
    assert TorsionMoves(ring).rotated == ((2, 3),)


def test_every_axis_is_tried_and_beads_beyond_the_bonds_stay():
    positions = torch.from_numpy(np.random.default_rng(0).normal(size=(600, 8, 3)))
    proposal, kind = TorsionMoves(PEPTIDE).propose(positions, torch.Generator().manual_seed(0))
    assert (np.bincount(kind.numpy(), minlength=3) > 150).all()
    assert torch.equal(proposal[:, 7], positions[:, 7])


def test_same_seed_same_bits_with_moves():
    options = {"masses": uniform_masses(4), "timestep": 2.0, "steps": 30, "progress": False, "seed": 9}
    start = ZIGZAG.expand(10, 4, 3)
    moves = TorsionMoves(CHAIN)
    a, b = (run_langevin(TorsionChain(), start, 300.0, moves=moves, moves_every=2, **options) for _ in range(2))
    assert np.array_equal(a.positions, b.positions)
    assert np.array_equal(a.acceptance.accepted, b.acceptance.accepted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"axes": [(0, 2)]}, "not bonded"),
        ({"axes": [(2, 3)]}, r"try \(3, 2\)"),
        ({"axes": []}, "axes is empty"),
        ({"width": 0.0}, "width"),
        ({"width": [1.0, 4.0]}, "width"),
        ({"bonds": ((0, 1), (1, 2))}, "on both sides"),
        ({"bonds": ((0, 1), (1, 2), (2, 0), (2, 3)), "axes": [(1, 2)]}, "ring"),
    ],
)
def test_wrong_moves_are_named(arguments, message):
    with pytest.raises(DataError, match=message):
        TorsionMoves(**{"bonds": CHAIN, **arguments})


def test_too_few_beads_are_named():
    with pytest.raises(DataError, match="3 beads"):
        TorsionMoves(CHAIN).propose(torch.zeros(2, 3, 3), torch.Generator())


def test_several_rounds_of_moves_after_a_step_sample_the_same_distribution(double_well):
    """And are counted."""
    model = double_well(height=0.1)

    class Flip:
        names = ("flip",)

        def propose(self, positions, generator):
            flipped = positions.clone()
            flipped[..., 0] *= -1.0
            return flipped, torch.zeros(len(positions), dtype=torch.long)

    run = run_langevin(
        model,
        np.full((200, 1, 3), 0.5),
        300.0,
        masses=[12.0],
        timestep=5.0,
        steps=200,
        stride=5,
        burn_in=50,
        moves=Flip(),
        moves_every=1,
        move_rounds=3,
        progress=False,
    )
    assert run.acceptance.attempts.sum() == 200 * 200 * 3
    right = (run.positions[:, :, 0, 0] > 0.0).mean(0)  # of each replica
    gap = right.mean() - model.probability_right(300.0)
    assert abs(gap) < 4.0 * right.std(ddof=1) / math.sqrt(len(right))


def test_set_params_forgets_what_was_derived():
    moves = TorsionMoves(PEPTIDE[:4]).set_params(bonds=PEPTIDE)
    assert moves.rotated == TorsionMoves(PEPTIDE).rotated and moves.axes is None
    with pytest.raises(DataError, match="bead 6"):
        moves.propose(torch.zeros(2, 5, 3), torch.Generator())
