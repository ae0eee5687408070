"""Adam on one flat vector of parameters (Kingma and Ba, arXiv:1412.6980).

torch's own optimizers load its compiler when they are made, 3 s and 1,000 modules for 10 lines of arithmetic; and a
state of two vectors goes into a checkpoint as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Adam:
    """Adam with bias correction.

    Parameters
    ----------
    parameters
        Leaf tensors, changed in place.
    factors
        Multiple of the learning rate for each of them.
    betas, epsilon
        Decay of the two moments, and the floor of the root of the second.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        factors: list[float],
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ):
        self.parameters, self.betas, self.epsilon, self.steps = parameters, betas, epsilon, 0
        self.sizes = [p.numel() for p in parameters]
        self.factors = torch.cat(
            [torch.full((n,), f, dtype=torch.float64) for n, f in zip(self.sizes, factors, strict=True)]
        )
        self.first, self.second = torch.zeros_like(self.factors), torch.zeros_like(self.factors)

    def gradient(self, loss: Tensor) -> Tensor:
        """Gradient of a loss as one vector; zero for parameters that it does not depend on."""
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        parts = [
            p.new_zeros(p.numel()) if g is None else g.reshape(-1) for p, g in zip(self.parameters, found, strict=True)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: float) -> None:
        """One step at a learning rate."""
        self.steps += 1
        a, b = self.betas
        self.first.mul_(a).add_(gradient, alpha=1.0 - a)
        self.second.mul_(b).addcmul_(gradient, gradient, value=1.0 - b)
        root = (self.second / (1.0 - b**self.steps)).sqrt_().add_(self.epsilon)
        change = self.factors * self.first * (-rate / (1.0 - a**self.steps)) / root
        for p, part in zip(self.parameters, change.split(self.sizes), strict=True):
            p.add_(part.reshape(p.shape))
