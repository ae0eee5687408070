"""Learned noise levels."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ...runtime.processes import Processes
from ..prior.prior import Prior


class NoiseLevels(torch.nn.Module):
    """Learned noise of each label kind, a power law in temperature: σ(T) = σ₀ (T/T0)^p.

    A single frame's energy scatters by T·sqrt(k C), its forces by more at higher T too: one number per kind
    would give cold frames too little weight and hot ones too much.

    Parameters
    ----------
    start
        Starting values of σ₀ by kind.
    reference
        T0, K.
    exponent
        Whether to learn p; it stays 0 otherwise (labels at a single temperature).
    """

    #: Standard deviation of ln σ₀ under its weak log-normal prior, about the starting value.
    prior_width: ClassVar[float] = 2.0

    def __init__(self, start: dict[str, float], reference: float = 300.0, exponent: bool = False):
        super().__init__()
        self.kinds, self.reference = list(start), reference
        self.register_buffer(
            "start", torch.tensor([math.log(v) for v in start.values()], dtype=torch.float64, device="cpu")
        )
        self.log_noise = torch.nn.Parameter(self.start.clone())
        self.exponent = torch.nn.Parameter(torch.zeros_like(self.start), requires_grad=exponent)

    @classmethod
    def of(cls, values: dict[str, tuple[float, float]], reference: float) -> NoiseLevels:
        """Levels with known values, the inverse of :meth:`values`."""
        out = cls({kind: float(sigma) for kind, (sigma, _) in values.items()}, reference)
        out.exponent.data.copy_(out.start.new_tensor([float(p) for _, p in values.values()]))
        return out.requires_grad_(False)

    def levels(self, kinds: list[str], temperature: Tensor) -> Tensor:
        """Standard deviations for pairs of kind and temperature; one where noise is given with the labels."""
        index = [self.kinds.index(kind) if kind in self.kinds else -1 for kind in kinds]
        if not self.kinds:
            return temperature.new_ones(len(kinds))
        at = torch.tensor(index, device=temperature.device)
        known, at = at < 0, at.clamp_min(0)
        learned = (self.log_noise[at] + self.exponent[at] * torch.log(temperature / self.reference)).exp()
        return torch.where(known, torch.ones_like(learned), learned)

    def hyperprior(self) -> Tensor:
        """Log density of the weak priors, up to a constant."""
        level = ((self.log_noise - self.start) / self.prior_width) ** 2
        return -0.5 * (level + ((self.exponent - 0.5 * self.exponent.requires_grad) / 1.0) ** 2).sum()

    def values(self) -> dict[str, tuple[float, float]]:
        """(σ₀, p) by kind."""
        exponents = self.exponent.detach().tolist()
        return {
            k: (math.exp(v), p) for k, v, p in zip(self.kinds, self.log_noise.detach().tolist(), exponents, strict=True)
        }


def hyperparameters(prior: Prior, noise: NoiseLevels) -> dict[str, Tensor]:
    """All numbers of a fit that the evidence may have changed, by name."""
    out = {f"prior.{name}": p.detach() for name, p in prior.named_parameters()}
    return out | {f"noise.{name}": p.detach() for name, p in noise.named_parameters()}


def share_hyperparameters(prior: Prior, noise: NoiseLevels, processes: Processes) -> None:
    """All processes go on with those of process 0: on unequal machines theirs differ in the last digits."""
    processes.broadcast(hyperparameters(prior, noise).values())
