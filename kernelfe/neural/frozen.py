"""Networks for samplers, calculators and trainers: the protocols of :mod:`kernelfe.protocol`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DataError, require
from ..functionals import Spatial
from ..gp.states import States
from ..runtime.threads import one_thread

#: Configurations per evaluation: memory only.
_AT_ONCE = 4096


class NeuralFrozenModel:
    """Mean of an ensemble of networks, and baseline, as a differentiable model.

    Parameters
    ----------
    model
        The fitted :class:`~kernelfe.neural.NeuralFreeEnergy`; its networks are shared, not copied: a trainer that
        changes :meth:`parameters` changes them.
    parameters
        Values of the parameters λ.

    Raises
    ------
    DataError
        If a parameter is missing.
    """

    needs_cell: ClassVar[bool] = False

    def __init__(self, model: Any, parameters: dict[str, float] | None = None):
        given = parameters or {}
        wanted, found = set(model.parameters), set(given)
        require(
            wanted == found, f"the network depends on the parameters {sorted(wanted)}, values given: {sorted(found)}"
        )
        self.model, self.members, self.baseline = model, model.members, model.baseline
        self._parameters = torch.tensor([float(given[name]) for name in model.parameters], dtype=torch.float64)
        self.kinds, self.domain, self.temperatures = model.molecule.kinds, model.domain, list(model.temperatures)
        self.device = torch.device("cpu")

    @property
    def stiff_bonds(self) -> tuple[tuple[int, int, float], ...]:
        """(i, j, stiffness in eV/Å²) of the bonds of the baseline, from which samplers choose a time step."""
        bonds, numbers = getattr(self.baseline, "bonds", ()), getattr(self.baseline, "bond_parameters", ())
        return tuple((i, j, k) for (i, j), (k, _) in zip(bonds, numbers, strict=True))

    def parameters(self) -> Iterator[Tensor]:
        """Parameters θ of all members: leaf tensors, in a fixed order."""
        for member in self.members:
            yield from member.parameters()

    def energy(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """A(R; T) in eV, shape (n,), with its graph."""
        x, t, extra = self._here(positions, temperature)
        total = sum(member.energy(x, None, t, extra) for member in self.members) / len(self.members)
        if self.baseline is not None:
            total = total + _BaselineEnergy.apply(x, self.baseline)
        assert isinstance(total, Tensor)
        return total.to(positions.dtype) if positions.dtype.is_floating_point else total

    @one_thread()
    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """A(R; T) in eV, shape (n,), and −∇A in eV/Å, shape (n, beads, 3)."""
        x, t, extra = self._here(positions.detach(), temperature)
        parts = [self._part(*one) for one in zip(*(a.split(_AT_ONCE) for a in (x, t, extra)), strict=True)]
        energy, gradient = (torch.cat(found) for found in zip(*parts, strict=True))
        return energy, gradient.neg_()

    def _part(self, x: Tensor, t: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        network: Any = self.members[0].network
        with torch.enable_grad():
            leaf = network.leaf(x, None)
            total = sum(
                member.combined(leaf.heads(member.network, member.extras(t, extra)), t) for member in self.members
            ) / len(self.members)
            assert isinstance(total, Tensor)
            gradient = leaf.gradient(total)
        energy = total.detach()
        if self.baseline is not None:
            value, slopes = self.baseline.energy_and_gradient(x)
            energy, gradient = energy + value, gradient + slopes
        return energy, gradient

    def _here(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions in float64, temperatures and λ per configuration."""
        shape = self.model.molecule.shape
        if tuple(positions.shape[1:]) != shape:
            raise DataError(f"the model was fitted to configurations of shape {shape}, these have {positions.shape}")
        x = positions.to(torch.float64)
        t = torch.as_tensor(temperature, dtype=torch.float64).expand(len(x))
        return x, t, self._parameters.expand(len(x), -1)


class PeriodicNeuralFrozenModel(NeuralFrozenModel):
    """The same for a periodic system: energies, forces and stress in given cells."""

    needs_cell: ClassVar[bool] = True

    def energy(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """Refused: a periodic model needs a cell."""
        raise DataError(_NO_CELL)

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """Refused: a periodic model needs a cell."""
        raise DataError(_NO_CELL)

    @one_thread()
    def energy_forces_stress(
        self, positions: Tensor, cell: Tensor, temperature: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A(R; T), −∇A and the excess stress (∂A/∂strain)/V; see :class:`~kernelfe.protocol.PeriodicFreeEnergyModel`.

        Raises
        ------
        DataError
            If the descriptor has no strain derivative.
        """
        x, t, extra = self._here(positions.detach(), temperature)
        boxes = cell.detach().to(x).expand(len(x), 3, 3)
        parameters = {name: extra[:, k] for k, name in enumerate(self.model.parameters)}
        states = States(x, t, parameters, x.new_ones(len(x), 1), None, boxes, self.model.molecule)
        with torch.enable_grad():
            inputs = self.members[0].network.inputs(states)
            total = sum(
                member.combined(member.network(inputs, member.extras(t, extra)), t) for member in self.members
            ) / len(self.members)
            gradient = inputs.apply(Spatial.GRADIENT, total, False).reshape(x.shape)
            stress = inputs.apply(Spatial.STRAIN, total, False)
        assert isinstance(total, Tensor)
        energy = total.detach()
        if self.baseline is not None:
            value, slopes = self.baseline.energy_and_gradient(x, boxes)
            strain = self.baseline.strain_derivative(x, boxes)
            energy, gradient = energy + value, gradient + slopes
            stress = stress + strain / torch.linalg.det(boxes).abs()[:, None]
        return energy, -gradient.detach(), stress.detach()


class _BaselineEnergy(torch.autograd.Function):
    """Energy of a baseline with its own gradient; asking for second derivatives by the positions is an error."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, baseline: Any) -> Tensor:
        energy, gradient = baseline.energy_and_gradient(x.detach())
        ctx.save_for_backward(gradient)
        out: Tensor = energy
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return g.reshape(-1, *[1] * (gradient.ndim - 1)) * gradient, None


_NO_CELL = (
    "a model of periodic frames needs a cell. To sample at constant volume, pass "
    "kernelfe.protocol.FixedCell(model.frozen(), cell) with the cell (3, 3) in Å; for ASE use "
    "model.calculator(temperature) on atoms with a cell and pbc=True"
)
