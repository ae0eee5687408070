"""Helpers shared by the contract checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..specs import Spec, from_dict


def check_spec(spec: Any, classes: Any) -> None:
    name = type(spec).__name__
    assert isinstance(spec, Spec), (
        f"{name} must derive from kernelfe.specs.Spec, as a frozen dataclass of plain numbers"
    )
    hash(spec)
    known = {cls.__name__: cls for cls in (type(spec), *classes)}
    assert from_dict(spec.to_dict(), known) == spec, f"{name}: from_dict(to_dict()) gives another {name}"
    assert type(spec)(**spec.get_params(deep=False)) == spec, f"{name}: get_params does not rebuild it"


def slope(value: Tensor, by: Tensor) -> Tensor:
    """Derivative of row-wise independent values; zero where they do not depend on it."""
    if not value.requires_grad:
        return torch.zeros_like(by)
    (found,) = torch.autograd.grad(value.sum(), by, create_graph=True, allow_unused=True)
    return torch.zeros_like(by) if found is None else found


def close(found: Tensor, expected: Tensor, tolerance: float, message: str, floor: float = 1e-300) -> None:
    """Compare relative to the largest expected value, or to ``floor`` where all are smaller."""
    assert found.shape == expected.shape, f"{message}: shapes {tuple(found.shape)} and {tuple(expected.shape)}"
    if not expected.numel():
        return
    scale = max(float(expected.abs().max()), floor)
    error = float((found - expected).abs().max()) / scale
    assert error <= tolerance, f"{message}: largest relative error {error:.1e}, allowed {tolerance:.0e}"


#: Steps of the fourth-order central difference, Å (or 1): small for the error h⁴, large for that of rounding.
STEPS = (-2e-3, -1e-3, 1e-3, 2e-3)
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def central(values: Sequence[Any], step: float) -> Any:
    """Fourth-order central difference of values at −2, −1, 1 and 2 steps."""
    first, second, third, fourth = values
    return (8.0 * (third - second) - (fourth - first)) / (12.0 * step)


def symmetric(strain: Tensor) -> Tensor:
    """Matrices (n, 3, 3) of strains in Voigt order with engineering shear, (n, 6)."""
    out = strain.new_zeros(len(strain), 3, 3)
    for k, (i, j) in enumerate(_VOIGT):
        unit = strain.new_zeros(3, 3)
        unit[i, j] += 0.5
        unit[j, i] += 0.5
        out = out + strain[:, k, None, None] * unit
    return out
