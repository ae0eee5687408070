"""The labels of a fit: functionals, the frames they were observed on, values and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..functionals import FreeEnergy, Functional, Spatial
from .prior import Prior, RowBlock, TermRead
from .states import States

#: Kind under which free-energy differences between two rows are listed.
PAIR = "free_energy_difference"
#: Kind of the virtual observations of heat capacities that stand for C ≥ 0.
CONCAVITY = "concavity"
#: Quantity that labels of these kinds read.
READS = {PAIR: "free_energy", CONCAVITY: "heat_capacity"}


@dataclass
class LabelSet:
    """All labels of one kind.

    Parameters
    ----------
    kind
        Quantity key, :data:`PAIR` or :data:`CONCAVITY`.
    functional
        What the labels read.
    states
        Where, n of them; for pairs the second end.
    y
        Values without baseline, shape (n, m).
    noise
        Standard deviations, shape (n, m); covariance blocks, shape (n, m, m); or None: learned.
    minus
        For pairs: the first end, whose free energy is subtracted.
    relative
        For learned noise: relative standard deviations of the rows, shape (n, m), or None for one.
    """

    kind: str
    functional: Functional
    states: States
    y: Tensor
    noise: Tensor | None = None
    minus: States | None = None
    relative: Tensor | None = None

    def __len__(self) -> int:
        return self.y.numel()

    @property
    def learned(self) -> bool:
        """Whether the noise of this kind is a hyperparameter."""
        return self.noise is None

    def rows(self, prior: Prior, index: slice | Tensor = slice(None)) -> RowBlock:
        """The rows of some frames under ``prior``."""
        rows = prior.rows(self.functional, self.states[index])
        return rows if self.minus is None else difference(rows, prior.rows(self.functional, self.minus[index]))

    def subset(self, index: Tensor) -> LabelSet:
        """The labels of some frames."""
        return LabelSet(
            self.kind,
            self.functional,
            self.states[index],
            self.y[index],
            None if self.noise is None else self.noise[index],
            None if self.minus is None else self.minus[index],
            None if self.relative is None else self.relative[index],
        )

    def row_scale(self, index: slice | Tensor = slice(None)) -> Tensor | None:
        """Standard deviations (known or relative) of the rows of some frames, (n, m), or None for one."""
        scale = self.relative if self.noise is None else self.noise
        return None if scale is None else scale[index]


def difference(a: RowBlock, b: RowBlock) -> RowBlock:
    """Rows that read a − b, frame by frame."""
    terms = [
        reads_a + [TermRead(read.jets, -read.factors) for read in reads_b]
        for reads_a, reads_b in zip(a.terms, b.terms, strict=True)
    ]
    mean = a.mean + [(features, -factors) for features, factors in b.mean]
    return RowBlock(a.frames, a.components, terms, mean, a.prior_mean - b.prior_mean)


def pair_labels(first: States, second: States, value: Tensor, std: Tensor) -> LabelSet:
    """Free-energy differences A(second) − A(first) as labels."""
    return LabelSet(PAIR, FreeEnergy(), second, value[:, None], std[:, None], minus=first)


def baseline_rows(baseline, functional: Functional, states: States) -> Tensor:
    """What a temperature-independent energy V(R) contributes to the rows of a functional, shape (n·m,).

    Only the parts of a thermal operator without a temperature derivative see it.
    """
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
