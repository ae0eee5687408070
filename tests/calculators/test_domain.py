"""Configurations outside of the training data, met through ASE."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from ase.md.verlet import VelocityVerlet

import kernelfe
from kernelfe import FreeEnergyRegressor, Sparse
from kernelfe.errors import DataError, DomainError


@pytest.fixture(scope="module")
def fitted():
    frames = kernelfe.datasets.load("alanine-dipeptide")[::100]
    return FreeEnergyRegressor(solver=Sparse(inducing=50), optimizer=None).fit(frames), frames


def beads(frames):
    return Atoms("X6", positions=frames.positions[0], masses=[12.0] * 6)


def stretched(frames, by):
    atoms = beads(frames)
    atoms.positions[0] += by * (atoms.positions[0] - atoms.positions[1]) / atoms.get_distance(0, 1)
    return atoms


def test_the_score_is_a_result(fitted):
    model, frames = fitted
    atoms = beads(frames)
    atoms.calc = model.calculator(350.0)
    atoms.get_potential_energy()
    assert atoms.calc.results["domain_score"] == pytest.approx(model.domain_score(frames.positions[:1])[0])
    atoms.calc = model.calculator(350.0, outside="ignore")
    assert atoms.calc.get_property("domain_score", atoms) <= 1.0


def test_it_warns_once_then_raises(fitted):
    model, frames = fitted
    calc = model.calculator(350.0)
    with pytest.warns(UserWarning, match="beads 0 and 1"):
        calc.get_potential_energy(stretched(frames, 0.25))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calc.get_potential_energy(stretched(frames, 0.24))
        model.calculator(350.0, outside="ignore").get_potential_energy(stretched(frames, 2.0))
    with pytest.raises(DomainError, match="beads 0 and 1"):
        calc.get_potential_energy(stretched(frames, 2.0))
    with pytest.raises(DomainError, match="beads 0 and 1"):
        model.calculator(350.0, outside="raise").get_potential_energy(stretched(frames, 0.25))
    with pytest.raises(DataError, match="outside='never'"):
        model.calculator(350.0, outside="never")


def test_molecular_dynamics_stops_with_a_restart_file(fitted, tmp_path):
    model, frames = fitted
    atoms = beads(frames)
    file = tmp_path / "restart.traj"
    atoms.calc = model.calculator(350.0, outside="raise", restart=file)
    atoms.set_velocities(np.outer([1, -1, 0, 0, 0, 0], [0.3, 0, 0]))  # a bond is torn apart
    with pytest.raises(DomainError, match=r"restart\.traj"):
        VelocityVerlet(atoms, timestep=0.5).run(2000)
    last = read(file)
    assert model.domain_score(last.positions)[0] <= 1.0
    assert np.abs(last.get_velocities()).max() > 0.01


def test_a_restart_file_that_cannot_be_written_does_not_hide_why_the_run_stopped(fitted, tmp_path):
    model, frames = fitted
    for restart in (tmp_path / "missing" / "restart.traj", tmp_path / "restart.unknown"):
        calc = model.calculator(350.0, restart=restart)
        calc.get_potential_energy(beads(frames))
        with pytest.raises(DomainError, match=r"beads 0 and 1.*could not be written"):
            calc.get_potential_energy(stretched(frames, 2.0))
