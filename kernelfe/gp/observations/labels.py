"""The labels of a fit: functionals, the frames they were observed on, values and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...functionals import FreeEnergy, Functional, GeneralizedForce, Spatial, get
from ..prior.prior import Prior
from ..prior.rows import RowBlock, frame_chunks
from ..states import States

#: Kind under which free-energy differences between two rows are listed.
PAIR = "free_energy_difference"
#: Kind of the virtual observations of heat capacities that stand for C ≥ 0.
CONCAVITY = "concavity"
#: Frames whose baseline is evaluated at a time.
FRAMES_AT_ONCE = 4096
#: Quantity that labels of these kinds read.
READS = {PAIR: "free_energy", CONCAVITY: "heat_capacity"}
#: Beginning of the kind of forces that were whitened within each frame.
WHITENED = "whitened "
#: What joins the kind of energies and the forces whose share of the noise was taken out.
GIVEN = " given "


def functionals_of(kind: str) -> tuple[Functional, Functional | None]:
    """What labels of a kind read, and what is subtracted from it, or None."""
    if kind == CONCAVITY:
        return get(READS[kind]), None
    if kind == PAIR:
        return FreeEnergy(), FreeEnergy()
    if kind.startswith(WHITENED):
        return GeneralizedForce(), None
    if GIVEN in kind:
        return get(kind.split(GIVEN)[0]), GeneralizedForce()
    return get(kind), None


@dataclass
class LabelSet:
    """All labels of one kind.

    Parameters
    ----------
    kind
        Quantity key, :data:`PAIR`, :data:`CONCAVITY`, or one of the kinds that :mod:`kernelfe.gp.correlated_noise.model` makes.
    functional
        What the labels read.
    states
        Where, n of them; for pairs the second end.
    y
        Values without baseline, shape (n, m).
    noise
        Standard deviations, shape (n, m); covariance blocks, shape (n, m, m); or None: learned.
    minus
        What is subtracted: for pairs the free energy of the first end; for decorrelated energies the generalised
        force along the fields of these states (:func:`functionals_of`).
    relative
        For learned noise: relative standard deviations of the rows, shape (n, m), or None for one.
    weight
        For learned noise: what share of an independent label each row counts for, 1/g with the statistical
        inefficiency g, shape (n, m), or None for one. The likelihood of the row is raised to this power.
    frame
        Row of the Frames that each of the n comes from, ascending, shape (n,), or None.
    """

    kind: str
    functional: Functional
    states: States
    y: Tensor
    noise: Tensor | None = None
    minus: States | None = None
    relative: Tensor | None = None
    weight: Tensor | None = None
    frame: Tensor | None = None

    def __len__(self) -> int:
        return self.y.numel()

    @property
    def learned(self) -> bool:
        """Whether the noise of this kind is a hyperparameter."""
        return self.noise is None

    @property
    def noise_kind(self) -> str:
        """Name under which noise levels and normal equations know these labels.

        Labels of one kind may have learned noise in the fit and given noise in a later conditioning.
        """
        return self.kind if self.learned else f"{self.kind} with given noise"

    def rows(self, prior: Prior, index: slice | Tensor = slice(None)) -> RowBlock:
        """The rows of some frames under ``prior``."""
        return self._rows(prior, self.states[index], None if self.minus is None else self.minus[index])

    def kept_rows(self, prior: Prior) -> RowBlock:
        """All rows; environments of descriptors are kept with the states, for a search that asks again and again."""
        return self._rows(prior, self.states, self.minus)

    def _rows(self, prior: Prior, states: States, minus: States | None) -> RowBlock:
        rows = prior.rows(self.functional, states)
        if minus is None:
            return rows
        return rows - prior.rows(functionals_of(self.kind)[1] or self.functional, minus)

    def subset(self, index: Tensor) -> LabelSet:
        """The labels of some frames."""
        return LabelSet(
            self.kind,
            self.functional,
            self.states[index],
            self.y[index],
            None if self.noise is None else self.noise[index],
            None if self.minus is None else self.minus[index],
            *(None if v is None else v[index] for v in (self.relative, self.weight, self.frame)),
        )

    def to(self, device: torch.device) -> LabelSet:
        """The same labels on a device."""
        return LabelSet(
            self.kind,
            self.functional,
            self.states.to(device),
            self.y.to(device),
            None if self.noise is None else self.noise.to(device),
            None if self.minus is None else self.minus.to(device),
            *(None if v is None else v.to(device) for v in (self.relative, self.weight, self.frame)),
        )

    def row_scale(self, index: slice | Tensor = slice(None)) -> Tensor | None:
        """Standard deviations (known or relative) of the rows of some frames, (n, m), or None for one.

        Rows of weight w count as w independent ones: their variance is divided by w.
        """
        scale = self.relative if self.noise is None else self.noise
        if self.weight is not None:
            scale = self.weight**-0.5 if scale is None else scale * self.weight**-0.5
        return None if scale is None else scale[index]

    def counted(self, index: slice | Tensor = slice(None)) -> tuple[float, float]:
        """Number of independent labels that some frames count for, and Σ w ln(relative variance) over their rows."""
        relative = None if self.relative is None else self.relative[index]
        if self.weight is None:
            log = 0.0 if relative is None else 2.0 * float(relative.log().sum())
            return float(self.y[index].numel()), log
        weight = self.weight[index]
        log = 0.0 if relative is None else 2.0 * float((weight * relative.log()).sum())
        return float(weight.sum()), log


def pair_labels(first: States, second: States, value: Tensor, std: Tensor) -> LabelSet:
    """Free-energy differences A(second) − A(first) as labels."""
    return LabelSet(PAIR, FreeEnergy(), second, value[:, None], std[:, None], minus=first)


def less_baseline(y: Tensor, baseline, functional: Functional, states: States) -> Tensor:
    """y − :func:`baseline_rows`, shape (n, m), in an array of its own: the only one of that size that is made."""
    out = torch.empty_like(y)
    for start, stop in frame_chunks(len(states), FRAMES_AT_ONCE):
        rows = baseline_rows(baseline, functional, states[start:stop])
        torch.sub(y[start:stop], rows.reshape(stop - start, -1), out=out[start:stop])
    return out


def baseline_rows(baseline, functional: Functional, states: States) -> Tensor:
    """What a temperature-independent energy V(R) contributes to the rows of a functional, shape (n·m,).

    Only the parts of a thermal operator without a temperature derivative see it. Block by block: what it takes to
    evaluate V must not grow with the number of frames.
    """
    if baseline is not None and len(states) > FRAMES_AT_ONCE:
        blocks = frame_chunks(len(states), FRAMES_AT_ONCE)
        return torch.cat([baseline_rows(baseline, functional, states[start:stop]) for start, stop in blocks])
    shape = functional.shape(states.coordinate_shape, states.field_count)
    out = states.temperature.new_zeros(len(states), int(torch.Size(shape).numel()))
    weights = [
        sum(c * states.temperature**p for c, p, n in read.thermal if n == 0) * torch.ones_like(states.temperature)
        for read in functional.reads
        if read.parameter is None
    ]
    if baseline is None or not weights:
        return out.reshape(-1)
    total = torch.stack(weights).sum(0)[:, None]
    if functional.spatial is Spatial.STRAIN:
        strain = baseline.strain_derivative(states.coordinates, states.cell)
        return (total * strain / states.volume[:, None]).reshape(-1)  # type: ignore[index]
    energy, gradient = baseline.energy_and_gradient(states.coordinates, states.cell)
    if functional.spatial is Spatial.VALUE:
        return (total * energy[:, None]).reshape(-1)
    gradient = gradient.reshape(len(states), -1)
    if functional.spatial is Spatial.DISPLACEMENT:
        gradient = torch.einsum("nkq,nq->nk", states.fields, gradient)
    return (total * gradient).reshape(-1)
