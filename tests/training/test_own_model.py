"""A user's linear model of one short file (torsion_spline.py): checked, sampled, refined, driven from ASE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.fd import calculate_numerical_forces

from kernelfe import Frames
from kernelfe.calculators import FreeEnergyCalculator
from kernelfe.errors import DataError
from kernelfe.protocol import LinearModel
from kernelfe.simulate import LangevinProtocol, run_langevin, run_replica_exchange, uniform_masses
from kernelfe.testing import check_model
from kernelfe.training import minimize_relative_entropy
from kernelfe.units import BOLTZMANN

from .torsion_spline import ANGLE, BOND, BONDS, TorsionSpline, dihedral

T = 300.0
EDGES = np.linspace(-np.pi, np.pi, 25)
PROTOCOL = LangevinProtocol(steps=200, stride=20, burn_in=100, friction=10.0, moves="auto", moves_every=1, seed=2)


def density(chi):
    """Known density of the dihedral: two basins of unequal depth with barriers of some kT."""
    p = np.exp(-(0.06 * np.cos(2.0 * chi) + 0.03 * np.sin(chi)) / (BOLTZMANN * T))
    return p / p.sum()


TRUTH = density(np.linspace(-np.pi, np.pi, 24001)[:-1] + np.pi / 24000).reshape(24, -1).sum(1)


def chains(chi, rng):
    """Chains of four beads with bonds and angles near their minima and these dihedrals."""
    n = len(chi)
    r, theta = BOND + 0.03 * rng.normal(size=(n, 3)), ANGLE + 0.06 * rng.normal(size=(n, 2))
    x = np.zeros((n, 4, 3))
    x[:, 0, 0], x[:, 0, 1] = r[:, 0] * np.cos(theta[:, 0]), r[:, 0] * np.sin(theta[:, 0])
    x[:, 2, 0] = r[:, 1]
    out = r[:, 2] * np.sin(theta[:, 1])
    x[:, 3] = np.stack([r[:, 1] - r[:, 2] * np.cos(theta[:, 1]), out * np.cos(chi), out * np.sin(chi)], 1)
    return x


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    grid = np.linspace(-np.pi, np.pi, 20001)
    chi = np.interp(rng.random(3000), np.cumsum(density(grid)), grid)
    x = chains(chi, rng)
    found = dihedral(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(np.cos(found - chi), 1.0, atol=1e-9)
    return Frames.from_arrays(x, temperature=T, kinds=TorsionSpline.kinds, bonds=BONDS)


def distance(positions):
    """L1 distance of the dihedral's histogram from the known density."""
    found, _ = np.histogram(dihedral(torch.from_numpy(positions)).numpy(), EDGES)
    return float(np.abs(found / found.sum() - TRUTH).sum())


def sampled(model, frames):
    return run_langevin(model, frames.positions[:200], T, PROTOCOL, masses=uniform_masses(4), progress=False)


@pytest.fixture(scope="module")
def refined(frames):
    return minimize_relative_entropy(
        TorsionSpline(), frames, inefficiency=1.0, rounds=5, replicas=400, steps=100, stride=10, progress=False
    )


def test_the_model_keeps_the_contract(frames, refined):
    for model in (TorsionSpline(), refined.model):
        assert isinstance(model, LinearModel)
        check_model(model, frames.positions[:4], T)


def test_it_is_sampled_at_a_time_step_of_its_stiff_bonds(frames):
    model = TorsionSpline()
    run = sampled(model, frames)
    assert run.acceptance.names == ("torsion 1-2",) and run.acceptance.rate[0] == 1.0  # no torsional energy yet
    # 20 eV/Å² and 12 u allow the usual step; a bond of ten times the stiffness does not
    assert run.state.timestep == PROTOCOL.time_step(model, uniform_masses(4)) == 5.0
    model.stiff_bonds = ((0, 1, 200.0),)
    assert 1.0 < PROTOCOL.time_step(model, uniform_masses(4)) < 4.0
    both = run_replica_exchange(
        model, frames.positions[0], (300.0, 400.0), PROTOCOL, masses=uniform_masses(4), progress=False, steps=40
    )
    assert both.swap_acceptance.shape == (1,)


def test_relative_entropy_brings_its_density_to_that_of_the_frames(frames, refined):
    model = TorsionSpline()
    # 1.0 and 0.07; sampling alone gives 0.05
    before, after = distance(sampled(model, frames).flat()), distance(sampled(refined.model, frames).flat())
    assert refined.converged and isinstance(refined.model, TorsionSpline)
    assert after < 0.2 * before and before > 0.5
    assert not model.mean.any()  # a new model, the old one as it was
    # what the frames tell narrows the weights
    assert (refined.model.lower.diagonal() > 1.5 * model.lower.diagonal()).all()


def test_ase_drives_it(refined, frames):
    atoms = Atoms("C4", positions=frames.positions[0])
    atoms.calc = FreeEnergyCalculator(refined.model, T)
    energy, forces = refined.model.energy_and_forces(torch.from_numpy(frames.positions[:1].copy()), T)
    assert atoms.get_potential_energy() == float(energy[0])
    np.testing.assert_array_equal(atoms.get_forces(), forces[0].numpy())
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    with pytest.raises(DataError, match="the model needs 'C'"):
        atoms.calc.get_property("energy", Atoms("CCCN", positions=frames.positions[0]))


def test_frames_of_another_molecule_are_refused(frames):
    other = Frames.from_arrays(frames.positions, temperature=T, kinds=("C", "C", "C", "N"))
    with pytest.raises(DataError, match="another molecule"):
        minimize_relative_entropy(TorsionSpline(), other)
    with pytest.raises(DataError, match="LinearModel"):
        minimize_relative_entropy(object(), frames)
    with pytest.raises(TypeError, match="stepz"):
        minimize_relative_entropy(TorsionSpline(), frames, stepz=3)
