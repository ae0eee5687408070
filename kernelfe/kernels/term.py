"""A term of the free energy: a descriptor × a kernel on environments × a thermal part.

    f_term(R; T, λ) = w Σ_{environments e} Σ_k φ_k(T, λ) g_k(z_e(R)),   g_k ~ GP(0, a_k² κ)

with φ_k the product functions of the thermal part and of the parameter expansions, and w the weight of the descriptor
(one, unless it averages over permutations of like beads). :class:`Term` is the
spec, :class:`TermModule` holds the hyperparameters of a fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import gpytorch
import torch
from torch import Tensor

from ..errors import DataError
from ..functionals import Read
from ..specs import Spec
from .jets import Jets
from .radial import RadialKernel
from .thermal import ParameterExpansion, SecondOrder

#: Width of the weak log-normal prior on every hyperparameter, about its starting value.
LOG_PRIOR_WIDTH = 2.0


@dataclass(frozen=True)
class Term(Spec):
    """Spec of a term.

    Parameters
    ----------
    descriptor
        Descriptor spec; None: all bead distances of a molecule, or the variables themselves.
    kernel
        Kernel spec on the environments; None: :class:`RBF` with a length scale from the data.
    thermal
        Thermal part; None: :class:`SecondOrder` with scales from the data.
    parameters
        One :class:`ParameterExpansion` per parameter λ that this term depends on; None: one of second
        order for each parameter of the data.
    fixed
        Keep the numbers of the kernel and the thermal part as they are instead of fitting them.
    """

    descriptor: Any = None
    kernel: RadialKernel | None = None
    thermal: SecondOrder | None = None
    parameters: tuple[ParameterExpansion, ...] | None = None
    fixed: bool = False


class TermModule(gpytorch.Module):
    """Hyperparameters of one term and the two things a fit needs of it: scaled jets and factors.

    Parameters
    ----------
    spec
        A :class:`Term` whose descriptor, kernel, thermal part and parameters are all set, with numbers.
    dimension
        Columns D of the descriptor.

    Raises
    ------
    DataError
        If a part of the spec or a number is missing, or there are more length scales than columns.
    """

    def __init__(self, spec: Term, dimension: int):
        super().__init__()
        _require_numbers(spec)
        self.spec, self.dimension = spec, dimension
        lengthscale = torch.as_tensor(spec.kernel.lengthscale, dtype=torch.float64).reshape(-1)  # type: ignore
        if lengthscale.numel() not in (1, dimension):
            raise DataError(
                f"the kernel has {lengthscale.numel()} length scales, its descriptor {dimension} columns: "
                "give one number, or one per column"
            )
        scales = torch.tensor([getattr(spec.thermal, name) for name in SecondOrder.components], dtype=torch.float64)
        for name, start in (("lengthscale", lengthscale), ("scales", scales)):
            self.register_parameter(f"log_{name}", torch.nn.Parameter(start.log(), requires_grad=not spec.fixed))
            self.register_buffer(f"start_{name}", start.log())

    @property
    def kernel(self) -> RadialKernel:
        """The kernel spec: its functions of s."""
        return self.spec.kernel  # type: ignore[return-value]

    @property
    def size(self) -> int:
        """Number of functions φ_k."""
        return len(self.spec.thermal.components) * math.prod(p.order + 1 for p in self.spec.parameters)  # type: ignore

    @property
    def weight(self) -> float:
        """Factor of the descriptor's environments: f = weight · Σ_e g(z_e), the scales are those of g."""
        return getattr(self.spec.descriptor, "weight", 1.0)

    def variances(self) -> Tensor:
        """Prior variances of what an environment contributes, (weight · a_k)², shape (size,)."""
        squared = self.weight**2 * (2.0 * self.log_scales).exp()
        return squared.repeat_interleave(self.size // len(squared))

    def scaled(self, jets: Jets) -> Jets:
        """The jets in units of the length scale."""
        return jets.scaled(self.inverse_lengthscale())

    def inverse_lengthscale(self) -> Tensor:
        """1/ℓ, shape (1,) or (D,)."""
        return (-self.log_lengthscale).exp()

    def hyperprior(self) -> Tensor:
        """Log density of the weak log-normal priors, up to a constant.

        Written out rather than registered with gpytorch, whose prior closures cannot be pickled.
        """
        lengthscale = (self.log_lengthscale - self.start_lengthscale) / LOG_PRIOR_WIDTH
        scales = (self.log_scales - self.start_scales) / LOG_PRIOR_WIDTH
        return -0.5 * (lengthscale.square().sum() + scales.square().sum())

    def factors(self, read: Read, temperature: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """The thermal and parameter operators of ``read`` applied to every φ_k, shape (n, size)."""
        return state_factors(self.spec.thermal, self.spec.parameters, read, temperature, parameters)  # type: ignore

    def fitted_spec(self) -> Term:
        """The spec with the present hyperparameters as its numbers."""
        lengthscale = self.log_lengthscale.detach().exp().tolist()
        energy, entropy, heat_capacity = self.log_scales.detach().exp().tolist()
        thermal = replace(self.spec.thermal, energy=energy, entropy=entropy, heat_capacity=heat_capacity)  # type: ignore
        kernel = replace(self.kernel, lengthscale=lengthscale[0] if len(lengthscale) == 1 else tuple(lengthscale))
        return replace(self.spec, kernel=kernel, thermal=thermal)


def _require_numbers(spec: Term) -> None:
    missing = [name for name in ("kernel", "thermal", "parameters") if getattr(spec, name) is None]
    if not missing:
        numbers = ("energy", "entropy", "heat_capacity", "reference_temperature")
        missing = [f"thermal.{name}" for name in numbers if getattr(spec.thermal, name) is None]
        missing += ["kernel.lengthscale"] if spec.kernel.lengthscale is None else []  # type: ignore[union-attr]
    if missing:
        raise DataError(f"the term lacks {', '.join(missing)}: set every part and number, as FreeEnergyRegressor does")


def state_factors(thermal, expansions, read: Read, temperature: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """Factors of the products of a thermal part and parameter expansions, shape (n, size).

    A read that differentiates by a parameter which no expansion names reads zero.
    """
    out = thermal.factors(read, temperature)
    named = {expansion.name for expansion in expansions}
    if read.parameter is not None and read.parameter not in named:
        return out.new_zeros(len(out), out.shape[1] * math.prod(e.order + 1 for e in expansions))
    for expansion in expansions:
        if expansion.name not in parameters:
            raise DataError(f"the model depends on the parameter {expansion.name!r}: give its value for every row")
        columns = expansion.factors(read, parameters[expansion.name])
        out = (out[:, :, None] * columns[:, None, :]).reshape(len(out), -1)
    return out
