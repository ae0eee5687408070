"""Default terms of liquids: ranges from the data, refusals, and fits without any argument."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import kernelfe
from kernelfe import Frames, FreeEnergyRegressor, liquid_terms
from kernelfe.descriptors import Bonded, PairSplines, TripletSplines
from kernelfe.errors import DataError

EDGE = 14.0


def pair_forces(x: np.ndarray, edge: float, cutoff: float = 6.5) -> np.ndarray:
    """Forces, eV/Å, of the pair energy .3 (1 − r²/c²)³ of nearest images."""
    d = x[:, :, None] - x[:, None]
    d -= edge * np.rint(d / edge)
    r2 = (d**2).sum(-1, keepdims=True)
    inside = np.clip(1.0 - r2 / cutoff**2, 0.0, None)
    return (0.3 * 6.0 * inside**2 / cutoff**2 * d).sum(2)


def box(beads: int = 64, frames: int = 4, seed: int = 0, edge: float = EDGE, **options) -> Frames:
    """Beads near the sites of a simple cubic lattice, 3.5 Å apart."""
    rng = np.random.default_rng(seed)
    sites = np.stack([rng.permutation(64)[:beads] for _ in range(frames)])
    x = np.stack([sites // 16, sites // 4 % 4, sites % 4], 2) * (edge / 4.0) + 0.3 * rng.normal(size=(frames, beads, 3))
    given = {"kinds": ["W"] * beads, "labels": {"mean_force": pair_forces(x, edge)}} | options
    return Frames.from_arrays(x, temperature=300.0, cell=np.tile(edge * np.eye(3), (frames, 1, 1)), **given)


@pytest.fixture(scope="module")
def frames() -> Frames:
    return box()


def test_ranges_follow_the_distances_of_the_frames(frames):
    x = frames.positions
    d = x[:, :, None] - x[:, None]
    r = np.linalg.norm(d - EDGE * np.rint(d / EDGE), axis=-1)
    least = r[r > 0].min()
    (pair, pairs), (triplet, triplets) = liquid_terms(frames)
    assert (pair, triplet) == ("pair W-W", "triplet W-W-W")
    assert isinstance(pairs.descriptor, PairSplines) and isinstance(triplets.descriptor, TripletSplines)
    assert pairs.descriptor.cutoff == pytest.approx(7.0)  # half the edge
    assert pairs.descriptor.start == pytest.approx(least - 3.0 * pairs.descriptor.spacing)
    assert 0.08 < pairs.descriptor.spacing <= 0.1
    assert triplets.descriptor.start == pytest.approx(0.95 * least)
    assert 4.0 < triplets.descriptor.cutoff < 1.1 * 1.75 * 3.6  # a first shell at 3.5 Å
    assert liquid_terms(frames, cutoff=6.0, triplets=4.2)[1][1].descriptor.cutoff == 4.2
    assert [name for name, _ in liquid_terms(frames, triplets=False)] == ["pair W-W"]


def test_each_two_kinds_and_each_centre_have_a_term(frames):
    two = frames.replace(kinds=["A", "B"] * 32)
    names = [name for name, _ in liquid_terms(two)]
    names = [name for name, _ in liquid_terms(two, triplets=True)]
    assert names[:3] == ["pair A-A", "pair A-B", "pair B-B"]
    assert names[3:] == [f"triplet {c}-{n}" for c in "AB" for n in ("A-A", "A-B", "B-B")]
    assert [name for name, _ in liquid_terms(frames.replace(kinds=None))] == ["pair all", "triplet all"]


def test_triplets_are_left_out_of_many_kinds_unless_asked_for(frames, caplog):
    many = frames.replace(kinds=list("ABCDEFGH") * 8)
    with caplog.at_level(logging.INFO, "kernelfe"):
        assert all(name.startswith("pair") for name, _ in liquid_terms(many))
    assert "no triplets" in caplog.text
    assert any(name.startswith("triplet") for name, _ in liquid_terms(many, triplets=True))


def test_bonded_beads_have_terms_of_bonds_instead_of_pairs():
    bonds = [(i, i + 1) for i in range(0, 64, 2)]
    terms = dict(liquid_terms(box(kinds=["C", "O"] * 32, bonds=bonds), triplets=False))
    assert isinstance(terms["bond C-O"].descriptor, Bonded)
    assert terms["pair C-O"].descriptor.apart == 3


def overlapping(frames: Frames) -> Frames:
    x = frames.positions.copy()
    x[2, 5] = x[2, 9] + 0.1
    return frames.replace(positions=x)


@pytest.mark.parametrize(
    "make, options, message",
    [
        (lambda f: f.replace(cell=None), {}, "no cell"),
        (overlapping, {}, "frame 2 .*beads 5 and 9 are 0.173 Å apart"),
        (lambda f: f, {"cutoff": 2.0}, "leaves no range"),
        (lambda f: f, {"cutoff": -1.0}, "cutoff"),
        (lambda f: f, {"triplets": 1.0}, "ends before the nearest neighbours"),
        (lambda f: f, {"triplets": "yes"}, "triplets"),
        (lambda f: [f, box(63, kinds=None)], {}, "kinds"),
        (lambda f: Frames.from_arrays(variables=np.zeros((3, 2)), temperature=300.0), {}, "variables"),
        (lambda f: box(2, edge=40.0), {"cutoff": 1.0}, "no range|no two beads"),
    ],
)
def test_what_is_refused(frames, make, options, message):
    with pytest.raises(DataError, match=message):
        liquid_terms(make(frames), **options)


def test_a_cutoff_beyond_half_the_cell_is_allowed_and_said(frames):
    with pytest.warns(UserWarning, match=r"cell of frame 0, 14 Å.*All of them count"):
        terms = liquid_terms(frames, cutoff=8.0)
    assert terms[0][1].descriptor.cutoff == 8.0


@pytest.fixture(scope="module")
def mixed() -> FreeEnergyRegressor:
    """Boxes of 64 and 63 beads in one fit, with no argument at all."""
    return FreeEnergyRegressor().fit([box(frames=2), box(63, frames=2, seed=1)])


def test_a_regressor_without_terms_fits_liquids_of_several_sizes(mixed):
    assert [name for name, _ in mixed.terms_] == ["pair W-W", "triplet W-W-W"]
    assert type(mixed.solver_).__name__ == "WeightSpace"
    for beads in (64, 61):  # also a size that was not fitted
        test = box(beads, frames=2, seed=5)
        error = mixed.predict(test, "mean_force") - test.labels["mean_force"]
        assert np.sqrt((error**2).mean()) < 0.02 * test.labels["mean_force"].std()


def test_energies_and_forces_are_continuous_when_a_pair_crosses_the_cutoff(mixed):
    (cutoff,) = {term.spec.descriptor.cutoff for name, term in mixed.terms_ if name.startswith("pair")}
    r = cutoff + np.array([-1e-4, -5e-5, 1e-5, 1e-4])
    lone = np.zeros((4, 60, 3))
    lone[:, :, 0] = 40.0 * np.arange(60)  # far apart, but for the last two
    lone[:, -1, 0] = lone[:, -2, 0] + r
    cell = 2400.0 * np.eye(3)
    energies = mixed.predict(_lone(lone, cell), "free_energy", reference=None)
    forces = mixed.predict(_lone(lone, cell), "mean_force")
    assert np.ptp(energies) < 1e-9 and np.abs(forces).max() < 1e-7


def _lone(x: np.ndarray, cell: np.ndarray) -> Frames:
    return Frames.from_arrays(x, temperature=300.0, cell=np.tile(cell, (len(x), 1, 1)), kinds=["W"] * x.shape[1])


def test_small_periodic_molecules_keep_their_distances():
    few = box(8)
    model = FreeEnergyRegressor(optimizer=None, baseline=False).fit(few)
    assert [name for name, _ in model.terms_] == ["distances"]
    assert kernelfe.gp.liquid_terms is liquid_terms
