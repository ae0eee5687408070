"""Labels of one call are those made by hand, for the files of every engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import netcdf_file

import kernelfe
from kernelfe import statistics as st
from kernelfe.allatom import AtomFrames, BeadMap
from kernelfe.allatom.labelling import Labelling, find_run, label_runs, rigid_distances
from kernelfe.allatom.labelling.beads import contracted_bonds, molecules
from kernelfe.allatom.labelling.bonds import ranges
from kernelfe.allatom.reporter import _write
from kernelfe.errors import DataError
from kernelfe.units import factor

mda = pytest.importorskip("MDAnalysis")
pytest.importorskip("h5py")
DATA = Path(pytest.importorskip("MDAnalysisTests").__file__).parent / "data"

KJ, KCAL = factor("kJ/mol"), factor("kcal/mol")


@pytest.fixture(scope="module")
def alanine(tmp_path_factory):
    """Folders of two runs with real frames of alanine dipeptide, as a ForceReporter writes them; and the frames."""
    atoms = kernelfe.datasets.load_atoms("alanine-dipeptide")
    folder, parts = tmp_path_factory.mktemp("alanine"), {}
    for t in (300.0, 400.0):
        rows = np.flatnonzero(atoms.temperature == t)[::8]
        # nm and kJ/mol/nm in single precision, as the reporter keeps them
        x, f = (atoms.positions[rows] * 0.1).astype("f4"), (atoms.forces[rows] / KJ * 10.0).astype("f4")
        u = np.asarray(atoms.energies[rows], float) / KJ
        frames = [
            {"positions": a, "forces": b, "energies": e, "times": 0.9 * k, "steps": 300 * k, "boxes": None}
            for k, (a, b, e) in enumerate(zip(x, f, u, strict=True))
        ]
        fixed = {
            "masses": np.asarray(atoms.masses, float),
            "names": np.array([n.encode() for n in atoms.names]),
            "bonds": np.asarray(atoms.bonds),
            "constraints": np.asarray(atoms.constraints),
        }
        (folder / f"run-{t:g}").mkdir()
        _write(folder / f"run-{t:g}" / "part-000000.h5md", frames, fixed)
        parts[t] = x.astype(float) * 10.0, f.astype(float) * 0.1 * KJ, u * KJ
    return folder, atoms, parts


def test_openmm_labels_are_those_made_by_hand(alanine):
    """Torques, energies and forces of the best map, all less noisy, as the functions of the library make them."""
    folder, atoms, parts = alanine
    found = label_runs([find_run(folder / f"run-{t:g}", t) for t in (300, 400)], Labelling("backbone+cb"))
    beads = [list(atoms.names).index(n) for n in ("ACE:C", "ALA:N", "ALA:CA", "ALA:CB", "ALA:C", "NME:N")]
    assert list(beads) == found.beads.atoms == list(atoms.bead_atoms)
    assert found.frames.kinds == ("C", "N", "CA", "CB", "C", "N")
    assert found.frames.bonds == ((0, 1), (1, 2), (2, 3), (2, 4), (4, 5))
    x, f, u = (np.concatenate([parts[t][k] for t in (300.0, 400.0)]) for k in range(3))
    temperature = np.repeat([300.0, 400.0], len(x) // 2)
    constraints = [tuple(map(int, pair)) for pair in atoms.constraints]
    bonds = [tuple(map(int, pair)) for pair in atoms.bonds]
    np.testing.assert_allclose(found.frames.positions, x[:, beads], rtol=1e-7)
    x = x.copy()
    x[:, beads] = found.frames.positions
    motions = st.fragment_motions(bonds, beads, constraints, atoms.masses)
    sets = [
        [replace(m, powers=(0,), harmonics=()) for m in motions],
        [replace(m, powers=(0, 1), harmonics=(1,)) for m in motions],
        motions,
    ]
    sets = [st.Variates.of(these, x).evaluate(x, f, temperature) for these in sets]
    features, turn = st.distance_features(x[:, beads], degree=1), st.local_frames(x[:, beads])

    def forces(out):
        best = st.optimal_force_map(f[out], st.slice_map(22, beads), constraints)
        return np.einsum("nbij,nbj->nbi", turn, np.einsum("ba,nax->nbx", best, f))

    def quiet(labels):
        """The best of the two libraries, by the spread about the means of the runs."""
        made = [st.reduce_noise(labels, v, features=features, groups=temperature).values for v in sets]
        return min(made, key=lambda y: sum(((y[k] - y[k].mean(0)) ** 2).sum() for k in (cold, ~cold)))

    made = found.frames.labels
    scale, cold = np.abs(f).max(), temperature == 300.0
    expected = np.einsum("nbji,nbj->nbi", turn, quiet(forces))
    np.testing.assert_allclose(made["mean_force"], expected, atol=1e-10 * scale)
    np.testing.assert_allclose(made["mean_energy"], quiet(u), rtol=1e-10)
    fields = [st.TorsionField(bonds, i, j) for i, j in st.rotatable_bonds(bonds, beads)]
    torques, shifts = st.generalized_forces(x, f, fields, beads, temperature)
    wanted = quiet(torques) if "variates" in found.noise["generalized_force"].means else torques
    np.testing.assert_allclose(made["generalized_force"], wanted, atol=1e-10 * np.abs(torques).max())
    np.testing.assert_allclose(found.frames.displacements, shifts, atol=1e-10)
    noise = found.noise["mean_energy"]
    assert noise.after < 0.8 * noise.before and "variates" in found.noise["mean_force"].means
    assert found.noise["mean_force"].after < 0.5 * found.noise["mean_force"].before


def test_plain_labels_of_the_bundled_frames(alanine):
    folder, atoms, parts = alanine
    found = label_runs(
        [find_run(folder / "run-300", 300.0)], Labelling("name C N CA CB", quiet=False, stride=3, skip=2)
    )
    group = BeadMap.of_atoms(22, found.beads.atoms, constraints=[tuple(map(int, p)) for p in atoms.constraints])
    forces = np.einsum("ba,nax->nbx", group.force_map, parts[300.0][1][::3][2:])
    np.testing.assert_allclose(found.frames.labels["mean_force"], forces, atol=1e-10 * np.abs(forces).max())
    np.testing.assert_allclose(found.frames.labels["mean_energy"], parts[300.0][2][::3][2:], rtol=1e-12)
    assert {n.means for n in found.noise.values()} == {"plain"}


def raw(top, trajectory, **options):
    """Positions (Å) and forces (kJ/mol/Å) straight from MDAnalysis."""
    universe = mda.Universe(str(top), str(trajectory), to_guess=(), **options)
    frames = [(ts.positions.astype(float), ts.forces.astype(float)) for ts in universe.trajectory]
    return universe, np.array([x for x, _ in frames]), np.array([f for _, f in frames])


def netcdf(path):
    """Positions (Å) and forces (kcal/mol/Å) as the numbers stand in an AMBER file."""
    with netcdf_file(path, "r", mmap=False) as file:
        return file.variables["coordinates"][:].astype(float), file.variables["forces"][:].astype(float)


@pytest.mark.filterwarnings("ignore")
def test_amber_labels_are_those_made_by_hand():
    """A run of an acetyl group by Amber: hydrogens constrained, as the frames show."""
    top, nc = DATA / "Amber/ace_mbondi3.parm7", DATA / "Amber/ace_mbondi3.nc"
    found = label_runs([find_run(nc, 300.0)], Labelling("heavy", quiet=False))
    x, f = netcdf(nc)
    names = mda.Universe(str(top), topology_format="TOP", to_guess=()).atoms.names
    heavy = [k for k, n in enumerate(names) if not n.startswith("H")]
    carrier = next(k for k, n in enumerate(names) if n == "CH3")
    forces = f[:, heavy].copy()
    forces[:, heavy.index(carrier)] += f[:, [k for k in range(len(names)) if k not in heavy]].sum(1)
    np.testing.assert_allclose(found.frames.positions, x[:, heavy], atol=1e-10)
    np.testing.assert_allclose(found.frames.labels["mean_force"], forces * KCAL, atol=1e-10 * np.abs(f).max())
    assert len(found.constraints) == 3 and found.runs[0].topology == str(top)


@pytest.mark.filterwarnings("ignore")
def test_lammps_labels_are_those_made_by_hand():
    dump, data = DATA / "lammps/image_vf.lammpstrj", DATA / "lammps/image_vf.data"
    found = label_runs([find_run(dump, 300.0, units="real")], Labelling("type 1", quiet=False))
    assert found.runs[0].topology == str(data)
    rows = [line.split() for line in dump.read_text().splitlines() if len(line.split()) == 16]
    table = np.array([[float(v) for v in row] for row in rows]).reshape(3, 7, 16)
    table = np.array([frame[np.argsort(frame[:, 0])] for frame in table])
    bonded = [0, 1]
    np.testing.assert_allclose(found.frames.labels["mean_force"], table[:, bonded, 13:] * KCAL, rtol=1e-6, atol=1e-8)
    exact = table[:, bonded, 13:].astype("f4").astype(float) * KCAL  # readers keep single precision
    np.testing.assert_allclose(found.frames.labels["mean_force"], exact, atol=1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_gromacs_labels_are_those_made_by_hand():
    """A solvated protein by GROMACS: 19,385 atoms, of which those of the protein matter."""
    top, trr = DATA / "cobrotoxin.tpr", DATA / "cobrotoxin.trr"
    found = label_runs([find_run(trr, 300.0)], Labelling("ca", atoms="protein", quiet=False))
    universe, _, f = raw(top, trr)
    ca = universe.select_atoms("protein and name CA")
    for bead, atom in enumerate(ca):
        tied = [atom.index, *(a.index for a in atom.bonded_atoms if a.name.startswith("H"))]
        expected = f[:, tied].sum(1) * KJ
        np.testing.assert_allclose(found.frames.labels["mean_force"][:, bead], expected, atol=1e-10 * np.abs(f).max())
    assert found.frames.cell is None and len(found.frames) == 3
    step = np.linalg.norm(np.diff(found.frames.positions, axis=1), axis=2)
    assert 3.6 < step.min() and step.max() < 4.2  # whole, one piece


@pytest.mark.filterwarnings("ignore")
def test_centres_of_mass_of_molecules():
    top, nc = DATA / "Amber/ace_tip3p.parm7", DATA / "Amber/ace_tip3p.nc"
    found = label_runs([find_run(nc, 300.0)], Labelling("molecules", stride=4))
    universe = mda.Universe(str(top), topology_format="TOP", to_guess=())
    waters = universe.residues[1:]
    x, f = (values[::4] for values in netcdf(nc))
    masses = universe.atoms.masses
    for bead in (1, 7, len(waters)):
        atoms = waters[bead - 1].atoms.indices
        np.testing.assert_allclose(
            found.frames.labels["mean_force"][:, bead], f[:, atoms].sum(1) * KCAL, atol=1e-10 * np.abs(f).max()
        )
        inside = x[:, atoms] - x[:, atoms[:1]]
        shift = found.frames.positions[:, bead] - x[:, atoms[0]]
        if np.abs(inside).max() < 2.0:  # not cut by the boundary
            expected = np.einsum("a,nax->nx", masses[atoms] / masses[atoms].sum(), inside)
            cell = found.frames.cell
            moved = np.einsum("nx,nxy->ny", shift - expected, np.linalg.inv(cell))
            np.testing.assert_allclose(moved, np.round(moved), atol=1e-6)
    assert set(found.frames.kinds) == {"ACE", "WAT"} and found.frames.cell is not None
    assert found.frames.masses[1] == pytest.approx(18.016, abs=0.01)


def test_rigid_distances_ignore_some_broken_frames():
    rng = np.random.default_rng(0)
    x = np.array([[0.0, 0, 0], [1.09, 0, 0], [1.5, 1.4, 0]]) + np.zeros((300, 3, 3))
    x[:, 2] += rng.normal(0.0, 0.05, (300, 3))
    x += rng.uniform(0.0, 100.0, (300, 1, 3))
    x[7, 1] += 20.0
    x = x.astype("f4").astype(float)
    assert rigid_distances(x, [(0, 1), (1, 2)]) == [(0, 1)]
    with pytest.raises(DataError, match="which needs 3"):
        rigid_distances(x[:2], [(0, 1)])


def test_bonds_of_beads_by_way_of_other_atoms():
    chain = [(0, 1), (1, 2), (2, 3), (3, 4), (1, 5)]
    assert contracted_bonds(chain, [0, 2, 4], 7) == ((0, 1), (1, 2))
    assert molecules(chain, 7) == ((0, 1, 2, 3, 4, 5), (6,))
    assert ranges([4, 5, 6, 9]) == "index 4:6 9"


def test_beads_that_constraints_tie_together_are_named(alanine):
    run = find_run(alanine[0] / "run-300", 300.0)
    with pytest.raises(DataError, match=r"constraints tie beads 0 \(CA\) and 1 \(HA\) together"):
        label_runs([run], Labelling("name CA HA"))
    with pytest.raises(DataError, match="selection of MDAnalysis, or one of"):
        try:
            label_runs([run], Labelling("nme CA"))
        except DataError as error:
            raise DataError(" ".join([str(error), *error.__notes__])) from None


def test_one_constructor_for_centres():
    atoms = AtomFrames(np.arange(18.0).reshape(1, 6, 3), np.ones((1, 6, 3)))
    made = BeadMap.of_groups(6, [[0, 1, 2], [3, 4, 5]], [16.0, 1.0, 1.0] * 2, kinds=["W", "W"], bonds=[])
    frames = made.frames(atoms, 300.0)
    np.testing.assert_allclose(
        frames.positions[0, 0], (16 * atoms.positions[0, 0] + atoms.positions[0, 1:3].sum(0)) / 18
    )
    np.testing.assert_array_equal(frames.labels["mean_force"], np.full((1, 2, 3), 3.0))
    assert frames.masses.tolist() == [18.0, 18.0]
    with pytest.raises(DataError, match="belongs to two groups"):
        BeadMap.of_groups(6, [[0, 1], [1, 2]], np.ones(6))
    with pytest.raises(DataError, match="constrained pair"):
        BeadMap.of_groups(6, [[0, 1], [2, 3]], np.ones(6), constraints=[(1, 2)])
    with pytest.raises(DataError, match="weights must be 6 numbers"):
        BeadMap.of_groups(6, [[0, 1]], np.ones(5))


@pytest.mark.parametrize("constraints", ["none", "h-bonds"])
def test_constraints_that_the_files_state_are_not_left_out(constraints, alanine, tmp_path):
    """Without one of them the mean forces lack the force on the atom that it ties to a bead."""
    _, atoms, parts = alanine
    run = tmp_path / "run"
    run.mkdir()
    x, f, _ = parts[300.0]
    frames = [
        {"positions": a, "forces": b, "energies": 0.0, "times": float(k), "steps": k, "boxes": None}
        for k, (a, b) in enumerate(zip(0.1 * x[:4], 10.0 * f[:4] / KJ, strict=True))
    ]
    heavy = [list(atoms.names).index(name) for name in ("ACE:C", "ALA:N")]
    pairs = np.concatenate([np.asarray(atoms.constraints), [heavy]])
    names = np.array([n.encode() for n in atoms.names])
    fixed = {"masses": np.asarray(atoms.masses, float), "names": names, "bonds": np.asarray(atoms.bonds)}
    _write(run / "part-000000.h5md", frames, fixed | {"constraints": pairs})
    with pytest.raises(DataError, match=r"leaves out .* use 'auto'"):
        label_runs([find_run(run, 300.0)], Labelling("name CA CB", constraints=constraints, quiet=False))


def test_a_selection_of_atoms_does_not_cut_a_constraint(alanine):
    run = find_run(alanine[0] / "run-300", 300.0)
    with pytest.raises(DataError, match="leave out one end of the constraint"):
        label_runs([run], Labelling("heavy", atoms="not name H*"))


@pytest.mark.parametrize("temperatures", [(300.0, 300.0), (300.0, 400.0)])
def test_a_run_given_twice_is_refused(temperatures, alanine):
    runs = [find_run(alanine[0] / "run-300", t) for t in temperatures]
    with pytest.raises(DataError, match=r"runs 1 \(run-300\) and 2 \(run-300\) hold the same frame"):
        label_runs(runs, Labelling("backbone", quiet=False))


def test_exchanged_temperatures_are_noticed(alanine):
    """The mean energy rises with temperature."""
    for turned in (False, True):
        runs = [find_run(alanine[0] / f"run-{t:g}", 700.0 - t if turned else t) for t in (300.0, 400.0)]
        found = label_runs(runs, Labelling("backbone", quiet=False))
        assert any("mean energy falls" in remark for remark in found.checks.remarks) is turned
