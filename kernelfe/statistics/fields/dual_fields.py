"""All-atom fields dual to collective variables: w_i·∇ξ_j = δ_ij, with their exact divergences.

For such a field ⟨f·w_i + kT (div w_i + w_i·∇ ln √det Z)⟩_ξ = −∂A/∂ξ_i, where √det Z, Z_st = ∇σ_s·M⁻¹∇σ_t, is what
constraints σ put into the sampled measure; the field must also leave them at rest (Ciccotti, Kapral and Vanden-Eijnden,
ChemPhysChem 6, 1809 (2005)). Two choices, both w = D∇θ G⁻¹ with G = ∇θᵀ D ∇θ:

* :func:`gradient_fields`: D diagonal, by default inverse masses; θ = (ξ, σ), so that the fields are those of the
  variables projected on the constraints. With w_l the dual fields of all θ, H^l their Hessians, P = Σ_l w_l ∇θ_lᵀ the
  projector on them, and w^σ_s the dual fields (with D = M⁻¹) of the constraints alone,

      div w_i = Σ_m (G⁻¹)_mi [tr((1 − P) D H^m) − Σ_l w_lᵀ H^l D∇θ_m],   w_i·∇ ln √det Z = Σ_s w_iᵀ H^s w^σ_s.

* :func:`rotation_fields`: D = Σ_k t_k t_kᵀ with rigid rotations t_k of fragments about bonds, which leave constraints
  and Z alone and never move stiff bonds and angles: a torsion's own rotation, generalised to any soft variable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import DataError, require
from .collective_variables import Derivatives
from .fragments import TorsionField

#: Least eigenvalue of G, scaled to a unit diagonal, that still counts as independent variables.
INDEPENDENT = 1e-10


def gradient_fields(
    derivatives: Derivatives, mobilities: Tensor, masses: Tensor, constraints: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Fields along D∇ξ, projected on the constraints, and their divergences with that of the measure.

    Parameters
    ----------
    derivatives
        Of the variables at n frames.
    mobilities
        (atoms,), the diagonal of D; any numbers that are not negative.
    masses
        (atoms,), those of the simulation, in Z.
    constraints
        Pairs of atoms at a constrained distance.

    Returns
    -------
    w : Tensor (n, d, atoms, 3)
    divergence : Tensor (n, d)
        div w + w·∇ ln √det Z.

    Raises
    ------
    DataError
        If a variable is fixed by constraints or by the other variables, or atoms that would have to move cannot.
    """
    d, x = derivatives.values.shape[1], derivatives.positions.detach()
    inside, tied = _component(set(derivatives.atoms.tolist()), constraints)
    bonds = Constraints(x, tied, masses)
    gradients = torch.cat([derivatives.gradients.detach(), bonds.gradients], 1)  # (n, p, atoms, 3)
    moved = gradients * mobilities[:, None]
    inverse = _inverse(gradients, moved, d, derivatives.first)
    w = torch.einsum("npq,nqax->npax", inverse, moved)
    active = torch.tensor(sorted(inside))
    there, moved_there = w[:, :, active].flatten(2), moved[:, :, active].flatten(2)
    traces, bends = [], torch.zeros_like(w[:, :, 0, 0])
    for m in range(d):
        hessian = derivatives.hessian(m, active)
        trace = torch.einsum("a,naa->n", mobilities[active].repeat_interleave(3), hessian)
        # tr(P D H) = Σ_l (D∇θ_l)ᵀ H w_l
        traces.append(trace - torch.einsum("nla,nab,nlb->n", moved_there, hessian, there))
        bends += torch.einsum("na,nab,nmb->nm", there[:, m], hessian, moved_there)
    for s in range(len(tied)):
        trace = 2.0 * mobilities[list(tied[s])].sum() / bonds.lengths[:, s]
        traces.append(trace - bonds.curvature(s, moved, w).diagonal(dim1=1, dim2=2).sum(-1))
        bends += bonds.curvature(s, w[:, d + s : d + s + 1], moved)[:, 0]
    divergence = torch.einsum("nm,nmi->ni", torch.stack(traces, 1) - bends, inverse[:, :, :d])
    return w[:, :d], divergence + bonds.measure(w[:, :d])


class Constraints:
    """Constrained distances σ_s = |x_a − x_c| at some frames.

    Parameters
    ----------
    positions
        (n, atoms, 3).
    pairs
        The constrained atoms.
    masses
        (atoms,), those of the simulation.

    Attributes
    ----------
    lengths : Tensor (n, s)
    gradients : Tensor (n, s, atoms, 3)
    """

    def __init__(self, positions: Tensor, pairs: Sequence[tuple[int, int]], masses: Tensor):
        self.pairs, self.masses = tuple(pairs), masses
        n, atoms = positions.shape[:2]
        self.gradients = positions.new_zeros(n, len(self.pairs), atoms, 3)
        first, second = (torch.tensor([pair[k] for pair in self.pairs], dtype=torch.long) for k in (0, 1))
        arms = positions[:, first] - positions[:, second]
        self.lengths = torch.linalg.vector_norm(arms, dim=-1)
        self.directions = arms / self.lengths[..., None]
        rows = torch.arange(len(self.pairs))
        self.gradients[:, rows, first] = self.directions
        self.gradients[:, rows, second] = -self.directions

    def curvature(self, s: int, left: Tensor, right: Tensor) -> Tensor:
        """lᵀ H^s r of fields (n, l, atoms, 3) and (n, r, atoms, 3): (n, l, r); (1 − ûûᵀ)/|x_a − x_c| on l_a − l_c."""
        a, c = self.pairs[s]
        u = self.directions[:, s, :, None]
        left, right = left[:, :, a] - left[:, :, c], right[:, :, a] - right[:, :, c]
        return (left @ right.mT - (left @ u) @ (right @ u).mT) / self.lengths[:, s, None, None]

    def measure(self, w: Tensor) -> Tensor:
        """w·∇ ln √det Z, (n, d), of fields (n, d, atoms, 3) that leave the constraints at rest.

        Raises
        ------
        DataError
            If a field changes a constrained distance, or constraints depend on one another.
        """
        out = torch.zeros_like(w[:, :, 0, 0])
        if not self.pairs:
            return out
        change = torch.einsum("niax,nsax->nis", w, self.gradients).abs().amax(dim=(0, 1))
        size = float(w.abs().amax())
        if float(change.max()) > 1e-8 * max(size, 1e-300):
            a, c = self.pairs[int(change.argmax())]
            raise DataError(f"a field changes the constrained distance of atoms {a} and {c}: it must move both alike")
        freed = self.gradients / self.masses[:, None]
        z = torch.einsum("nsax,ntax->nst", self.gradients, freed)
        require(
            bool((torch.linalg.eigvalsh(z)[:, 0] > INDEPENDENT * z.diagonal(dim1=1, dim2=2).amax(1)).all()),
            "constraints depend on one another: name each constrained distance once, and no more of them",
        )
        dual = torch.linalg.solve(z, freed.flatten(2)).unflatten(2, freed.shape[2:])
        for s in range(len(self.pairs)):
            out += self.curvature(s, w, dual[:, s : s + 1])[:, :, 0]
        return out


def rotation_fields(
    derivatives: Derivatives,
    rotations: Sequence[TorsionField],
    masses: Tensor,
    constraints: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor]:
    """Fields made of rigid rotations t_k about bonds, w_i = Σ_k t_k (cᵀ (c cᵀ)⁻¹)_ki with c_ik = t_k·∇ξ_i.

    Parameters
    ----------
    derivatives
        Of the variables at n frames.
    rotations
        At least as many as there are variables; they must be able to move each by itself.
    masses, constraints
        As in :func:`gradient_fields`.

    Returns
    -------
    w : Tensor (n, d, atoms, 3)
    divergence : Tensor (n, d)
        Σ_k t_k·∇(cᵀ (c cᵀ)⁻¹)_ki, since div t_k = 0, with that of the measure (zero for most constraints).

    Raises
    ------
    DataError
        If the rotations cannot move the variables one by one, or change a constrained distance.
    """
    x, d = derivatives.positions, derivatives.values.shape[1]
    require(rotations, "no rotations are given: name TorsionField objects, such as those of rotatable_bonds")
    fields = []
    for field in rotations:
        axis = x[:, field.j] - x[:, field.i]
        axis = axis / torch.linalg.vector_norm(axis, dim=-1, keepdim=True)
        moving = list(field.moving)
        arms = x[:, moving] - x[:, field.j : field.j + 1]
        turned = torch.linalg.cross(axis[:, None].expand_as(arms), arms)
        fields.append(torch.zeros_like(x).index_copy(1, torch.tensor(moving, dtype=torch.long), turned))
    t = torch.stack(fields, 1)  # (n, K, atoms, 3)
    c = torch.einsum("nkax,niax->nik", t, derivatives.gradients)
    with torch.no_grad():
        _inverse(c, c, d, derivatives.first)
    shares = torch.linalg.solve(c @ c.mT, c)  # (n, d, K)
    divergence = torch.zeros_like(derivatives.values)
    for i in range(d):
        for k in range(t.shape[1]):
            (slope,) = torch.autograd.grad(shares[:, i, k].sum(), x, retain_graph=True, allow_unused=True)
            if slope is not None:
                divergence[:, i] += torch.einsum("nax,nax->n", slope, t[:, k].detach())
    w = torch.einsum("nik,nkax->niax", shares, t).detach()
    _, tied = _component({a for field in rotations for a in field.moving}, constraints)
    return w, divergence + Constraints(x.detach(), tied, masses).measure(w)


def _component(atoms: set[int], constraints: Sequence[tuple[int, int]]) -> tuple[set[int], list[tuple[int, int]]]:
    """Atoms reached from ``atoms`` by constraints, and those constraints: no others are coupled to the variables."""
    inside, left, tied = set(atoms), list(constraints), []
    while touched := [pair for pair in left if inside & set(pair)]:
        tied += touched
        inside.update(*touched)  # constraints that share an atom tie its motions together
        left = [pair for pair in left if not inside & set(pair)]
    return inside, tied


def _inverse(theta: Tensor, moved: Tensor, d: int, first: int) -> Tensor:
    """G⁻¹ of G = ∇θᵀ D ∇θ, (n, p, p), scaled so that units do not matter; refuses dependent variables."""
    gram = theta.flatten(2) @ moved.flatten(2).mT
    size = gram.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()
    frame, column = divmod(int(size.argmin()), size.shape[1])
    if not float(size[frame, column]) > 0.0:
        which = f"variable {column}" if column < d else f"constraint {column - d} of those that touch the variables"
        raise DataError(
            f"{which} cannot be moved in frame {first + frame}: no atom, or no rotation, that it depends on moves"
        )
    scaled = gram / (size[:, :, None] * size[:, None, :])
    least = torch.linalg.eigvalsh(scaled)[:, 0]
    if not bool((least > INDEPENDENT).all()):
        frame = first + int(least.argmin())
        raise DataError(
            f"the variables (with the constraints) depend on one another in frame {frame}: no field moves one of them "
            "alone. Drop the variables that constraints or other variables fix, or give more rotations"
        )
    return torch.linalg.inv(scaled) / (size[:, :, None] * size[:, None, :])
