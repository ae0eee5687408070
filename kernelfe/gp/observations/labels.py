"""The labels of a fit: functionals, the frames they were observed on, values and noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...functionals import FreeEnergy, Functional, Spatial
from ...kernels.jets import linear
from ..prior.prior import Prior
from ..prior.rows import RowBlock, frame_chunks
from ..states import States
from .levels import NoiseLevels
from .noise_models import Given, Learned, Noise, RowNoise

#: Kind under which free-energy differences between two rows are listed.
PAIR = "free_energy_difference"
#: Kind of the virtual observations of heat capacities that stand for C ≥ 0.
CONCAVITY = "concavity"
#: Frames whose baseline is evaluated at a time: memory only.
FRAMES_AT_ONCE = 4096
#: Names of noise levels, and in files kinds, of forces whitened within each frame, and of energies less the share of
#: forces in their noise: the former begin with one, the latter have the other between energies and forces.
WHITENED, GIVEN = "whitened ", " given "


@dataclass(frozen=True, eq=False)
class Reading:
    """A functional and where it is read."""

    functional: Functional
    states: States

    def rows(self, prior: Prior, index: slice | Tensor | None = None) -> RowBlock:
        """Its rows under ``prior``, of all states or of some."""
        return prior.rows(self.functional, self.states if index is None else self.states[index])

    def take(self, index: Tensor) -> Reading:
        """The same of some states."""
        return Reading(self.functional, self.states[index])

    def to(self, device: torch.device) -> Reading:
        """The same on a device."""
        return Reading(self.functional, self.states.to(device))


@dataclass
class LabelSet:
    """All labels of one kind.

    Parameters
    ----------
    kind
        Quantity key, :data:`PAIR`, :data:`CONCAVITY`, or a kind of
        :mod:`kernelfe.gp.correlated_noise.model`.
    functional
        What the labels read.
    states
        Where, n of them; for pairs the second end.
    y
        Values without baseline, shape (n, m).
    noise
        Of the labels (:mod:`kernelfe.gp.observations.noise_models`).
    minus
        What is subtracted, n readings: for pairs the free energy of the first end; for decorrelated energies the
        generalised force along the fields of these states. None: nothing.
    frame
        Row of the Frames that each of the n comes from, ascending, shape (n,), or None.
    origin
        Kinds of the Frames that these labels were made from: those of forces that are whitened together, or that of
        decorrelated energies. Empty for labels as the Frames have them.
    """

    kind: str
    functional: Functional
    states: States
    y: Tensor
    noise: Noise = Learned()  # noqa: RUF009
    minus: Reading | None = None
    frame: Tensor | None = None
    origin: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.y.numel()

    @property
    def learned(self) -> bool:
        """True if the noise of this kind is a hyperparameter."""
        return self.noise.learned

    @property
    def whitened(self) -> bool:
        """True for forces that are whitened within each frame."""
        return bool(self.origin) and self.minus is None

    @property
    def noise_kind(self) -> str:
        """Name of these labels among noise levels and in normal equations.

        Labels of one kind may have learned noise in the fit and given noise in a later conditioning.
        """
        return self.kind if self.learned else f"{self.kind} with given noise"

    def noise_at(self, levels: NoiseLevels) -> RowNoise:
        """The noise of the rows at the present levels."""
        level = levels.levels([self.noise_kind] * len(self.y), self.states.temperature)[:, None]
        return self.noise.at(level, self.y.shape)

    def tempering(self, levels: NoiseLevels) -> Tensor:
        """Contribution to the log evidence of rows that count for less than one label."""
        return self.noise.tempering(self.noise_at(levels), self.y)

    def rows(self, prior: Prior, index: slice | Tensor = slice(None)) -> RowBlock:
        """The rows of some frames under ``prior``."""
        return self._rows(prior, index)

    def kept_rows(self, prior: Prior) -> RowBlock:
        """All rows; environments of descriptors are kept with the states, for a search that asks again and again."""
        return self._rows(prior, None)

    def _rows(self, prior: Prior, index: slice | Tensor | None) -> RowBlock:
        rows = Reading(self.functional, self.states).rows(prior, index)
        return rows if self.minus is None else rows - self.minus.rows(prior, index)

    def subset(self, index: Tensor) -> LabelSet:
        """The labels of some frames."""
        return replace(
            self,
            states=self.states[index],
            y=self.y[index],
            noise=self.noise.map(lambda array: array[index]),
            minus=None if self.minus is None else self.minus.take(index),
            frame=linear(lambda frame: frame[index], self.frame),
        )

    def renumbered(self, after: int) -> LabelSet:
        """The same labels, of frames with so many others before them."""
        return replace(self, frame=linear(lambda frame: frame + after, self.frame))

    def to(self, device: torch.device) -> LabelSet:
        """The same labels on a device."""
        return replace(
            self,
            states=self.states.to(device),
            y=self.y.to(device),
            noise=self.noise.map(lambda array: array.to(device)),
            minus=None if self.minus is None else self.minus.to(device),
            frame=linear(lambda frame: frame.to(device), self.frame),
        )

    def counted(self, index: slice | Tensor = slice(None)) -> tuple[float, float]:
        """Number of independent labels that some frames count for, and Σ w ln(relative variance) over their rows."""
        return self.noise.counted(index, self.y[index].numel())


def pair_labels(first: States, second: States, value: Tensor, std: Tensor) -> LabelSet:
    """Free-energy differences A(second) − A(first) as labels."""
    return LabelSet(PAIR, FreeEnergy(), second, value[:, None], Given(std[:, None]), Reading(FreeEnergy(), first))


def less_baseline(y: Tensor, baseline, functional: Functional, states: States) -> Tensor:
    """y − :func:`baseline_rows`, shape (n, m), in an array of its own: the only one of that size that is made."""
    out = torch.empty_like(y)
    for start, stop in frame_chunks(len(states), FRAMES_AT_ONCE):
        rows = baseline_rows(baseline, functional, states[start:stop])
        torch.sub(y[start:stop], rows.reshape(stop - start, -1), out=out[start:stop])
    return out


def baseline_rows(baseline, functional: Functional, states: States) -> Tensor:
    """Contribution of a temperature-independent energy V(R) to the rows of a functional, shape (n·m,).

    It enters the parts of a thermal operator without a temperature derivative only. Block by block: what it takes to
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
    if functional.spatial.needs_cell:
        strain = baseline.strain_derivative(states.coordinates, states.cell)
        if functional.spatial is Spatial.VOLUME:
            strain = strain[:, :3].sum(1, keepdim=True) / 3.0
        return (total * strain / states.volume[:, None]).reshape(-1)  # type: ignore[index]
    energy, gradient = baseline.energy_and_gradient(states.coordinates, states.cell)
    if functional.spatial is Spatial.VALUE:
        return (total * energy[:, None]).reshape(-1)
    gradient = gradient.reshape(len(states), -1)
    if functional.spatial is Spatial.DISPLACEMENT:
        gradient = torch.einsum("nkq,nq->nk", states.fields, gradient)
    return (total * gradient).reshape(-1)
