"""Bad input is refused with an error that names the frame; what can be right is right."""

from __future__ import annotations

import numpy as np
import pytest

from kernelfe.analysis import liquids
from kernelfe.errors import DataError

from .systems import TILTED, ideal_gas

MEASURES = {
    "g": lambda x, c, **k: liquids.radial_distribution(x, c, **k),
    "angles": lambda x, c, **k: liquids.angular_distribution(x, c, 3.5, **k),
    "q": lambda x, c, **k: liquids.tetrahedral_order(x, c, **k),
    "neighbours": lambda x, c, **k: liquids.coordination_number(x, c, 3.5, **k),
}
ALL = {**MEASURES, "S": lambda x, c, **k: liquids.structure_factor(x, c, k_max=1.5, **k)}


@pytest.fixture(scope="module")
def gas():
    return ideal_gas(4, 20, TILTED)


@pytest.mark.parametrize("name", ALL)
def test_missing_flat_and_misshapen_cells(name, gas):
    x, cells = gas
    flat = cells.copy()
    flat[2, 2] = flat[2, 0] + flat[2, 1]
    bad = cells.copy()
    bad[3, 0, 0] = np.nan
    for cell, match in (
        (None, "cell is missing"),
        (flat, "frame 2 has no volume"),
        (bad, "cell of frame 3 is not finite"),
        (cells[:2], "one per frame"),
        (np.ones(3), "cell has shape"),
    ):
        with pytest.raises(DataError, match=match):
            ALL[name](x, cell)


@pytest.mark.parametrize("name", ALL)
def test_positions_that_are_not_finite_or_of_another_shape(name, gas):
    x, cells = gas
    broken = x.copy()
    broken[1, 3, 2] = np.inf
    with pytest.raises(DataError, match="positions of frame 1"):
        ALL[name](broken, cells)
    for wrong in (x[0], x[:, :1], x[..., :2]):
        with pytest.raises(DataError):
            ALL[name](wrong, TILTED)
    with pytest.raises(DataError, match="kinds has 3"):
        ALL[name](x, cells, kinds=["a", "b", "c"])
    with pytest.raises(DataError, match="series has shape"):
        ALL[name](x, cells, series=[0, 1])


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_beads_at_one_place(name, shift, gas):
    x, cells = gas
    twice = x.copy()
    twice[2, 11] = twice[2, 4] + shift * cells[2, 1]  # the same, or the same in another image
    with pytest.raises(DataError, match="beads 4 and 11 of frame 2 coincide"):
        MEASURES[name](twice, cells)


def test_coincident_beads_of_other_kinds_do_not_matter(gas):
    x, cells = gas
    twice = x.copy()
    twice[2, 11] = twice[2, 4]
    kinds = ["a"] * 10 + ["b"] * 10
    assert liquids.radial_distribution(twice, cells, kinds=kinds, pair=("a", "a")).g.any()
    with pytest.raises(DataError, match="frame 2 coincide"):
        liquids.radial_distribution(twice, cells, kinds=kinds, pair=("a", "b"))


def test_cells_too_small_name_the_frame(gas):
    x, cells = gas
    small = cells.copy()
    small[3] *= 0.6
    for measure in (
        lambda: liquids.radial_distribution(x, small, r_max=4.0),
        lambda: liquids.angular_distribution(x, small, 4.0),
        lambda: liquids.coordination_number(x, small, 4.0),
    ):
        with pytest.raises(DataError, match="half the least height of the cell of frame 3"):
            measure()
    assert liquids.radial_distribution(x, small).edges[-1] <= 0.5 * 0.6 * 10.0


def test_wrong_arguments(gas):
    x, cells = gas
    kinds = ["a"] * 20
    for measure, match in (
        (lambda: liquids.radial_distribution(x, cells, width=0.0), "width"),
        (lambda: liquids.radial_distribution(x, cells, width=9.0), "no bin"),
        (lambda: liquids.radial_distribution(x, cells, r_max=-1.0), "r_max"),
        (lambda: liquids.radial_distribution(x, cells, pair=("a", "a")), "kinds= was not given"),
        (lambda: liquids.radial_distribution(x, cells, kinds=kinds, pair=("a", "b")), "no bead is of kind 'b'"),
        (lambda: liquids.angular_distribution(x, cells, 0.05), "two neighbours"),
        (lambda: liquids.angular_distribution(x, cells, 3.0, bins=0), "bins"),
        (lambda: liquids.structure_factor(x, cells, k_max=0.1), "no wave vector"),
        (lambda: liquids.structure_factor(x, cells, k_max=1e4), "too many"),
    ):
        with pytest.raises(DataError, match=match):
            measure()
    fine, coarse = (liquids.radial_distribution(x, cells, width=w) for w in (0.1, 0.2))
    for arguments, match in (
        ((fine, coarse), "one width"),
        ((fine, fine, 1.0, 30.0), "smaller upper"),
        ((fine, fine, 3.0, 2.0), "lower"),
    ):
        with pytest.raises(DataError, match=match):
            liquids.l1_distance(*arguments)
    near, far = (liquids.angular_distribution(x, cells, c) for c in (3.5, 4.0))
    with pytest.raises(DataError, match="one cutoff"):
        liquids.total_variation(near, far)
