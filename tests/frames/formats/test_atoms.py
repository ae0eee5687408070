"""Frames from and to ASE Atoms and extended XYZ, with the traps of ASE."""

from __future__ import annotations

import ase
import ase.io
import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from kernelfe import Frames
from kernelfe.errors import DataError, UnitsError

N, BEADS = 4, 3


@pytest.fixture
def images():
    """Atoms with custom keys: forces in arrays, energies in the info of every second frame."""
    rng = np.random.default_rng(0)
    result = []
    for row in range(N):
        atoms = ase.Atoms("CNO", positions=rng.normal(size=(BEADS, 3)))
        atoms.arrays["REF_mean_force"] = rng.normal(size=(BEADS, 3))
        atoms.info["temperature"] = 300.0 + 50 * row
        atoms.info["my_std"] = 0.1 + row
        if row % 2 == 0:
            atoms.info["REF_mean_energy"] = rng.normal()
        result.append(atoms)
    return result


@pytest.fixture
def frames():
    """Every kind of content that extended XYZ can hold, with numbers that 8 decimals would lose."""
    rng = np.random.default_rng(1)
    block = np.array([[2.0, 1.0], [1.0, 3.0]])
    return Frames.from_arrays(
        rng.normal(size=(N, BEADS, 3)),
        temperature=np.linspace(300, 450, N),
        labels={
            "mean_force": rng.normal(size=(N, BEADS, 3)),
            "second_thermal_response_force": 1e-9 * rng.normal(size=(N, BEADS, 3)),
            "mean_energy": 1e5 + rng.normal(size=N),
            "generalized_force": rng.normal(size=(N, 2)),
            "parameter_derivative:charge": rng.normal(size=N),
            "stress": rng.normal(size=(N, 6)),
        },
        noise={
            "mean_force": rng.uniform(1, 2, (N, BEADS, 3)),
            "mean_energy": rng.uniform(1, 2, N),
            "generalized_force": block * np.arange(1, N + 1)[:, None, None],
        },
        displacements=rng.normal(size=(N, 2, BEADS, 3)),
        parameters={"charge": rng.uniform(size=N), "scale": 2},
        kinds=["CA", "N", "O"],
        masses=[12.0, 14.5, 16.25],
        cell=np.diag([9.0, 10.0, 11.0]) + 0.1 * rng.normal(size=(N, 3, 3)),
        bonds=[(0, 1), (1, 2)],
        present={"mean_energy": np.arange(N) != 1, "mean_force": np.arange(N) > 0},
    )


def assert_same(a, b):
    assert a.kinds == b.kinds and a.bonds == b.bonds and set(a.labels) == set(b.labels)
    for name in ("positions", "temperature", "displacements", "masses", "cell"):
        np.testing.assert_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ("parameters", "labels", "present", "noise"):
        np.testing.assert_equal(getattr(a, name), getattr(b, name), err_msg=name)


# ---------------------------------------------------------------------- Atoms


def test_from_atoms(images):
    frames = Frames.from_atoms(images)
    np.testing.assert_array_equal(frames.positions, [a.positions for a in images])
    np.testing.assert_array_equal(frames.temperature, [300, 350, 400, 450])
    np.testing.assert_array_equal(frames.labels["mean_force"], [a.arrays["REF_mean_force"] for a in images])
    assert frames.present["mean_energy"].tolist() == [True, False, True, False]
    assert frames.kinds == ("C", "N", "O") and frames.cell is None
    assert frames.masses is None  # element masses are not bead masses, and that of X would be 1
    assert len(Frames.from_atoms(images[0])) == 1


def test_named_keys(images):
    frames = Frames.from_atoms(
        images,
        {"mean_force": "REF_mean_force"},
        temperature=320.0,
        noise={"mean_force": "my_std"},
        parameters={"charge": "my_std"},
        units={"energy": "kJ/mol", "length": "nm"},
        masses=[1, 2, 3],
        kinds=["a", "b", "c"],
    )
    assert list(frames.labels) == ["mean_force"] and (frames.temperature == 320).all()
    kj_nm = 0.0010364269574711572
    np.testing.assert_allclose(frames.noise["mean_force"][2], 2.1 * kj_nm)
    np.testing.assert_allclose(frames.labels["mean_force"][1], images[1].arrays["REF_mean_force"] * kj_nm)
    np.testing.assert_allclose(frames.positions[0], images[0].positions * 10)
    np.testing.assert_array_equal(frames.parameters["charge"], [0.1, 1.1, 2.1, 3.1])
    assert frames.kinds == ("a", "b", "c")


def test_forces_ignore_constraints():
    """ASE zeroes the forces on constrained atoms unless told otherwise."""
    atoms = ase.Atoms("Ar3", positions=[[0, 0, 0], [3.6, 0, 0], [0, 3.8, 0]])
    atoms.calc = LennardJones(epsilon=0.01, sigma=3.4)
    free = atoms.get_forces()
    atoms.set_constraint(FixAtoms([0, 1]))
    assert (atoms.get_forces()[:2] == 0).all()
    frames = Frames.from_atoms([atoms], {"mean_force": "forces", "free_energy": "energy"}, temperature=300)
    np.testing.assert_array_equal(frames.labels["mean_force"][0], free)
    assert frames.labels["free_energy"][0] == atoms.get_potential_energy()


def test_plain_extxyz_keys_move_into_a_calculator_and_are_found(tmp_path, images):
    forces = images[0].arrays["REF_mean_force"]
    images[0].calc = SinglePointCalculator(images[0], forces=forces, energy=-1.25)
    images[0].set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "a.xyz", images[0], format="extxyz")
    frames = Frames.read(tmp_path / "a.xyz", {"mean_force": "forces", "mean_energy": "energy"}, units="ase")
    np.testing.assert_allclose(frames.labels["mean_force"][0], forces, atol=1e-8)
    assert frames.labels["mean_energy"][0] == -1.25


def test_invented_energy_of_lammps_dumps_is_refused(tmp_path):
    dump = (
        "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
        "ITEM: ATOMS id type x y z fx fy fz\n1 1 0 0 0 0.1 0 0\n2 1 1 0 0 -0.1 0 0\n"
    )
    (tmp_path / "a.dump").write_text(dump)
    images = ase.io.read(tmp_path / "a.dump", index=":", format="lammps-dump-text")
    assert images[0].get_potential_energy() == 0.0  # the trap
    with pytest.raises(DataError, match="invent"):
        Frames.from_atoms(images, {"mean_energy": "energy"}, temperature=300)
    frames = Frames.from_atoms(images, {"mean_force": "forces"}, temperature=300)
    np.testing.assert_allclose(frames.labels["mean_force"][0, :, 0], [0.1, -0.1])


def test_stress_matrix_becomes_voigt(images):
    for atoms in images:
        atoms.info["s"] = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
        atoms.set_cell([9, 9, 9])
        atoms.pbc = True
    frames = Frames.from_atoms(images, {"stress": "s"})
    np.testing.assert_array_equal(frames.labels["stress"][0], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(frames.cell[0], 9 * np.eye(3))


def test_explicit_masses_are_taken(images):
    for atoms in images:
        atoms.set_masses([15.0, 16.0, 17.0])
    np.testing.assert_array_equal(Frames.from_atoms(images).masses, [15, 16, 17])


def test_equal_sized_lists_of_atoms_are_no_array(images):
    with pytest.raises(DataError, match="from_atoms"):
        Frames.from_arrays(images, temperature=300)


def _another_size(images):
    images[2] = ase.Atoms("CN", positions=np.zeros((2, 3)), info={"temperature": 300})


def _another_order(images):
    images[3].set_chemical_symbols("NCO")


def _no_temperature(images):
    del images[1].info["temperature"]


def _slab(images):
    for atoms in images:
        atoms.set_cell([5, 5, 5])
        atoms.pbc = True
    images[1].pbc = (True, True, False)


def _wrong_shape(images):
    images[1].info["REF_mean_energy"] = [1.0, 2.0]


def _text(images):
    images[2].info["REF_mean_energy"] = "high"


def _not_finite(images):
    images[1].arrays["REF_mean_force"][2, 1] = np.nan


def _no_atoms(images):
    images[1] = np.zeros(3)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (_another_size, "frame 2 has 2 beads and frame 0 has 3"),
        (_another_order, "frame 3 has other beads"),
        (_no_temperature, "frame 1 lacks the key 'temperature'"),
        (_slab, "frame 1 is periodic"),
        (_wrong_shape, "frame 1: label 'mean_energy'"),
        (_text, "frame 2: label 'mean_energy'"),
        (_not_finite, "'mean_force' is not finite at row 1"),
        (_no_atoms, "frame 1 is ndarray, not ASE Atoms"),
        (list.clear, "no frames"),
    ],
)
def test_refusals(images, spoil, match):
    spoil(images)
    with pytest.raises(DataError, match=match):
        Frames.from_atoms(images)


def test_refusals_of_options(images):
    with pytest.raises(DataError, match=r"'REF_forces'; keys found: .*REF_mean_force"):
        Frames.from_atoms(images, {"mean_force": "REF_forces"})
    with pytest.raises(DataError, match="unknown quantity"):
        Frames.from_atoms(images, {"forces": "REF_mean_force"})
    with pytest.raises(DataError, match="noise names 'entropy'"):
        Frames.from_atoms(images, noise={"entropy": 1.0})
    with pytest.raises(DataError, match="'nothing'"):
        Frames.from_atoms(images, noise={"mean_force": "nothing"})
    with pytest.raises(DataError, match="displacements"):
        Frames.from_atoms(images, displacements="my_std")
    for atoms in images:
        del atoms.info["temperature"]
    with pytest.raises(DataError, match="temperature is missing"):
        Frames.from_atoms(images)


def test_to_atoms_and_back(frames):
    images = frames.to_atoms()
    assert_same(Frames.from_atoms(images), frames)
    assert {a.info["kernelfe_units"] for a in images} == {"ase"}
    assert images[0].get_chemical_symbols() == ["X", "N", "O"]
    np.testing.assert_array_equal(images[0].get_masses(), frames.masses)
    bare = frames.replace(masses=None, kinds=None).to_atoms()
    assert not bare[0].has("masses")  # else the mass of X, which is 1, would pass for a bead's
    assert Frames.from_atoms(bare).masses is None and Frames.from_atoms(bare).kinds is None
    images[0].arrays["REF_mean_force"] = images[1].info["REF_stress"] = None  # the frames own their arrays
    assert np.isfinite(frames.labels["stress"]).all()
    with pytest.raises(DataError, match="variables"):
        Frames.from_arrays(variables=np.zeros((1, 2)), temperature=300).to_atoms()


# ---------------------------------------------------------------------- extended XYZ


def test_ase_itself_keeps_eight_decimals(frames, tmp_path):
    """The reason for kernelfe's own writer, as the documentation states it."""
    small = frames.replace(labels={"mean_force": np.full((N, BEADS, 3), 1.23456789012e-3)}, displacements=None)
    ase.io.write(tmp_path / "ase.extxyz", small.to_atoms(), format="extxyz")
    lost = Frames.read(tmp_path / "ase.extxyz").labels["mean_force"]
    assert 0 < np.abs(lost - 1.23456789012e-3).max() < 1e-8
    small.write(tmp_path / "own.extxyz")
    np.testing.assert_array_equal(Frames.read(tmp_path / "own.extxyz").labels["mean_force"], 1.23456789012e-3)


@pytest.mark.parametrize("suffix", [".xyz", ".extxyz", ".traj"])
def test_round_trip_is_exact(frames, tmp_path, suffix):
    path = tmp_path / f"f{suffix}"
    frames.write(path)
    assert_same(Frames.read(path), frames)
    assert_same(Frames.read(path, units="ase"), frames)
    images = ase.io.read(path, index=":")
    assert images[1].get_chemical_symbols() == ["X", "N", "O"]
    keys = images[1].info if suffix == ".traj" else images[1].arrays
    np.testing.assert_array_equal(keys["REF_mean_force"], frames.labels["mean_force"][1])
    np.testing.assert_array_equal(images[1].cell, frames.cell[1])


def test_round_trip_of_the_least(tmp_path):
    frames = Frames.from_arrays(
        np.arange(6.0).reshape(1, 2, 3), temperature=300, labels={"mean_energy": [-1.5]}, noise={"mean_energy": 0.25}
    )
    frames.write(tmp_path / "f.xyz")
    back = Frames.read(tmp_path / "f.xyz")
    np.testing.assert_array_equal(back.positions, frames.positions)
    assert back.kinds is None and back.cell is None and back.noise["mean_energy"].tolist() == [0.25]


def test_npz_through_write_and_read(frames, tmp_path):
    frames.write(tmp_path / "f.npz")
    assert_same(Frames.read(tmp_path / "f.npz"), frames)


def test_a_file_without_units_is_an_error(tmp_path, images, frames):
    path = tmp_path / "a.xyz"
    ase.io.write(path, images, format="extxyz")
    with pytest.raises(UnitsError, match="units="):
        Frames.read(path)
    assert Frames.read(path, units="mdanalysis").labels["mean_force"].shape == (N, BEADS, 3)
    frames.write(path)
    with pytest.raises(UnitsError, match="differ from units="):
        Frames.read(path, units="gromacs")


def test_what_cannot_be_written_or_read(frames, tmp_path):
    with pytest.raises(DataError, match="pair labels"):
        frames[:].add_pair_labels(0, 1, 0.0, 1.0).write(tmp_path / "a.xyz")
    with pytest.raises(DataError, match="variables"):
        Frames.from_arrays(variables=np.zeros((1, 2)), temperature=300).write(tmp_path / "a.xyz")
    with pytest.raises(DataError, match="'a b'"):
        frames.replace(kinds=["a b", "c", "d"]).write(tmp_path / "a.xyz")
    with pytest.raises(DataError, match=r"'\.pdb'"):
        frames.write(tmp_path / "a.pdb")
    with pytest.raises(DataError, match=r"from_atoms"):
        Frames.read(tmp_path / "a.gro", units="gromacs")
    with pytest.raises(DataError, match="does not exist"):
        Frames.read(tmp_path / "a.xyz", units="ase")
    (tmp_path / "b.xyz").write_text("3\nProperties=species:S:1:pos:R:3\nC 0 0\n")
    with pytest.raises(DataError, match="not readable"):
        Frames.read(tmp_path / "b.xyz", units="ase")
    assert [p.name for p in tmp_path.iterdir()] == ["b.xyz"]
