"""The covariance of the labels as a ``linear_operator``, for GPyTorch's distributions, solvers and evidences.

    from gpytorch.distributions import MultivariateNormal
    operator = as_linear_operator(JetGram(prior, labels, noise))
    MultivariateNormal(mean, operator).log_prob(y).backward()     # gradients by all hyperparameters

Products are those of :class:`~kernelfe.gp.solvers.iterative.operator.JetGram`; nothing else is formed unless the caller
requests it. Derivatives Σ_q u_qᵀ ∂A v_q are those of
:class:`~kernelfe.gp.solvers.iterative.evidence.LabelCovariance`: blocks of pairs, made again on the way back.

linear_operator has settings of its own, global ones, for when and how accurately it iterates (above 800 rows to a
residual of 1 in training, 0.01 in prediction). kernelfe's own solver, evidence and draws have explicit tolerances and a
better preconditioner, and do not go through this class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from linear_operator.operators import LinearOperator
from linear_operator.utils.getitem import _is_noop_index
from torch import Tensor

from ....errors import DataError
from .evidence import LabelCovariance
from .operator import JetGram


def as_linear_operator(gram: JetGram) -> JetLinearOperator:
    """The covariance of the labels, noise included, as a LinearOperator of shape (N, N).

    Parameters
    ----------
    gram
        The covariance; ``model.posterior_.gram`` of a model fitted with ``Iterative``. Its hyperparameters become the
        tensors of the operator: those that require gradients get them.

    Raises
    ------
    DataError
        If ``gram`` is not a JetGram.
    """
    if not isinstance(gram, JetGram):
        raise DataError(
            f"as_linear_operator takes a JetGram, such as model.posterior_.gram of a model fitted with "
            f"solver=Iterative(), not {type(gram).__name__}"
        )
    shared = _Shared(gram)
    return JetLinearOperator(*shared.parameters(), shared=shared)


class JetLinearOperator(LinearOperator):
    """A = B K_jets Bᵀ + mean functions + noise, shape (N, N); made by :func:`as_linear_operator`.

    Parameters
    ----------
    *hyperparameters
        Of prior and noise, in the order of their modules.
    shared
        Labels, and modules whose parameters are replaced by ``hyperparameters`` while something is computed.
    batch
        Shape of a batch of copies: linear_operator asks for them where right-hand sides come in batches. They cost
        nothing; hyperparameters have no batches.
    """

    def __init__(self, *hyperparameters: Tensor, shared: _Shared, batch: torch.Size = torch.Size()):  # noqa: B008
        super().__init__(*hyperparameters, shared=shared, batch=batch)
        self.shared, self.batch = shared, batch

    def _copies(self, batch: Sequence[int]) -> JetLinearOperator:
        return JetLinearOperator(*self._args, shared=self.shared, batch=torch.Size(batch))

    def _size(self) -> torch.Size:
        return torch.Size((*self.batch, self.shared.gram.rows, self.shared.gram.rows))

    def _transpose_nonbatch(self) -> JetLinearOperator:
        return self

    def _matmul(self, rhs: Tensor) -> Tensor:
        columns = rhs[:, None] if rhs.ndim == 1 else rhs
        gram = self.shared.at(self._args)
        out = _like(self.shared.using(self._args, lambda: gram.product(_flat(columns))), columns)
        out = out.expand(*torch.broadcast_shapes(self.batch, out.shape[:-2]), *out.shape[-2:])
        return out[..., 0] if rhs.ndim == 1 else out

    def _diagonal(self) -> Tensor:
        recorded = torch.is_grad_enabled() and any(p.requires_grad for p in self._args)

        def diagonal() -> Tensor:
            gram = self.shared.made() if recorded else self.shared.at(self._args)
            return gram.diagonal()

        found = self.shared.using(self._args, diagonal).to(self.dtype)
        return found.expand(*self.batch, len(found))

    def _bilinear_derivative(self, left_vecs: Tensor, right_vecs: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [p.detach().requires_grad_(p.requires_grad) for p in self._args]
        wanted = [p for p in leaves if p.requires_grad]
        if not wanted:
            return (None,) * len(leaves)
        u, v = (x[:, None] if x.ndim == 1 else x for x in (left_vecs, right_vecs))
        batch = torch.broadcast_shapes(u.shape[:-2], v.shape[:-2])
        u, v = (_flat(x.expand(*batch, *x.shape[-2:])) for x in (u, v))

        def derivatives() -> tuple[Tensor | None, ...]:
            # in here, since blocks of pairs are computed again on the way back
            return torch.autograd.grad(self.shared.slopes().bilinear(u, v), wanted, allow_unused=True)

        with torch.enable_grad():
            found = iter(self.shared.using(leaves, derivatives))
        out: list[Tensor | None] = []
        for p in leaves:
            slope = next(found) if p.requires_grad else None
            out.append(torch.zeros_like(p) if p.requires_grad and slope is None else slope)
        return tuple(out)

    def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> LinearOperator:
        if _is_noop_index(row_index) and _is_noop_index(col_index):
            return self._copies(torch.zeros(()).expand(self.batch)[batch_indices].shape)
        return super()._getitem(row_index, col_index, *batch_indices)

    def _get_indices(self, row_index: Any, col_index: Any, *batch_indices: Any) -> Tensor:
        """Entries of A, by products with the unit vectors of their columns."""
        rows, columns, *_ = torch.broadcast_tensors(row_index, col_index, *batch_indices)
        distinct, which = torch.unique(columns, return_inverse=True)
        unit = torch.zeros(self.size(-1), len(distinct), dtype=self.dtype, device=self.device)
        unit[distinct, torch.arange(len(distinct), device=distinct.device)] = 1.0
        return self._copies(()).matmul(unit)[rows, which]

    def _unsqueeze_batch(self, dim: int) -> LinearOperator:
        return self._copies((*self.batch[:dim], 1, *self.batch[dim:]))

    def _permute_batch(self, *dims: int) -> LinearOperator:
        return self._copies([self.batch[dim] for dim in dims])

    def _expand_batch(self, batch_shape: Any) -> LinearOperator:
        return self._copies(batch_shape)


class _Shared:
    """Shared state of the copies of an operator: labels, modules, and the products at the hyperparameters last used."""

    def __init__(self, gram: JetGram):
        self.gram, self._modules = gram, _Modules(gram)
        self._names = [name for name, _ in self._modules.named_parameters()]
        self._values = [p.detach().clone() for p in self.parameters()]

    def parameters(self) -> list[Tensor]:
        """The hyperparameters of the modules."""
        return [p for _, p in self._modules.named_parameters()]

    def using(self, hyperparameters: Sequence[Tensor], compute: Callable[[], Any]) -> Any:
        """Result of ``compute`` with other hyperparameters than those of the modules, differentiable in them."""
        given = (p.to(old.dtype) for p, old in zip(hyperparameters, self.parameters(), strict=True))
        return torch.func.functional_call(self._modules, dict(zip(self._names, given, strict=True)), (compute,))

    def at(self, hyperparameters: Sequence[Tensor]) -> JetGram:
        """The covariance at some hyperparameters, with what it keeps between products."""
        values = [p.detach().to(old) for p, old in zip(hyperparameters, self._values, strict=True)]
        if not all(map(torch.equal, values, self._values)):
            with torch.no_grad():
                self.gram = self.using(values, self.made)
            self._values = [value.clone() for value in values]
        return self.gram

    def made(self) -> JetGram:
        """The covariance at the present hyperparameters of the modules."""
        g, m = self.gram, self._modules
        return JetGram(m.prior, g.label_sets, m.noise, cache_bytes=g.cache_bytes, dtype=g.dtype)

    def slopes(self) -> LabelCovariance:
        """The same with gradients recorded."""
        return LabelCovariance(self._modules.prior, self.gram.label_sets, self._modules.noise)


class _Modules(torch.nn.Module):
    """Prior and noise as one module, whose parameters ``torch.func.functional_call`` can replace."""

    def __init__(self, gram: JetGram):
        super().__init__()
        self.prior, self.noise = gram.prior, gram.noise_model

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()


def _flat(x: Tensor) -> Tensor:
    """Columns of all batches side by side: (…, N, k) → (N, …·k), float64."""
    return x.movedim(-2, 0).reshape(x.shape[-2], -1).double()


def _like(out: Tensor, x: Tensor) -> Tensor:
    """The inverse of :func:`_flat`."""
    return out.reshape(x.shape[-2], *x.shape[:-2], x.shape[-1]).movedim(0, -2).to(x.dtype)
