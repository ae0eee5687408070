"""A term of the free energy: a descriptor × a kernel on environments × a thermal part.

    f_term(R; T, λ) = w Σ_{environments e} Σ_k φ_k(T, λ) g_k(z_e(R)),   g_k ~ GP(0, a_k² κ)

with φ_k the product functions of the thermal part and of the parameter parts, and w the weight of the descriptor (one,
unless it averages over permutations of like beads). :class:`Term` is the
spec, :class:`TermModule` holds the hyperparameters of a fit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gpytorch
import torch
from torch import Tensor

from ...errors import DataError
from ...functionals import Read
from ...kernels.base import Kernel
from ...kernels.jets import Jets
from ...kernels.parameters import ParameterPart
from ...kernels.thermal import ThermalPart
from ...specs import Bound, Real, Spec


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
        One :class:`ParameterExpansion` or :class:`ParameterKernel` per parameter λ that this term depends on;
        None: an expansion of second order for each parameter of the data.
    fixed
        Keep the numbers of the kernel and the thermal part as they are instead of fitting them.
    prior_width
        Standard deviation of the logarithm of each of these numbers under its weak log-normal prior, about its starting
        value.
    """

    descriptor: Any = None
    kernel: Kernel | None = None
    thermal: ThermalPart | None = None
    parameters: tuple[ParameterPart, ...] | None = None
    fixed: bool = False
    prior_width: float = 2.0

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"prior_width": Real(above=0.0)}


class TermModule(gpytorch.Module):
    """Hyperparameters of one term and the two things a fit needs of it: embedded jets and factors.

    Parameters
    ----------
    spec
        A :class:`Term` whose descriptor, kernel, thermal part and parameters are all set, with numbers.
    dimension
        Columns D of the descriptor.

    Raises
    ------
    DataError
        If a part of the spec or a number is missing, or the kernel's do not fit the columns.
    """

    def __init__(self, spec: Term, dimension: int):
        super().__init__()
        _require_numbers(spec)
        self.spec, self.dimension = spec, dimension
        kernel: Kernel = spec.kernel  # type: ignore[assignment]
        thermal: Any = spec.thermal
        kernel.check(dimension)
        begin = {"dtype": torch.float64, "device": "cpu"}  # a fit moves the whole module
        numbers = {name: torch.tensor(v, **begin) for name, v in kernel.hyperparameters().items()}
        scales = torch.tensor([getattr(thermal, name) for name in thermal.components], **begin)
        for name, start in (*numbers.items(), ("scales", scales)):
            self.register_parameter(f"log_{name}", torch.nn.Parameter(start.log(), requires_grad=not spec.fixed))
            self.register_buffer(f"start_{name}", start.log())

    def bound_to(self, molecule) -> TermModule:
        """The term of one molecule: the same hyperparameters, the descriptor bound to its beads."""
        out = copy.copy(self)
        out.spec = replace(self.spec, descriptor=molecule.bound(self.spec.descriptor))
        return out

    @property
    def kernel(self) -> Kernel:
        """The kernel with the present hyperparameters, as tensors."""
        kernel: Kernel = self.spec.kernel  # type: ignore[assignment]
        values = {name: self.log_hyperparameter(name).exp() for name in kernel.hyperparameters()}
        return kernel.bound(values, self.dimension)

    def log_hyperparameter(self, name: str) -> torch.nn.Parameter:
        """The logarithms of a hyperparameter of the kernel."""
        return getattr(self, f"log_{name}")

    @property
    def size(self) -> int:
        """Number of functions φ_k."""
        return self.spec.thermal.size * self._products()  # type: ignore[union-attr]

    def _products(self) -> int:
        """Functions of all parameters together."""
        parameters: Any = self.spec.parameters
        return math.prod(part.size for part in parameters)

    @property
    def weight(self) -> float:
        """Factor of the descriptor's environments: f = weight · Σ_e g(z_e), the scales are those of g."""
        return getattr(self.spec.descriptor, "weight", 1.0)

    def variances(self) -> Tensor:
        """Prior variances of what an environment contributes, (weight · a_k)², shape (size,)."""
        repeats = [count * self._products() for count in self.spec.thermal.functions]  # type: ignore[union-attr]
        squared = self.weight**2 * (2.0 * self.log_scales).exp()
        return torch.cat([one.expand(count) for one, count in zip(squared, repeats, strict=True)])

    @property
    def width(self) -> int:
        """Columns D' that the kernel works on."""
        return self.kernel.embedding(self.log_scales.new_zeros(1, self.dimension)).z.shape[1]

    def embed(self, jets: Jets) -> Jets:
        """The jets in the kernel's own columns."""
        return self.kernel.embed(jets)

    def hyperprior(self) -> Tensor:
        """Log density of the weak log-normal priors, up to a constant.

        Written out rather than registered with gpytorch, whose prior closures cannot be pickled.
        """
        width = self.spec.prior_width
        scales = (self.log_scales - self.start_scales) / width
        total = scales.square().sum()
        for name in self.spec.kernel.hyperparameters():  # type: ignore[union-attr]
            off = (self.log_hyperparameter(name) - getattr(self, f"start_{name}")) / width
            total = total + off.square().sum()
        return -0.5 * total

    def factors(self, read: Read, temperature: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """The thermal and parameter operators of ``read`` applied to every φ_k, shape (n, size)."""
        return state_factors(self.spec.thermal, self.spec.parameters, read, temperature, parameters)  # type: ignore

    def fitted_spec(self) -> Term:
        """The spec with the present hyperparameters as its numbers."""
        spec: Kernel = self.spec.kernel  # type: ignore[assignment]
        numbers = {name: self.log_hyperparameter(name).detach().exp().tolist() for name in spec.hyperparameters()}
        scales = self.log_scales.detach().exp().tolist()
        thermal: Any = self.spec.thermal
        thermal = replace(thermal, **dict(zip(thermal.components, scales, strict=True)))
        return replace(self.spec, kernel=spec.with_numbers(numbers), thermal=thermal)


def _require_numbers(spec: Term) -> None:
    missing = [name for name in ("kernel", "thermal", "parameters") if getattr(spec, name) is None]
    if not missing:
        missing = [f"thermal.{name}" for name in spec.thermal.missing()]  # type: ignore[union-attr]
        kernel: Kernel = spec.kernel  # type: ignore[assignment]
        missing += [f"kernel.{name}" for name, value in kernel.hyperparameters().items() if value is None]
    if missing:
        raise DataError(f"the term lacks {', '.join(missing)}: set every part and number, as FreeEnergyRegressor does")


def state_factors(thermal, expansions, read: Read, temperature: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """Factors of the products of a thermal part and parameter parts, shape (n, size).

    A read that differentiates by a parameter which no part names reads zero.
    """
    out = thermal.factors(read, temperature)
    named = {expansion.name for expansion in expansions}
    if read.parameter is not None and read.parameter not in named:
        return out.new_zeros(len(out), out.shape[1] * math.prod(e.size for e in expansions))
    for expansion in expansions:
        if expansion.name not in parameters:
            raise DataError(f"the model depends on the parameter {expansion.name!r}: give its value for every row")
        columns = expansion.factors(read, parameters[expansion.name])
        out = (out[:, :, None] * columns[:, None, :]).reshape(len(out), -1)
    return out
