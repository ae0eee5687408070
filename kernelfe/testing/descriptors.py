"""Contract check of descriptors: one call for a descriptor of your own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..descriptors.base import Descriptor, Environments, single_of
from ._common import STEPS, central, check_spec, close, symmetric


def check_descriptor(
    descriptor: Descriptor, coordinates: Any, cell: Any = None, tolerance: float = 1e-6, classes: Any = ()
) -> None:
    """Check shapes, derivatives and the fast path of a descriptor.

    Derivatives are compared with fourth-order central differences, as descriptors need not be differentiable.

    Parameters
    ----------
    descriptor
        An instance.
    coordinates
        A few typical frames, (n, beads, 3) or (n, d), away from points where environments appear or vanish.
    cell
        (n, 3, 3), (3, 3), or None.
    tolerance
        Largest error of a derivative, relative to the largest one.
    classes
        Further classes that its parameters are instances of.

    Raises
    ------
    AssertionError
        If a part of the contract is broken.
    """
    name = type(descriptor).__name__
    check_spec(descriptor, classes)
    x = torch.as_tensor(coordinates, dtype=torch.float64).clone()
    box = None if cell is None else torch.as_tensor(cell, dtype=torch.float64).expand(len(x), 3, 3).clone()
    found = descriptor.environments(x, cell=box)
    dimension = descriptor.dimension(tuple(x.shape[1:]))
    assert found.z.dtype == torch.float64, f"{name}: z is {found.z.dtype}; environments are float64"
    assert found.z.shape[1] == dimension, (
        f"{name}: dimension() says {dimension}, environments have {found.z.shape[1]} columns"
    )
    for part in ("z", "jacobian", "strain"):
        value = getattr(found, part)
        assert value is None or bool(torch.isfinite(value).all()), f"{name}: {part} is not finite"
    if found.frame is None:
        assert len(found.z) == len(x), f"{name}: {len(found.z)} environments for {len(x)} frames need frame="
    elif len(found.frame):
        assert bool((found.frame.diff() >= 0).all()), f"{name}: environments must be listed frame by frame"
        assert 0 <= int(found.frame[0]) and int(found.frame[-1]) < len(x), (
            f"{name}: frame= names frames that do not exist"
        )
    frame = found.owner
    for k in range(len(x)):  # frames are independent of each other
        alone = descriptor.environments(x[k : k + 1], cell=None if box is None else box[k : k + 1])
        close(alone.z, found.z[frame == k], 1e-12, f"{name}: frame {k} differs when it is asked for alone")
    flat = x[0].numel()
    jacobian = _dense_jacobian(found, frame, len(x), flat)
    numeric = torch.zeros_like(jacobian)
    for column in range(flat):
        direction = torch.zeros(flat, dtype=torch.float64)
        direction[column] = 1.0
        step = direction.reshape(x.shape[1:])
        moved = {h: descriptor.environments(x + h * step, cell=box).z for h in STEPS}
        numeric[:, :, column] = _difference(moved, found.z, name)
    close(jacobian, numeric, tolerance, f"{name}: jacobian is not the derivative of z")
    z, fast_frame, pullback = descriptor.values_and_pullback(x, cell=box)
    same = (fast_frame is None) == (found.frame is None) and (fast_frame is None or torch.equal(fast_frame, frame))
    assert same, f"{name}: values_and_pullback lists other frames than environments"
    close(z, found.z, 1e-10, f"{name}: values_and_pullback gives other values than environments")
    g = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pulled = pullback(g)
    assert pulled.shape == x.shape, f"{name}: pullback returns {tuple(pulled.shape)} for coordinates {tuple(x.shape)}"
    dense = torch.zeros(len(x), flat, dtype=torch.float64)
    dense.index_add_(0, frame, torch.einsum("edq,ed->eq", jacobian, g))
    close(pulled.reshape(dense.shape), dense, 1e-9, f"{name}: pullback(g) is not Jᵀg")
    if box is None:
        _check_single(descriptor, name, x, g)
    if box is not None and found.strain is not None:
        numeric = torch.zeros_like(found.strain)
        for k in range(6):
            voigt = torch.zeros(6, dtype=torch.float64)
            voigt[k] = 1.0
            unit, moved = symmetric(voigt[None])[0], {}
            for h in STEPS:
                deformation = torch.eye(3, dtype=torch.float64) + h * unit
                moved[h] = descriptor.environments(x @ deformation, cell=box @ deformation).z
            numeric[:, :, k] = _difference(moved, found.z, name)
        close(found.strain, numeric, tolerance, f"{name}: strain is not the derivative of z by strain")


def _check_single(descriptor: Any, name: str, x: Tensor, g: Tensor) -> None:
    """The path of one configuration, where the descriptor has one, against batches of one."""
    single = single_of(descriptor, tuple(x.shape[1:]))
    if single is None:
        return
    for k in range(len(x)):
        z, _, pullback = descriptor.values_and_pullback(x[k : k + 1])
        value, pull = single(x[k].numpy())
        assert z.shape == (1, *value.shape), f"{name}: single gives another number of columns than values_and_pullback"
        close(torch.from_numpy(value)[None], z, 1e-10, f"{name}: single gives other values than values_and_pullback")
        pulled = torch.from_numpy(pull(g[k].numpy()))[None]
        close(pulled, pullback(g[k : k + 1]), 1e-9, f"{name}: the product with Jᵀ of single is another one")


def _dense_jacobian(found: Environments, frame: Tensor, frames: int, flat: int) -> Tensor:
    size, dimension = found.z.shape
    if found.jacobian is None:
        assert dimension == flat, (
            f"jacobian=None means the identity, but z has {dimension} columns for {flat} coordinates"
        )
        return torch.eye(flat, dtype=torch.float64).expand(size, -1, -1).clone()
    if found.columns is None:
        assert found.jacobian.shape[2] == flat, "a jacobian without columns= must have one column per coordinate"
        return found.jacobian.clone()
    out = torch.zeros(size, dimension, flat, dtype=torch.float64)
    index = found.columns[:, None, :].expand(-1, dimension, -1)
    return out.scatter_add_(2, index, found.jacobian)


def _difference(values: dict[float, Tensor], middle: Tensor, name: str) -> Tensor:
    for value in values.values():
        assert value.shape == middle.shape, f"{name}: environments appear or vanish near these frames; try others"
    return central([values[h] for h in STEPS], STEPS[2])
