"""Mean forces of nonlinear collective variables from all-atom frames, with the kT·div term.

A frame with variables ξ has the label q = f·w + kT D on −∂A/∂ξ, D = div w + w·∇ ln √det Z, from a field w dual to the
variables (:mod:`~kernelfe.statistics.fields.dual_fields`); and its response label is k b² δq δU + k D, averaged
k b² Cov(q, U) + k⟨D⟩ (:func:`~kernelfe.statistics.conditional_moments` with ``divergences=``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..arrays import real_array
from ..errors import DataError, require
from ..frames import Frames
from ..frames.checks import require_finite_frames
from ..units import BOLTZMANN
from .fields.collective_variables import Derivatives, Variable, periods
from .fields.dual_fields import gradient_fields, rotation_fields
from .fields.fragments import TorsionField
from .moments import conditional_labels, conditional_moments

FloatArray = NDArray[np.float64]

#: Frames differentiated at once; bounds the memory of Hessians.
BATCH = 1024


@dataclass(frozen=True, eq=False)
class CollectiveForces:
    """Variables of all-atom frames and the forces on them.

    Attributes
    ----------
    values
        ξ (n, d).
    forces
        q = f·w + kT D, (n, d), eV per unit of ξ: ⟨q⟩ = −∂A/∂ξ.
    divergences
        D (n, d), per unit of ξ.
    temperature
        (n,), K.
    periods
        Of each variable, or None: what ``kernelfe.descriptors.Variables(periodic=...)`` takes.
    """

    values: FloatArray
    forces: FloatArray
    divergences: FloatArray
    temperature: FloatArray
    periods: tuple[float | None, ...]

    def frames(self, energies: ArrayLike | None = None, **arguments: Any) -> Frames:
        """Frames of the variables with single-frame labels.

        Parameters
        ----------
        energies
            (n,), all-atom potential energies, eV: the label ``mean_energy``.
        **arguments
            Further arguments of :meth:`~kernelfe.Frames.from_arrays`.
        """
        labels = {"mean_force": self.forces} | ({} if energies is None else {"mean_energy": energies})
        return Frames.from_arrays(variables=self.values, temperature=self.temperature, labels=labels, **arguments)

    def binned(
        self,
        energies: ArrayLike,
        edges: Sequence[ArrayLike],
        *,
        fewest: int = 30,
        block: float | None = 1.0,
        keys: Iterable[str] | None = ("mean_force", "mean_energy", "heat_capacity", "thermal_response_force"),
        **arguments: Any,
    ) -> Frames:
        """Frames at bin averages of the variables, with the moments of each bin and temperature and their errors.

        Within a bin the variables still vary: labels are off by the curvature of A over the bin, O(width²).

        Parameters
        ----------
        energies
            (n,), eV.
        edges
            One increasing array of bin edges per variable; frames outside are left out.
        fewest
            Frames that a bin must hold.
        block
            Statistical inefficiency 2τ of the frames of one bin, as in
            :func:`~kernelfe.statistics.conditional_moments`.
        keys
            Labels to keep.
        **arguments
            Further arguments of :meth:`~kernelfe.Frames.from_arrays`.

        Raises
        ------
        DataError
            If shapes do not fit or no bin holds enough frames.
        """
        u, grid = real_array(energies, "energies", "eV"), [real_array(e, "edges") for e in edges]
        require(
            u.shape == (len(self.values),) and len(grid) == self.values.shape[1],
            f"energies {u.shape} and {len(grid)} edges do not fit variables {self.values.shape}",
        )
        cell, inside = np.zeros(len(u), int), np.ones(len(u), bool)
        for column, e in zip(self.values.T, grid, strict=True):
            place = np.searchsorted(e, column, side="right") - 1
            inside &= (place >= 0) & (place < len(e) - 1)
            cell = cell * (len(e) - 1) + place
        levels, level = np.unique(self.temperature, return_inverse=True)
        found, middle, heat = [], [], []
        for t in range(len(levels)):
            for c in np.unique(cell[inside & (level == t)]):
                rows = np.flatnonzero(inside & (level == t) & (cell == c))
                if len(rows) < fewest:
                    continue
                q, d = self.forces[rows], self.divergences[rows]
                found.append(conditional_moments(q, u[rows], levels[t], block, divergences=d))
                middle.append(self.values[rows].mean(axis=0))
                heat.append(levels[t])
        require(found, f"no bin holds {fewest} frames: widen the bins, or lower fewest=")
        return conditional_labels(found, variables=np.array(middle), temperature=np.array(heat), keys=keys, **arguments)


def collective_forces(
    positions: ArrayLike,
    forces: ArrayLike,
    variables: Sequence[Variable],
    temperature: float | ArrayLike,
    *,
    masses: ArrayLike | None = None,
    constraints: Iterable[tuple[int, int]] = (),
    rotations: Sequence[TorsionField] | None = None,
    mobilities: ArrayLike | None = None,
) -> CollectiveForces:
    """Values of collective variables and the forces on them, frame by frame.

    Parameters
    ----------
    positions
        (n, atoms, 3), Å, whole molecules.
    forces
        (n, atoms, 3), eV/Å, without constraint and restraint forces.
    variables
        :class:`~kernelfe.statistics.Distance`, ``Angle``, ``Dihedral``, or any torch callable of positions.
    temperature
        K, one number or (n,).
    masses
        (atoms,), u, as they were in the simulation. Needed with constraints, and for fields along M⁻¹∇ξ.
    constraints
        Pairs of atoms at a constrained distance: the fields leave them at rest, and the change of √det Z is in D.
    rotations
        Make the fields of these rigid rotations instead, which leave stiff bonds and angles at rest: far less noise for
        variables that torsions move. For one dihedral per rotation D vanishes.
    mobilities
        (atoms,), the weights of the atoms in the fields in place of 1/m; zero leaves an atom at rest.

    Raises
    ------
    DataError
        If shapes do not fit, numbers are not finite, masses are missing, a variable is not differentiable, or it
        cannot be moved alone (fixed by constraints or by the other variables).
    """
    x, f = real_array(positions, "positions", "Å"), real_array(forces, "forces", "eV/Å")
    require(
        x.ndim == 3 and x.shape[2] == 3 and len(x) and x.shape == f.shape,
        f"positions {x.shape} and forces {f.shape} must both be (frames, atoms, 3)",
    )
    for name, array in (("positions", x), ("forces", f)):
        require_finite_frames(array, name)
    require(
        np.shape(temperature) in ((), (len(x),)),
        f"temperature has shape {np.shape(temperature)}: pass a number, or one per frame, ({len(x)},)",
    )
    t = np.array(np.broadcast_to(real_array(temperature, "temperature", "K"), len(x)))
    require((np.isfinite(t) & (t > 0.0)).all(), "temperature must be positive and finite (K) in every frame")
    atoms, pairs = x.shape[1], [(int(a), int(c)) for a, c in constraints]
    for a, c in pairs:
        require(
            a != c and (0 <= a < atoms and 0 <= c < atoms), f"constraint ({a}, {c}) is not a pair of the {atoms} atoms"
        )
    if masses is None and (pairs or (rotations is None and mobilities is None)):
        raise DataError("masses= of the simulation are needed: fields are weighted by them, and so are constraints")
    if rotations is not None and mobilities is not None:
        raise DataError("mobilities= weight the atoms of gradient fields; leave them out with rotations=")
    mass = _per_atom(np.ones(atoms) if masses is None else masses, "masses", atoms)
    require((mass > 0.0).all(), "masses must be positive")
    mobile = 1.0 / mass if mobilities is None else _per_atom(mobilities, "mobilities", atoms)
    parts = []
    for start in range(0, len(x), BATCH):
        rows = slice(start, start + BATCH)
        try:
            derivatives = Derivatives(variables, torch.from_numpy(x[rows]), start)
        except IndexError as error:
            raise DataError(f"a variable names an atom beyond the {atoms} of the positions ({error})") from error
        if rotations is None:
            w, d = gradient_fields(derivatives, torch.from_numpy(mobile), torch.from_numpy(mass), pairs)
        else:
            w, d = rotation_fields(derivatives, rotations, torch.from_numpy(mass), pairs)
        virtual = torch.einsum("nax,niax->ni", torch.from_numpy(f[rows]), w)
        parts.append([q.numpy() for q in (derivatives.values, virtual, d)])
    values, virtual, divergence = (np.concatenate(part) for part in zip(*parts, strict=True))
    q = virtual + BOLTZMANN * t[:, None] * divergence
    return CollectiveForces(values, q, divergence, t, periods(variables, derivatives.widths))


def _per_atom(values: ArrayLike, name: str, atoms: int) -> FloatArray:
    out = real_array(values, name)
    require(
        out.shape == (atoms,) and (np.isfinite(out) & (out >= 0.0)).all(),
        f"{name} must be {atoms} finite numbers that are not negative, one per atom",
    )
    return out
