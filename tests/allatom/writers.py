"""Trajectory files written number by number, without the readers' own package where a format allows it."""

from __future__ import annotations

import numpy as np

N, ATOMS = 6, 5


def numbers(seed=0):
    """Positions (N, ATOMS, 3), forces, a lower-triangular cell per frame, times and steps; the writer's units."""
    rng = np.random.default_rng(seed)
    cell = np.diag([9.0, 8.0, 7.0]) + np.tril(rng.normal(0.0, 0.4, (3, 3)), -1)
    return {
        "positions": rng.uniform(0.0, 6.0, (N, ATOMS, 3)),
        "forces": rng.normal(0.0, 50.0, (N, ATOMS, 3)),
        "cell": np.repeat(cell[None], N, 0) * np.linspace(1.0, 1.01, N)[:, None, None],
        "times": np.arange(N) * 2.0,
        "steps": np.arange(N) * 1000,
    }


def write_trr(path, data, without_forces=()):
    """nm, kJ/mol/nm, by the routine of the format itself."""
    from MDAnalysis.lib.formats.libmdaxdr import TRRFile

    with TRRFile(str(path), "w") as file:
        for row in range(N):
            forces = None if row in without_forces else data["forces"][row].astype("f4")
            file.write(
                data["positions"][row].astype("f4"),
                None,
                forces,
                data["cell"][row].astype("f4"),
                int(data["steps"][row]),
                float(data["times"][row]),
                0.0,
                ATOMS,
            )


def write_netcdf(path, data, forces=True, leave_out=(), stride=1):
    """Å, kcal/mol/Å, ps: the AMBER convention, version 1.0, 64-bit offsets."""
    from scipy.io import netcdf_file

    with netcdf_file(path, "w", version=2) as file:
        file.Conventions, file.ConventionVersion = "AMBER", "1.0"
        file.program, file.programVersion, file.title = "test", "1", "x"
        for name, size in {"frame": None, "spatial": 3, "atom": ATOMS, "cell_spatial": 3, "cell_angular": 3}.items():
            file.createDimension(name, size)

        def variable(name, values, dimensions, unit):
            if name in leave_out:
                return
            made = file.createVariable(name, "f4", ("frame", *dimensions))
            made.units = unit
            made[:] = values[::stride]

        lengths = np.linalg.norm(data["cell"], axis=2)
        unit = data["cell"] / lengths[..., None]
        cosines = np.stack([(unit[:, i] * unit[:, j]).sum(1) for i, j in ((1, 2), (0, 2), (0, 1))], 1)
        variable("time", data["times"], (), "picosecond")
        variable("coordinates", data["positions"], ("atom", "spatial"), "angstrom")
        if forces:
            variable("forces", data["forces"], ("atom", "spatial"), "kilocalorie/mole/angstrom")
        variable("cell_lengths", lengths, ("cell_spatial",), "angstrom")
        variable("cell_angles", np.degrees(np.arccos(cosines)), ("cell_angular",), "degree")


def write_h5md(path, data, length="nm", force="kJ mol-1 nm-1", energies=None, energy="kJ mol-1", forces=True):
    """Any units that the file states."""
    import h5py

    with h5py.File(path, "w") as file:
        file.create_group("h5md").attrs["version"] = [1, 1]
        group = file.create_group("particles/all")
        box = group.create_group("box")
        box.attrs["dimension"], box.attrs["boundary"] = 3, np.array([b"periodic"] * 3)
        entries = [(group, "position", data["positions"], length), (box, "edges", data["cell"], length)]
        entries += [(group, "force", data["forces"], force)] if forces else []
        if energies is not None:
            entries.append((file.create_group("observables"), "potential_energy", energies, energy))
        for parent, name, values, unit in entries:
            element = parent.create_group(name)
            element["step"], element["time"], element["value"] = data["steps"], data["times"], values
            element["time"].attrs["unit"] = "ps"
            if unit:
                element["value"].attrs["unit"] = unit


def write_lammps(
    path, data, columns="id type xu yu zu fx fy fz", flags="pp pp pp", shuffle=True, masses=(1.0,) * ATOMS
):
    """The numbers as they stand; atoms in random order, as LAMMPS writes them."""
    rng = np.random.default_rng(1)
    with open(path, "w") as file:
        for row in range(N):
            cell = data["cell"][row]
            xy, xz, yz = cell[1, 0], cell[2, 0], cell[2, 1]
            low = [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
            high = [cell[0, 0] + max(0.0, xy, xz, xy + xz), cell[1, 1] + max(0.0, yz), cell[2, 2]]
            file.write(f"ITEM: TIMESTEP\n{data['steps'][row]}\nITEM: NUMBER OF ATOMS\n{ATOMS}\n")
            file.write(f"ITEM: BOX BOUNDS xy xz yz {flags}\n")
            for lo, hi, tilt in zip(low, high, (xy, xz, yz), strict=True):
                file.write(f"{lo:.10f} {hi:.10f} {tilt:.10f}\n")
            file.write(f"ITEM: ATOMS {columns}\n")
            for atom in rng.permutation(ATOMS) if shuffle else range(ATOMS):
                x, f = data["positions"][row, atom], data["forces"][row, atom]
                value = {"id": atom + 1, "type": 1, "mass": masses[atom]} | {"fx": f[0], "fy": f[1], "fz": f[2]}
                scaled = x @ np.linalg.inv(cell)
                image = np.floor(scaled).astype(int) if "ix" in columns.split() else np.zeros(3, int)
                kinds = {"": x - image @ cell, "u": x, "s": scaled - image, "su": scaled, "i": image}
                for kind, numbers_ in kinds.items():
                    names = [f"i{axis}" if kind == "i" else axis + kind for axis in "xyz"]
                    value |= dict(zip(names, numbers_, strict=True))
                file.write(" ".join(str(value[name]) for name in columns.split()) + "\n")
