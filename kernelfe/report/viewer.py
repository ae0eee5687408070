"""Frames with predictions and their uncertainty, as an input file of the viewer chemiscope.

Chemiscope (Fraux, Cersonsky and Ceriotti, J. Open Source Softw. 5, 2117, 2020) shows a map of points and, for the
point picked, its structure. The file is JSON in the format it documents, and is read by the web page, by the Jupyter
widget and by the page for use offline. The package chemiscope makes the same document of the same parts, but cannot be
imported without IPython and ipywidgets, so it is not used.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from ..analysis import dihedral_angles
from ..arrays import real_array
from ..errors import DataError, require
from ..frames import Frames
from ..geometry.topology import dihedrals_of
from ..units import factor

KJ_MOL = factor("kJ/mol")

Quad = tuple[int, int, int, int]


def viewer_input(
    model: Any,
    frames: Frames,
    *,
    name: str = "kernelfe",
    torsions: Sequence[Quad] | None = None,
    elements: Mapping[str, str] | None = None,
    limit: int = 1000,
) -> dict[str, Any]:
    """Input of chemiscope: structures, a map coloured by the standard deviation of A, and all else to colour by.

    Properties of a frame: temperature (K); free energy relative to the mean of the frames shown at its temperature,
    its standard deviation, root mean square standard deviation of the force on a bead (kJ/mol, kJ/mol/Å); entropy,
    relative in the same way (J/mol/K); the score of the training domain where the model knows it; two coordinates
    of the map. Properties of a bead: the name of its kind and the standard deviation of its force.

    Parameters
    ----------
    model
        A fitted :class:`~kernelfe.FreeEnergyRegressor`.
    frames
        Frames of beads or of variables; labels are not used.
    name
        Title.
    torsions
        Dihedrals (i, j, k, l) of beads for the map. None: the first two along the backbone that the bonds give;
        without two of them the variables, or else principal components of the distances between beads.
    elements
        Chemical symbol of a bead kind, such as ``{"CA": "C"}``; kinds that are symbols need none, others show as X.
    limit
        Most frames to show, evenly spread; error bars of differences cost the square of their number.

    Returns
    -------
    dict
        Plain numbers, strings and lists: the JSON document.

    Raises
    ------
    DataError
        If frames are fewer than two or not of the model, an element is unknown, or a torsion names a missing bead.
    """
    if len(frames) < 2 or limit < 2:
        raise DataError(f"a map needs at least 2 frames, these are {min(len(frames), limit)}")
    model.check_frames(frames)
    shown = frames[np.unique(np.linspace(0, len(frames) - 1, min(len(frames), limit)).astype(int))]
    coordinates, axes = _coordinates(shown, torsions)
    free, free_std = model.predict(shown, "free_energy", return_std=True, reference="mean")
    force, force_std = model.predict(shown, "mean_force", return_std=True)
    properties = {"temperature": _property(shown.temperature, "K", "of the frame"), **coordinates}
    properties |= {
        "free energy": _property(free / KJ_MOL, "kJ/mol", "A(R; T) minus its mean over frames at T"),
        "std of free energy": _property(free_std / KJ_MOL, "kJ/mol", "posterior standard deviation of it"),
        "std of force": _property(
            np.sqrt(np.mean(np.sum(force_std.reshape(len(shown), -1, force_std.shape[-1]) ** 2, -1), -1)) / KJ_MOL,
            "kJ/mol/Å" if shown.positions is not None else "kJ/mol/unit of the variables",
            "root mean square over beads",
        ),
        "entropy": _property(
            _relative(model.predict(shown, "entropy"), shown.temperature) / KJ_MOL * 1e3, "J/mol/K", "relative, like A"
        ),
    }
    if getattr(model, "domain_", None) is not None:
        score = model.domain_score(shown)
        properties["domain score"] = _property(score, "", "above 1 the model guesses: outside of the training data")
    data: dict[str, Any] = {
        "meta": {
            "name": name,
            "description": "Coarse-grained free energies of kernelfe with their standard deviations.",
        },
        "structures": [],
        "properties": properties,
        "settings": {
            "target": "structure",
            "map": {
                "x": {"property": axes[0]},
                "y": {"property": axes[1]},
                "color": {"property": "std of free energy", "palette": "viridis"},
            },
        },
    }
    if shown.positions is not None:
        _add_structures(data, shown, force, force_std, elements or {})
    return data


def write_viewer(data: Mapping[str, Any], path: str | os.PathLike[str], page: str | os.PathLike[str] | None = None):
    """Write the document of :func:`viewer_input`, complete or not at all.

    Parameters
    ----------
    data
        The document.
    path
        ``.json`` or ``.json.gz`` to open in chemiscope; ``.html`` with ``page``: one file that needs no network.
    page
        Chemiscope's page for use offline, ``chemiscope_standalone.html``, which its site offers for download.

    Raises
    ------
    DataError
        If the ending is another one, a number is not finite, or the page is missing or is not chemiscope's.
    """
    target = Path(path)
    text = _document(data)
    if target.name.endswith(".json.gz"):
        content = gzip.compress(text.encode(), mtime=0)  # no time in it: the same input, the same file
    elif target.suffix == ".json":
        content = text.encode()
    elif target.suffix == ".html":
        content = _page(page) + b"\n" + text.encode()
    else:
        raise DataError(f"cannot write {target.name} for the viewer: use .json, .json.gz or .html")
    aside = target.with_name(f".{target.name}.part")
    try:
        aside.write_bytes(content)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def backbone_torsions(bonds: Sequence[tuple[int, int]]) -> tuple[Quad, ...]:
    """One dihedral about each bond that has any, to the neighbour on either side with the most beads behind it.

    Of alanine dipeptide's six beads these are φ and ψ, where the first dihedral of a bond may end in a side chain.

    Parameters
    ----------
    bonds
        Pairs of beads.
    """
    near: dict[int, set[int]] = {}
    for i, j in bonds:
        near.setdefault(i, set()).add(j)
        near.setdefault(j, set()).add(i)

    def behind(start: int, barred: int) -> int:
        seen, stack = {barred, start}, [start]
        while stack:
            new = near[stack.pop()] - seen
            seen |= new
            stack += new
        return len(seen)

    best: dict[tuple[int, int], Quad] = {}
    for quad in dihedrals_of(bonds):
        i, j, k, end = quad
        old = best.get((j, k))
        if old is None or behind(i, j) + behind(end, k) > behind(old[0], j) + behind(old[3], k):
            best[j, k] = quad
    return tuple(sorted(best.values()))


def _coordinates(frames: Frames, torsions: Sequence[Quad] | None) -> tuple[dict[str, Any], tuple[str, str]]:
    """Properties that the map may have as axes, and the two it starts with."""
    if torsions is not None and (frames.positions is None or len(torsions) == 0):
        raise DataError("torsions name beads: they need frames of bead positions, and at least one dihedral")
    out: dict[str, Any] = {}
    if frames.positions is not None and (frames.cell is None or torsions is not None):
        quads = tuple(torsions) if torsions is not None else backbone_torsions(frames.bonds or ())
        if quads and (torsions is not None or len(quads) > 1):
            for quad, angle in zip(quads, np.degrees(dihedral_angles(frames.positions, quads)).T, strict=True):
                out["torsion " + "–".join(map(str, quad))] = _property(angle, "°", "of the beads named")
    if frames.variables is not None:
        out = {f"variable {k + 1}": _property(v, "", "of the frame") for k, v in enumerate(frames.variables.T)}
    names = list(out)
    if len(names) < 2 and frames.positions is not None and frames.cell is None and frames.positions.shape[1] > 2:
        components = _principal_components(frames.positions)
        for k in range(components.shape[1]):
            names.append(f"distance component {k + 1}")
            out[names[-1]] = _property(components[:, k], "Å", "principal component of the distances between beads")
    names += ["free energy", "std of free energy"]  # for want of coordinates
    return out, (names[0], names[1])


def _principal_components(positions: np.ndarray, most: int = 64) -> np.ndarray:
    """First two principal components of the bead distances, (n, 2 at most), of ``most`` beads at most."""
    beads = np.unique(np.linspace(0, positions.shape[1] - 1, min(positions.shape[1], most)).astype(int))
    i, j = np.triu_indices(len(beads), 1)
    distance = np.linalg.norm(positions[:, beads[i]] - positions[:, beads[j]], axis=-1)
    u, s, _ = np.linalg.svd(distance - distance.mean(0), full_matrices=False)
    return u[:, :2] * s[:2]


def _add_structures(
    data: dict[str, Any],
    frames: Frames,
    force: np.ndarray,
    force_std: np.ndarray,
    elements: Mapping[str, str],
    arrow: float = 0.5,
    cutoff: float = 3.0,
) -> None:
    """Add structures with bonds, properties of the beads, and the forces as arrows.

    ``arrow`` is the length of an arrow in Å per eV/Å, ``cutoff`` the radius around a bead that is marked, in Å.
    """
    assert frames.positions is not None
    n, beads = frames.positions.shape[:2]
    kinds = frames.kinds or ("X",) * beads
    symbols = [elements.get(kind, kind if kind in chemical_symbols else "X") for kind in kinds]
    unknown = sorted({symbol for symbol in symbols if symbol not in chemical_symbols})
    unused = sorted(set(elements) - set(kinds))
    if unknown or unused:
        wrong = f"{', '.join(unknown)} is not a chemical symbol" if unknown else f"no bead is named {', '.join(unused)}"
        raise DataError(f"elements={dict(elements)}: {wrong}; the bead kinds are {', '.join(sorted(set(kinds)))}")
    fixed: dict[str, Any] = {"size": beads, "names": symbols}
    if frames.bonds:
        fixed["bonds"] = [[int(i), int(j), 1] for i, j in frames.bonds]
    for row in range(n):
        x, y, z = frames.positions[row].T.round(4).tolist()
        structure = fixed | {"x": x, "y": y, "z": z}
        if frames.cell is not None:
            structure["cell"] = frames.cell[row].reshape(9).tolist()
        data["structures"].append(structure)
    data["environments"] = [{"structure": s, "center": b, "cutoff": cutoff} for s in range(n) for b in range(beads)]
    bead_std = np.sqrt(np.sum(force_std**2, axis=-1)).reshape(-1)
    data["properties"]["bead"] = _property(list(kinds) * n, "", "kind of the bead", "atom")
    data["properties"]["std of force on bead"] = _property(
        bead_std / KJ_MOL, "kJ/mol/Å", "posterior standard deviation, all three components", "atom"
    )
    data["shapes"] = {
        "mean force": {
            "kind": "arrow",
            "parameters": {
                "global": {"baseRadius": 0.06, "headRadius": 0.12, "headLength": 0.2},
                "atom": [{"vector": vector} for vector in (arrow * force.reshape(-1, 3)).round(4).tolist()],
            },
        }
    }
    data["settings"]["structure"] = [
        {
            "bonds": True,
            "atoms": True,
            "unitCell": frames.cell is not None,
            "color": {"property": "std of force on bead", "palette": "viridis"},
        }
    ]


def _relative(values: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """Values (n,) minus their mean at each temperature (n,)."""
    _, group = np.unique(temperature, return_inverse=True)
    return values - (np.bincount(group, values) / np.bincount(group))[group]


def _property(values: Any, units: str, description: str, target: str = "structure") -> dict[str, Any]:
    if not isinstance(values, list):
        # seven digits: more only make files large
        values = [float(f"{v:.7g}") for v in real_array(values, "values")]
    found = {"target": target, "values": values, "description": description}
    return found | {"units": units} if units else found


def _document(data: Mapping[str, Any]) -> str:
    try:
        return json.dumps(data, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise DataError("a number for the viewer is not finite: JSON has none of that kind") from error


def _page(page: str | os.PathLike[str] | None) -> bytes:
    if page is None:
        raise DataError(
            "an .html file needs chemiscope's page for use offline: download chemiscope_standalone.html from its site "
            "and name it (page=, --page), or write .json.gz"
        )
    try:
        content = Path(page).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {page}: {error.strerror}") from error
    require(
        b"hemiscope" in content and b"<html" in content[:2000].lower(),
        f"{page} is not chemiscope's page for use offline",
    )
    return content


__all__ = ["backbone_torsions", "viewer_input", "write_viewer"]
