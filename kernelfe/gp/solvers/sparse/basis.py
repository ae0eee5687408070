"""Sparse conditioning: inducing environments and streamed normal equations.

Each term is represented by the values (or the full jets) of its functions at M inducing environments.
Labels stream through in blocks of frames; memory is set by M and by the number of kinds of labels and
distinct temperatures, never by the number of frames.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ....linalg import Whitening
from ...prior.prior import Prior
from ...prior.rows import RowBlock, environments_at_once, frame_chunks
from .orbits import orbit_size, whitening_of_orbits


class SparseBasis:
    """Whitened features of all terms and the mean function.

    Parameters
    ----------
    prior
        Prior; its length scales are read when the basis is built.
    inducing
        Inducing environments per term in the descriptor's own units, shapes (M, D).
    gradients
        Whether inducing variables are full jets (1 + D per environment) instead of values.
    whitening
        Whitening matrices of a saved model, to be used as they are.
    """

    #: Kernel values of a block of rows: about a megabyte, to stay in the cache until they are whitened.
    cached_entries: ClassVar[int] = 1 << 17
    #: The same on a GPU: a gigabyte, many rows for each time that the whitening matrix is read.
    gpu_entries: ClassVar[int] = 1 << 27

    def __init__(self, prior: Prior, inducing: list[Tensor], gradients: bool, whitening: list[Tensor] | None = None):
        self.prior, self.inducing, self.gradients = prior, inducing, gradients
        self.jets, self.whitenings = [], []
        for t, (term, z) in enumerate(zip(prior.terms, inducing, strict=True)):
            kernel = term.kernel
            jets = kernel.inducing(z, gradients)
            self.jets.append(jets)
            if whitening is not None:  # signs and order of eigenvectors must match the stored weights
                self.whitenings.append(Whitening(whitening[t]))
            else:
                gram = kernel.gram(jets, jets).flatten(2).flatten(0, 1)
                self.whitenings.append(whitening_of_orbits(gram, 1 if gradients else orbit_size(term)))
        self.ranks = [whitening.rank for whitening in self.whitenings]
        self.functions = [term.size for term in prior.terms]
        if prior.mean is not None:
            self.ranks.append(len(prior.mean.offset))
            self.functions.append(prior.mean.size)

    def term_features(self, rows: RowBlock, t: int, read: int) -> Tensor:
        """ψ of one read of one term, shape (len(rows), rank), without factors."""
        kernel, nodes, own = self.prior.terms[t].kernel, self.jets[t], rows.terms[t][read]
        step = environments_at_once(own.jets, len(nodes) * nodes.rows)
        labels = rows.summed(own, step, lambda part: kernel.gram(part.jets, nodes).flatten(2))
        return labels @ self.whitenings[t].matrix

    def fill(self, rows: RowBlock, out: Tensor) -> list[Tensor]:
        """Features of rows of one read, without factors, block by block.

        Parameters
        ----------
        out
            Shape (len(rows), Σ ranks); overwritten.

        Returns
        -------
        list of Tensor
            Per term Σ ψ², shape (len(rows),).
        """
        at, squares = 0, []
        for t, term in enumerate(self.prior.terms):
            own, jets = out[:, at : at + self.ranks[t]], rows.terms[t][0].jets
            at += self.ranks[t]
            if not jets.direct:
                own.copy_(self.term_features(rows, t, 0))
                squares.append((own * own).sum(1))
                continue
            nodes, m, found = self.jets[t], rows.components, []
            kernel, matrix = term.kernel, self.whitenings[t].matrix
            entries = self.gpu_entries if own.is_cuda else self.cached_entries
            step = max(1, entries // max(1, m * len(matrix)))
            block = own.new_empty(min(step, rows.frames) * m, len(matrix))
            for start, stop in frame_chunks(rows.frames, step):
                columns, features = block[: (stop - start) * m], own[start * m : stop * m]
                kernel.fill_gram(jets[start:stop], nodes, columns)
                torch.mm(columns, matrix, out=features)
                found.append((features * features).sum(1))
            squares.append(torch.cat(found))
        if self.prior.mean is not None:
            out[:, at:] = rows.mean[0][0] if rows.mean else 0.0
        return squares

    def wide(self, rows: RowBlock) -> tuple[Tensor, Tensor]:
        """Expanded rows without prior scales, (len(rows), W), and per function what they miss, (len(rows), Σ size)."""
        m, parts, missing = rows.components, [], []
        for t in range(len(self.prior.terms)):
            total = rows.prior_mean.new_zeros(len(rows), self.functions[t], self.ranks[t])
            for r, read in enumerate(rows.terms[t]):
                factors = read.factors.repeat_interleave(m, 0)
                total = total + factors[:, :, None] * self.term_features(rows, t, r)[:, None, :]
            explained = (total**2).sum(2)
            missing.append((self.prior.kernel_diagonal(rows, t) - explained).clamp_min(0.0))
            parts.append(total.flatten(1))
        if self.prior.mean is not None:
            kinds, size = len(self.prior.mean.offset), self.prior.mean.size
            total = rows.prior_mean.new_zeros(len(rows), size, kinds)
            for features, factors in rows.mean:
                total = total + factors[:, :, None] * features[:, None, :]
            parts.append(total.flatten(1))
            missing.append(rows.prior_mean.new_zeros(len(rows), size))
        return torch.cat(parts, 1), torch.cat(missing, 1)

    def amplitudes(self) -> Tensor:
        """Prior standard deviation of every weight, shape (W,)."""
        return torch.cat(
            [v.sqrt().repeat_interleave(r) for v, r in zip(self.prior.variances(), self.ranks, strict=True)]
        )
