"""Contract check of kernels: one call for a kernel of your own."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor

from ..kernels import Jets
from ..kernels.base import Kernel
from ..specs import Spec
from ._common import central, check_spec, close, slope

#: Step of fourth-order differences by the logarithm of a hyperparameter: balances their error with rounding.
_STEP = 1e-3


def check_kernel(kernel: Any, dimension: int = 3, tolerance: float = 1e-9) -> None:
    """Check every part of a kernel that models use.

    Spec and parameters, the map of environments, derivatives, limits at coincident points, symmetry, positivity, the
    fast products, and gradients by the hyperparameters: each against a definition that shares no code with it,
    automatic or numerical differentiation of the plain κ(z, z').

    Parameters
    ----------
    kernel
        An instance, with or without numbers.
    dimension
        Columns of the environments to try it on.
    tolerance
        Largest relative error.

    Raises
    ------
    AssertionError
        If a part of the contract is broken.
    """
    name = type(kernel).__name__
    check_spec(kernel, _classes(kernel))
    assert isinstance(kernel, Kernel), f"{name} must derive from kernelfe.kernels.Kernel, or from a kernel"
    assert clone(kernel, safe=False) == kernel, f"{name}: scikit-learn's clone gives another {name}"
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(k, dimension, generator=generator, dtype=torch.float64) for k in (5, 4))
    spec = _check_numbers(kernel, torch.cat([a, b]), name)
    raw = spec.ready(dimension)
    _check_environments(raw, a, generator, tolerance, name)
    for bound in (raw, kernel.ready(dimension)):
        _check_derivatives(bound, a, b, tolerance, name)
    with torch.no_grad():
        _check_products(raw, a, b, generator, tolerance, name)
    _check_gradients(spec, a, b, generator, name)


def _classes(spec: Any) -> set[type]:
    """The class of a spec and of all specs within it."""
    params = spec.get_params().values() if isinstance(spec, Spec) else ()
    return {type(spec)} | {type(value) for value in params if isinstance(value, Spec)}


def _check_numbers(kernel: Kernel, z: Tensor, name: str) -> Kernel:
    """Hyperparameters: set from the data, named, taken out and put back."""
    dimension, given = z.shape[1], kernel.hyperparameters()
    for per_column in (True, False):
        spec = kernel.completed(z, per_column)
        spec.check(dimension)
        numbers = spec.hyperparameters()
        assert set(numbers) == set(given), f"{name}: completed() changes the names of the hyperparameters"
        for key, values in numbers.items():
            assert values is not None, f"{name}: completed() leaves {key}=None"
            assert min(values) > 0, f"{name}: the hyperparameter {key}={values} must be positive"
            assert given[key] in (None, values), f"{name}: completed() changes {key}, which was given"
        other = {key: [2.0 * v for v in values] for key, values in numbers.items() if values is not None}
        changed = spec.with_numbers(other).hyperparameters()
        found = {key: None if v is None else list(v) for key, v in changed.items()}
        assert found == other, f"{name}: with_numbers() does not set all hyperparameters"
        check_spec(spec.with_numbers(other), _classes(spec))
        names = {key for key, _ in spec.directions()}
        assert names <= set(numbers), f"{name}: directions() names {sorted(names - set(numbers))}"
        deep = set(spec.get_params())
        assert set(numbers) <= deep, f"{name}: get_params lacks {sorted(set(numbers) - deep)}"
    return spec


def _check_environments(kernel: Kernel, z: Tensor, generator, tolerance: float, name: str) -> None:
    """push and pull are the derivative of the embedding."""
    size, dimension = z.shape
    point = z.clone().requires_grad_()
    embedding = kernel.embedding(point)
    width = embedding.z.shape[1]
    jacobian = torch.stack([slope(embedding.z[:, k], point).detach() for k in range(width)], 1)  # (E, D', D)
    w = torch.randn(size, 2, dimension, generator=generator, dtype=torch.float64)
    g = torch.randn(size, width, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        embedding = kernel.embedding(z)
        pushed, pulled = embedding.push(w), embedding.pull(g)
    message = f"{name}: push of the embedding is not its derivative"
    close(pushed, torch.einsum("erd,exd->erx", w, jacobian), tolerance, message)
    message = f"{name}: pull of the embedding is not its derivative, transposed"
    close(pulled, torch.einsum("ex,exd->ed", g, jacobian), tolerance, message)
    with torch.no_grad():
        for gradients in (False, True):
            rows = kernel.inducing(z, gradients).rows
            wanted = 1 + dimension if gradients else 1
            assert rows == wanted, f"{name}: inducing(gradients={gradients}) gives {rows} rows, not {wanted}"


def _check_derivatives(kernel: Kernel, a: Tensor, b: Tensor, tolerance: float, name: str) -> None:
    """The Gram of values and slopes is the derivative of κ(z, z') by the environments as given."""
    dimension = a.shape[1]
    if kernel.STATIONARY:
        ones = kernel.gram(kernel.embed(Jets.values(a)), kernel.embed(Jets.values(a))).reshape(5, 5).diagonal()
        close(ones, torch.ones_like(ones), 1e-12, f"{name}: κ(z, z) must be 1; the scale belongs to the thermal part")

    def pair(x: Tensor, y: Tensor) -> Tensor:
        left, right = kernel.embed(Jets.values(x)), kernel.embed(Jets.values(y))
        return kernel.gram(left, right).diagonal(dim1=0, dim2=2).reshape(-1)

    size = 1 + dimension
    left, right = a.repeat_interleave(4, 0).requires_grad_(), b.repeat(5, 1).requires_grad_()
    value = pair(left, right)
    expected = torch.zeros(20, size, size, dtype=torch.float64)
    first = slope(value, left)
    expected[:, 0, 0], expected[:, 1:, 0] = value.detach(), first.detach()
    expected[:, 0, 1:] = slope(value, right).detach()
    for k in range(dimension):
        expected[:, 1 + k, 1:] = slope(first[:, k], right).detach()
    expected = expected.reshape(5, 4, size, size).transpose(1, 2)
    with torch.no_grad():
        jets_a, jets_b = kernel.embed(Jets.full(a)), kernel.embed(Jets.full(b))
        full = kernel.gram(jets_a, jets_b)
        close(full, expected, tolerance, f"{name}: gram of values and gradients is not the derivative of κ(z, z')")
        plain = kernel.value(jets_a.z, jets_b.z)
        close(plain, expected[:, 0, :, 0], tolerance, f"{name}: value() (or value_) is not the gram of values")


def _check_products(kernel: Kernel, a: Tensor, b: Tensor, generator, tolerance: float, name: str) -> None:
    """Symmetry, positivity, the limit of coincident points, and the products that models use."""
    dimension, size = a.shape[1], 1 + a.shape[1]
    jets_a, jets_b = kernel.embed(Jets.full(a)), kernel.embed(Jets.full(b))
    full = kernel.gram(jets_a, jets_b)
    weight = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    weighted = kernel.gram(jets_a, jets_b, weight)
    close(weighted, full * weight[:, None, :, None], 1e-12, f"{name}: weight= must multiply the kernel pair by pair")
    back = kernel.gram(jets_b, jets_a).permute(2, 3, 0, 1)
    close(back, full, 1e-12, f"{name}: gram(a, b) and gram(b, a) differ")
    twice = kernel.embed(Jets.full(torch.cat([a, a[:2]])))  # with repeated environments
    square = kernel.gram(twice, twice).reshape(7 * size, 7 * size)
    assert bool(torch.isfinite(square).all()), f"{name}: gram is not finite at coincident environments"
    lowest = float(torch.linalg.eigvalsh(0.5 * (square + square.T))[0])
    assert lowest > -1e-10 * float(square.diagonal().max()), f"{name}: gram is not positive semidefinite ({lowest:.1e})"
    near = kernel.gram(jets_a, kernel.embed(Jets.full(a + 1e-5 / dimension**0.5))).diagonal(dim1=0, dim2=2)
    at = kernel.gram(jets_a, jets_a).diagonal(dim1=0, dim2=2)
    close(near, at, 1e-3, f"{name}: gram jumps at coincident environments")
    square = kernel.gram(jets_a, jets_a).reshape(5 * size, 5 * size)
    message = f"{name}: diagonal() is not the diagonal of gram()"
    close(kernel.diagonal(jets_a).reshape(-1), square.diagonal(), tolerance, message)
    for part in (Jets(jets_a.z, jets_a.c), Jets(jets_a.z, None, jets_a.w)):  # rows without one half
        square = kernel.gram(part, part).reshape(5 * size, 5 * size)
        close(kernel.diagonal(part).reshape(-1), square.diagonal(), tolerance, message)
    slopes = getattr(kernel, "SLOPE", None)
    if slopes is not None:  # used by the fast path of frozen models
        k0, k1, _ = kernel.functions(torch.linspace(0.0, 5.0, 7, dtype=torch.float64))  # type: ignore[attr-defined]
        close(k1, slopes * k0, 1e-12, f"{name}: SLOPE={slopes} is not κ'/κ; set SLOPE = None")
    width = jets_b.z.shape[1]
    right = Jets.full(jets_b.z)
    products = kernel.gram(Jets.full(jets_a.z), right).reshape(5 * (1 + width), -1)
    c = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    w = torch.randn(4, width, 2, generator=generator, dtype=torch.float64)
    for slopes in (w, None):
        value, gradient = kernel.jet_product(jets_a.z, jets_b.z, c, slopes)
        jets = torch.cat([c[:, None], torch.zeros_like(w) if slopes is None else slopes], 1).reshape(-1, 2)
        close(
            torch.cat([value[:, None], gradient], 1),
            (products @ jets).reshape(5, 1 + width, 2),
            tolerance,
            f"{name}: jet_product is not gram · coefficients",
        )


def _check_gradients(spec: Kernel, a: Tensor, b: Tensor, generator, name: str) -> None:
    """Derivatives by the logarithm of every hyperparameter, against fourth-order central differences."""
    dimension, size = a.shape[1], 1 + a.shape[1]
    mix = torch.randn(5, size, 4, size, generator=generator, dtype=torch.float64)
    logs = {key: torch.tensor(v, dtype=torch.float64).log() for key, v in spec.hyperparameters().items()}

    def total(values: dict[str, Tensor]) -> Tensor:
        kernel = spec.bound({key: v.exp() for key, v in values.items()}, dimension)
        return (kernel.gram(kernel.embed(Jets.full(a)), kernel.embed(Jets.full(b))) * mix).sum()

    for key, start in logs.items():
        point = start.clone().requires_grad_()
        gradient = slope(total(logs | {key: point}), point).detach()
        for k in range(len(start)):
            values = []
            for step in (-2, -1, 1, 2):
                moved = start.clone()
                moved[k] += step * _STEP
                with torch.no_grad():
                    values.append(float(total(logs | {key: moved})))
            numeric = central(values, _STEP)
            error = abs(float(gradient[k]) - numeric)
            allowed = 1e-6 * (abs(numeric) + float(total(logs).detach().abs()) + 1.0)
            assert error <= allowed, (
                f"{name}: its gradient by {key} is {float(gradient[k]):.6g}, differences give {numeric:.6g}; its "
                "methods must use the field's tensor, not a copy as a number"
            )
