"""Sign and unit of forces, checked against the thermal energy of the frames.

For frames drawn from exp(−A/kT) of an isolated molecule and any field w(R) of the beads, integration by parts gives

    ⟨w·F⟩ = −kT ⟨∇·w⟩.

With w = x − x̄ this is the virial theorem, ⟨Σ(x − x̄)·F⟩ = −3(N − 1) kT. The ratio of the left side to the right is 1
for right data, −1 for forces of the wrong sign, and a ratio of units for forces (or positions) in a wrong unit. Frames
that were selected, restrained or drawn uniformly have another ratio for every field. A cause is therefore named only
where the virial and the fields w = ±½(r − c) r/|r| of bonded beads, c the median of |r|, have one common ratio.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np

from ..errors import require
from ..units import BOLTZMANN, factor

logger = logging.getLogger(__name__)

_FEWEST, _BLOCKS, _MOST_FRAMES = 20, 20, 5000


@dataclass(frozen=True, eq=False)
class VirialCheck:
    """Result of :func:`virial_check`.

    Attributes
    ----------
    temperature
        (k,), K. One entry per temperature; a single one, their mean, if a temperature has fewer than 20 frames.
    frames
        (k,), number of frames that were used, at most 5000 in all.
    virial, virial_error
        (k,), ⟨Σ(x − x̄)·F⟩ in kT with its standard error: −3(N − 1) for equilibrium frames.
    ratio, standard_error
        (k,), ⟨w·F⟩/(−kT⟨∇·w⟩), the weighted mean over the virial and the fields along bonds: 1 for equilibrium frames.
        Much better known than the virial alone. Errors come from blocks of frames in their order.
    common_ratio, common_error
        The same, over all temperatures.
    factor
        1 if the forces fit the frames, −1 or a ratio of units if these explain all ratios; None if nothing does.
    verdict
        The result as a sentence.
    """

    temperature: np.ndarray
    frames: np.ndarray
    virial: np.ndarray
    virial_error: np.ndarray
    ratio: np.ndarray
    standard_error: np.ndarray
    common_ratio: float
    common_error: float
    factor: float | None
    verdict: str

    @property
    def suspect(self) -> bool:
        """True if a wrong sign or unit was identified."""
        return self.factor not in (None, 1.0)


def virial_check(frames) -> VirialCheck:
    """Compare the forces of equilibrium frames with their temperature, which shows a wrong sign or unit.

    Parameters
    ----------
    frames
        :class:`~kernelfe.Frames` of two beads or more without a cell, 20 or more of them with ``mean_force``: unbiased
        equilibrium frames of one isolated molecule with single-frame forces, in their order in time.

    Returns
    -------
    VirialCheck

    Raises
    ------
    DataError
        If the frames are not of that kind.
    """
    require(
        applies(frames),
        f"the virial check needs frames of two beads or more without a cell, at least {_FEWEST} of them with "
        "mean_force labels",
    )
    rows = np.flatnonzero(frames.present["mean_force"])
    rows = rows[:: -(-len(rows) // _MOST_FRAMES)]
    kelvin = frames.temperature[rows]
    work, divergence = _identities(frames.positions[rows], frames.labels["mean_force"][rows], frames.bonds)
    work /= BOLTZMANN * kelvin[:, None]
    every, count = np.unique(kelvin, return_counts=True)
    groups = [np.flatnonzero(kelvin == t) for t in every] if count.min() >= _FEWEST else [np.arange(len(rows))]
    single = [_ratios(work[g], divergence[g], [np.arange(len(g))]) for g in groups]
    ratio, error, common, spread = _ratios(work, divergence, groups)
    cause, verdict = _verdict(ratio, error, common, spread)
    expected = -3.0 * (frames.positions.shape[1] - 1)
    return VirialCheck(
        np.array([kelvin[g].mean() for g in groups]),
        np.array([len(g) for g in groups]),
        expected * np.array([one[0][0] for one in single]),
        abs(expected) * np.array([one[1][0] for one in single]),
        np.array([one[2] for one in single]),
        np.array([one[3] for one in single]),
        common,
        spread,
        cause,
        verdict,
    )


def applies(frames) -> bool:
    """True if :func:`virial_check` can be asked about these frames."""
    return (
        frames.positions is not None
        and frames.cell is None
        and frames.positions.shape[1] > 1
        and int(frames.present.get("mean_force", np.zeros(1)).sum()) >= _FEWEST
    )


def warn_of_forces(frames) -> None:
    """Log a warning if the forces of these frames have a wrong sign or unit; nothing where that cannot be known."""
    forces = frames.labels.get("mean_force")
    if forces is not None and not np.any(np.nan_to_num(forces)):
        logger.warning("all forces are exactly zero: the file of these frames most likely holds no forces")
    elif applies(frames):
        found = virial_check(frames)
        if found.suspect:
            logger.warning("%s", found.verdict)


def _identities(x: np.ndarray, f: np.ndarray, bonds) -> tuple[np.ndarray, np.ndarray]:
    """w·F and −∇·w, each (n, 1 + bonds), of the virial and of each bond (of neighbours in a row if not known)."""
    beads = x.shape[1]
    pairs = np.array(bonds or [(i, i + 1) for i in range(beads - 1)], int).reshape(-1, 2)
    centred = x - x.mean(1, keepdims=True)
    work, divergence = [(centred * f).sum((1, 2))], [np.full(len(x), -3.0 * (beads - 1))]
    for i, j in pairs:
        edge = x[:, i] - x[:, j]
        r = np.maximum(np.linalg.norm(edge, axis=1), 1e-9)
        away = r - np.median(r)
        work.append(0.5 * away * ((f[:, i] - f[:, j]) * edge).sum(1) / r)
        divergence.append(-(1.0 + 2.0 * away / r))
    return np.stack(work, 1), np.stack(divergence, 1)


def _ratios(work: np.ndarray, divergence: np.ndarray, groups) -> tuple[np.ndarray, np.ndarray, float, float]:
    """⟨w·F⟩/(−kT⟨∇·w⟩) of each field with its standard error, and their weighted mean with its own."""
    scale = divergence.mean(0)
    ratio = work.mean(0) / scale
    residual = (work - ratio * divergence) / scale
    blocks = [residual[b].sum(0) for g in groups for b in np.array_split(g, min(_BLOCKS, len(g)))]
    spread = np.stack(blocks) * math.sqrt(len(blocks) / (len(blocks) - 1.0)) / len(work)
    error = np.sqrt((spread**2).sum(0))
    weight = 1.0 / np.maximum(error, 1e-12) ** 2
    weight /= weight.sum()
    return ratio, error, float(weight @ ratio), float(np.sqrt(((spread @ weight) ** 2).sum()))


def _verdict(ratio: np.ndarray, error: np.ndarray, common: float, spread: float) -> tuple[float | None, str]:
    """The factor that explains all ratios, or None, and what to do about it."""

    def explains(c: float, loose: float) -> bool:
        # standard errors are those of forces scaled by c: a low estimate of a ratio comes with a low one of its error
        scale = max(1.0, abs(c) / abs(common)) if common else 1.0
        alike = np.abs(ratio - c) <= 4.0 * np.hypot(scale * error, loose * abs(c))
        return bool(alike.all()) and abs(common - c) <= 3.0 * math.hypot(scale * spread, loose * abs(c))

    measured = f"⟨w·F⟩ is {common:.4g} ± {spread:.2g} times the −kT⟨∇·w⟩ of equilibrium frames"
    if spread > 0.3 * abs(common):
        return (1.0 if explains(1.0, 0.05) else None), f"{measured}: too few frames to judge the forces"
    # ±1 are told from all other factors without precision, and temperatures may be somewhat off
    for c in (1.0, -1.0):
        if explains(c, 0.05):
            return c, f"{measured}: {_sign(c)}{_size(common / c, spread)}"
    # a unit is named only if its factor fits within the error, which must leave no other explanation
    causes = {c: cause for c, cause in _units().items() if explains(math.copysign(c, common), 0.0)}
    if causes and spread <= 0.15 * abs(common):
        near, *others = sorted(causes, key=lambda c: abs(math.log(abs(common) / c)))
        sign = " and have the wrong sign" if common < 0.0 else ""
        also = "".join(f", or {c:.4g} for {causes[c]}" for c in others)
        return math.copysign(near, common), (
            f"{measured}: the forces are probably in a wrong unit{sign} (within the error, the factor is {near:.4g} "
            f"for {causes[near]}{also}). State the units of forces and of positions with units=, or correct the file"
        )
    return None, (
        f"{measured}, and no sign or unit explains that: the frames are not equilibrium frames of these forces "
        "(selected, restrained or drawn otherwise), their temperature is wrong, or the forces belong to other positions"
    )


def _sign(c: float) -> str:
    if c > 0.0:
        return "sign and unit of the forces are right"
    return "the forces have the wrong sign. mean_force is the force −∇A, not the gradient; turn its sign"


def _size(common: float, spread: float) -> str:
    """A remark on forces whose size is off by more than chance mostly makes it."""
    off = abs(common - 1.0) / spread if spread else 0.0
    if off <= 2.5:
        return ""
    return (
        f". Their size is {100.0 * (common - 1.0):+.0f} % off ({off:.1f} standard errors): a wrong temperature, or "
        "frames that are not quite from equilibrium, would explain that"
    )


def _units() -> dict[float, str]:
    """Ratios that come from forces in one unit taken for another, with the cause."""
    internal, out = "eV/Å", {}
    for true in ("kcal/mol/Å", "kJ/mol/Å", "kJ/mol/nm", "Hartree/bohr"):
        out[1.0 / factor(true)] = f"{true} taken for {internal}"
        out[factor(true)] = f"{internal} taken for {true}"
    out[10.0] = "a length in nm taken for Å, or in Å where nm was expected"
    out[0.1] = out[10.0]
    for true, read in (("kcal/mol/Å", "kJ/mol/Å"), ("kcal/mol/Å", "kJ/mol/nm"), ("Hartree/bohr", "eV/nm")):
        out[factor(read) / factor(true)] = f"{true} taken for {read}"
        out[factor(true) / factor(read)] = f"{read} taken for {true}"
    return out
