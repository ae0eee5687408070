"""Triplets as splines of LAMMPS's ``pair_style uf3``.

UF3 sums cubic tensor splines Σ c_abc B_a(r_ij) B_b(r_ik) B_c(r_jk). With cos θ = (r_ij² + r_ik² − r_jk²)/(2 r_ij r_ik)
a function of two distances and an angle becomes one of three distances; its projection interpolates it on knots that
refine those of the model, so that the error in the force falls with the third power of their distance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy.interpolate import BSpline, NdBSpline

from ..errors import DataError
from .potential import LiquidPotential, TripletFunction

#: Characters of a line that LAMMPS reads; longer ones hang it (22 July 2025).
LINE = 1000
#: (knots per interval of the model, knots along r_jk), tried in this order until the error is small enough. LAMMPS
#: keeps four cubes of the larger number, and a line of the file holds about 110 numbers.
REFINEMENTS = ((4, 64), (6, 64), (8, 84), (12, 100))


@dataclass(frozen=True)
class Projection:
    """Tensor spline of one kind of triplets.

    Attributes
    ----------
    knots
        Along r_ij, r_ik and r_jk, Å.
    coefficients
        eV.
    error
        Root mean square error of the derivatives by the three distances, divided by that of the derivatives, over
        triplets with angles and distances spread evenly.
    """

    knots: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    coefficients: NDArray[np.float64]
    error: float


def project(functions: Sequence[TripletFunction], tolerance: float) -> Projection:
    """Projection of a sum of functions of the same triplets, refined until its error is below ``tolerance``.

    Raises
    ------
    DataError
        If the finest one is not accurate enough.
    """
    found = None
    for fine, along in REFINEMENTS:
        found = _projected(functions, fine, along)
        if found.error <= tolerance:
            return found
    assert found is not None
    raise DataError(
        f"triplets {'-'.join(functions[0].kinds)}: the best spline of LAMMPS has an error of {found.error:.1e} in the "
        f"force, not {tolerance:g}: pass a larger tolerance"
    )


def _projected(functions: Sequence[TripletFunction], fine: int, along: int) -> Projection:
    low, high = min(f.first for f in functions), max(f.cutoff for f in functions)
    step = min(f.step for f in functions)
    count = int(np.ceil((high - low) / step - 1e-6)) * fine
    # UF3 finds an interval by dividing: equal steps, and few digits, for a line may not be long
    short = _clamped(np.linspace(low, high, count + 1).round(6))
    long = _clamped(np.linspace(0.0, 2.0 * float(short[-1]), along + 1).round(6))
    x, y = (_sites(t) for t in (short, long))
    values = np.zeros((len(x), len(x), len(y)))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (x[:, None, None] ** 2 + x[None, :, None] ** 2 - y**2) / (2.0 * x[:, None, None] * x[None, :, None])
    cosine = np.nan_to_num(cosine, nan=0.0, posinf=0.0, neginf=0.0)  # r = 0, where every spline is zero
    for f in functions:
        basis = f.basis(x)
        radial = np.einsum("abl,ai,bj->ijl", f.coefficients, basis, basis)
        values += np.einsum("ijl,ijkl->ijk", radial, legendre.legvander(cosine, f.coefficients.shape[2] - 1))
    for axis, (t, sites) in enumerate(((short, x), (short, x), (long, y))):
        matrix = BSpline.design_matrix(sites, t, 3).toarray()
        turned = np.moveaxis(values, axis, 0)
        solved = np.linalg.solve(matrix, turned.reshape(len(matrix), -1)).reshape(turned.shape)
        values = np.moveaxis(solved, 0, axis)
    for end in (slice(3), slice(-3, None)):  # value and two derivatives vanish at both ends
        values[end], values[:, end] = 0.0, 0.0
    values[_impossible(short, long)] = 0.0
    return Projection((short, short, long), values, _error(functions, (short, short, long), values))


def _clamped(knots: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[knots[0]] * 3, knots, [knots[-1]] * 3])


def _sites(knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of interpolation: means of three knots."""
    return np.clip((knots[1:-3] + knots[2:-2] + knots[3:-1]) / 3.0, knots[0], knots[-1])


def _impossible(short: NDArray[np.float64], long: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Products of splines that no triangle reaches, a mask of the shape of the coefficients."""
    (low, high), (least, most) = ((t[:-4], t[4:]) for t in (short, long))
    apart = np.maximum(low[:, None] - high, low - high[:, None])
    return (least > (high[:, None] + high)[..., None]) | (most < apart[..., None])


def _error(functions: Sequence[TripletFunction], knots, coefficients: NDArray[np.float64], count: int = 2000) -> float:
    """Relative error of the derivatives at random triplets, the function's own by central differences."""
    rng = np.random.default_rng(0)
    low, high = min(f.first + 3.0 * f.step for f in functions), max(f.cutoff for f in functions)
    r, s = rng.uniform(min(low, 0.5 * high), high, (2, count))
    t = np.sqrt(r * r + s * s - 2.0 * r * s * rng.uniform(-0.98, 0.98, count))
    at, spline, change = np.stack([r, s, t], 1), NdBSpline(knots, coefficients, 3), 1e-5
    wrong = right = 0.0
    for axis in range(3):
        shift = change * np.eye(3)[axis]
        exact = (_energy(functions, at + shift) - _energy(functions, at - shift)) / (2.0 * change)
        found = spline(at, nu=np.eye(3, dtype=int)[axis])
        wrong, right = wrong + float(((found - exact) ** 2).sum()), right + float((exact**2).sum())
    return float(np.sqrt(wrong / right)) if right else 0.0


def _energy(functions: Sequence[TripletFunction], at: NDArray[np.float64]) -> NDArray[np.float64]:
    r, s, t = at.T
    cosine, out = (r * r + s * s - t * t) / (2.0 * r * s), np.zeros(len(at))
    for f in functions:
        angular = legendre.legvander(cosine, f.coefficients.shape[2] - 1)
        out += np.einsum("abl,an,bn,nl->n", f.coefficients, f.basis(r), f.basis(s), angular)
    return out


def triplet_file(
    potential: LiquidPotential, names: Sequence[str], units: str, energy: float, tolerance: float
) -> tuple[str, float]:
    """Text of the potential file, and the largest error of a projection."""
    head = f"#UF3 POT UNITS: {units} DATE: 2026-01-01 AUTHOR: kernelfe CITATION: -"
    kinds, lines, worst = potential.kinds, [], 0.0
    found: dict[tuple[int, int, int], Projection] = {}
    for i, (j, k) in itertools.product(
        range(len(kinds)), itertools.combinations_with_replacement(range(len(kinds)), 2)
    ):
        if functions := potential.triplet_functions(kinds[i], kinds[j], kinds[k]):
            found[i, j, k] = project(functions, tolerance)
            worst = max(worst, found[i, j, k].error)
    reach = max(p.knots[0][-1] for p in found.values())
    for j, k in itertools.combinations_with_replacement(range(len(kinds)), 2):  # UF3 wants pairs of all kinds: zeros
        lines += [
            head,
            f"2B {names[j]} {names[k]} 0 3 uk",
            f"{reach:.9g} 9",
            _short([0.0] * 4 + [reach / 2] + [reach] * 4),
        ]
        lines += ["5", "0 0 0 0 0", "#"]
    for i, (j, k) in itertools.product(
        range(len(kinds)), itertools.combinations_with_replacement(range(len(kinds)), 2)
    ):
        lines += [head, f"3B {names[i]} {names[j]} {names[k]} 0 3 uk"]
        projection = found.get((i, j, k)) or _zero(reach)
        short, _, long = projection.knots
        lines += [f"{2.0 * short[-1]:.9g} {short[-1]:.9g} {short[-1]:.9g} {len(long)} {len(short)} {len(short)}"]
        lines += [_short(long), _short(short), _short(short)]
        shape = projection.coefficients.shape
        lines += [" ".join(map(str, shape))]
        lines += [_row(energy * row) for row in projection.coefficients.reshape(-1, shape[2])]
        lines += ["#"]
    return "\n".join(lines) + "\n", worst


def _zero(reach: float) -> Projection:
    short, long = (_clamped(np.array([0.0, 0.5 * x, x])) for x in (reach, 2.0 * reach))
    return Projection((short, short, long), np.zeros((5, 5, 5)), 0.0)


def _short(numbers) -> str:
    return " ".join(f"{x:.9g}" for x in numbers)


def _row(values: NDArray[np.float64]) -> str:
    """Numbers in one line that LAMMPS can read, with as many decimals as fit."""
    first = 8 - int(np.ceil(np.log10(np.abs(values).max(initial=1e-30) + 1e-30)))
    for decimals in range(first, first - 6, -1):
        line = " ".join(map(_compact, np.round(values, decimals).tolist()))
        if len(line) <= LINE:
            return line
    raise DataError(f"{len(values)} numbers do not fit into a line of a UF3 file")


def _compact(x: float) -> str:
    """A number without the zeros that may be left out: .0012."""
    text = repr(x)
    if text.startswith(("0.", "-0.")):
        text = text.replace("0.", ".", 1)
    return "0" if text in (".0", "-.0") else text.removesuffix(".0")
