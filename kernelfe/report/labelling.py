"""The page of ``kernelfe label``: what the labels are, how noisy, and whether the runs are fit to learn from."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..allatom.labelling import Labelled
from ..analysis.plots import KINDS
from .html import Page, number


def label_page(found: Labelled, versions: dict[str, str]) -> tuple[Page, list[str]]:
    """Report on labelled frames, and its main numbers as lines of text.

    Parameters
    ----------
    found
        Of :func:`~kernelfe.allatom.labelling.label_runs`.
    versions
        Packages to list.
    """
    frames = found.frames
    page = Page(f"Labels of {len(frames)} frames of {len(found.beads.kinds)} beads")
    lines: list[str] = []
    lead = "; ".join(
        f"{run.name}: {int((found.run == k).sum())} frames at {run.temperature:g} K" for k, run in enumerate(found.runs)
    )
    page.paragraph(lead + ".", "lead")
    page.paragraph(_described(found), "note")
    lines.append(found.origin)
    for remark in found.remarks:
        page.paragraph(remark[:1].upper() + remark[1:] + ".", "warning")
        lines.append(remark)
    lines += _noise(page, found) + _signs(page, found) + _runs(page, found) + _overlap(page, found)
    page.heading("Made with")
    page.paragraph(", ".join(f"{package} {version}" for package, version in versions.items()), "note")
    return page, lines


def _described(found: Labelled) -> str:
    beads = found.beads
    if beads.weights is not None:
        kinds = ", ".join(f"{beads.kinds.count(k)} {k}" for k in dict.fromkeys(beads.kinds))
        return f"Beads are centres of mass: {kinds}. The force on a bead is the sum over its atoms."
    shown = ", ".join(f"{k} (atom {a})" for k, a in zip(beads.kinds[:40], (beads.atoms or [])[:40], strict=True))
    more = "" if len(beads.kinds) <= 40 else f" and {len(beads.kinds) - 40} more"
    bonds = ", ".join(f"{i}-{j}" for i, j in beads.bonds[:60]) or "none"
    return f"Beads: {shown}{more}. Bonds of beads: {bonds}. {found.origin[:1].upper()}{found.origin[1:]}."


def _noise(page: Page, found: Labelled) -> list[str]:
    page.heading("Noise of single labels")
    rows, lines = [], []
    for kind, noise in found.noise.items():
        unit, scale, name = KINDS.get(kind, ("internal units", 1.0, kind))
        rows.append(
            [
                name,
                unit,
                int(found.frames.present[kind].sum()),
                number(noise.plain * scale),
                number(noise.before * scale),
                number(noise.after * scale),
                noise.means,
            ]
        )
        better = (
            f"noise {number(noise.before * scale)} → {number(noise.after * scale)} {unit} ({noise.means})"
            if np.isfinite(noise.after)
            else f"spread {number(noise.plain * scale)} {unit} ({noise.means})"
        )
        lines.append(f"{name}: {better}")
    page.table(
        ["label", "unit", "frames", "spread of the plain label", "noise before", "noise after", "made quieter by"],
        rows,
        "Root mean squares over frames and components. Spread: about the mean of the run. Noise: about a regression on "
        "distances of the beads, so both columns also hold what the regression misses of the mean at fixed beads. "
        "Force maps and coefficients of variates were fitted to other frames than those they are applied to: means "
        "at fixed beads are those of the plain labels.",
    )
    return lines


def _signs(page: Page, found: Labelled) -> list[str]:
    check = found.checks.virial
    if check is None:
        return []
    page.heading("Signs and units of the forces")
    right = check.factor == 1.0
    page.paragraph(check.verdict, "note" if right else "warning")
    page.table(
        ["K", "frames", "virial / kT", "ratio to equilibrium"],
        [
            [f"{t:g}", int(n), f"{number(v)} ± {number(e, 2)}", f"{number(r)} ± {number(s, 2)}"]
            for t, n, v, e, r, s in zip(
                check.temperature,
                check.frames,
                check.virial,
                check.virial_error,
                check.ratio,
                check.standard_error,
                strict=True,
            )
        ],
        f"⟨Σ(x − x̄)·F⟩ of the beads must be −3(N − 1) kT = {-3 * (len(found.beads.kinds) - 1)} kT; the ratio, which "
        "also uses fields along bonds, must be 1.",
    )
    return [f"sign and unit check: {check.verdict}"]


def _runs(page: Page, found: Labelled) -> list[str]:
    page.heading("Independent frames")
    rows, lines = [], []
    for k, (run, one) in enumerate(zip(found.runs, found.checks.inefficiency, strict=True)):
        n = int((found.run == k).sum())
        rows.append(
            [
                run.name,
                f"{run.temperature:g}",
                n,
                f"{number(one.slowest)} ({one.coordinate})",
                number(one.energy),
                number(n / one.slowest, 2) if one.slowest > 1.0 else str(n),
            ]
        )
    slow = max((one.slowest for one in found.checks.inefficiency if np.isfinite(one.slowest)), default=1.0)
    page.table(
        ["run", "K", "frames", "frames per independent frame", "of the energy", "independent frames"],
        rows,
        "Statistical inefficiencies 2τ, of the slowest torsion of the beads (without torsions: distance) and of the "
        "energy. A run that is shorter than some 50 of them gives a lower bound. --stride thins.",
    )
    lines.append(f"frames per independent frame: at most {number(slow, 2)}")
    few = [
        run.name
        for k, run in enumerate(found.runs)
        if (found.run == k).sum() < 10 * found.checks.inefficiency[k].slowest
    ]
    if few:
        page.paragraph(
            f"Fewer than ten independent frames in {', '.join(few)}: populations of these runs are hardly known. The "
            "labels are right, but --density would take the populations for those of equilibrium.",
            "warning",
        )
        lines.append(f"fewer than ten independent frames in {', '.join(few)}")
    return lines


def _overlap(page: Page, found: Labelled) -> list[str]:
    checks = found.checks
    if len(checks.temperatures) < 2:
        page.heading("Temperatures")
        page.paragraph(
            "All frames are at one temperature: they do not determine how the free energy changes with it.", "note"
        )
        return []
    page.heading("Overlap between temperatures")
    head = ["", *(f"{t:g} K" for t in checks.temperatures)]

    def rows(matrix: Any) -> list[list[str]]:
        return [[f"{t:g} K", *(number(v, 2) for v in row)] for t, row in zip(checks.temperatures, matrix, strict=True)]

    page.table(
        head,
        rows(checks.shape_overlap),
        "Common area of the histograms of the beads' torsions (distances, without torsions), the least of them: 1 for "
        "equal distributions. Regions that only one temperature visits are known at that temperature only.",
    )
    lines = [f"overlap of shapes between neighbouring temperatures: at least {number(_next(checks.shape_overlap), 2)}"]
    if checks.energy_overlap is not None:
        page.table(
            head,
            rows(checks.energy_overlap),
            "Overlap matrix of the energies (MBAR). Below 0.03 between neighbours, reweighting between them is not "
            "reliable; a fit does not reweight, and needs no overlap of energies.",
        )
        lines.append(f"overlap of energies between neighbours: at least {number(_next(checks.energy_overlap), 2)}")
    for remark in checks.remarks:
        page.paragraph(remark[:1].upper() + remark[1:] + ".", "warning")
        lines.append(remark)
    return lines


def _next(matrix: Any) -> float:
    """Least element next to the diagonal."""
    return float(min(np.diagonal(matrix, 1).min(), np.diagonal(matrix, -1).min()))
