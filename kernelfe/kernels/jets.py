"""Environment jets: what a functional reads of one environment, c·f(z) + w·∇f(z).

Every spatial operator of :mod:`kernelfe.functionals` becomes such rows once the descriptor supplies its
Jacobian. The rows of a label that spans several environments (all pairs that a bead belongs to, say)
are summed through ``label``, the sparse map B from jets to labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from ..functionals import Spatial


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
        Frame of each environment, shape (E,), or None when there is one per frame, in order.
    label
        Label component within the frame that each row belongs to, shape (E, r), or None when the r rows
        are the components, in order.
    """

    z: Tensor
    c: Tensor | None = None
    w: Tensor | None = None
    frame: Tensor | None = None
    label: Tensor | None = None

    @property
    def rows(self) -> int:
        """Rows per environment, r."""
        return self.c.shape[1] if self.c is not None else self.w.shape[1]  # type: ignore[union-attr]

    def scaled(self, scale: Tensor) -> Jets:
        """The same rows on z·scale: since ∂/∂z = scale·∂/∂(z·scale), w is multiplied too."""
        return Jets(self.z * scale, self.c, None if self.w is None else self.w * scale, self.frame, self.label)

    def __getitem__(self, index) -> Jets:
        """Select environments of jets that have one environment per frame."""
        return Jets(self.z[index], None if self.c is None else self.c[index], None if self.w is None else self.w[index])

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
        If the operator needs fields or a cell and there are none.
    """
    z, jacobian, frame = environments.z, environments.jacobian, environments.frame
    if spatial is Spatial.VALUE:
        label = None if frame is None else torch.zeros(len(z), 1, dtype=torch.long, device=z.device)
        return Jets(z, z.new_ones(len(z), 1), None, frame, label)
    if spatial is Spatial.GRADIENT:
        w = _identity(z) if jacobian is None else jacobian.transpose(1, 2)
        return Jets(z, None, w, frame, environments.columns)
    if spatial is Spatial.STRAIN:
        if environments.strain is None or volume is None:
            raise DataError("stress needs a periodic cell and a descriptor with a strain derivative: pass cell=")
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
