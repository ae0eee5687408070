"""Pair tables of GROMACS."""

from __future__ import annotations

import numpy as np
import pytest

from kernelfe.deploy import LiquidPotential, PairFunction, TripletFunction, export_gromacs
from kernelfe.errors import DataError
from kernelfe.units import factor

KJ = factor("eV", "energy") / factor("kJ/mol", "energy")


def yukawa(r):
    u = 0.5 * np.exp(-r) / r * (4.0 - r) ** 3
    return u, u * (-1.0 - 1.0 / r - 3.0 / (4.0 - r))


POTENTIAL = LiquidPotential(300.0, ("A", "B+"), (PairFunction(("A", "B+"), 4.0, yukawa),))


def test_columns_of_a_table(tmp_path):
    files = export_gromacs(POTENTIAL, tmp_path / "tables", spacing=0.001, beyond=0.5)
    assert [path.name for path in files] == ["table_A_A.xvg", "table_A_B.xvg", "table_B_B.xvg"]
    r, f, f1, g, g1, h, h1 = np.loadtxt(files[1]).T
    assert np.allclose(np.diff(r), 0.001) and r[0] == 0.0 and abs(r[-1] - 0.9) < 1e-9
    assert not np.any([f, f1, g, g1]) and not h[r >= 0.4].any() and h.max() <= 1e6
    for k in (200, 260, 399):  # nm and kJ/mol
        u, slope = yukawa(np.array([10.0 * r[k]]))
        assert h[k] == pytest.approx(KJ * u[0], rel=1e-9) and h1[k] == pytest.approx(-10.0 * KJ * slope[0], rel=1e-9)
    inside = (r > 0.1) & (r < 0.39)
    assert np.abs(np.gradient(h, r)[inside] / -h1[inside] - 1.0).max() < 0.02
    assert not np.loadtxt(files[0])[:, 1:].any()


def test_refusals(tmp_path):
    triplets = (TripletFunction(("*",) * 3, 1.0, 0.5, np.ones((2, 2, 1))),)
    with pytest.raises(DataError, match="no tables of triplets"):
        export_gromacs(LiquidPotential(300.0, ("A",), (), triplets), tmp_path)
    for options in ({"spacing": 0.0}, {"beyond": -1.0}, {"largest": 0.0}):
        with pytest.raises(DataError, match="must"):
            export_gromacs(POTENTIAL, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
