"""Turn the raw output of ``generate.py`` into the bundled files. Rerun at will; it takes seconds.

    python pack.py --raw raw            # writes frames.npz, ../water_npt/frames.npz and checks.txt

Needs kernelfe.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from kernelfe import Frames
from kernelfe.units import factor

KJ = factor("kJ/mol")
TEMPERATURES = (250, 280, 310, 340, 370, 400)
#: Frames with forces: all of 310 K, half of the others.
FORCES = {310: 300}
DEFAULT_FORCES = 150
HERE = Path(__file__).parent


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as raw:
        return {name: raw[name] for name in raw.files}


def labelled(run: dict[str, np.ndarray], temperature: float, forces: int | None) -> Frames:
    """Frames of one run in eV and Å; ``forces`` of them, the first ones, have forces (None: none has)."""
    n, beads = run["positions"].shape[:2]
    volume = np.abs(np.linalg.det(run["cells"]))
    labels = {"mean_energy": KJ * run["energies"], "excess_pressure": KJ * run["virials"] / volume}
    present = {}
    if forces is not None:
        present["mean_force"] = np.arange(n) < forces
        labels["mean_force"] = np.where(present["mean_force"][:, None, None], KJ * run["forces"].astype(float), np.nan)
    return Frames.from_arrays(
        run["positions"].astype(float),
        temperature=np.full(n, float(temperature)),
        labels=labels,
        present=present,
        cell=run["cells"],
        kinds=["W"] * beads,
        masses=np.full(beads, 18.01528),
    )


def check(name: str, run: dict[str, np.ndarray], temperature: float) -> str:
    """Net force, spread of forces, mean energy and pressure of a run."""
    volume = np.abs(np.linalg.det(run["cells"]))
    beads = run["positions"].shape[1]
    pressure = (beads * 8.31446261815324e-3 * temperature + run["virials"]) / volume * 16605.39
    blocks = np.array_split(np.arange(len(pressure)), 10)

    def error(x):
        return np.std([x[b].mean() for b in blocks], ddof=1) / 10**0.5

    return (
        f"{name}: {len(pressure)} frames, net force {np.abs(run['forces'].sum(1)).max():.1e} and rms force "
        f"{run['forces'].std():.2f} kJ/mol/A, energy per molecule {run['energies'].mean() / beads:.3f} ± "
        f"{error(run['energies']) / beads:.3f} kJ/mol, pressure {pressure.mean():.0f} ± {error(pressure):.0f} bar, "
        f"density {beads * 18.01528 / volume.mean() / 0.602214076:.4f} g/cm3"
    )


def main(raw: Path) -> None:
    runs = {t: read(raw / f"water_{t}.npz") for t in TEMPERATURES}
    parts = [labelled(run, t, FORCES.get(t, DEFAULT_FORCES)) for t, run in runs.items()]
    Frames.concatenate(parts).save(HERE / "frames.npz", dtype="float32")
    lines = [check(f"{t} K", run, t) for t, run in runs.items()]
    npt = read(raw / "water_298_npt.npz")
    (HERE.parent / "water_npt").mkdir(exist_ok=True)
    labelled(npt, 298.0, None).save(HERE.parent / "water_npt" / "frames.npz", dtype="float32")
    lines.append(check("298 K, 1 bar", npt, 298.0))
    (HERE / "checks.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, default=HERE / "raw")
    main(parser.parse_args().raw)
