"""Frames of some of the beads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe import Frames
from kernelfe.datasets import load
from kernelfe.errors import DataError

BONDS = ((0, 1), (1, 2), (2, 3), (2, 4), (4, 5))


def frames(n=4, **labels):
    rng = np.random.default_rng(0)
    return Frames.from_arrays(
        rng.normal(size=(n, 6, 3)),
        temperature=300.0,
        labels={"mean_force": rng.normal(size=(n, 6, 3)), "mean_energy": rng.normal(size=n), **labels},
        noise={"mean_force": 0.1},
        kinds="ABCDEF",
        masses=np.arange(1.0, 7.0),
        bonds=BONDS,
    )


def test_everything_of_a_bead_goes_with_it():
    whole, kept = frames(), [5, 4, 2, 1]
    part = whole.select_beads(kept)
    np.testing.assert_array_equal(part.positions, whole.positions[:, kept])
    np.testing.assert_array_equal(part.labels["mean_force"], whole.labels["mean_force"][:, kept])
    np.testing.assert_array_equal(part.labels["mean_energy"], whole.labels["mean_energy"])
    assert part.kinds == ("F", "E", "C", "B") and part.masses.tolist() == [6.0, 5.0, 3.0, 2.0]
    assert part.bonds == ((0, 1), (1, 2), (2, 3)) and part.noise == {}
    again = Frames.from_arrays(
        **{name: getattr(part, name) for name in ("positions", "temperature", "labels", "bonds")}
    )
    assert len(again) == len(part)


def test_bonds_that_a_dropped_bead_cuts_are_left_to_be_inferred():
    assert frames().select_beads([0, 1, 3, 4]).bonds is None
    assert frames().select_beads([0, 1, 2, 3, 4]).bonds == BONDS[:4]


def test_labels_that_miss_the_fluctuations_of_dropped_beads_are_refused():
    whole = frames(heat_capacity=np.ones(4))
    with pytest.raises(DataError, match=r"heat_capacity of 6 beads.*drop_labels\(\['heat_capacity'\]\)"):
        whole.select_beads([0, 1, 2])
    whole.drop_labels(["heat_capacity"]).select_beads([0, 1, 2])
    with pytest.raises(DataError, match="pairs of 6 beads"):
        frames().add_pair_labels(0, 1, 0.1, 0.01).select_beads([0, 1])


@pytest.mark.parametrize("beads", [[], [0, 0], [6], [-1], [0.5], 3])
def test_wrong_beads_are_refused(beads):
    with pytest.raises(DataError, match="select_beads"):
        frames().select_beads(beads)
    with pytest.raises(DataError, match="variables"):
        Frames.from_arrays(variables=np.zeros((2, 2)), temperature=300.0).select_beads([0])


def test_forces_of_kept_beads_are_mean_forces_of_the_coarser_free_energy():
    # a harmonic chain whose second bead is dropped: A of the ends is a softer spring, kT·(3 N k …) aside
    rng, kt, n = np.random.default_rng(1), 0.025, 40_000
    covariance = kt * np.linalg.inv(np.array([[3.0, -1.0, -1.0], [-1.0, 2.0, -1.0], [-1.0, -1.0, 2.5]]))
    x = np.linalg.cholesky(covariance) @ rng.normal(size=(n, 3, 3))
    stiffness = kt * np.linalg.inv(covariance)
    force = -np.einsum("ij,njk->nik", stiffness, x)
    whole = Frames.from_arrays(x, temperature=290.0, labels={"mean_force": force})
    part = whole.select_beads([0, 2])
    y, f = (a.transpose(0, 2, 1).reshape(-1, 2) for a in (part.positions, part.labels["mean_force"]))
    found = -np.linalg.lstsq(y, f, rcond=None)[0].T
    wanted = kt * np.linalg.inv(covariance[np.ix_([0, 2], [0, 2])])
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_torques_of_the_bundled_molecule_remain(chosen=(0, 1, 2, 4, 5)):
    whole = load("alanine-dipeptide")[:20]
    part = whole.select_beads(chosen)
    np.testing.assert_array_equal(part.displacements, whole.displacements[:, :, list(chosen)])
    np.testing.assert_array_equal(part.labels["generalized_force"], whole.labels["generalized_force"])
    assert torch.isfinite(torch.tensor(part.displacements)).all()
