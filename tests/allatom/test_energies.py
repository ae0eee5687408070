"""Tables of potential energies as OpenMM, GROMACS and LAMMPS write them."""

from __future__ import annotations

import numpy as np
import pytest
from ase.units import kcal, kJ, mol

from kernelfe.allatom import EnergyTable, read_energies
from kernelfe.errors import DataError, UnitsError

CSV = """\
#"Step","Time (ps)","Potential Energy (kJ/mole)","Temperature (K)"
1000,2.0,-123.5,300.1
2000,4.0,-120.25,299.0
"""
XVG = """\
# This file was created by gmx energy
@    title "GROMACS Energies"
@    xaxis  label "Time (ps)"
@    yaxis  label "(kJ/mol), (K)"
@TYPE xy
@ s0 legend "Potential"
@ s1 legend "Temperature"
    0.000000  -123.500000  300.0
    2.000000  -120.250000  299.0
"""
LOG = """\
LAMMPS (2 Aug 2023)
thermo_style custom step temp pe
   Step          Temp          PotEng
         0   300            -123.5
      1000   299.5          -120.25
WARNING: something to be said between the rows
      2000   299.5          -110.5
Loop time of 1.2 on 1 procs for 2000 steps
   Step          Temp          PotEng
      2000   299.5          -110.5
      3000   299.5          -100.25
Loop time of 1.2 on 1 procs for 1000 steps
"""


def test_openmm(tmp_path):
    (tmp_path / "e.csv").write_text(CSV)
    table = read_energies(tmp_path / "e.csv")
    np.testing.assert_allclose(table.energies, np.array([-123.5, -120.25]) * kJ / mol)
    assert table.steps.tolist() == [1000, 2000] and table.times.tolist() == [2, 4]


def test_openmm_writes_this_header(tmp_path):
    app = pytest.importorskip("openmm.app")
    import openmm

    system = openmm.System()
    system.addParticle(1.0)
    spring = openmm.CustomExternalForce("50*x^2+3")
    spring.addParticle(0)
    system.addForce(spring)
    topology = app.Topology()
    topology.addAtom("X", None, topology.addResidue("X", topology.addChain()))
    simulation = app.Simulation(topology, system, openmm.VerletIntegrator(0.001))
    simulation.context.setPositions([openmm.Vec3(0.1, 0, 0)])
    with open(tmp_path / "e.csv", "w") as file:
        simulation.reporters.append(app.StateDataReporter(file, 5, step=True, time=True, potentialEnergy=True))
        simulation.step(10)
        expected = simulation.context.getState(energy=True).getPotentialEnergy()._value
    table = read_energies(tmp_path / "e.csv")
    assert table.steps.tolist() == [5, 10]
    np.testing.assert_allclose(table.energies[-1], expected * kJ / mol, rtol=1e-6)


def test_gromacs(tmp_path):
    (tmp_path / "e.xvg").write_text(XVG)
    table = read_energies(tmp_path / "e.xvg")
    np.testing.assert_allclose(table.energies, np.array([-123.5, -120.25]) * kJ / mol)
    assert table.steps is None and table.times.tolist() == [0, 2]


def test_lammps(tmp_path):
    (tmp_path / "log.lammps").write_text(LOG)
    table = read_energies(tmp_path / "log.lammps", units="charmm")
    np.testing.assert_allclose(
        table.at(np.array([2000, 0, 500, 3000]), None)[[0, 1, 3]], np.array([-110.5, -123.5, -100.25]) * kcal / mol
    )
    assert np.isnan(table.at(np.array([2000, 0, 500, 3000]), None)[2])
    with pytest.raises(UnitsError, match="states no units"):
        read_energies(tmp_path / "log.lammps")


@pytest.mark.parametrize(
    ("name", "text", "error", "match"),
    [
        ("e.csv", CSV.replace("Potential", "Kinetic"), DataError, "no column"),
        ("e.csv", CSV.replace(" (kJ/mole)", ""), UnitsError, "does not state"),
        ("e.csv", CSV.replace("-123.5", "nan"), DataError, "not finite"),
        ("e.csv", CSV.replace("-123.5", "x"), DataError, "not readable"),
        ("e.csv", "", DataError, "not readable"),
        ("e.csv", "x" * 200_000 + "\n", DataError, "too long"),
        ("e.xvg", XVG.replace('"Potential"', '"Kinetic"'), DataError, "no column"),
        ("e.xvg", XVG.replace("(kJ/mol), (K)", "energy"), UnitsError, "does not state"),
        ("e.xvg", XVG.replace("Time (ps)", "Time (ns)"), UnitsError, "Time"),
        ("e.xvg", "\n".join(XVG.splitlines()[:7]) + "\n", DataError, "no energies"),
        ("e.xvg", XVG.replace("  299.0", ""), DataError, "3 columns"),
        ("log", "Step PotEng\n", DataError, "no table"),
    ],
)
def test_refusals(name, text, error, match, tmp_path):
    (tmp_path / name).write_text(text)
    units = {"units": "charmm"} if name == "log" else {}
    with pytest.raises(error, match=match):
        read_energies(tmp_path / name, **units)
    with pytest.raises(DataError, match="does not exist"):
        read_energies(tmp_path / "missing.csv")


@pytest.mark.parametrize(("name", "text"), [("e.csv", CSV), ("e.xvg", XVG)])
def test_a_last_line_that_is_cut_off_does_not_count(name, text, tmp_path):
    (tmp_path / name).write_text(text[:-3])
    with pytest.warns(UserWarning, match="may be cut"):
        assert len(read_energies(tmp_path / name).energies) == 1


def test_units_that_the_file_states(tmp_path):
    (tmp_path / "e.csv").write_text(CSV)
    with pytest.raises(UnitsError, match="leave out"):
        read_energies(tmp_path / "e.csv", units="openmm")
    (tmp_path / "e.csv").write_bytes(b"\x80\x04\xff pickle")
    with pytest.raises(DataError, match="not readable"):
        read_energies(tmp_path / "e.csv")


def test_matching():
    table = EnergyTable(np.array([3.0, 1.0, 2.0]), times=np.array([4.0, 0.0, 2.0]))
    single = np.array([0.0, 2.0, 4.0]).astype("f4").astype(float) * (1 + 1e-7)
    assert table.at(None, single).tolist() == [1.0, 2.0, 3.0]
    assert np.isnan(table.at(np.arange(3), np.array([1.0, 3.0, 9.0]))).all()
    with pytest.raises(DataError, match="neither"):
        table.at(np.arange(3), None)
    with pytest.warns(UserWarning, match="two energies for 1"):
        assert EnergyTable(np.array([1.0, 2.0]), steps=np.array([5, 5])).at(np.array([5]), None) == [2.0]
    with pytest.raises(DataError, match="denser"):
        table.at(None, np.array([1e8]))
