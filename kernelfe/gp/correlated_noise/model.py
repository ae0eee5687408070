"""Noise that is correlated within a frame, made independent by changing what the rows read.

Forces. The force labels of a frame, stacked, are s = B(R) f: Cartesian forces along axes that turn with the molecule,
then generalised forces; the mean of s is −B·∇A. If its noise has the covariance C(T), then W s with W C Wᵀ = 1 has
independent noise of size one and reads −(W B)·∇A: generalised forces along the fields W B. Nothing in the solvers
knows that the labels were whitened.

Energies. Force and energy of one all-atom frame have the noise covariance c = kT² ∂F/∂T, exactly, for generalised
forces as well (∂⟨f⟩/∂T = Cov(f, U)/kT²; w and div w may not depend on T). With β = C⁻¹ c the label

    u − β·s   reads   A − T ∂A/∂T + (βᵀB)·∇A,

without bias whatever β is, and has noise that is independent of the forces', of variance σ_u² − cᵀ C⁻¹ c. (A factor κ
on c, one unless the residuals contradict it, keeps a C that is poor somewhere from adding noise.)

C(T) is S C₀ S with S = (T/T0)^p by label kind: noise of single frames grows about as a power of T, and correlations
hardly change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...functionals import GeneralizedForce, MeanEnergy, MeanForce, Spatial, ThermalResponseForce, get
from ...geometry.axes import local_axes
from ...units import BOLTZMANN
from ..observations.labels import GIVEN, WHITENED, LabelSet, Reading
from ..observations.levels import NoiseLevels
from ..observations.noise import CorrelatedNoise
from ..posterior import predict_mean
from ..prior.rows import frame_chunks
from ..states import States


def is_force(label: LabelSet) -> bool:
    """True if labels read the gradient of A at first order, with learned noise."""
    reads = label.functional.reads
    spatial = label.functional.spatial in (Spatial.GRADIENT, Spatial.DISPLACEMENT)
    plain = len(reads) == 1 and reads[0].thermal == MeanForce().reads[0].thermal and reads[0].parameter is None
    return label.learned and label.minus is None and spatial and plain


def is_energy(label: LabelSet) -> bool:
    """True if labels read the mean energy, with learned noise."""
    return label.learned and label.minus is None and label.functional.reads == MeanEnergy().reads


@dataclass(frozen=True)
class Layout:
    """The stack of the force labels of a frame.

    Parameters
    ----------
    kinds
        Label kinds, in order.
    sizes
        Numbers of each kind in the stack.
    arms
        For every bead the two that span its axes; None: Cartesian forces as they are.
    dropped
        Bead left out, since the forces on all beads add up to zero; or None.
    """

    kinds: tuple[str, ...]
    sizes: tuple[int, ...]
    arms: tuple[tuple[int, int], ...] | None = None
    dropped: int | None = None

    @property
    def name(self) -> str:
        """The kinds in one word."""
        return _name(self.kinds)

    def columns(self, kinds) -> Tensor:
        """Places of some kinds in the full stack."""
        parts = torch.arange(sum(self.sizes)).split(list(self.sizes))
        return torch.cat([part for kind, part in zip(self.kinds, parts, strict=True) if kind in kinds])

    def matrix(self, kind: str, states: States) -> Tensor | None:
        """(n, size, q) with stacked = matrix · values of a Cartesian kind, q of them; None for the identity."""
        if get(kind).spatial is not Spatial.GRADIENT or self.arms is None:
            return None
        axes = torch.from_numpy(local_axes(states.coordinates.numpy(), self.arms))
        beads = axes.shape[1]
        kept = [b for b in range(beads) if b != self.dropped]
        out = axes.new_zeros(len(axes), len(kept), 3, beads, 3)
        for row, bead in enumerate(kept):
            out[:, row, :, bead] = axes[:, bead]
        return out.reshape(len(axes), 3 * len(kept), 3 * beads)

    def stack(self, values: dict[str, Tensor], states: States) -> Tensor:
        """Values (n, m_kind) of some kinds, stacked in order, (n, m)."""
        parts = []
        for kind in self.kinds:
            if kind in values:
                matrix = self.matrix(kind, states)
                parts.append(values[kind] if matrix is None else torch.einsum("nsq,nq->ns", matrix, values[kind]))
        return torch.cat(parts, 1)

    def fields(self, kinds, states: States, weights: Tensor) -> Tensor:
        """Displacement fields (n, p, q) whose generalised forces are weights (n, p, m) · stack of ``kinds``."""
        chosen = [(kind, size) for kind, size in zip(self.kinds, self.sizes, strict=True) if kind in kinds]
        out = None
        for (kind, _), part in zip(chosen, weights.split([size for _, size in chosen], 2), strict=True):
            if get(kind).spatial is Spatial.DISPLACEMENT:
                field = part @ states.fields  # type: ignore[operator]
            else:
                matrix = self.matrix(kind, states)
                field = part if matrix is None else part @ matrix
            out = field if out is None else out + field
        assert out is not None
        return out

    def response(self, kinds, states: States, posterior, at_once: int = 512) -> Tensor:
        """kT² dF/dT of the stack of ``kinds``, its noise covariance with the energy, (n, m); ``at_once``: frames."""
        parts = []
        with torch.no_grad():
            for start, stop in frame_chunks(len(states), at_once):
                part = states[start:stop]
                rows = posterior.prior.rows(ThermalResponseForce(), part)
                force = predict_mean(posterior, rows).reshape(len(part), -1)
                values = {
                    kind: force
                    if get(kind).spatial is Spatial.GRADIENT
                    else torch.einsum("nkq,nq->nk", part.fields, force)
                    for kind in kinds
                }
                parts.append(BOLTZMANN * part.temperature[:, None] ** 2 * self.stack(values, part))
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Together:
    """Frames that have the same kinds of forces, and where their labels are in each set."""

    kinds: tuple[str, ...]
    frame: Tensor
    states: States
    values: dict[str, Tensor]

    @property
    def name(self) -> str:
        """The kinds in one word."""
        return _name(self.kinds)


def _name(kinds) -> str:
    return "(" + ", ".join(kinds) + ")"


def together(forces: list[LabelSet]) -> list[Together]:
    """The frames of some sets of force labels, grouped by which of them they have; most kinds first."""
    if not forces:
        return []
    frame = torch.unique(torch.cat([label.frame for label in forces]))  # type: ignore[misc]
    here = torch.stack([torch.isin(frame, label.frame) for label in forces], 1)  # type: ignore[arg-type]
    out = []
    for pattern in torch.unique(here, dim=0):
        chosen = frame[(here == pattern).all(1)]
        sets = [label for label, has in zip(forces, pattern.tolist(), strict=True) if has]
        at = [torch.searchsorted(label.frame, chosen) for label in sets]
        states = sets[0].states[at[0]]
        for label, index in zip(sets, at, strict=True):
            if label.functional.spatial is Spatial.DISPLACEMENT:
                states = label.states[index]  # those of other kinds may hold no fields
        values = {label.kind: label.y[index] for label, index in zip(sets, at, strict=True)}
        out.append(Together(tuple(label.kind for label in sets), chosen, states, values))
    return sorted(out, key=lambda group: -len(group.kinds))


@dataclass(frozen=True, eq=False)
class FittedNoise:
    """The noise of a fit with :class:`~kernelfe.CorrelatedNoise`.

    Parameters
    ----------
    spec
        What was asked for.
    layout
        Of the force labels; None without force labels of learned noise.
    covariance
        C₀ of the stacked force labels at T0, shape (m, m), in the units of the labels squared.
    exponents
        p of every number of the stack.
    reference
        T0, K.
    inefficiency
        Mean statistical inefficiency by kind of label; empty without correction for time.
    coupling
        κ in [0, 1]: the share of kT² dF/dT that is taken as covariance of force and energy. 1 unless the residuals
        contradict it, as they may where the covariance of the forces changes much with R.
    """

    spec: CorrelatedNoise
    layout: Layout | None
    covariance: Tensor
    exponents: tuple[float, ...]
    reference: float
    inefficiency: dict[str, float]
    coupling: float = 1.0

    def to_dict(self) -> dict:
        """All but the covariance, ready for JSON."""
        layout = self.layout
        return {
            "spec": self.spec.to_dict(),
            "layout": None
            if layout is None
            else {
                "kinds": list(layout.kinds),
                "sizes": list(layout.sizes),
                "arms": None if layout.arms is None else [list(pair) for pair in layout.arms],
                "dropped": layout.dropped,
            },
            "exponents": list(self.exponents),
            "reference": self.reference,
            "inefficiency": dict(self.inefficiency),
            "coupling": self.coupling,
        }

    def scale(self, temperature: Tensor) -> Tensor:
        """(T/T0)^p, shape (n, m)."""
        p = torch.tensor(self.exponents, dtype=torch.float64)
        return (temperature[:, None] / self.reference) ** p

    @cached_property
    def std(self) -> Tensor:
        """Standard deviations at T0, (m,)."""
        return self.covariance.diagonal().sqrt()

    def whitening(self, kinds, temperature: Tensor) -> Tensor:
        """W(T) (n, m, m) of the stack of some kinds: the symmetric root of the inverse correlation matrix, over σ."""
        assert self.layout is not None
        at = self.layout.columns(kinds)
        std = self.std[at]
        values, vectors = torch.linalg.eigh(self.covariance[at][:, at] / torch.outer(std, std))
        root = (vectors / values.sqrt()) @ vectors.T
        return root / (std * self.scale(temperature)[:, at])[:, None, :]

    def regression(self, kinds, temperature: Tensor, response: Tensor) -> Tensor:
        """β = κ C(T)⁻¹ c, (n, m), for c (n, m)."""
        w = self.whitening(kinds, temperature)
        return self.coupling * torch.einsum("nij,nik,nk->nj", w, w, response)

    def transformed(self, labels: list[LabelSet], posterior) -> list[LabelSet]:
        """The label sets with independent noise, equivalent to ``labels`` with this one."""
        forces = [label for label in labels if is_force(label)]
        groups = together(forces)
        out = [label for label in labels if not (self.spec.within_frame and is_force(label)) and not is_energy(label)]
        if self.spec.within_frame:
            out += [self._whitened(group) for group in groups]
        for label in filter(is_energy, labels):
            out += self._decorrelated(label, groups, posterior) if self.spec.force_energy else [label]
        return out

    def _whitened(self, group: Together) -> LabelSet:
        assert self.layout is not None
        w = self.whitening(group.kinds, group.states.temperature)
        y = torch.einsum("nij,nj->ni", w, self.layout.stack(group.values, group.states))
        states = replace(group.states, fields=self.layout.fields(group.kinds, group.states, w), _environments={})
        kind = WHITENED + group.name
        return LabelSet(kind, GeneralizedForce(), states, y, frame=group.frame, origin=group.kinds)

    def _decorrelated(self, label: LabelSet, groups: list[Together], posterior) -> list[LabelSet]:
        assert label.frame is not None
        left, out = torch.ones(len(label.frame), dtype=torch.bool), []
        for group in groups:
            assert self.layout is not None
            both = torch.isin(label.frame, group.frame)
            if not bool(both.any()):
                continue
            left &= ~both
            at = torch.searchsorted(group.frame, label.frame[both])
            states, values = group.states[at], {kind: y[at] for kind, y in group.values.items()}
            response = self.layout.response(group.kinds, states, posterior)
            beta = self.regression(group.kinds, states.temperature, response)
            y = label.y[both] - (beta * self.layout.stack(values, states)).sum(1, keepdim=True)
            fields = self.layout.fields(group.kinds, states, beta[:, None, :])
            energies = label.states[both]
            minus = Reading(GeneralizedForce(), replace(energies, fields=fields, _environments={}))
            kind = label.kind + GIVEN + group.name
            frame, origin = label.frame[both], (label.kind,)
            out.append(LabelSet(kind, label.functional, energies, y, minus=minus, frame=frame, origin=origin))
        return ([label.subset(torch.nonzero(left)[:, 0])] if bool(left.any()) else []) + out

    def forces_at(self, kinds, temperature: Tensor, level: Tensor) -> Tensor:
        """C(T) of the stack of some kinds times the square of a learned level (n,): (n, m, m)."""
        assert self.layout is not None
        at = self.layout.columns(kinds)
        scale = self.scale(temperature)[:, at] * level[:, None]
        return self.covariance[at][:, at] * scale[:, :, None] * scale[:, None, :]


def noise_covariance(model, frames, kinds=None) -> np.ndarray:
    """Noise covariance of the labels of single frames, as a fitted model has it.

    Parameters
    ----------
    model
        A fitted model of one molecule.
    frames
        n frames with temperatures (and displacement fields); their labels are not looked at.
    kinds
        Label kinds whose noise was learned, in order; None: all of these.

    Returns
    -------
    ndarray, shape (n, M, M)
        M numbers of a frame, kind after kind. Where the forces on all beads of every training frame add up to zero,
        the covariance is singular in the same way.

    Raises
    ------
    DataError
        If the model has not learned the noise of a kind.
    """
    kinds = list(model.noise.levels) if kinds is None else list(kinds)
    for kind in kinds:
        if kind not in model.noise.levels:
            raise DataError(
                f"the model has not learned the noise of {kind!r}; it has that of {', '.join(model.noise.levels)}"
            )
    states = model.states(frames)
    sizes = [int(np.prod(get(kind).shape(states.coordinate_shape, states.field_count), dtype=int)) for kind in kinds]
    slices = dict(
        zip(kinds, (slice(end - m, end) for end, m in zip(np.cumsum(sizes), sizes, strict=True)), strict=True)
    )
    out = torch.zeros(len(states), sum(sizes), sum(sizes), dtype=torch.float64)
    for kind, part in slices.items():
        sigma, p = model.noise.levels[kind]
        std = sigma * (states.temperature / model.noise.reference) ** p
        out[:, range(part.start, part.stop), range(part.start, part.stop)] = (std**2)[:, None]
    noise = model.noise.correlated
    if noise is None or noise.layout is None:
        return out.numpy()
    forces = [kind for kind in noise.layout.kinds if kind in kinds]
    if not forces:
        return out.numpy()
    levels, t = NoiseLevels.of(model.noise.conditioned, noise.reference), states.temperature
    size = levels.levels([WHITENED + noise.layout.name] * len(states), t)
    covariance = noise.forces_at(forces, t, size)
    into = embedding(noise.layout, forces, states)
    where = torch.cat([torch.arange(slices[kind].start, slices[kind].stop) for kind in forces])
    out[:, where[:, None], where] = into @ covariance @ into.mT
    for kind in kinds:
        given = kind + GIVEN + noise.layout.name
        if given not in levels.kinds:
            continue
        response = noise.coupling * noise.layout.response(forces, states, model.posterior)
        at = slices[kind].start
        cross = torch.einsum("nij,nj->ni", into, response)
        out[:, at, where] = cross
        out[:, where, at] = cross
        # the learned variance is what all forces leave; those that are not asked for give their share back
        everything = [k for k in noise.layout.kinds if k in forces or _readable(k, states)]
        whole = noise.coupling * noise.layout.response(everything, states, model.posterior)
        w = noise.whitening(everything, t)
        share = (torch.einsum("nij,nj->ni", w, whole) ** 2).sum(1) / size**2
        out[:, at, at] = levels.levels([given] * len(states), t) ** 2 + share
    return out.numpy()


def _readable(kind: str, states: States) -> bool:
    return get(kind).spatial is not Spatial.DISPLACEMENT or states.fields is not None


def embedding(layout: Layout, kinds, states: States) -> Tensor:
    """(n, M, m) with label values = embedding · stack, for noise: a bead left out takes minus the sum of the others."""
    blocks = []
    for kind, size in zip(layout.kinds, layout.sizes, strict=True):
        if kind not in kinds:
            continue
        matrix = layout.matrix(kind, states)
        if matrix is None:
            blocks.append(torch.eye(size, dtype=torch.float64).expand(len(states), size, size))
            continue
        back = matrix.mT.clone()
        if layout.dropped is not None:
            by_bead = back.unflatten(1, (-1, 3))
            by_bead[:, layout.dropped] = -by_bead.sum(1)
        blocks.append(back)
    rows, columns = (sum(b.shape[k] for b in blocks) for k in (1, 2))
    out = torch.zeros(len(states), rows, columns, dtype=torch.float64)
    row = column = 0
    for block in blocks:
        out[:, row : row + block.shape[1], column : column + block.shape[2]] = block
        row, column = row + block.shape[1], column + block.shape[2]
    return out
