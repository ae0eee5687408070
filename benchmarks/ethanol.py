"""Frames of ethanol from molecular dynamics with a tight-binding electronic structure, for the molecule benchmarks.

GFN2-xTB (tblite) energies and forces of one free molecule, Langevin dynamics at 500 K with a step of 0.5 fs and a
friction of 0.01/fs, one frame kept every 20 fs after 2 ps. Training frames are one trajectory; validation and test
frames are another one, from another seed. Energies in eV, forces in eV/Å. Runs in the environment ``tblite`` of
``environments.py``, about a quarter of an hour on one core; the file is written once, at the end.

    python benchmarks/environments.py /tmp/peers tblite
    /tmp/peers/tblite/bin/python benchmarks/ethanol.py /tmp/peers/ethanol.npz
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

TEMPERATURE = 500.0
STEP = 0.5
FRICTION = 0.01
EVERY = 40
SETTLE = 4000
#: Largest ratio of a bond to its initial length; beyond it the molecule counts as broken.
STRETCH = 1.6
#: Pairs closer than this in the first frame are bonded, Å (C–C 1.5, C–O 1.4, C–H 1.1, O–H 1.0; the next are 2.0 apart).
BONDED = 1.7


def trajectory(frames: int, seed: int) -> dict[str, np.ndarray]:
    """Positions (n, 9, 3), forces (n, 9, 3) and energies (n,) along one run.

    Raises
    ------
    RuntimeError
        If a bond breaks.
    """
    from ase import units
    from ase.build import molecule
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from tblite.ase import TBLite

    rng = np.random.default_rng(seed)
    atoms = molecule("CH3CH2OH")
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    lengths = atoms.get_all_distances()
    bonds = np.argwhere(np.triu(lengths < BONDED, 1))
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=rng)
    # fixcm=True would heat so small a system
    run = Langevin(
        atoms, STEP * units.fs, temperature_K=TEMPERATURE, friction=FRICTION / units.fs, fixcm=False, rng=rng
    )
    run.run(SETTLE)
    found = {"positions": [], "forces": [], "energies": []}
    for number in range(frames):
        run.run(EVERY)
        now = atoms.get_all_distances()
        if any(now[i, j] > STRETCH * lengths[i, j] for i, j in bonds):
            raise RuntimeError(
                f"a bond broke in frame {number} (seed {seed}): use another seed, or a lower temperature"
            )
        # remove the drift of the molecule: only its shape matters, and files with few digits would lose it
        found["positions"].append(atoms.get_positions() - atoms.get_center_of_mass())
        found["forces"].append(atoms.get_forces(apply_constraint=False))
        found["energies"].append(atoms.get_potential_energy())
    return {"numbers": atoms.numbers, "bonds": bonds, **{key: np.array(value) for key, value in found.items()}}


def main(argv: list[str] | None = None) -> None:
    """Create the file unless it exists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=5500)
    parser.add_argument("--validation", type=int, default=500)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if args.out.exists():
        print(f"{args.out} exists already")
        return
    train = trajectory(args.train, args.seed)
    held_out = trajectory(args.validation + args.test, args.seed + 1)
    # validation and test frames alternate along the run in a random order: they have the same distribution
    order = np.random.default_rng(args.seed).permutation(args.validation + args.test)
    parts = {
        "train": {key: train[key] for key in ("positions", "forces", "energies")},
        "validation": {key: held_out[key][order[: args.validation]] for key in ("positions", "forces", "energies")},
        "test": {key: held_out[key][order[args.validation :]] for key in ("positions", "forces", "energies")},
    }
    arrays = {f"{part}_{key}": value for part, content in parts.items() for key, value in content.items()}
    aside = args.out.with_suffix(".part.npz")
    np.savez(aside, numbers=train["numbers"], bonds=train["bonds"], temperature=TEMPERATURE, seed=args.seed, **arrays)
    os.replace(aside, args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
