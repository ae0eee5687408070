"""What a network reads of a batch of configurations, and the spatial operators of functionals on its outputs.

A functional is the spatial operator of a number per frame. Networks on descriptors are differentiated by the
environments z, and Jacobians that the descriptor knows carry the rest: ∇A = Jᵀ ∂A/∂z. Message passing is
differentiated by positions and strain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..descriptors import Environments
from ..errors import DataError
from ..functionals import Spatial
from ..gp.states import States

#: Numbers of Jacobians that are kept for a whole training set (½ GiB); beyond, they are computed batch by batch.
_KEPT = 1 << 26


class Inputs(ABC):
    """Inputs of a network for a batch of states; subclasses hold the leaf tensors."""

    states: States

    @abstractmethod
    def gradient(self, value: Tensor, graph: bool) -> Tensor:
        """∂(Σ value)/∂(coordinates), shape (n, coordinates of a frame)."""

    @abstractmethod
    def strain(self, value: Tensor, graph: bool) -> Tensor:
        """∂(Σ value)/∂strain, shape (n, 6), Voigt order with engineering shear."""

    def apply(self, spatial: Spatial, value: Tensor, graph: bool) -> Tensor:
        """A spatial operator applied to a number per frame (n,); shape (n, m).

        Parameters
        ----------
        spatial
            The operator.
        value
            Output of the network on these inputs, (n,).
        graph
            Whether the result is differentiated again.
        """
        if spatial is Spatial.VALUE:
            return value[:, None]
        if spatial.needs_cell:
            volume = self.states.volume
            if volume is None:
                raise DataError("stress and pressure need frames with a cell: give cell= when building the Frames")
            strain = self.strain(value, graph)
            strain = strain[:, :3].sum(1, keepdim=True) / 3.0 if spatial is Spatial.VOLUME else strain
            return strain / volume[:, None]
        gradient = self.gradient(value, graph)
        if spatial is Spatial.GRADIENT:
            return gradient
        assert self.states.fields is not None  # Functional.shape refuses frames without fields
        return torch.einsum("nkq,nq->nk", self.states.fields, gradient)


def slope(value: Tensor, leaf: Tensor, graph: bool) -> Tensor:
    """∂(Σ value)/∂leaf, zero where the value does not depend on it."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(value.sum(), leaf, create_graph=graph, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else found


class EnvironmentInputs(Inputs):
    """Environments of a descriptor as inputs.

    Parameters
    ----------
    states
        The batch.
    environments
        Its environments, with Jacobians.
    """

    def __init__(self, states: States, environments: Environments):
        self.states, self.environments = states, environments
        self.z = environments.z.detach().requires_grad_()
        self.frame, self.frames = environments.frame, len(states)

    def gradient(self, value: Tensor, graph: bool) -> Tensor:
        return self.environments.pull(slope(value, self.z, graph), self.states.coordinates).flatten(1)

    def strain(self, value: Tensor, graph: bool) -> Tensor:
        if self.environments.strain is None:
            raise DataError("the descriptor gives no strain derivative: stress and pressure cannot be read with it")
        along = torch.einsum("ed,edk->ek", slope(value, self.z, graph), self.environments.strain)
        if self.frame is None:
            return along
        return along.new_zeros(self.frames, 6).index_add(0, self.frame, along)


class EnvironmentStore:
    """Environments of all frames of a training set, computed once where memory allows."""

    def __init__(self, descriptor: Any, states: States):
        self.descriptor, self.states, self._kept = descriptor, states, None
        one = _environments(descriptor, states[:1]) if len(states) else None
        if one is not None and len(states) * max(1, 0 if one.jacobian is None else one.jacobian.numel()) <= _KEPT:
            self._kept = _environments(descriptor, states)

    def take(self, index: Tensor) -> EnvironmentInputs:
        """Inputs of some frames, in the order given."""
        states = self.states[index]
        if self._kept is None:
            return EnvironmentInputs(states, _environments(self.descriptor, states))
        return EnvironmentInputs(states, taken(self._kept, index, len(self.states)))


def taken(environments: Environments, index: Tensor, frames: int) -> Environments:
    """Environments of some frames out of ``frames``, renumbered in the order of ``index``."""
    rows, frame = index, None
    if environments.frame is not None:
        count = torch.bincount(environments.frame, minlength=frames)
        first, size = (count.cumsum(0) - count)[index], count[index]
        frame = torch.repeat_interleave(torch.arange(len(index)), size)
        within = torch.arange(int(size.sum())) - torch.repeat_interleave(size.cumsum(0) - size, size)
        rows = first[frame] + within

    def part(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[rows]

    return Environments(
        environments.z[rows],
        part(environments.jacobian),
        part(environments.columns),
        frame,
        part(environments.strain),
    )


@torch.no_grad()
def _environments(descriptor: Any, states: States) -> Environments:
    found: Environments = descriptor.environments(states.coordinates, cell=states.cell)
    return found
