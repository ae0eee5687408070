"""The posterior: expansions on environments for means, one protocol for covariances.

The posterior mean of every term is an expansion on nodes,

    f(z; T, λ) = Σ_k φ_k(T, λ) Σ_j [c_jk κ(z, z_j) + w_jk·∇' κ(z, z_j)],

with coefficient jets (c, w) that the dense solver reads off K⁻¹y and the sparse one off its weights. All
predictions of means go through it, whichever solver made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .prior.prior import Prior
from .prior.rows import RowBlock, frame_chunks


def weight_expansions(prior: Prior, blocks: list[RowBlock], all_weights: Tensor) -> list[Expansion]:
    """The posterior mean of every term as an expansion on the environments of the labels.

    Parameters
    ----------
    all_weights
    (K + noise)⁻¹ (y − prior mean), shape (labels,).
    """
    out: list[Expansion | None] = [None] * len(prior.terms)
    row = 0
    for block in blocks:
        weights = all_weights[row : row + len(block)].reshape(block.frames, block.components)
        row += len(block)
        for t, term in enumerate(prior.terms):
            for read in block.terms[t]:
                jets = read.jets
                local = weights if jets.frame is None else weights[jets.frame]
                if jets.label is not None:
                    local = torch.gather(local, 1, jets.label)
                factors = (read.factors if jets.frame is None else read.factors[jets.frame]) * term.variances()
                c = jets.z.new_zeros(len(jets.z)) if jets.c is None else (jets.c * local).sum(1)
                w = None
                if jets.w is not None:
                    w = torch.einsum("erd,er->ed", jets.w, local)[:, :, None] * factors[:, None, :]
                expansion = Expansion(jets.z, c[:, None] * factors, w)
                previous = out[t]
                out[t] = expansion if previous is None else previous.merged(expansion)
    return out  # type: ignore[return-value]


def weight_means(prior: Prior, blocks: list[RowBlock], all_weights: Tensor) -> Tensor | None:
    """Posterior means of the mean functions' weights, shape (kinds, functions)."""
    mean = prior.mean
    if mean is None:
        return None
    out = all_weights.new_zeros(len(mean.offset), mean.size)
    row = 0
    for block in blocks:
        weights = all_weights[row : row + len(block)]
        row += len(block)
        for features, factors in block.mean:
            out += features.T @ (weights[:, None] * factors * mean.variances(factors.device))
    return out


#: Largest number of (environment, node) pairs held at a time.
PAIRS = 1 << 21


@dataclass
class Expansion:
    """Posterior mean of one term, in the columns of its kernel.

    Parameters
    ----------
    nodes
        Shape (J, D).
    c, w
        Coefficient jets per function of state, shapes (J, size) and (J, D, size); w None for zero.
    """

    nodes: Tensor
    c: Tensor
    w: Tensor | None

    def merged(self, other: Expansion) -> Expansion:
        """Sum of two expansions; shared nodes are kept once."""
        if self.nodes.shape == other.nodes.shape and torch.equal(self.nodes, other.nodes):
            w = other.w if self.w is None else self.w if other.w is None else self.w + other.w
            return Expansion(self.nodes, self.c + other.c, w)
        w = None
        if self.w is not None or other.w is not None:
            w = torch.cat([_or_zero(self), _or_zero(other)])
        return Expansion(torch.cat([self.nodes, other.nodes]), torch.cat([self.c, other.c]), w)


def _or_zero(e: Expansion) -> Tensor:
    return e.c.new_zeros(*e.nodes.shape, e.c.shape[1]) if e.w is None else e.w


class Posterior(Protocol):
    """What a solver leaves behind."""

    prior: Prior
    expansions: list[Expansion]
    mean_weights: Tensor | None

    def covariance(self, a: RowBlock, b: RowBlock) -> Tensor:
        """Posterior covariances of the rows of two blocks, shape (len(a), len(b))."""
        ...

    def variance(self, a: RowBlock) -> Tensor:
        """Posterior variances of the rows of a block, shape (len(a),)."""
        ...

    def features(self, a: RowBlock) -> Tensor:
        """What :meth:`explained` reads of the rows of a block, shape (len(a), p); linear in the rows."""
        ...

    def explained(self, left: Tensor, right: Tensor) -> Tensor:
        """Prior minus posterior covariance of combinations of rows, from combinations of their features."""
        ...


def predict_mean(posterior: Posterior, rows: RowBlock) -> Tensor:
    """Posterior mean of the rows of a block, shape (len(rows),), without any baseline."""
    out = rows.prior_mean.clone()
    for term, expansion, reads in zip(posterior.prior.terms, posterior.expansions, rows.terms, strict=True):
        for read in reads:
            jets = read.jets
            parts = []
            for start, stop in frame_chunks(len(jets.z), max(1, PAIRS // max(1, len(expansion.nodes)))):
                factors = read.factors[start:stop] if jets.frame is None else read.factors[jets.frame[start:stop]]
                value, gradient = term.kernel.jet_product(jets.z[start:stop], expansion.nodes, expansion.c, expansion.w)
                total = value.new_zeros(stop - start, jets.rows)
                if jets.c is not None:
                    total += jets.c[start:stop] * (value * factors).sum(1, keepdim=True)
                if jets.w is not None:
                    slope = torch.einsum("edp,ep->ed", gradient, factors)
                    total += torch.einsum("erd,ed->er", jets.w[start:stop], slope)
                parts.append(total)
            if parts:
                out += rows.scatter(torch.cat(parts)[:, :, None], jets)[:, 0]
    if posterior.mean_weights is not None:
        for features, factors in rows.mean:
            out += ((features @ posterior.mean_weights) * factors).sum(1)
    return out
