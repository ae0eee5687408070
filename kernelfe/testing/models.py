"""Contract check of free-energy models: one call for a model of your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..protocol import (
    DifferentiableModel,
    FixedCell,
    FreeEnergyModel,
    LinearModel,
    ObservableModel,
    PeriodicFreeEnergyModel,
)
from ._common import STEPS, central, close, symmetric

#: Step of differences by temperature, K: large against rounding, small against the scale of 100 K.
_KELVIN = 1.0
#: Forces (eV/Å) and stresses (eV/Å³), entropies (eV/K), below which errors are compared with these numbers.
_SMALL_FORCE, _SMALL_ENTROPY = 1e-2, 1e-5

Evaluation = Callable[[Tensor, "float | Tensor"], tuple[Tensor, Tensor]]


def check_model(model: Any, positions: Any, temperature: Any, cell: Any = None, tolerance: float = 1e-5) -> None:
    """Check a model against the protocols of :mod:`kernelfe.protocol` that it offers.

    Shapes and types, forces against differences of the energy, independence of the rows of a batch, one temperature per
    row, results that share no memory, non-finite configurations; and, where the model has the methods, stress,
    thermodynamic identities among observables, linearity in the weights, and derivatives by parameters.

    Parameters
    ----------
    model
        A :class:`~kernelfe.protocol.FreeEnergyModel`.
    positions
        A few different typical configurations, (n, beads, 3), n at least 2, Å.
    temperature
        K; one number or (n,).
    cell
        (3, 3) or (n, 3, 3), Å, for a periodic model; None: the model is checked without periodic boundaries.
    tolerance
        Largest error of derivatives and identities, relative to the largest value.

    Raises
    ------
    AssertionError
        If a part of the contract is broken; the message names model and part.
    """
    name = type(model).__name__
    x = _double(positions)
    assert x.ndim == 3 and len(x) >= 2, f"pass at least two configurations (n, beads, 3), not {tuple(x.shape)}"
    t = torch.as_tensor(temperature, dtype=torch.float64).expand(len(x)).clone()
    if torch.equal(t, t[:1].expand(len(t))):
        t = t * torch.linspace(1.0, 1.1, len(t), dtype=torch.float64)  # rows must tell their temperatures apart
    assert isinstance(model, FreeEnergyModel), f"{name}: no method energy_and_forces(positions, temperature)"
    box: Tensor | None = None
    evaluate: Evaluation = model.energy_and_forces
    if cell is not None:
        assert isinstance(model, PeriodicFreeEnergyModel), f"{name}: a cell was given, but energy_forces_stress lacks"
        box = _double(cell).reshape(-1, 3, 3)[0].clone()
        evaluate = FixedCell(model, box).energy_and_forces
        _check_stress(model, x, box, t, tolerance, name)
    _check_rows(evaluate, x, t, tolerance, name)
    _check_forces(evaluate, x, t, tolerance, name)
    _check_memory(evaluate, x, t, name)
    _check_wild(evaluate, x, t, name)
    _check_attributes(model, x, box, name)
    energies = getattr(model, "energies", None)
    if energies is not None and box is None:
        assert callable(energies), f"{name}: energies is a {type(energies).__name__}, not a method"
        for at in (t, float(t[0])):
            message = f"{name}: energies() differs from energy_and_forces()"
            close(
                _double(energies(x.clone(), at)), _double(evaluate(x, at)[0]), max(1e-6, 1e-3 * tolerance), message, 1.0
            )
    if isinstance(model, ObservableModel):
        _check_observables(model, evaluate, (x, box, t), tolerance, name)
    if hasattr(model, "features"):
        lacking = [part for part in ("mean", "lower", "with_weights") if not hasattr(model, part)]
        assert not lacking, f"{name}: has features as a linear model, but not {', '.join(lacking)}"
    if isinstance(model, LinearModel) and box is None:
        _check_linear(model, x, t, tolerance, name)
    if isinstance(model, DifferentiableModel) and box is None:
        _check_differentiable(model, x, t, tolerance, name)


def _double(values: Any) -> Tensor:
    found = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values, dtype=float))
    return found.detach().to("cpu", torch.float64, copy=True)


def _check_rows(evaluate: Evaluation, x: Tensor, t: Tensor, tolerance: float, name: str) -> None:
    """Shapes, types, and that every row is what it is alone."""
    before = x.clone()
    energy, forces = evaluate(x, t)
    for what, value, shape in (("energy", energy, x.shape[:1]), ("forces", forces, x.shape)):
        assert isinstance(value, Tensor), f"{name}: {what} is a {type(value).__name__}, not a torch tensor"
        assert value.shape == shape, f"{name}: {what} has the shape {tuple(value.shape)}, not {tuple(shape)}"
        assert value.dtype.is_floating_point, f"{name}: {what} is of {value.dtype}, not a floating type"
        assert bool(torch.isfinite(value).all()), f"{name}: {what} is not finite at the configurations given"
    assert torch.equal(x, before), f"{name}: energy_and_forces changes the positions it is given"
    single = max(1e-5 if energy.dtype == torch.float32 else 1e-9, 1e-3 * tolerance)
    e, f = _double(energy), _double(forces)
    for k in range(len(x)):
        for kelvin, what in ((t[k : k + 1], "alone"), (float(t[k]), "alone, with its temperature as a number")):
            alone = evaluate(x[k : k + 1].clone(), kelvin)
            message = f"{name}: row {k} of a batch differs from the same configuration {what}"
            close(_double(alone[0]), e[k : k + 1], single, f"{message} (energy)", 1.0)
            close(_double(alone[1]), f[k : k + 1], single, f"{message} (forces)", 1.0)
    same = evaluate(x, float(t[0]))
    message = f"{name}: one temperature as a number and as one per row give different results"
    close(_double(same[0]), _double(evaluate(x, t[:1].expand(len(x)).clone())[0]), single, message, 1.0)


def _check_forces(evaluate: Evaluation, x: Tensor, t: Tensor, tolerance: float, name: str) -> None:
    forces, numeric = _double(evaluate(x, t)[1]), torch.zeros_like(x)
    for column in range(x[0].numel()):
        step = torch.zeros_like(x[:1]).flatten()
        step[column] = 1.0
        moved = [_double(evaluate(x + h * step.reshape(x[:1].shape), t)[0]) for h in STEPS]
        numeric.reshape(len(x), -1)[:, column] = -central(moved, STEPS[2])
    close(forces, numeric, tolerance, f"{name}: forces are not −∂A/∂R", _SMALL_FORCE)


def _check_memory(evaluate: Evaluation, x: Tensor, t: Tensor, name: str) -> None:
    """Results are new tensors, and positions are not kept."""
    y = x.clone()
    first = evaluate(y, t)
    kept = [value.clone() for value in first]
    y += 0.01 * torch.linspace(0.0, 1.0, y.numel(), dtype=y.dtype).reshape(y.shape)
    message = f"{name}: results share memory with the positions, which samplers change in place"
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True)), message
    second = evaluate(y, t)
    message = f"{name}: results of an earlier call change with the next one; return new tensors"
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True)), message
    fresh = evaluate(y.clone(), t.clone())
    message = f"{name}: positions changed in place give the results of the old ones; do not keep positions"
    close(_double(second[1]), _double(fresh[1]), 1e-9, message, 1.0)


def _check_wild(evaluate: Evaluation, x: Tensor, t: Tensor, name: str) -> None:
    """Configurations outside of any domain do not raise and leave other rows alone."""
    sound = _double(evaluate(x[:1].clone(), t[:1])[0])
    for what, wild in (
        ("coinciding beads", torch.zeros_like(x[1])),
        ("beads 1000 times as far apart", 1e3 * x[1]),
        ("NaN", torch.full_like(x[1], torch.nan)),
    ):
        try:
            energy, _ = evaluate(torch.stack([x[0], wild]), t[:2])
        except Exception as error:
            raise AssertionError(
                f"{name}: raises {type(error).__name__} at {what}; return a non-finite energy outside the domain"
            ) from error
        message = f"{name}: a configuration with {what} changes another row of the batch"
        close(_double(energy)[:1], sound, 1e-5, message, 1.0)


def _check_attributes(model: Any, x: Tensor, cell: Tensor | None, name: str) -> None:
    """Optional attributes, where there are any."""
    beads = x.shape[1]
    kinds = getattr(model, "kinds", None)
    assert kinds is None or len(kinds) == beads, f"{name}: kinds names {len(kinds or ())} beads of {beads}"
    for i, j, stiffness in getattr(model, "stiff_bonds", None) or ():
        assert i != j and 0 <= min(i, j) and max(i, j) < beads, f"{name}: stiff_bonds names the beads {i} and {j}"
        assert stiffness > 0, f"{name}: the stiffness {stiffness} of bond ({i}, {j}) must be positive"
    domain = getattr(model, "domain", None)
    if domain is not None:
        box = None if cell is None else cell.expand(len(x), 3, 3)
        score = _double(domain.score(x.clone(), box))
        assert score.shape == x.shape[:1], f"{name}: domain.score has the shape {tuple(score.shape)}"
        assert not bool((score < 0).any()), f"{name}: domain.score is negative"
        assert isinstance(domain.culprit(x[0].clone()), str), f"{name}: domain.culprit must return a text"


def _check_stress(model: Any, x: Tensor, cell: Tensor, t: Tensor, tolerance: float, name: str) -> None:
    """Stress is the strain derivative per volume; cells differ from row to row; images do not matter."""
    scale = torch.linspace(1.0, 1.02, len(x), dtype=torch.float64)[:, None, None]
    cells, y = scale * cell, scale * x
    before = cells.clone()
    energy, _, stress = model.energy_forces_stress(y.clone(), cells, t)
    assert torch.equal(cells, before), f"{name}: energy_forces_stress changes the cell it is given"
    assert stress.shape == (len(x), 6), f"{name}: stress has the shape {tuple(stress.shape)}, not ({len(x)}, 6)"
    numeric = torch.zeros(len(x), 6, dtype=torch.float64)
    for k in range(6):
        voigt = torch.zeros(1, 6, dtype=torch.float64)
        voigt[0, k] = 1.0
        unit, moved = symmetric(voigt)[0], []
        for h in STEPS:
            deformation = torch.eye(3, dtype=torch.float64) + h * unit
            moved.append(_double(model.energy_forces_stress(y @ deformation, cells @ deformation, t)[0]))
        numeric[:, k] = central(moved, STEPS[2]) / torch.linalg.det(cells).abs()
    close(_double(stress), numeric, tolerance, f"{name}: stress is not (∂A/∂strain)/V", 1e-2 * _SMALL_FORCE)
    image = y.clone()
    image[:, -1] += cells[:, 0] - cells[:, 2]
    found = _double(model.energy_forces_stress(image, cells, t)[0])
    close(found, _double(energy), 1e-8, f"{name}: a bead moved by lattice vectors changes the energy", 1.0)


def _check_observables(model: Any, evaluate: Evaluation, at: tuple, tolerance: float, name: str) -> None:
    """Thermodynamic identities among the observables of calculators."""
    x, cell, t = at
    options = {} if cell is None else {"cell": cell.expand(len(x), 3, 3)}
    keys = ("free_energy", "mean_force", "mean_energy", "entropy", "heat_capacity", "thermal_response_force")

    def read(kelvin: Tensor, wanted=keys) -> dict[str, Tensor]:
        return {k: _double(v) for k, v in model.observables(x.clone(), kelvin, wanted, **options).items()}

    found, (energy, forces) = read(t), map(_double, evaluate(x, t))
    for key in keys:
        shape = x.shape if key.endswith("force") else x.shape[:1]
        assert key in found, f"{name}: observables lacks {key!r}"
        assert found[key].shape == shape, f"{name}: {key} has the shape {tuple(found[key].shape)}"
    spread = model.observables(x.clone(), t, keys, return_std=True, **options)
    for key in keys:
        std = spread.get(key + "_std")
        assert std is not None, f"{name}: observables(return_std=True) lacks {key + '_std'!r}"
        assert std.shape == found[key].shape, f"{name}: {key}_std has the shape {tuple(std.shape)}"
        assert not bool((torch.as_tensor(std) < 0).any()), f"{name}: {key}_std is negative"
    moved = [read(t + h * _KELVIN, ("free_energy", "mean_force", "entropy")) for h in (-2, -1, 1, 2)]
    slopes = {key: central([one[key] for one in moved], _KELVIN) for key in moved[0]}
    a, s = found["free_energy"], found["entropy"]
    for key, formula, expected, floor in (
        ("free_energy", "the energy of energy_and_forces", energy, 1e-2),
        ("mean_force", "the forces of energy_and_forces", forces, _SMALL_FORCE),
        ("mean_energy", "A + T S", a + t * s, 1e-2),
        ("entropy", "−∂A/∂T", -slopes["free_energy"], _SMALL_ENTROPY),
        ("heat_capacity", "T ∂S/∂T", t * slopes["entropy"], _SMALL_ENTROPY),
        ("thermal_response_force", "∂F/∂T", slopes["mean_force"], _SMALL_ENTROPY),
    ):
        close(found[key], expected, tolerance, f"{name}: observable {key} is not {formula}", floor)


def _check_linear(model: Any, x: Tensor, t: Tensor, tolerance: float, name: str) -> None:
    """A is linear in the weights with the features as derivatives."""
    mean, lower = model.mean, model.lower
    size = len(mean)
    assert mean.shape == (size,) and lower.shape == (size, size), (
        f"{name}: mean and lower have the shapes {tuple(mean.shape)} and {tuple(lower.shape)}, not (W,) and (W, W)"
    )
    assert bool((lower.diagonal() > 0).all()), f"{name}: lower is not a Cholesky factor, its diagonal is not positive"
    assert torch.equal(lower, lower.tril()), f"{name}: lower is not lower triangular: it is the Cholesky factor L"
    phi = model.features(x.clone(), t)
    assert phi.shape == (len(x), size), f"{name}: features have the shape {tuple(phi.shape)}, not ({len(x)}, {size})"
    phi = _double(phi)
    alone = torch.cat([_double(model.features(x[k : k + 1].clone(), float(t[k]))) for k in range(len(x))])
    close(alone, phi, 1e-9, f"{name}: features of a batch differ from those of its rows", 1.0)
    weights, energy = _double(mean), _double(model.energy_and_forces(x, t)[0])
    direction = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = direction / max(float((phi @ direction).abs().max()), 1e-12)  # changes A by 1 eV at most
    for what, new in (("with_weights(mean + w)", weights + step), ("with_weights(0)", torch.zeros_like(weights))):
        other = model.with_weights(new.to(mean), lower)
        assert type(other) is type(model), f"{name}: {what} gives a {type(other).__name__}"
        close(_double(other.mean), new, 1e-12, f"{name}: {what} has another mean", 1.0)
        change = _double(other.energy_and_forces(x, t)[0]) - energy
        close(change, phi @ (new - weights), tolerance, f"{name}: {what} does not change A by features·w", 1e-3)
        _check_forces(other.energy_and_forces, x, t, tolerance, f"{name}.{what}")
    again = _double(model.energy_and_forces(x, t)[0])
    assert torch.equal(again, energy) and torch.equal(_double(model.mean), weights), (
        f"{name}: with_weights changes the model itself"
    )


def _check_differentiable(model: Any, x: Tensor, t: Tensor, tolerance: float, name: str) -> None:
    """The energy has a graph, and its derivatives by positions and parameters are right."""
    parameters = list(model.parameters())
    assert parameters, f"{name}: parameters() is empty"
    for k, one in enumerate(parameters):
        assert one.requires_grad and one.is_leaf, f"{name}: parameter {k} is not a leaf tensor with requires_grad"
    y = x.clone().requires_grad_()
    energy = model.energy(y, t)
    assert energy.shape == x.shape[:1], f"{name}: energy has the shape {tuple(energy.shape)}, not ({len(x)},)"
    found, forces = (_double(value) for value in model.energy_and_forces(x, t))
    close(_double(energy), found, 1e-6, f"{name}: energy() differs from energy_and_forces()", 1e-3)
    (gradient,) = torch.autograd.grad(energy.sum(), y, retain_graph=True)
    close(-_double(gradient), forces, tolerance, f"{name}: the gradient of energy() is not −forces", _SMALL_FORCE)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.autograd.grad(row, parameters, retain_graph=True, allow_unused=True) for row in energy]
    for k, one in enumerate(parameters):
        start = one.detach().clone()
        direction = torch.randn(one.shape, generator=generator, dtype=torch.float64).to(start)
        exact = torch.stack([start.new_zeros(()) if g[k] is None else (g[k] * direction).sum() for g in rows])
        values = []
        with torch.no_grad():
            for h in STEPS:
                one.copy_(start + h * direction)
                values.append(_double(model.energy(x, t)))
            one.copy_(start)
        message = f"{name}: the derivative of energy() by parameter {k} is not that of differences"
        close(_double(exact), central(values, STEPS[2]), tolerance, message, 1e-3)


__all__ = ["check_model"]
