"""What the contract checks share."""

from __future__ import annotations

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


def close(found: Tensor, expected: Tensor, tolerance: float, message: str) -> None:
    assert found.shape == expected.shape, f"{message}: shapes {tuple(found.shape)} and {tuple(expected.shape)}"
    if not expected.numel():
        return
    scale = max(float(expected.abs().max()), 1e-300)
    error = float((found - expected).abs().max()) / scale
    assert error <= tolerance, f"{message}: largest relative error {error:.1e}, allowed {tolerance:.0e}"
