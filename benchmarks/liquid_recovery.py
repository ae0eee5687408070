"""Liquids whose energy is known, recovered from a few frames of exact forces: prints a table.

    python benchmarks/liquid_recovery.py                  # all systems, some minutes on one core
    python benchmarks/liquid_recovery.py argon mixture

argon: Lennard-Jones, one pair function. mixture: Kob and Andersen's, three pair functions. water: mW (Stillinger and
Weber), pairs and triplets, forces of frames that were not fitted: with default terms, whose triplets end inside the
range of the potential, and with triplets up to its range and knots 0.3 Å apart. sizes: argon boxes of 300, 301 and 400
beads in one fit.

The error of a pair force is the largest |Δf| where g(r) > 0.1, over the larger of |f(r)| and a tenth of the strongest
attraction, so that distances at which f changes its sign count as well.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings

import numpy as np
from _liquids import PairLiquid, argon, edges, mixture, sampled, vectors, water

from kernelfe import Frames, FreeEnergyRegressor, Term, liquid_terms
from kernelfe.descriptors import TripletSplines


def seen(liquid: PairLiquid, frames: Frames, kinds: tuple[str, str], width: float = 0.05) -> np.ndarray:
    """Distances at which g(r) of two kinds exceeds 0.1."""
    bounds = np.arange(0.0, liquid.pairs[kinds].stop + width, width)
    names, counts = np.array(frames.kinds), np.zeros(len(bounds) - 1)
    for x in frames.positions:
        i, j = edges(x, liquid.edge, bounds[-1])
        mine = ((names[i] == kinds[0]) & (names[j] == kinds[1])) | ((names[i] == kinds[1]) & (names[j] == kinds[0]))
        counts += np.histogram(vectors(x, liquid.edge, i[mine], j[mine])[1], bounds)[0]
    a, b = (int((names == kind).sum()) for kind in kinds)
    pairs = a * (a - 1) / 2 if kinds[0] == kinds[1] else a * b
    shell = 4 / 3 * np.pi * np.diff(bounds**3) / liquid.edge**3
    r = 0.5 * (bounds[1:] + bounds[:-1])
    return r[counts > 0.1 * pairs * shell * len(frames)]


def pair_errors(liquid: PairLiquid, frames: Frames, model: FreeEnergyRegressor) -> dict[str, float]:
    """Largest relative error of every pair force where g(r) > 0.1."""
    out = {}
    for kinds, pair in liquid.pairs.items():
        r = seen(liquid, frames, kinds)
        truth = pair.force(r)
        name = f"pair {'-'.join(kinds)}"
        found = model.pair_potential(r, name, temperature=liquid.temperature, quantity="mean_force")
        out[name] = float((np.abs(found - truth) / np.maximum(np.abs(truth), -0.1 * truth.min())).max())
    return out


def held_out(model: FreeEnergyRegressor, test: Frames) -> float:
    """Root mean square error of forces over their spread."""
    error = model.predict(test, "mean_force") - test.labels["mean_force"]
    return float(np.sqrt(np.mean(error**2)) / test.labels["mean_force"].std())


def fitted(frames, terms=None) -> tuple[FreeEnergyRegressor, float]:
    """A regressor, without any argument but for terms, and the seconds of its fit."""
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FreeEnergyRegressor(terms).fit(frames)
    return model, time.perf_counter() - begin


def recovered(name: str, liquid, frames: int, **options) -> dict[str, float]:
    """Errors of a model of some frames of a liquid."""
    data = sampled(liquid, frames + 2, **options)
    train, test = data[np.arange(frames)], data[np.arange(frames, frames + 2)]
    model, seconds = fitted(train)
    out = {"beads": len(liquid.kinds), "frames": frames, "seconds": seconds, "forces": held_out(model, test)}
    if isinstance(liquid, PairLiquid):
        return out | pair_errors(liquid, data, model)
    (pair, (name, three)) = liquid_terms(train)
    reach = TripletSplines(liquid.cutoff, three.descriptor.start, 0.3, kinds=three.descriptor.kinds)
    model, out["seconds"] = fitted(train, [pair, (name, Term(reach))])
    return out | {"triplets to the range": held_out(model, test)}


def sizes() -> dict[str, float]:
    """Boxes of different numbers of beads in one fit; errors of the forces of a further size."""
    parts = [sampled(argon(n), 4, seed=n) for n in (300, 301, 400)]
    model, seconds = fitted(parts)
    other = argon(350)
    test = sampled(other, 2, seed=1)
    out = {"beads": 300, "frames": 12, "seconds": seconds, "forces": held_out(model, test)}
    return out | pair_errors(other, test, model)


PARTS = {
    "argon": lambda: recovered("argon", argon(), 4),
    "mixture": lambda: recovered("mixture", mixture(), 10),
    "water": lambda: recovered("water", water(), 8),
    "sizes": sizes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="systems; all if left out")
    for name in parser.parse_args().parts or PARTS:
        found = PARTS[name]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        pairs = "  ".join(
            f"{key} {100 * value:.2f} %" for key, value in found.items() if key.startswith(("pair", "triplets"))
        )
        print(
            f"{name:8s} {found['beads']:5.0f} beads {found['frames']:3.0f} frames: fit {found['seconds']:6.1f} s, "
            f"peak {peak:.2f} GiB, forces {100 * found['forces']:.2f} %  {pairs}",
            flush=True,
        )


if __name__ == "__main__":
    main()
