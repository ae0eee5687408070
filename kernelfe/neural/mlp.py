"""Multilayer perceptron on the environments of a descriptor."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..gp.states import States
from .inputs import EnvironmentInputs, EnvironmentStore, _environments, slope
from .specs import MLP

_ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "tanh": nn.Tanh}


def perceptron(sizes: list[int], activation: str, last: float = 0.1) -> nn.Sequential:
    """Layers of given widths in float64; weights of the last, which has no bias, are ``last`` times smaller."""
    parts: list[nn.Module] = []
    for k, (inner, outer) in enumerate(itertools.pairwise(sizes)):
        final = k == len(sizes) - 2
        parts.append(nn.Linear(inner, outer, bias=not final, dtype=torch.float64))
        if not final:
            parts.append(_ACTIVATIONS[activation]())
    with torch.no_grad():
        parts[-1].weight.mul_(last)  # type: ignore[operator, union-attr]
    return nn.Sequential(*parts)


class DescriptorNetwork(nn.Module):
    """Σ over environments of a perceptron of (z − mean)/std and the extra inputs.

    Parameters
    ----------
    spec
        Widths and activation.
    descriptor
        The descriptor, bound to the beads.
    columns
        D, its columns.
    extras
        Number of extra inputs per frame (temperature, parameters).
    heads
        Outputs K.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: MLP, descriptor: Any, columns: int, extras: int, heads: int):
        super().__init__()
        self.spec, self.descriptor, self.native = spec, descriptor, False
        self.layers = perceptron([columns + extras, *spec.hidden, heads], spec.activation)
        self.register_buffer("mean", torch.zeros(columns, dtype=torch.float64))
        self.register_buffer("std", torch.ones(columns, dtype=torch.float64))

    def start(self, states: States) -> None:
        """Read the scales of the columns from training frames, and whether torch differentiates the descriptor."""
        z = _environments(self.descriptor, states).z
        if not len(z):
            raise DataError(f"{self.descriptor!r} finds no environment in the training frames: choose another")
        std = z.std(0, correction=0)
        self.mean, self.std = z.mean(0), torch.where(std > 1e-9 * (1.0 + z.abs().amax(0)), std, torch.ones_like(std))
        self.native = differentiable(self.descriptor, states[:3])

    def store(self, states: States) -> EnvironmentStore:
        """Inputs of a training set."""
        return EnvironmentStore(self.descriptor, states)

    def inputs(self, states: States) -> EnvironmentInputs:
        """Inputs of a batch."""
        return EnvironmentInputs(states, _environments(self.descriptor, states))

    def heads(self, z: Tensor, frame: Tensor | None, frames: int, extras: Tensor) -> Tensor:
        """Outputs of environments (E, D), summed into frames, shape (n, K)."""
        more = extras if frame is None else extras[frame]
        out: Tensor = self.descriptor.weight * self.layers(torch.cat([(z - self.mean) / self.std, more], 1))
        return out if frame is None else out.new_zeros(frames, out.shape[1]).index_add(0, frame, out)

    def forward(self, inputs: EnvironmentInputs, extras: Tensor) -> Tensor:
        """Outputs (n, K) of a batch."""
        return self.heads(inputs.z, inputs.frame, inputs.frames, extras)

    def at(self, x: Tensor, cell: Tensor | None, extras: Tensor) -> Tensor:
        """Outputs (n, K) of positions, differentiable by them (twice if torch differentiates the descriptor)."""
        if self.native:
            z, frame, _ = self.descriptor.values_and_pullback(x, cell=cell)
        else:
            frame = self.descriptor.values_and_pullback(x.detach(), cell=cell)[1]
            z = _Read.apply(x, self.descriptor, cell)
        return self.heads(z, frame, len(x), extras)

    def leaf(self, x: Tensor, cell: Tensor | None) -> EnvironmentLeaf:
        """Environments of positions, for gradients of the outputs without a Jacobian."""
        return EnvironmentLeaf(self.descriptor, x, cell)


class EnvironmentLeaf:
    """Environments of a batch of positions as a leaf that several networks read."""

    def __init__(self, descriptor: Any, x: Tensor, cell: Tensor | None):
        with torch.no_grad():
            z, self.frame, self._pullback = descriptor.values_and_pullback(x, cell=cell)
        self.z, self.frames = z.detach().requires_grad_(), len(x)

    def heads(self, network: DescriptorNetwork, extras: Tensor) -> Tensor:
        """Outputs (n, K) of a network."""
        return network.heads(self.z, self.frame, self.frames, extras)

    def gradient(self, value: Tensor) -> Tensor:
        """∂(Σ value)/∂positions."""
        return self._pullback(slope(value, self.z, False)).detach()


class _Read(torch.autograd.Function):
    """Environments of a descriptor that torch cannot differentiate, by its own products with Jᵀ."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, descriptor: Any, cell: Tensor | None) -> Tensor:
        z, _, ctx.pullback = descriptor.values_and_pullback(x.detach(), cell=cell)
        ctx.save_for_backward(x)
        ctx.descriptor, ctx.cell = descriptor, cell
        out: Tensor = z
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        return _Pull.apply(g, ctx.saved_tensors[0], ctx), None, None


class _Pull(torch.autograd.Function):
    """Jᵀg; differentiable by g. By the positions it is not known: NaN, so that no wrong number goes unnoticed."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, read: Any) -> Tensor:
        ctx.read, ctx.shape = read, x.shape
        ctx.save_for_backward(x)
        out: Tensor = read.pullback(g.detach())
        return out

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> Any:  # type: ignore[override]
        x = ctx.saved_tensors[0].detach()
        found = ctx.read.descriptor.environments(x, cell=ctx.read.cell)
        flat = w.reshape(len(w), -1)[found.owner]
        if found.columns is not None:
            flat = flat.gather(1, found.columns)
        along = flat if found.jacobian is None else torch.einsum("edq,eq->ed", found.jacobian, flat)
        return along, torch.full(ctx.shape, torch.nan, dtype=x.dtype), None


def differentiable(descriptor: Any, states: States) -> bool:
    """Whether torch's derivative of the environments is the Jacobian of the descriptor."""
    x = states.coordinates.detach().clone().requires_grad_()
    z = descriptor.values_and_pullback(x, cell=states.cell)[0]
    if not z.requires_grad:
        return False
    weights = torch.linspace(0.5, 1.5, z.numel(), dtype=z.dtype).reshape(z.shape)
    try:
        (slopes,) = torch.autograd.grad((weights * z).sum(), x, create_graph=True)
    except RuntimeError:
        return False
    exact = _environments(descriptor, states).pull(weights, states.coordinates)
    return bool(slopes.requires_grad) and torch.allclose(slopes, exact, rtol=1e-9, atol=1e-12)
