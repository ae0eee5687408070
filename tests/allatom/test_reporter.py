"""The OpenMM reporter: what it keeps, force groups, virtual sites, interruptions."""

from __future__ import annotations

import numpy as np
import pytest
from ase.units import kJ, mol

from kernelfe.allatom import BeadMap, ForceReporter, Trajectory
from kernelfe.errors import DataError

openmm = pytest.importorskip("openmm")
pytest.importorskip("h5py")
mda = pytest.importorskip("MDAnalysis")
app = pytest.importorskip("openmm.app")

KJ = kJ / mol
SINGLE = {"rtol": 3e-6, "atol": 1e-6}


def simulation(periodic=False, restraint=0.0, virtual=False, seed=1):
    """Three atoms on springs, the first two constrained; restraints in force group 7, a virtual site if asked for."""
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("ABC", topology.addChain())
    carbon = app.Element.getBySymbol("C")
    atoms = [topology.addAtom(f"C{k}", carbon, residue) for k in range(3)]
    for mass in (12.0, 1.0, 14.0):
        system.addParticle(mass)
    topology.addBond(atoms[0], atoms[1])
    topology.addBond(atoms[1], atoms[2])
    system.addConstraint(0, 1, 0.11)
    pull = openmm.CustomExternalForce("20*(x^2+y^2+z^2)+3*x")
    far = openmm.CustomExternalForce(f"{restraint}*z")
    far.setForceGroup(7)
    if virtual:
        system.addParticle(0.0)
        topology.addAtom("M", None, residue)
        system.setVirtualSite(3, openmm.TwoParticleAverageSite(0, 2, 0.75, 0.25))
    for k in range(system.getNumParticles()):
        pull.addParticle(k)
    far.addParticle(0)
    system.addForce(pull)
    system.addForce(far)
    if periodic:
        bonds = openmm.HarmonicBondForce()
        bonds.addBond(0, 2, 0.2, 10.0)
        bonds.setUsesPeriodicBoundaryConditions(True)
        system.addForce(bonds)
        system.setDefaultPeriodicBoxVectors((3, 0, 0), (0.5, 3, 0), (0.2, 0.3, 3))
    integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.002)
    integrator.setRandomNumberSeed(seed)
    run = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("Reference"))
    x = [openmm.Vec3(0, 0, 0), openmm.Vec3(0.11, 0, 0), openmm.Vec3(0.2, 0.1, 0)]
    run.context.setPositions([*x, *[openmm.Vec3(0, 0, 0)] * virtual])
    run.context.computeVirtualSites()
    return run


class Watch:
    """Expected contents of the reporter's file, computed separately."""

    def __init__(self, interval, groups=None):
        self.interval, self.options, self.rows = interval, {} if groups is None else {"groups": groups}, []

    def describeNextReport(self, run):
        return {"steps": self.interval - run.currentStep % self.interval, "include": []}

    def report(self, run, _):
        state = run.context.getState(positions=True, forces=True, energy=True, **self.options)
        self.rows.append(
            (
                state.getPositions(asNumpy=True)._value * 10,
                state.getForces(asNumpy=True)._value * KJ / 10,
                state.getPotentialEnergy()._value * KJ,
                state.getTime()._value,
            )
        )


@pytest.mark.parametrize("periodic", [False, True])
def test_what_is_kept(tmp_path, periodic):
    run, watch = simulation(periodic), Watch(5)
    with ForceReporter(tmp_path / "run", 5, frames_per_file=4) as reporter:
        run.reporters += [reporter, watch]
        run.step(50)
    assert len(list((tmp_path / "run").iterdir())) == 3
    trajectory = Trajectory(tmp_path / "run")
    frames = trajectory.read()
    for k, name in enumerate(("positions", "forces", "energies", "times")):
        np.testing.assert_allclose(getattr(frames, name), [row[k] for row in watch.rows], **SINGLE)
    np.testing.assert_allclose(frames.energies, [row[2] for row in watch.rows], rtol=1e-14)  # in double precision
    assert frames.steps.tolist() == list(range(5, 51, 5))
    assert trajectory.names == ["ABC:C0", "ABC:C1", "ABC:C2"] and trajectory.masses.tolist() == [12, 1, 14]
    assert trajectory.bonds == [(0, 1), (1, 2)] and trajectory.constraints == [(0, 1)]
    assert trajectory.select("name C2") == [2]
    if periodic:
        np.testing.assert_allclose(frames.cell[0], [[30, 0, 0], [5, 30, 0], [2, 3, 30]], rtol=1e-5, atol=1e-5)
    else:
        assert frames.cell is None


def test_restraints_are_left_out_by_their_group(tmp_path):
    run, watch = simulation(restraint=500.0), Watch(5, groups={0})
    with ForceReporter(tmp_path / "run", 5, groups={0}) as reporter:
        run.reporters += [reporter, watch]
        run.step(20)
    frames = Trajectory(tmp_path / "run").read()
    np.testing.assert_allclose(frames.forces, [row[1] for row in watch.rows], **SINGLE)
    np.testing.assert_allclose(frames.energies, [row[2] for row in watch.rows])
    total = run.context.getState(forces=True).getForces(asNumpy=True)._value * KJ / 10
    assert abs(total[0, 2] - frames.forces[-1, 0, 2]) > 0.4  # the restraint's 500 kJ/mol/nm


def test_forces_of_virtual_sites_are_not_counted_twice(tmp_path):
    """The summed force is minus the derivative of the energy by a common displacement: finite differences."""
    run = simulation(virtual=True)
    with ForceReporter(tmp_path / "run", 5) as reporter:
        run.reporters.append(reporter)
        run.step(5)
    frames = Trajectory(tmp_path / "run").read()
    assert (frames.forces[:, 3] == 0.0).all()
    x, energies = run.context.getState(positions=True).getPositions(asNumpy=True)._value, []
    for shift in (-1e-4, 1e-4):
        run.context.setPositions(x + np.array([shift, 0.0, 0.0]))
        run.context.computeVirtualSites()
        energies.append(run.context.getState(energy=True).getPotentialEnergy()._value)
    expected = -(energies[1] - energies[0]) / 2e-4 * KJ / 10
    np.testing.assert_allclose(frames.forces[0].sum(0)[0], expected, rtol=1e-5)


def test_interrupted_runs(tmp_path):
    run = simulation()
    reporter = ForceReporter(tmp_path / "run", 2, frames_per_file=3)
    run.reporters.append(reporter)
    run.step(16)  # 8 frames: two parts of 3, and 2 in memory
    assert len(Trajectory(tmp_path / "run").read()) == 6
    (tmp_path / "run" / ".part-000002-0123.h5md").write_bytes(b"half a file of a killed process")
    assert len(Trajectory(tmp_path / "run").read()) == 6
    reporter.close()
    assert len(Trajectory(tmp_path / "run").read()) == 8
    with pytest.raises(DataError, match="earlier run"):
        ForceReporter(tmp_path / "run", 2)
    with ForceReporter(tmp_path / "run", 2, append=True) as more:
        run.reporters[:] = [more]
        run.step(4)
    assert Trajectory(tmp_path / "run").read().steps.tolist() == list(range(2, 21, 2))


def test_frames_are_written_when_the_reporter_is_dropped(tmp_path):
    run = simulation()
    run.reporters.append(ForceReporter(tmp_path / "run", 2))
    run.step(4)
    run.reporters.clear()
    assert len(Trajectory(tmp_path / "run").read()) == 2


def test_mdanalysis_reads_the_parts_by_itself(tmp_path):
    run, watch = simulation(periodic=True), Watch(5)
    with ForceReporter(tmp_path / "run", 5) as reporter:
        run.reporters += [reporter, watch]
        run.step(10)
    universe = mda.Universe(str(tmp_path / "run" / "part-000000.h5md"))
    for ts, (x, f, _, time) in zip(universe.trajectory, watch.rows, strict=True):
        np.testing.assert_allclose(ts.positions, x, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ts.forces, f / KJ, rtol=1e-5, atol=1e-4)
        assert ts.time == pytest.approx(time)


def test_a_run_that_blows_up(tmp_path):
    run = simulation()
    run.reporters.append(ForceReporter(tmp_path / "run", 1))
    run.context.setPositions([openmm.Vec3(1e200, 0, 0)] * 3)
    with pytest.raises((DataError, openmm.OpenMMException)):
        run.step(1)


def test_to_beads(tmp_path):
    run, watch = simulation(), Watch(5)
    with ForceReporter(tmp_path / "run", 5) as reporter:
        run.reporters += [reporter, watch]
        run.step(50)
    trajectory = Trajectory(tmp_path / "run")
    beads = BeadMap.of_atoms(3, [0, 2], constraints=trajectory.constraints, kinds=["A", "B"])
    frames = trajectory.to_frames(beads, 300.0, chunk=3)
    forces = np.array([row[1] for row in watch.rows])
    np.testing.assert_allclose(frames.labels["mean_force"][:, 0], forces[:, 0] + forces[:, 1], **SINGLE)
    np.testing.assert_allclose(frames.labels["mean_energy"], [row[2] for row in watch.rows])
    with pytest.raises(DataError, match="constrained pair"):  # a map that does not know the constraints of the run
        trajectory.to_frames(BeadMap.of_atoms(3, [0, 2]), 300.0)


def test_refusals(tmp_path):
    for options in ({"interval": 0}, {"interval": 1, "frames_per_file": 0}, {"interval": 1, "groups": {32}}):
        with pytest.raises(DataError):
            ForceReporter(tmp_path / "run", **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no part"):
        Trajectory(tmp_path / "empty")
