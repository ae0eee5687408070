"""Energy tables as runs leave them: compressed, without legends, cut off, with minimisations, in another suffix."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from pathlib import Path

import numpy as np
import pytest
from ase.units import kcal, kJ, mol

from kernelfe.allatom import read_energies
from kernelfe.errors import DataError, UnitsError
from kernelfe.files.compressed import read_plain

from .test_energies import CSV, LOG, XVG

VALUES = np.array([-123.5, -120.25])
MDOUT = """\
          Amber 22 SANDER                              2022

 NSTEP =     1000   TIME(PS) =       2.000  TEMP(K) =   300.10  PRESS =     0.0
 Etot   =       -99.0000  EKtot   =        24.5000  EPtot      =      -123.5000
 BOND   =         1.0000  ANGLE   =         2.0000  DIHED      =         3.0000
 ------------------------------------------------------------------------------
 NSTEP =     2000   TIME(PS) =       4.000  TEMP(K) =   299.00  PRESS =     0.0
 Etot   =       -99.0000  EKtot   =        21.2500  EPtot      =      -120.2500
 ------------------------------------------------------------------------------
      A V E R A G E S   O V E R       2 S T E P S
 NSTEP =     2000   TIME(PS) =       4.000  TEMP(K) =   299.55  PRESS =     0.0
 Etot   =       -99.0000  EKtot   =        22.8750  EPtot      =      -121.8750
"""
MINIMISED = """\
LAMMPS (2 Aug 2023)
units           real
minimize 1e-4 1e-6 100 1000
Setting up cg style minimization ...
   Step          Temp          PotEng
         0   0     999.0
        57   0    -500.0
Loop time of 0.1 on 1 procs for 57 steps
Minimization stats:
  Stopping criterion = energy tolerance
reset_timestep 0
run 2000
   Step          Temp          PotEng
         0   300    -123.5
      1000   299    -120.25
Loop time of 1.2 on 1 procs for 2000 steps
"""
YAML = """\
units metal
---
keywords: ['Step', 'Temp', 'PotEng', ]
data:
  - [0, 300.0, -123.5, ]
  - [100, 301.0, -120.25, ]
...
"""


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed(pack, tmp_path):
    (tmp_path / "e.csv.z").write_bytes(pack(CSV.encode()))
    np.testing.assert_allclose(read_energies(tmp_path / "e.csv.z").energies, VALUES * kJ / mol)
    (tmp_path / "cut").write_bytes(pack(CSV.encode())[:-12])
    with pytest.raises(DataError, match="cut off or damaged"):
        read_energies(tmp_path / "cut")
    with pytest.raises(DataError, match="more than 50 bytes"):
        read_plain(tmp_path / "e.csv.z", max_bytes=50)


@pytest.mark.parametrize("separator", [",", "\t", ";", " "])
@pytest.mark.parametrize("name", ["run.log", "log.lammps", "e.csv", "e.xvg.txt"])
def test_the_content_decides_not_the_suffix(name, separator, tmp_path):
    (tmp_path / name).write_text(CSV.replace('","', f'"{separator}"').replace(",", separator))
    table = read_energies(tmp_path / name)
    np.testing.assert_allclose(table.energies, VALUES * kJ / mol)
    assert table.steps.tolist() == [1000, 2000] and table.name == name
    for text, options in ((XVG, {}), (LOG, {"units": "charmm"}), (MDOUT, {})):
        (tmp_path / "any.log").write_text(text)
        assert len(read_energies(tmp_path / "any.log", **options)) >= 2


def test_amber(tmp_path):
    (tmp_path / "mdout").write_text(MDOUT)
    table = read_energies(tmp_path / "mdout")
    np.testing.assert_allclose(table.energies, VALUES * kcal / mol)
    assert table.steps.tolist() == [1000, 2000] and table.times.tolist() == [2, 4]
    (tmp_path / "mdout").write_text(MDOUT.replace("-120.2500", "*********"))
    with pytest.raises(DataError, match="not finite"):
        read_energies(tmp_path / "mdout")


def test_the_rows_of_a_minimisation_are_left_out(tmp_path):
    (tmp_path / "log.lammps").write_text(MINIMISED)
    with pytest.warns(UserWarning, match="2 rows of log.lammps belong to a minimisation"):
        table = read_energies(tmp_path / "log.lammps")  # the log repeats its units
    np.testing.assert_allclose(table.energies, VALUES * kcal / mol)
    assert table.steps.tolist() == [0, 1000]
    (tmp_path / "log.lammps").write_text(MINIMISED.partition("Loop")[0])
    with pytest.raises(DataError, match="2 rows of a minimisation only"):
        read_energies(tmp_path / "log.lammps")


def test_units_of_a_lammps_log(tmp_path):
    (tmp_path / "log").write_text(YAML)
    assert read_energies(tmp_path / "log").energies.tolist() == VALUES.tolist()
    assert read_energies(tmp_path / "log", "ase").steps.tolist() == [0, 100]
    with pytest.raises(UnitsError, match="units metal"):
        read_energies(tmp_path / "log", "charmm")
    (tmp_path / "log").write_text(YAML.replace("metal", "lj"))
    with pytest.raises(UnitsError, match="units lj"):
        read_energies(tmp_path / "log")


def test_xvg_without_legends(tmp_path):
    bare = "\n".join(line for line in XVG.splitlines() if line[0] not in "#@") + "\n"
    (tmp_path / "e.xvg").write_text(bare)
    with pytest.raises(DataError, match=r"no legends.*column="):
        read_energies(tmp_path / "e.xvg")
    with pytest.raises(UnitsError, match="units='gromacs'"):
        read_energies(tmp_path / "e.xvg", column=1)
    table = read_energies(tmp_path / "e.xvg", "gromacs", column=1)
    np.testing.assert_allclose(table.energies, VALUES * kJ / mol)
    (tmp_path / "e.xvg").write_text("\n".join(x for x in XVG.splitlines() if "legend" not in x) + "\n")
    np.testing.assert_allclose(read_energies(tmp_path / "e.xvg", column=1).energies, VALUES * kJ / mol)
    (tmp_path / "e.xvg").write_text(XVG.replace("Potential", "Total Energy"))
    assert len(read_energies(tmp_path / "e.xvg", column="Total Energy")) == 2


def test_rows_that_a_crash_cut_off_and_a_restart_went_on_behind(tmp_path):
    """No number is taken from such a row: it may be cut, or two of them written as one."""
    head, first, second = CSV.splitlines()
    (tmp_path / "e.csv").write_text("\n".join([head, first, second[:12] + first, head, second, ""]))
    with pytest.warns(UserWarning, match="1 rows of e.csv do not have its 4 columns"):
        table = read_energies(tmp_path / "e.csv")
    np.testing.assert_allclose(table.energies, VALUES * kJ / mol)


@pytest.fixture(scope="module")
def file():
    pytest.importorskip("pyedr")
    folder = pytest.importorskip("MDAnalysisTests").__file__
    return Path(folder).parent / "data" / "test.edr"


class TestEdr:
    """The binary energy file of GROMACS."""

    def test_values(self, file, tmp_path):
        table = read_energies(file)
        assert table.steps is None and table.times.tolist() == pytest.approx([0.0, 0.02, 0.04, 0.06])
        stored = table.energies / (kJ / mol)
        assert all(struct.pack(">f", energy) in file.read_bytes() for energy in stored)
        (tmp_path / "packed").write_bytes(gzip.compress(file.read_bytes()))
        assert read_energies(tmp_path / "packed").energies.tolist() == table.energies.tolist()
        assert read_energies(file, column="Total Energy").energies[0] > table.energies[0]
        with pytest.raises(DataError, match="no term 'Nothing'"):
            read_energies(file, column="Nothing")
        with pytest.raises(UnitsError, match="leave out"):
            read_energies(file, "gromacs")

    def test_a_run_that_was_killed(self, file, tmp_path):
        (tmp_path / "e.edr").write_bytes(file.read_bytes()[:-30])
        assert read_energies(tmp_path / "e.edr").energies.tolist() == read_energies(file).energies[:3].tolist()

    @pytest.mark.parametrize("at", [8, 44, 52])
    def test_counts_that_the_file_cannot_hold(self, at, file, tmp_path):
        content = bytearray(file.read_bytes())
        frame = 0 if at == 8 else content.find(struct.pack(">i", -7777777))
        content[frame + at : frame + at + 4] = struct.pack(">i", 2**30)
        (tmp_path / "e.edr").write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            read_energies(tmp_path / "e.edr")
