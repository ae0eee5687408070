"""One network as a free energy, and functionals read from it by nested automatic differentiation.

    A(R; T, λ) = mean functions + Σ_k φ_k(T) g_k(R, λ),    mean functions = e − (T − T0) s₀ + c τ(T),

with the φ_k of :class:`~kernelfe.kernels.SecondOrder`: g = (A(T0), entropy, heat capacity), all three heads of one
network. With :class:`~kernelfe.neural.TemperatureInput` there is one head g(R, T, λ). The baseline is not in it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..functionals import Functional, Read, Spatial
from ..gp.states import States
from ..kernels import SecondOrder
from ..units import BOLTZMANN
from .inputs import Inputs, slope
from .specs import TemperatureInput


class Potential(nn.Module):
    """A network with its thermal part and mean functions.

    Parameters
    ----------
    network
        :class:`~kernelfe.neural.mlp.DescriptorNetwork` or the one of message passing.
    thermal
        Thermal part with its reference temperature.
    concave
        Heat capacities are positive by construction: softplus of the third head and of the mean function.
    parameters
        Names of the parameters λ, sorted: extra inputs of the network.

    Attributes
    ----------
    offset, free
        Mean functions (e, s₀, c) from least squares, and which of them the labels determine, shape (3,).
    shift
        What training adds to ``offset``, in units of ``scale``, shape (3,).
    centre, width
        Standardisation of the parameters λ.
    """

    offset: Tensor
    free: Tensor
    centre: Tensor
    width: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, thermal: Any, concave: bool, parameters: tuple[str, ...] = ()):
        super().__init__()
        self.network, self.thermal, self.concave, self.names = network, thermal, concave, parameters
        t0 = thermal.reference_temperature
        self._mean = SecondOrder(reference_temperature=t0)
        scale = torch.tensor([BOLTZMANN * t0, BOLTZMANN, BOLTZMANN], dtype=torch.float64)
        for name, value in (
            ("scale", scale),
            ("offset", torch.zeros(3, dtype=torch.float64)),
            ("free", torch.zeros(3, dtype=torch.float64)),
            ("centre", torch.zeros(len(parameters), dtype=torch.float64)),
            ("width", torch.ones(len(parameters), dtype=torch.float64)),
        ):
            self.register_buffer(name, value)
        self.shift = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    @property
    def as_input(self) -> bool:
        """Whether temperature is an input of the network."""
        return isinstance(self.thermal, TemperatureInput)

    def mean_weights(self) -> Tensor:
        """(e, s₀, c) in eV, eV/K, eV/K."""
        weights = self.offset + self.free * self.scale * self.shift
        if not self.concave:
            return weights
        c = nn.functional.softplus(weights[2] / self.scale[2], beta=5.0) * self.scale[2]
        return torch.cat([weights[:2], c[None] * self.free[2]])

    def extras(self, temperature: Tensor, parameters: Tensor) -> Tensor:
        """Extra inputs of the network, (n, q), from T (n,) and λ (n, parameters)."""
        columns = [(parameters - self.centre) / self.width]
        if self.as_input:
            t0 = self.thermal.reference_temperature
            columns.insert(0, (3.0 * (temperature - t0) / t0)[:, None])
        return torch.cat(columns, 1)

    def scaled(self, heads: Tensor) -> Tensor:
        """Functions g_k in eV and eV/K, from the outputs of the network."""
        if self.concave:
            heads = torch.cat([heads[:, :2], nn.functional.softplus(heads[:, 2:])], 1)
        return heads * self.scale[: heads.shape[1]]

    def batch(self, inputs: Inputs, graph: bool | None = None) -> Batch:
        """A batch from which functionals are read."""
        return Batch(self, inputs, self.training if graph is None else graph)

    def read(self, functional: Functional, states: States, graph: bool = False) -> Tensor:
        """Rows of a functional, (n, m), without the baseline."""
        return self.batch(self.network.inputs(states), graph).read(functional)  # type: ignore[operator]

    def energy(self, x: Tensor, cell: Tensor | None, temperature: Tensor, parameters: Tensor) -> Tensor:
        """A without the baseline, (n,), eV, with its graph."""
        return self.combined(self.network.at(x, cell, self.extras(temperature, parameters)), temperature)  # type: ignore[operator]

    def combined(self, heads: Tensor, temperature: Tensor) -> Tensor:
        """A from the outputs of the network, (n,)."""
        read, g = Read(Spatial.VALUE), self.scaled(heads)
        value = g[:, 0] if self.as_input else (self.thermal.factors(read, temperature) * g).sum(1)
        return value + self._mean.factors(read, temperature) @ self.mean_weights()

    def mean_rows(self, functional: Functional, temperature: Tensor) -> Tensor:
        """Operator of a functional on the three mean functions, (n, 3)."""
        out = temperature.new_zeros(len(temperature), 3)
        for read in functional.reads:
            if read.spatial is Spatial.VALUE and read.parameter is None:
                out = out + self._mean.factors(read, temperature)
        return out


class Batch:
    """Outputs of a network for a batch, shared by all functionals that are read from it.

    Parameters
    ----------
    potential
        The network.
    inputs
        Its inputs.
    graph
        Whether results are differentiated by the parameters of the network.
    """

    def __init__(self, potential: Potential, inputs: Inputs, graph: bool):
        self.potential, self.inputs, self.graph = potential, inputs, graph
        states = inputs.states
        self.temperature = states.temperature.detach().clone()
        values = [states.parameters[name] for name in potential.names]
        self.parameters = torch.stack(values, 1) if values else self.temperature.new_zeros(len(states), 0)
        if potential.as_input:
            self.temperature.requires_grad_()
        if potential.names:
            self.parameters = self.parameters.detach().clone().requires_grad_()
        extras = potential.extras(self.temperature, self.parameters)
        self.g = potential.scaled(potential.network(inputs, extras))
        self._found: dict[Any, Tensor] = {}

    def read(self, functional: Functional) -> Tensor:
        """Rows of a functional, (n, m)."""
        reads = tuple(self.inputs.states.resolve(read) for read in functional.reads)
        sign, unsigned = _unsigned(reads)
        key = (functional.spatial, unsigned)
        if key not in self._found:
            value = sum(self._value(*one) for one in unsigned)
            assert isinstance(value, Tensor)
            self._found[key] = self.inputs.apply(functional.spatial, value, self.graph)
        out = sign * self._found[key]
        if functional.spatial is Spatial.VALUE:
            rows = self.potential.mean_rows(functional, self.inputs.states.temperature)
            out = out + (rows @ self.potential.mean_weights())[:, None]
        return out

    def _value(self, thermal: tuple[tuple[float, int, int], ...], parameter: str | None) -> Tensor:
        """Thermal and parameter operator of a read, applied to the network, (n,)."""
        read, t, model = Read(Spatial.VALUE, thermal), self.temperature, self.potential
        if model.as_input:
            order = max(n for _, _, n in thermal)
            derivatives = [self.g[:, 0]]
            for _ in range(order):
                derivatives.append(slope(derivatives[-1], t, True))
            value = sum((c * t.detach() ** p * derivatives[n] for c, p, n in thermal), torch.zeros_like(t))
        else:
            value = (model.thermal.factors(read, t) * self.g).sum(1)
        if parameter is not None:
            value = slope(value, self.parameters, True)[:, model.names.index(parameter)]
        return value


def _unsigned(reads: tuple[Read, ...]) -> tuple[float, tuple[Any, ...]]:
    """A common sign, and the reads without it: ±∇A are computed once."""
    sign = -1.0 if reads[0].thermal[0][0] < 0 else 1.0
    return sign, tuple((tuple((sign * c, p, n) for c, p, n in read.thermal), read.parameter) for read in reads)
