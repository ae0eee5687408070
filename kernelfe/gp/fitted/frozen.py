"""A fitted model frozen for sampling: A(R; T) and −∇A for batches of molecules, nothing else.

At one temperature the functions of state collapse into a single coefficient jet per node, so an evaluation
is two thin matrix products per term (four with gradient coefficients) and one pass over (replicas × nodes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...functionals import FreeEnergy
from ...kernels import Kernel, RadialKernel
from ...runtime.threads import one_thread, side_by_side
from ..prior.rows import frame_chunks, temperature_runs
from .single import Memo, SingleConfiguration


class FrozenModel:
    """A(R; T) in eV and its forces in eV/Å, for replicas in one batch (see the protocol of samplers).

    Always float64: the coefficients of a smooth kernel are large and cancel, and float32 would leave errors of
    several kT in A.

    Parameters
    ----------
    model
        A :class:`~kernelfe.gp.FreeEnergy` of one molecule: configurations with another number of beads are refused.
    parameters
        Values of the parameters λ.
    """

    #: Environments taken at a time: with 600 nodes the arrays of a block stay in a core's cache.
    block: ClassVar[int] = 256
    #: Frames that a thread takes at a time; of fewer, the blocks of environments are shared.
    frames: ClassVar[int] = 2048
    #: Environments × nodes at a time on a GPU: half a gigabyte for each array of them.
    gpu_entries: ClassVar[int] = 1 << 26

    def __init__(self, model, parameters: dict[str, float] | None = None):
        posterior, device = model.posterior, model.posterior.prior.device
        terms, expansions = [term for _, term in model.terms], posterior.expansions
        mean, mean_weights = posterior.prior.mean, posterior.mean_weights
        counts = torch.tensor([model.molecules.composition.counts], dtype=torch.float64, device=device)
        self.beads = model.molecules.entries[0].molecule.shape[0]
        self.baseline, self.domain = model.baseline, model.domain
        self._terms = terms
        with torch.no_grad():
            self._kernels = [term.kernel for term in terms]
        # about the mean of the nodes, so that little cancels in half squared distances
        self._centre = [
            e.nodes.mean(0)
            if len(e.nodes) and isinstance(kernel, RadialKernel)
            else e.nodes.new_zeros(e.nodes.shape[1])
            for e, kernel in zip(expansions, self._kernels, strict=True)
        ]
        self._nodes = [e.nodes - centre for e, centre in zip(expansions, self._centre, strict=True)]
        # (z_j, −½z_j², 1): their products with (z, 1, −½z²) are −½|z − z_j|²
        self._wide = [
            torch.cat([nodes, -0.5 * (nodes * nodes).sum(1, keepdim=True), torch.ones_like(nodes[:, :1])], 1)
            for nodes in self._nodes
        ]
        self._c = [e.c for e in expansions]
        self._w = [e.w for e in expansions]
        self._mean, self._mean_weights, self._counts = mean, mean_weights, counts
        #: Where the model computes; positions from elsewhere are brought here, and results back.
        self.device = counts.device
        self._parameters = {
            k: torch.tensor([float(v)], dtype=torch.float64, device=self.device) for k, v in (parameters or {}).items()
        }
        self._steps = [
            max(1, self.gpu_entries // max(1, len(nodes))) if nodes.is_cuda else self.block for nodes in self._nodes
        ]
        self._constants: dict[float, Tensor] = {}
        self._singles: dict[tuple[int, ...], SingleConfiguration] = Memo()
        self._collapsed: dict[float, list[tuple[Tensor, Tensor | None, Tensor | None, Tensor]]] = {}

    @property
    def stiff_bonds(self) -> tuple[tuple[int, int, float], ...]:
        """(i, j, stiffness in eV/Å²) of the bonds of the baseline, from which samplers choose a time step."""
        bonds, numbers = getattr(self.baseline, "bonds", ()), getattr(self.baseline, "bond_parameters", ())
        return tuple((i, j, k) for (i, j), (k, _) in zip(bonds, numbers, strict=True))

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """A(R; T) and −∇A.

        Parameters
        ----------
        positions
            Shape (n, beads, 3) or (n, d).
        temperature
            One number, or one per replica, K.

        Returns
        -------
        Tensor, Tensor
            Shapes (n,) and that of the positions.
        """
        self._check(positions)
        single = not isinstance(temperature, Tensor) and self._single(positions)
        if single:
            energy, gradient = single(positions, float(temperature))
            return torch.tensor([energy], dtype=torch.float64), torch.from_numpy(np.negative(gradient)[None])
        return self._batch(positions, temperature)

    @one_thread()
    def energies(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """A(R; T) alone, in half the time: what Monte Carlo moves need of a proposal.

        Parameters
        ----------
        positions, temperature
            As of :meth:`energy_and_forces`.

        Returns
        -------
        Tensor
            Shape (n,).
        """
        self._check(positions)
        home, positions, temperature = positions.device, *self._here(positions, temperature)
        with torch.no_grad():
            return self._in_parts(self._energies, positions, temperature)[0].to(home)

    def _single(self, positions: Tensor) -> SingleConfiguration | None:
        """The path of one configuration, if it is one, and a plain tensor that NumPy can read."""
        if len(positions) != 1 or positions.dtype != torch.float64 or positions.requires_grad:
            return None
        if positions.device.type != "cpu" or self.device.type != "cpu":
            return None
        shape = tuple(positions.shape[1:])
        if shape not in self._singles:
            self._singles[shape] = SingleConfiguration(self, shape)
        return self._singles[shape]

    @one_thread()
    def _batch(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """A(R; T) and −∇A of several configurations."""
        home, positions, temperature = positions.device, *self._here(positions, temperature)
        with torch.no_grad():
            energy, gradient = self._in_parts(self._evaluated, positions, temperature)
        return energy.to(home), gradient.neg_().to(home)

    def _in_parts(
        self, function: Callable[..., tuple[Tensor, ...]], positions: Tensor, temperature: float | Tensor
    ) -> tuple[Tensor, ...]:
        """Results of a function of frames, of many of them some at a time."""
        if positions.is_cuda or len(positions) <= self.frames:
            return function(positions, temperature)

        def part(bounds: tuple[int, int]) -> tuple[Tensor, ...]:
            rows = slice(*bounds)
            return function(positions[rows], temperature[rows] if isinstance(temperature, Tensor) else temperature)

        found = side_by_side(part, frame_chunks(len(positions), self.frames))
        return tuple(torch.cat(one) for one in zip(*found, strict=True))

    def _energies(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor]:
        """A(R; T)."""
        energy = positions.new_zeros(len(positions)) if self.baseline is None else self.baseline.energy(positions)
        for t, term in enumerate(self._terms):
            z, frame, _ = term.spec.descriptor.values_and_pullback(positions)
            energy = energy + self._term(t, z, frame, temperature, len(positions), slopes=False)[0]
        return (energy + self._constant(temperature),)

    def _evaluated(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """A(R; T) and ∇A."""
        if self.baseline is None:
            energy, gradient = positions.new_zeros(len(positions)), torch.zeros_like(positions)
        else:
            energy, gradient = self.baseline.energy_and_gradient(positions)
        for t in range(len(self._terms)):
            value, slope = self._read(t, positions, temperature)
            energy, gradient = energy + value, gradient + slope
        return energy + self._constant(temperature), gradient

    def _read(self, t: int, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """Values of a term and gradients by the positions."""
        z, frame, pullback = self._terms[t].spec.descriptor.values_and_pullback(positions)
        value, slope = self._term(t, z, frame, temperature, len(positions))
        return value, pullback(slope)

    def _here(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, float | Tensor]:
        """In float64, on the device of the model; a single temperature as a number."""
        if isinstance(temperature, Tensor):
            temperature = float(temperature) if temperature.numel() == 1 else temperature.to(self.device)
        return positions.to(self.device, torch.float64), temperature

    def _check(self, positions: Tensor) -> None:
        if positions.ndim == 3 and positions.shape[1] != self.beads:
            raise DataError(f"the model was fitted to {self.beads} beads, the positions have {positions.shape[1]}")

    def _term(
        self, t: int, z: Tensor, frame: Tensor | None, temperature, frames: int, slopes: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Values summed into frames, and slopes by z of every environment, if they are wanted."""
        embedding = self._kernels[t].embedding(z)
        x = embedding.z - self._centre[t]
        value, gradient = x.new_empty(len(x)), torch.empty_like(x) if slopes else x
        if isinstance(temperature, Tensor) and temperature.numel() > 1 and frame is not None:
            temperature = temperature[frame]

        def block(run: tuple[int, int, float | None]) -> None:
            start, stop, one = run
            part = slice(start, stop)
            at = temperature[part] if one is None else one
            if slopes:
                value[part], gradient[part] = self._block(t, x[part], at)
            else:
                value[part] = self._values(t, x[part], at)

        side_by_side(block, self._runs(t, temperature, len(x)), 1 if x.is_cuda else None)
        if frame is not None:
            value = value.new_zeros(frames).index_add_(0, frame, value)
        return value, embedding.pull(gradient) if slopes else gradient

    def _runs(self, t: int, temperature: float | Tensor, size: int) -> Iterator[tuple[int, int, float | None]]:
        """Blocks of a term's environments; on a GPU, runs of equal temperature are not looked for: it would wait."""
        if isinstance(temperature, Tensor) and temperature.is_cuda:
            return ((start, stop, None) for start, stop in frame_chunks(size, self._steps[t]))
        return temperature_runs(temperature, size, self._steps[t])

    def _values(self, t: int, x: Tensor, temperature: float | Tensor) -> Tensor:
        """Values of a few environments, in the kernel's own columns."""
        kernel = self._kernels[t]
        if isinstance(temperature, Tensor) or not isinstance(kernel, RadialKernel) or self._w[t] is not None:
            return self._block(t, x, temperature)[0]
        return kernel.of_minus_(self._minus_s(t, x)) @ self._coefficients(t, temperature)[0]

    def _minus_s(self, t: int, x: Tensor) -> Tensor:
        """−½|z − z_j|² of environments and nodes; rounding may leave it above 0."""
        return torch.cat([x, torch.ones_like(x[:, :1]), -0.5 * (x * x).sum(1, keepdim=True)], 1) @ self._wide[t].T

    def _block(self, t: int, x: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """Values and slopes of a few environments, in the kernel's own columns."""
        nodes, kernel = self._nodes[t], self._kernels[t]
        if not isinstance(kernel, RadialKernel):
            return self._general(t, kernel, x, temperature)
        minus_s = self._minus_s(t, x)
        plain = not isinstance(temperature, Tensor) and self._w[t] is None
        if plain and kernel.SLOPE is not None:
            sums = kernel.of_minus_(minus_s) @ self._coefficients(t, temperature)[3]
            return sums[:, 0], kernel.SLOPE * (x * sums[:, :1] - sums[:, 1:])
        s = minus_s.neg_().clamp_min_(0.0)
        if isinstance(temperature, Tensor):
            return self._mixed(t, x, *kernel.functions(s), temperature)
        c, w, offset, moments = self._coefficients(t, temperature)
        k0, k1, k2 = kernel.functions(s)
        value = k0 @ c
        if w is None:  # Σ_j κ' c_j (z − z_j) by one product, without another array of (environments × nodes)
            sums = k1 @ moments
            return value, x * sums[:, :1] - sums[:, 1:]
        along = x @ w.T - offset
        value -= (k1 * along).sum(1)
        radial = k1 * c - k2 * along
        return value, x * radial.sum(1, keepdim=True) - radial @ nodes - k1 @ w

    def _general(self, t: int, kernel: Kernel, x: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """The same through the products of any kernel."""
        if isinstance(temperature, Tensor):
            factors = self._factors(t, temperature)
            value, gradient = kernel.jet_product(x, self._nodes[t], self._c[t], self._w[t])
            return (value * factors).sum(1), torch.einsum("edp,ep->ed", gradient, factors)
        c, w, _, _ = self._coefficients(t, temperature)
        value, gradient = kernel.jet_product(x, self._nodes[t], c[:, None], None if w is None else w[:, :, None])
        return value[:, 0], gradient[:, :, 0]

    def _factors(self, t: int, temperature: Tensor) -> Tensor:
        parameters = {name: value.expand(len(temperature)) for name, value in self._parameters.items()}
        return self._terms[t].factors(FreeEnergy().reads[0], temperature.double(), parameters)

    def _coefficients(self, t: int, temperature: float):
        """Coefficient jets at one temperature, made once per temperature."""
        out = self._collapsed.get(temperature)  # once: another thread may clear it
        if out is None:
            out = []
            for k in range(len(self._terms)):
                factors = self._factors(k, torch.tensor([temperature], dtype=torch.float64, device=self.device))[0]
                full = self._w[k]
                w = None if full is None else (full @ factors).contiguous()
                c = self._c[k] @ factors
                moments = torch.cat([c[:, None], c[:, None] * self._nodes[k]], 1)
                out.append((c, w, None if w is None else (self._nodes[k] * w).sum(1), moments))
            if len(self._collapsed) > 64:
                self._collapsed.clear()
            self._collapsed[temperature] = out
        return out[t]

    def _mixed(self, t: int, x: Tensor, k0: Tensor, k1: Tensor, k2: Tensor, temperature: Tensor):
        """One temperature per environment: coefficients (environments × nodes) by one thin product."""
        nodes, factors = self._nodes[t], self._factors(t, temperature)
        c = factors @ self._c[t].T
        value, radial = (k0 * c).sum(1), k1 * c
        gradient = torch.zeros_like(x)
        full = self._w[t]
        if full is not None:
            for k in range(factors.shape[1]):
                w = full[:, :, k]
                along = (x @ w.T - (nodes * w).sum(1)) * factors[:, k, None]
                value -= (k1 * along).sum(1)
                radial = radial - k2 * along
                gradient -= factors[:, k, None] * (k1 @ w)
        return value, gradient + x * radial.sum(1, keepdim=True) - radial @ nodes

    def _constant(self, temperature) -> Tensor:
        if self._mean is None or self._mean_weights is None:
            return self._counts.new_zeros(())
        if not isinstance(temperature, Tensor):
            out = self._constants.get(temperature)
            if out is None:
                out = self._constant(self._counts.new_tensor([temperature]))
                if len(self._constants) > 64:
                    self._constants.clear()
                self._constants[temperature] = out
            return out
        t = temperature.double().reshape(-1)
        parameters = {name: value.expand(len(t)) for name, value in self._parameters.items()}
        read, counts = FreeEnergy().reads[0], self._counts.expand(len(t), -1)
        factors = self._mean.factors(read, t, parameters)
        out = ((counts @ self._mean_weights) * factors).sum(1)
        return out + self._mean.prior_mean(read, t, parameters, counts)


class PeriodicFrozenModel(FrozenModel):
    """A frozen model of a periodic system: energies, forces and stress in given cells."""

    needs_cell: ClassVar[bool] = True

    def energy_and_forces(self, positions: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """Refused: a periodic model needs a cell.

        Raises
        ------
        DataError
            Always; wrap the model in :class:`~kernelfe.protocol.FixedCell` to sample at constant volume.
        """
        raise DataError(
            "a model of periodic frames needs a cell. To sample at constant volume, pass "
            "kernelfe.protocol.FixedCell(model.frozen(), cell) with the cell (3, 3) in Å; for ASE use "
            "model.calculator(temperature) on atoms with a cell and pbc=True; for single configurations call "
            "energy_forces_stress(positions, cell, temperature)"
        )

    def energies(self, positions: Tensor, temperature: float | Tensor) -> Tensor:
        """Refused, as :meth:`energy_and_forces`."""
        return self.energy_and_forces(positions, temperature)[0]

    @one_thread()
    def energy_forces_stress(
        self, positions: Tensor, cell: Tensor, temperature: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A(R; T), −∇A and the excess stress (∂A/∂strain)/V.

        Parameters
        ----------
        positions
            Shape (n, beads, 3), Å; need not be wrapped.
        cell
            Shape (n, 3, 3) or (3, 3), Å, lattice vectors as rows.
        temperature
            One number, or one per replica, K.

        Returns
        -------
        Tensor, Tensor, Tensor
            Shapes (n,), that of the positions, and (n, 6): eV, eV/Å, eV/Å³, Voigt order, ASE's sign.

        Raises
        ------
        DataError
            If a descriptor has no strain derivative.
        """
        self._check(positions)
        home, positions, temperature = positions.device, *self._here(positions, temperature)
        cell = cell.to(positions).expand(len(positions), 3, 3)
        with torch.no_grad():
            energy, gradient = positions.new_zeros(len(positions)), torch.zeros_like(positions)
            strain = positions.new_zeros(len(positions), 6)
            if self.baseline is not None:
                energy, gradient = self.baseline.energy_and_gradient(positions, cell)
                strain = self.baseline.strain_derivative(positions, cell)
            for t, term in enumerate(self._terms):
                environments = term.spec.descriptor.environments(positions, cell=cell)
                if environments.strain is None:
                    raise DataError(f"{type(term.spec.descriptor).__name__} gives no strain derivative: no stress")
                value, slope = self._term(t, environments.z, environments.frame, temperature, len(positions))
                energy, gradient = energy + value, gradient + environments.pull(slope, positions)
                along = torch.einsum("ed,edk->ek", slope, environments.strain)
                frame = environments.frame
                strain = strain + (along if frame is None else torch.zeros_like(strain).index_add_(0, frame, along))
            energy = energy + self._constant(temperature)
        stress = strain / torch.linalg.det(cell).abs()[:, None]
        return energy.to(home), gradient.neg_().to(home), stress.to(home)
