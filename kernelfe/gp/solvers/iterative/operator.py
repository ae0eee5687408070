"""The covariance of all labels as products, never as a matrix: B K_jets Bᵀ + mean functions + noise.

For every term the environments of all labels are gathered once: a frame with forces, torques and an energy is one
environment, not three. A product turns right-hand sides into jets on these environments, multiplies by the kernel
(:mod:`kernelfe.kernels.products`), and reads the labels off the result. Thermal and parameter factors are a few columns
per label: with Σ_k a_k² φ_k φ'_k = Σ_p ϕ_p ϕ'_p of the smallest number of columns ϕ that does it (one for forces at a
single temperature), every right-hand side goes through the kernel once per column. Memory: rows × dimension.

Terms that average over permutations of like beads have P environments per frame that are images of one another. A
kernel that is invariant under the permutations is read off one of them, times P.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ....kernels.jets import linear, plus
from ....kernels.products import PairProducts
from ....runtime.processes import Processes
from ...observations.labels import LabelSet
from ...prior.prior import Prior
from ...prior.rows import RowBlock, frame_chunks
from ..sparse.orbits import orbit_size
from .reads import NodeRead, first_of_orbits


class TermNodes:
    """The environments of one term that any label reads, and their reads.

    Parameters
    ----------
    term
        The term.
    blocks
        Rows of all label sets.
    t
        Which term of the rows.
    """

    def __init__(self, term, blocks: list[RowBlock], t: int):
        self.term = term
        reads = [(block, read) for block in blocks for read in block.terms[t] if len(read.jets)]
        rows, at = [], 0
        for block in blocks:
            rows.append(slice(at, at + len(block)))
            at += len(block)
        where = {id(block): part for block, part in zip(blocks, rows, strict=True)}
        self.basis = factor_basis([read.factors for _, read in reads], term.variances())
        self.nodes, index = distinct([read.jets.z for _, read in reads], term.width)
        copies = orbit_size(term)
        self.reads = [
            NodeRead.of(block, where[id(block)], read.jets, which, read.factors @ self.basis, copies)
            for (block, read), which in zip(reads, index, strict=True)
        ]
        self.targets, self.seen = self.nodes, self.reads
        if copies > 1 and self.reads and invariant(term, self.reads, copies):
            firsts = [first_of_orbits(read.jets, copies, copies) for read in self.reads]
            self.targets, index = distinct([jets.z for jets in firsts], term.width)
            self.seen = [
                NodeRead(read.block, read.rows, jets, which, read.factors)
                for read, jets, which in zip(self.reads, firsts, index, strict=True)
            ]

    @property
    def columns(self) -> int:
        """Columns of thermal factors."""
        return self.basis.shape[1]

    def coefficients(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Coefficient jets on the nodes, (m, p·k) and (m, D, p·k), of right-hand sides (N, k)."""
        c: Tensor | None = None
        w: Tensor | None = None
        for read in self.reads:
            more_c, more_w = read.coefficients(x, len(self.nodes), self.nodes.shape[1])
            c, w = plus(c, more_c), plus(w, more_w)
        return linear(lambda c: c.flatten(1), c), linear(lambda w: w.flatten(2), w)

    def add_labels(self, out: Tensor, value: Tensor | None, gradient: Tensor | None, every: bool = False) -> None:
        """Add what the labels read of values (targets, p·k) and gradients (targets, D, p·k) to ``out``, (N, k).

        With ``every``, of values and gradients at all nodes: an expansion need not be symmetric then.
        """
        shape = (self.columns, out.shape[1])
        value, gradient = (
            linear(lambda v: v.unflatten(1, shape), value),
            linear(lambda g: g.unflatten(2, shape), gradient),
        )
        for read in self.reads if every else self.seen:
            out[read.rows] = out[read.rows] + read.labels(value, gradient)


class JetGram:
    """A = B K_jets Bᵀ + mean functions + noise, of all labels.

    Parameters
    ----------
    prior
        Prior with its hyperparameters.
    labels
        All labels.
    noise
        Learned noise levels.
    cache_bytes
        Bytes of kernel matrices that are kept between products, for all terms together.
    dtype
        Precision of the pairs in :meth:`product`.
    """

    #: Pairs of environments of a block of :meth:`bilinear`: memory only.
    differentiable_entries: ClassVar[int] = 1 << 21

    def __init__(
        self,
        prior: Prior,
        labels: list[LabelSet],
        noise,
        *,
        cache_bytes: int = 1 << 30,
        dtype: torch.dtype = torch.float64,
    ):
        self.prior, self.label_sets, self.noise_model = prior, labels, noise
        self.blocks = [label.rows(prior) for label in labels]
        self.rows = sum(len(block) for block in self.blocks)
        self.terms = [TermNodes(term, self.blocks, t) for t, term in enumerate(prior.terms)]
        self.cache_bytes, self.dtype = cache_bytes, dtype
        self.noise = [label.noise_at(noise) for label in labels]
        self.mean_features = self._mean_features()
        self._pairs: list[PairProducts] | None = None

    @property
    def pairs(self) -> list[PairProducts]:
        """The kernels of all terms, made when first asked for."""
        if self._pairs is None:
            self._pairs = self.products(self.cache_bytes, self.dtype)
        return self._pairs

    def products(self, cache_bytes: int, dtype: torch.dtype) -> list[PairProducts]:
        """Kernel products of all terms between the environments."""
        out = []
        for nodes in self.terms:
            values = any(read.jets.reads_values for read in nodes.seen)
            slopes = any(read.jets.reads_slopes for read in nodes.seen)
            pairs = PairProducts(
                nodes.term.kernel,
                nodes.targets,
                nodes.nodes,
                values=values,
                slopes=slopes,
                cache_bytes=cache_bytes,
                dtype=dtype,
            )
            cache_bytes -= min(pairs.bytes, cache_bytes)
            out.append(pairs)
        return out

    @torch.no_grad()
    def product(
        self, x: Tensor, pairs: list[PairProducts] | None = None, gathered: Callable[..., tuple] | None = None
    ) -> Tensor:
        """A x for x of shape (N, k).

        Parameters
        ----------
        x
            Right-hand sides.
        pairs
            Kernel products to use instead of the own :attr:`pairs`.
        gathered
            (nodes, pairs, value, gradient) → values and gradients at all targets, where ``pairs`` give a part of them.
        """
        out = self.noise_product(x)
        for nodes, own in zip(self.terms, self.pairs if pairs is None else pairs, strict=True):
            if not nodes.reads:
                continue
            value, gradient = own.product(*nodes.coefficients(x))
            if gathered is not None:
                value, gradient = gathered(nodes, own, value, gradient)
            nodes.add_labels(out, value, gradient)
        if self.mean_features is not None:
            out += self.mean_features @ (self.mean_features.mT @ x)
        return out

    def noise_product(self, x: Tensor) -> Tensor:
        """The noise's part of A x."""
        parts = x.split([len(label) for label in self.label_sets])
        return torch.cat([noise.product(part) for noise, part in zip(self.noise, parts, strict=True)])

    def noise_diagonal(self) -> Tensor:
        """The noise's part of :meth:`diagonal`."""
        return torch.cat([noise.diagonal() for noise in self.noise])

    def diagonal(self) -> Tensor:
        """Diagonal of A, shape (N,)."""
        return torch.cat([self.prior.diagonal(block) for block in self.blocks]) + self.noise_diagonal()

    def target(self) -> Tensor:
        """Labels minus prior means, shape (N,)."""
        y = torch.cat([label.y.reshape(-1) for label in self.label_sets])
        return y - torch.cat([block.prior_mean for block in self.blocks])

    def bilinear(self, u: Tensor, v: Tensor) -> Tensor:
        """Σ_q u_qᵀ A v_q for u, v of shape (N, q), differentiable in the hyperparameters.

        The operator must have been made with gradients enabled. Blocks of pairs are computed again on the way back, so
        that none of them is kept.
        """
        total = (u * self.noise_product(v)).sum()
        if self.mean_features is not None:
            total = total + ((self.mean_features.mT @ u) * (self.mean_features.mT @ v)).sum()
        for nodes in self.terms:
            if nodes.reads:
                total = total + self._bilinear_term(nodes, u, v)
        return total

    def _bilinear_term(self, nodes: TermNodes, u: Tensor, v: Tensor) -> Tensor:
        """uᵀ K v of one term: the jets of u on the targets against the expansion of v on the nodes."""
        kernel, z = nodes.term.kernel, nodes.nodes
        (uc, uw), (vc, vw) = nodes.coefficients(u), nodes.coefficients(v)
        size = (vc if vc is not None else vw).shape[-1]  # type: ignore[union-attr]
        zero = z.new_zeros(len(z), size)

        def part(start: int, stop: int) -> Tensor:
            value, gradient = kernel.jet_product(z[start:stop], z, zero if vc is None else vc, vw)
            values = linear(lambda c: (c[start:stop] * value).sum(), uc)
            return plus(values, linear(lambda w: (w[start:stop] * gradient).sum(), uw))  # type: ignore[return-value]

        total = z.new_zeros(())
        for start, stop in frame_chunks(len(z), max(1, self.differentiable_entries // max(1, len(z)))):
            total = total + checkpoint(part, start, stop, use_reentrant=False)
        return total

    def _mean_features(self) -> Tensor | None:
        """F with F Fᵀ the mean functions' part of A, shape (N, kinds · functions)."""
        mean = self.prior.mean
        if mean is None:
            return None
        root, parts = mean.variances(self.prior.device).sqrt(), []
        for block in self.blocks:
            out = block.prior_mean.new_zeros(len(block), len(mean.offset) * mean.size)
            for features, factors in block.mean:
                out = out + (features[:, :, None] * (factors * root)[:, None, :]).flatten(1)
            parts.append(out)
        return torch.cat(parts)


def factor_basis(factors: list[Tensor], variances: Tensor, rounding: float = 1e-13) -> Tensor:
    """M (size, p) with the fewest columns such that φ diag(a²) φ'ᵀ = (φ M)(φ' M)ᵀ for all given rows φ.

    Parameters
    ----------
    factors
        Rows of factors, each (n, size).
    variances
        a², shape (size,).
    rounding
        Relative size below which a combination of factors counts as zero.
    """
    root = torch.diag(variances.sqrt())
    if not factors:
        return root[:, :0]
    with torch.no_grad():
        # a few distinct states make all rows: their span is that of the small matrix of second moments' root
        rows = torch.cat([torch.unique(f, dim=0) if len(f) < 100_000 else f for f in factors]) @ root
        norms = rows.square().sum(1, keepdim=True).sqrt()
        rows = rows / torch.where(norms > 0, norms, torch.ones_like(norms))
        _, values, vectors = torch.linalg.svd(_compressed(rows), full_matrices=False)
        keep = values > rounding * max(1.0, float(values[0]) if len(values) else 0.0)
        directions = vectors[keep].mT
    return root @ directions


def _compressed(rows: Tensor) -> Tensor:
    """R of rows = Q R, where there are many rows."""
    return torch.linalg.qr(rows, mode="r")[1] if len(rows) > rows.shape[1] else rows


def distinct(parts: list[Tensor], width: int) -> tuple[Tensor, list[Tensor]]:
    """The distinct rows of several arrays, in the order in which they first occur, and which row is which.

    Returns
    -------
    Tensor, list of Tensor
        Shapes (m, D) and (rows of a part,).
    """
    if not parts:
        return torch.zeros(0, width, dtype=torch.float64), []
    z = torch.cat(parts)
    # −0.0 and 0.0 are the same number but not the same bytes
    plain = np.ascontiguousarray(z.detach().cpu().numpy() + 0.0)
    keys = plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).reshape(-1)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    index = torch.from_numpy(rank[inverse.reshape(-1)]).to(z.device)
    kept = torch.from_numpy(np.sort(first)).to(z.device)
    return z[kept], list(index.split([len(part) for part in parts]))


def invariant(term, reads: list[NodeRead], copies: int, orbits: int = 16) -> bool:
    """Test of invariance on a few orbits: all environments of one have the same covariance with the sum over another.

    Those tried are from all over the labels: frames that are symmetric themselves would prove nothing.
    """
    every = reads[0].jets.z.unflatten(0, (-1, copies))
    z = every[torch.linspace(0, len(every) - 1, min(orbits, len(every)), device=every.device).long()].flatten(0, 1)
    with torch.no_grad():
        sums = term.kernel.value(z, z).unflatten(1, (-1, copies)).sum(2).unflatten(0, (-1, copies))
    return bool(((sums - sums[:, :1]).abs() <= 1e-10 * sums.abs().max()).all())


class SharedProducts:
    """A x, computed by several processes together.

    Parameters
    ----------
    gram
        A, the same one on every process.
    processes
        Who takes part.
    cache_bytes
        Bytes of kernel matrices that are kept between products, on each process.
    dtype
        Precision of the pairs.
    """

    def __init__(self, gram: JetGram, processes: Processes, cache_bytes: int, dtype: torch.dtype = torch.float64):
        self.gram, self.processes = gram, processes
        self.pairs = gram.products(0, dtype)
        for pairs in self.pairs:
            own = processes.share(self._blocks(pairs))
            count = len(pairs.z)
            pairs.rows = range(min(count, own.start * pairs.step), min(count, own.stop * pairs.step))
            pairs.cache_bytes = cache_bytes
            cache_bytes -= min(pairs.bytes, cache_bytes)

    def product(self, x: Tensor) -> Tensor:
        """A x for x of shape (N, k), the same x on every process."""
        return self.gram.product(x, self.pairs, self._gathered)

    @staticmethod
    def _blocks(pairs: PairProducts) -> int:
        return -(-len(pairs.z) // pairs.step)

    def _gathered(self, nodes: TermNodes, own: PairProducts, value, gradient) -> tuple[Tensor | None, Tensor | None]:
        count, step = len(nodes.targets), own.step
        blocks = [Processes(rank, self.processes.size).share(self._blocks(own)) for rank in range(self.processes.size)]
        counts = [len(range(count)[share.start * step : share.stop * step]) for share in blocks]

        def all_of(part: Tensor) -> Tensor:
            return self.processes.gather_rows(part, counts)

        return linear(all_of, value), linear(all_of, gradient)
