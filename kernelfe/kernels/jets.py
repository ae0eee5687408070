"""Environment jets: what a functional reads of one environment, c·f(z) + w·∇f(z).

Every spatial operator of :mod:`kernelfe.functionals` becomes such rows once the descriptor supplies its
Jacobian. The rows of a label that spans several environments (for example all pairs that a bead belongs to)
are summed through ``label``, the sparse map B from jets to labels.

Parts of jets may be missing: a coefficient that is None is zero, a map that is None is the identity. The methods of
:class:`Jets` account for it, without arrays of zeros or index arrays; formulas that are linear in the coefficients are
written with :func:`linear`, :func:`plus` and :func:`minus`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import DataError
from ..functionals import Spatial


def linear(function: Callable[..., Tensor], *parts: Tensor | None) -> Tensor | None:
    """Value of a function that is linear in each of its arguments; None, which is zero, if one of them is None."""
    return None if any(part is None for part in parts) else function(*parts)


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Sum a + b, where None is zero."""
    return b if a is None else a if b is None else a + b


def minus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Difference a − b, where None is zero."""
    return a if b is None else -b if a is None else a - b


@dataclass(frozen=True)
class Jets:
    """Rows that read environments of one term.

    Parameters
    ----------
    z
        Environments, shape (E, D).
    c
        Value coefficients, shape (E, r), or None for zero.
    w
        Gradient coefficients, shape (E, r, D), or None for zero.
    frame
        Frame of each environment, ascending, shape (E,), or None when there is one per frame, in order.
    label
        Label component within the frame that each row belongs to, shape (E, r), or None when the r rows
        are the components, in order.
    """

    z: Tensor
    c: Tensor | None = None
    w: Tensor | None = None
    frame: Tensor | None = None
    label: Tensor | None = None

    @staticmethod
    def values(z: Tensor) -> Jets:
        """Rows that read the values f(z) only."""
        return Jets(z, z.new_ones(len(z), 1))

    @staticmethod
    def full(z: Tensor) -> Jets:
        """Rows that read value and gradient: 1 + D rows per environment."""
        size, dimension = z.shape
        c = z.new_zeros(size, 1 + dimension)
        c[:, 0] = 1.0
        w = z.new_zeros(size, 1 + dimension, dimension)
        w[:, 1:] = torch.eye(dimension, dtype=z.dtype, device=z.device)
        return Jets(z, c, w)

    # ------------------------------------------------------------------ which parts there are

    def __len__(self) -> int:
        return len(self.z)

    @property
    def rows(self) -> int:
        """Rows per environment, r."""
        return self.c.shape[1] if self.c is not None else self.w.shape[1]  # type: ignore[union-attr]

    @property
    def reads_values(self) -> bool:
        """True if any row reads values."""
        return self.c is not None

    @property
    def reads_slopes(self) -> bool:
        """True if any row reads gradients."""
        return self.w is not None

    @property
    def direct(self) -> bool:
        """True if the rows are the label components, in order: one environment per frame, B = 1."""
        return self.frame is None and self.label is None

    def each(self, frames: int) -> int:
        """Environments that every one of so many frames has; 0 where frames differ."""
        if self.frame is None:
            return 1
        counts = torch.bincount(self.frame, minlength=frames)
        return int(counts[0]) if frames and bool((counts == counts[0]).all()) else 0

    # ------------------------------------------------------------------ other jets from these

    def map(self, function: Callable[[Tensor], Tensor]) -> Jets:
        """The jets with a function applied to every array there is, all of which have environments first."""
        return Jets(function(self.z), *(linear(function, part) for part in (self.c, self.w, self.frame, self.label)))

    def moved(self, z: Tensor, push: Callable[[Tensor], Tensor]) -> Jets:
        """The same rows on environments x(z), where ``push`` turns gradient coefficients by z into those by x."""
        return replace(self, z=z, w=linear(push, self.w))

    def scaled(self, scale: Tensor) -> Jets:
        """The same rows on z·scale: since ∂/∂z = scale·∂/∂(z·scale), w is multiplied too."""
        return self.moved(self.z * scale, lambda w: w * scale)

    def weighted(self, weight: float) -> Jets:
        """All rows times a number."""
        return replace(self, c=linear(lambda c: weight * c, self.c), w=linear(lambda w: weight * w, self.w))

    def contiguous(self) -> Jets:
        """The same with gradient coefficients, the largest array, in one piece and in order."""
        return replace(self, w=linear(Tensor.contiguous, self.w))

    def __getitem__(self, index) -> Jets:
        """Rows of some environments by themselves, as if there were one environment per frame."""
        return Jets(self.z[index], *(linear(lambda part: part[index], part) for part in (self.c, self.w)))

    def slice(self, start: int, stop: int) -> Jets:
        """The jets of frames start…stop−1, whose numbers then begin at zero."""
        first, last = start, stop
        if self.frame is not None:  # descriptors list environments frame by frame
            first, last = torch.searchsorted(self.frame, torch.tensor([start, stop], device=self.frame.device)).tolist()
        part = self.map(lambda array: array[first:last])
        return part if part.frame is None else replace(part, frame=part.frame - start)

    def take(self, frames: Tensor) -> Jets:
        """The jets of some frames, in the order given, which become their numbers."""
        if self.frame is None:
            return self.map(lambda array: array[frames])
        bounds = torch.searchsorted(self.frame, torch.stack([frames, frames + 1]))
        lengths = bounds[1] - bounds[0]
        frame = torch.repeat_interleave(lengths)
        start = bounds[0] - (lengths.cumsum(0) - lengths)
        index = torch.arange(int(lengths.sum()), device=frames.device) + start[frame]
        return replace(self.map(lambda array: array[index]), frame=frame)

    def by_component(self) -> Jets:
        """The same with the rows of every environment in the order of the label components they belong to."""
        if self.label is None:
            return self
        order = self.label.argsort(1)
        w = linear(lambda w: w.gather(1, order[:, :, None].expand(-1, -1, w.shape[2])), self.w)
        return Jets(self.z, linear(lambda c: c.gather(1, order), self.c), w, self.frame, self.label.gather(1, order))

    # ------------------------------------------------------------------ frames, labels and rows

    def spread(self, per_frame: Tensor) -> Tensor:
        """Values of frames, (n, …), for every environment, (E, …)."""
        return per_frame if self.frame is None else per_frame[self.frame]

    def place(self, components: int) -> Tensor:
        """Label that every row belongs to, among the labels of all frames with so many each, shape (E, r)."""
        device = self.z.device
        frame = torch.arange(len(self.z), device=device) if self.frame is None else self.frame
        label = torch.arange(self.rows, device=device) if self.label is None else self.label
        return frame[:, None] * components + label

    def gather(self, labels: Tensor) -> Tensor:
        """Bᵀ: values of labels, (n, m) or (n, m, k), for every row, (E, r) or (E, r, k)."""
        if self.label is None:
            return self.spread(labels)
        return labels.flatten(0, 1)[self.place(labels.shape[1])]

    def scatter(self, rows: Tensor, labels: int, components: int) -> Tensor:
        """B: sums of rows, (E, r, k), into labels, (labels, k), with ``components`` in every frame."""
        if self.direct:
            return rows.reshape(labels, rows.shape[2])
        out = rows.new_zeros(labels, rows.shape[2])
        return out.index_add_(0, self.place(components).reshape(-1), rows.flatten(0, 1))

    # ------------------------------------------------------------------ rows and functions

    def read(self, value: Tensor | None, gradient: Tensor | None) -> Tensor:
        """Rows c·value + w·gradient of functions on the environments.

        Parameters
        ----------
        value, gradient
            Shapes (E, k) and (E, D, k); None where the jets do not read them.

        Returns
        -------
        Tensor, shape (E, r, k)
        """
        values = linear(lambda c, v: c[:, :, None] * v[:, None], self.c, value)
        return plus(values, linear(torch.bmm, self.w, gradient))  # type: ignore[return-value]

    def coefficients(self, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Coefficients of an expansion on the environments whose rows have weights, the transpose of :meth:`read`.

        Parameters
        ----------
        rows
            Weights, shape (E, r, k).

        Returns
        -------
        Tensor or None, Tensor or None
            Of values and gradients, shapes (E, k) and (E, D, k); None for zero.
        """
        c = linear(lambda c: (c[:, :, None] * rows).sum(1), self.c)
        return c, linear(lambda w: torch.bmm(rows.mT, w).mT, self.w)  # rows times matrices are the faster ones


def spatial_jets(environments, spatial: Spatial, *, fields: Tensor | None = None, volume: Tensor | None = None) -> Jets:
    """Turn a spatial operator into jets of the given environments.

    Parameters
    ----------
    environments
        What a descriptor returns: z (E, D), jacobian (E, D, q) or None for the identity, columns (E, q) or
        None, frame (E,) or None, strain (E, D, 6) or None.
    spatial
        The operator.
    fields
        Displacement fields, shape (n, k, coordinates of a frame).
    volume
        Cell volumes, shape (n,).

    Raises
    ------
    DataError
        If the operator needs fields or a cell that is missing.
    """
    z, jacobian, frame = environments.z, environments.jacobian, environments.frame
    if spatial is Spatial.VALUE:
        label = None if frame is None else torch.zeros(len(z), 1, dtype=torch.long, device=z.device)
        return Jets(z, z.new_ones(len(z), 1), None, frame, label)
    if spatial is Spatial.GRADIENT:
        w = _identity(z) if jacobian is None else jacobian.transpose(1, 2)
        return Jets(z, None, w, frame, environments.columns)
    if spatial.needs_cell:
        if environments.strain is None or volume is None:
            raise DataError(
                "stress and pressure need a periodic cell and a descriptor with a strain derivative: pass cell="
            )
        if spatial is Spatial.VOLUME:  # dV/V = 3 dε of each of the three normal strains
            w = environments.strain[:, :, :3].sum(2)[:, None]
            w = w / (3.0 * (volume if frame is None else volume[frame]))[:, None, None]
            return Jets(z, None, w, frame, _components(frame, len(z), 1, z.device))
        w = environments.strain.transpose(1, 2)
        w = w / (volume if frame is None else volume[frame])[:, None, None]
        return Jets(z, None, w, frame, _components(frame, len(z), 6, z.device))
    if fields is None:
        raise DataError("generalized_force is read along displacement fields: the Frames carry none (displacements=)")
    t = fields if frame is None else fields[frame]
    if environments.columns is not None:
        t = torch.gather(t, 2, environments.columns[:, None, :].expand(-1, t.shape[1], -1))
    w = t if jacobian is None else torch.einsum("ekq,edq->ekd", t, jacobian)
    return Jets(z, None, w, frame, _components(frame, len(z), t.shape[1], z.device))


def _identity(z: Tensor) -> Tensor:
    return torch.eye(z.shape[1], dtype=z.dtype, device=z.device).expand(len(z), -1, -1)


def _components(frame: Tensor | None, size: int, rows: int, device) -> Tensor | None:
    return None if frame is None else torch.arange(rows, device=device).expand(size, -1)
