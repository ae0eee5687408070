"""Contract check of functionals, and their definition by automatic differentiation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..descriptors import Distances
from ..functionals import Functional, Spatial
from ..gp.prior.term import state_factors
from ..kernels import ParameterExpansion, SecondOrder, spatial_jets
from ._common import close, slope, symmetric

#: A(R, T, λ, cell): coordinates (n, …), temperature (n,), parameters name → (n,), cell (n, 3, 3) or None; shape (n,).
FreeEnergyFunction = Callable[[Tensor, Tensor, dict[str, Tensor], "Tensor | None"], Tensor]


def apply_functional(
    functional: Functional,
    free_energy: FreeEnergyFunction,
    coordinates: Tensor,
    temperature: Tensor,
    parameters: dict[str, Tensor] | None = None,
    *,
    fields: Tensor | None = None,
    cell: Tensor | None = None,
) -> Tensor:
    """A functional applied to any differentiable free energy, by nested automatic differentiation: its definition.

    Parameters
    ----------
    functional
        The functional.
    free_energy
        A(R, T, λ, cell), row by row.
    coordinates
        (n, beads, 3) or (n, d), float64.
    temperature
        (n,), K.
    parameters
        Name → (n,).
    fields
        Displacement fields, (n, k, beads, 3) or (n, k, d).
    cell
        (n, 3, 3), needed by stress.

    Returns
    -------
    Tensor
        Shape (n, *shape of the functional).

    Raises
    ------
    AssertionError
        If fields, a cell or a parameter are needed and missing.
    """
    r = coordinates.detach().clone().requires_grad_()
    t = temperature.detach().clone().requires_grad_()
    lam = {name: value.detach().clone().requires_grad_() for name, value in (parameters or {}).items()}
    strain = r.new_zeros(len(r), 6).requires_grad_()
    deformed, box = r, cell
    if functional.spatial.needs_cell:
        assert cell is not None, f"{functional.key!r} needs a cell"
        deformation = torch.eye(3, dtype=r.dtype) + symmetric(strain)
        deformed, box = r @ deformation, cell @ deformation
    total = None
    for read in functional.reads:
        value = free_energy(deformed, t, lam, box)
        if read.parameter is not None:
            name = next(iter(lam)) if read.parameter == "*" and len(lam) == 1 else read.parameter
            assert name in lam, f"{functional.key!r} is about parameter {read.parameter!r}; there are {list(lam)}"
            value = slope(value, lam[name])
        thermal = torch.zeros_like(t)
        for coefficient, power, order in read.thermal:
            part = value
            for _ in range(order):
                part = slope(part, t)
            thermal = thermal + coefficient * t**power * part
        if read.spatial is Spatial.VALUE:
            out = thermal
        elif read.spatial is Spatial.GRADIENT:
            out = slope(thermal, r)
        elif read.spatial.needs_cell:
            out = slope(thermal, strain) / torch.linalg.det(cell).abs()[:, None]
            if read.spatial is Spatial.VOLUME:
                out = out[:, :3].sum(1) / 3.0
        else:
            assert fields is not None, f"{functional.key!r} needs displacement fields"
            out = (fields * slope(thermal, r)[:, None]).flatten(2).sum(2)
        total = out if total is None else total + out
    assert total is not None
    return total.detach()


def check_functional(functional: Functional, formula: Callable | None = None, tolerance: float = 1e-8) -> None:
    """Check that models read a functional as its definition says.

    A free energy of known form, Σ_k φ_k(T, λ) g_k(R) for three periodic beads, is read twice: through the jets and
    thermal factors that models use, and by :func:`apply_functional`.

    Parameters
    ----------
    functional
        An instance.
    formula
        Your own formula, called as ``formula(free_energy, coordinates, temperature, parameters, fields, cell)``
        with a differentiable ``free_energy`` (see :data:`FreeEnergyFunction`), to be compared as well.
    tolerance
        Largest relative error, in the norm over all rows.

    Raises
    ------
    AssertionError
        If a read is malformed, or results differ.
    """
    key = functional.key
    for read in functional.reads:
        assert read.thermal, f"{key!r}: a read without thermal parts reads nothing; drop it"
        for coefficient, power, order in read.thermal:
            assert math.isfinite(coefficient), f"{key!r}: the coefficient {coefficient} is not finite"
            assert isinstance(power, int), f"{key!r}: the power of T is {power!r}; use an int"
            assert isinstance(order, int) and order >= 0, f"{key!r}: the order {order!r} of ∂/∂T must be an int ≥ 0"
    generator = torch.Generator().manual_seed(0)
    n, fields_count = 5, 2
    corner = torch.tensor([[0.0, 0.0, 0.0], [1.1, 0.2, 0.1], [0.3, 1.4, -0.2]], dtype=torch.float64)
    x = corner + 0.1 * torch.randn(n, 3, 3, generator=generator, dtype=torch.float64)
    cell = (8.0 * torch.eye(3, dtype=torch.float64) + 0.2).expand(n, 3, 3)
    t = 250.0 + 300.0 * torch.rand(n, generator=generator, dtype=torch.float64)
    names = sorted({r.parameter for r in functional.reads if r.parameter not in (None, "*")} or {"lambda"})
    lam = {name: torch.rand(n, generator=generator, dtype=torch.float64) for name in names}
    fields = torch.randn(n, fields_count, 3, 3, generator=generator, dtype=torch.float64)
    thermal = SecondOrder(reference_temperature=350.0, energy=1.0, entropy=1.0, heat_capacity=1.0)
    expansions = tuple(ParameterExpansion(name, reference=0.3, scale=1.3, order=2) for name in names)
    size = 3 ** (1 + len(names))
    # entropies and heat capacities of the size of k next to energies of the size of kT
    scale = torch.tensor([1.0, 1e-3, 1e-3], dtype=torch.float64).repeat_interleave(size // 3)
    omega = torch.randn(3, size, generator=generator, dtype=torch.float64)

    def functions_of_state(temperature: Tensor, values: dict[str, Tensor]) -> Tensor:
        t0, ratio = 350.0, temperature / 350.0
        columns = [torch.ones_like(temperature), t0 - temperature, temperature - t0 - temperature * torch.log(ratio)]
        for name in names:
            y = 1.3 * (values[name] - 0.3)
            columns = [c * power for c in columns for power in (torch.ones_like(y), y, 0.5 * y * y)]
        return torch.stack(columns, 1)

    def free_energy(positions: Tensor, temperature: Tensor, values: dict[str, Tensor], box: Tensor | None) -> Tensor:
        d = torch.stack(
            [(positions[:, j] - positions[:, i]).square().sum(1).sqrt() for i, j in ((0, 1), (0, 2), (1, 2))], 1
        )
        return (scale * functions_of_state(temperature, values) * torch.sin(d @ omega)).sum(1)

    expected = apply_functional(functional, free_energy, x, t, lam, fields=fields, cell=cell)
    shape = functional.shape((3, 3), fields_count)
    assert tuple(expected.shape[1:]) == tuple(shape), (
        f"{key!r}: shape() says {shape}, its reads give {expected.shape[1:]}"
    )
    environments = Distances().environments(x, cell=cell)
    jets = spatial_jets(environments, functional.spatial, fields=fields.flatten(2), volume=torch.linalg.det(cell).abs())
    found = torch.zeros(n, jets.rows, dtype=torch.float64)
    phase = environments.z @ omega
    for read in functional.reads:
        if read.parameter == "*":
            read = type(read)(read.spatial, read.thermal, names[0])
        weights = scale * state_factors(thermal, expansions, read, t, lam)
        value = (weights * torch.sin(phase)).sum(1, keepdim=True)
        gradient = (weights * torch.cos(phase)) @ omega.T
        found = found + jets.read(value, gradient[:, :, None])[:, :, 0]
    close(
        found.reshape(expected.shape), expected, tolerance, f"{key!r}: models read it differently from its definition"
    )
    if formula is not None:
        own = formula(free_energy, x, t, lam, fields, cell).detach()
        assert own.shape == expected.shape, (
            f"{key!r}: the formula gives {tuple(own.shape)}, the reads {tuple(expected.shape)}"
        )
        close(expected, own, tolerance, f"{key!r}: its reads differ from the formula")
