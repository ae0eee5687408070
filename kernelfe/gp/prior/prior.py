"""The Gaussian-process prior over free energies, and the rows through which labels read it.

A **row block** is one functional on a batch of frames: for each read and term the environment jets and
the factors of (T, λ). Covariances of two blocks are

    Gram = Σ_terms Σ_reads B (Σ_k a_k² φ_k φ'_k ∘ K_jets) B'ᵀ + mean functions,

where B sums the jets of a label over its environments. Everything here is differentiable in the
hyperparameters; nothing here knows the list of observables.
"""

from __future__ import annotations

import gpytorch
import torch
from torch import Tensor

from ...functionals import Functional, Spatial
from ...kernels import spatial_jets
from ..states import States
from .mean import MeanFunction
from .rows import RowBlock, TermRead, _direct, frame_chunks
from .term import TermModule


class Prior(gpytorch.Module):
    """Prior over A(R; T, λ): a sum of terms and mean functions.

    Parameters
    ----------
    terms
        The modules that hold the hyperparameters.
    mean
        Mean functions, or None.
    """

    def __init__(self, terms: list[TermModule], mean: MeanFunction | None):
        super().__init__()
        self.terms = torch.nn.ModuleList(terms)
        self.mean = mean

    @property
    def device(self) -> torch.device:
        """Where the hyperparameters are, and with them everything that is computed from them."""
        return self.terms[0].log_scales.device if len(self.terms) else torch.device("cpu")  # type: ignore

    def variances(self) -> list[Tensor]:
        """Prior variances per function of state: of every term, then of the mean functions."""
        out = [term.variances() for term in self.terms]
        return out if self.mean is None else [*out, self.mean.variances(self.device)]

    def rows(self, functional: Functional, states: States) -> RowBlock:
        """The rows of ``functional`` on ``states``, without any baseline."""
        shape = functional.shape(states.coordinate_shape, states.field_count)
        components = int(torch.Size(shape).numel())
        reads = [states.resolve(read) for read in functional.reads]
        terms = []
        for term in self.terms:
            environments = states.environments(term.spec.descriptor)
            jets = term.embed(
                spatial_jets(environments, functional.spatial, fields=states.fields, volume=states.volume)
            )
            terms.append([TermRead(jets, term.factors(read, states.temperature, states.parameters)) for read in reads])
        mean, prior_mean = [], states.temperature.new_zeros(len(states) * components)
        if self.mean is not None and functional.spatial is Spatial.VALUE:
            features = self.mean.features(functional.spatial, states.counts)
            for read in reads:
                mean.append((features, self.mean.factors(read, states.temperature, states.parameters)))
                prior_mean = prior_mean + self.mean.prior_mean(
                    read, states.temperature, states.parameters, states.counts
                )
        return RowBlock(len(states), components, terms, mean, prior_mean)  # type: ignore[arg-type]

    def gram(self, a: RowBlock, b: RowBlock) -> Tensor:
        """Prior covariances of the rows of two blocks, shape (len(a), len(b))."""
        out: Tensor | None = None
        for term, reads_a, reads_b in zip(self.terms, a.terms, b.terms, strict=True):
            for x in reads_a:
                for y in reads_b:
                    labels = self._pair(a, b, term, x, y)
                    out = labels if out is None else out + labels
        for features_a, factors_a in a.mean:
            assert self.mean is not None
            for features_b, factors_b in b.mean:
                weight = (factors_a * self.mean.variances(factors_a.device)) @ factors_b.T
                low_rank = weight * (features_a @ features_b.T)
                out = low_rank if out is None else out + low_rank
        assert out is not None
        return out

    def kernel_diagonal(self, a: RowBlock, t: int) -> Tensor:
        """Variances of the rows of a block under term ``t`` alone, per function of state at unit scale.

        Returns
        -------
        Tensor, shape (len(a), size)
        """
        term, reads = self.terms[t], a.terms[t]
        if len(reads) == 1 and _direct(reads[0].jets):
            kernel = term.kernel.diagonal(reads[0].jets)  # (n, m)
            return (kernel[:, :, None] * (reads[0].factors ** 2)[:, None, :]).reshape(len(a), -1)
        out = []
        for start, stop in frame_chunks(a.frames, max(1, 64 // a.components)):
            part = a.slice(start, stop)
            total = a.prior_mean.new_zeros(part.frames, part.components, term.size)
            for x in part.terms[t]:
                for y in part.terms[t]:
                    # the two rows of a variance are of one frame, so that its factors stand outside
                    alone = self._pair(part, part, term, x, y, factors=False).diagonal()
                    factors = x.factors * y.factors
                    total = total + alone.reshape(part.frames, -1, 1) * factors[:, None, :]
            out.append(total.flatten(0, 1))
        return torch.cat(out)

    def diagonal(self, a: RowBlock) -> Tensor:
        """Prior variances of the rows of a block, shape (len(a),)."""
        out = a.prior_mean.new_zeros(len(a))
        for t, term in enumerate(self.terms):
            out = out + self.kernel_diagonal(a, t) @ term.variances()
        for features_a, factors_a in a.mean:
            assert self.mean is not None
            for features_b, factors_b in a.mean:
                both = (factors_a * factors_b) @ self.mean.variances(factors_a.device)
                out = out + both * (features_a * features_b).sum(1)
        return out

    def _pair(self, a: RowBlock, b: RowBlock, term, x: TermRead, y: TermRead, factors: bool = True) -> Tensor:
        """Covariances of the labels of one read with those of another, by one term; or of the kernel on its own."""
        if not len(x.jets.z) or not len(y.jets.z):  # the mean of no environments has no gradient
            return a.prior_mean.new_zeros(len(a), len(b))
        weight = None
        if factors:
            fx = x.factors if x.jets.frame is None else x.factors[x.jets.frame]
            fy = y.factors if y.jets.frame is None else y.factors[y.jets.frame]
            weight = (fx * term.variances()) @ fy.T
        block = term.kernel.gram(x.jets, y.jets, weight)
        labels = a.scatter(block.flatten(2), x.jets)
        if _direct(y.jets):
            return labels
        by_second = labels.T.reshape(*block.shape[2:], len(a)).contiguous()
        return b.scatter(by_second, y.jets).T

    def hyperpriors(self) -> Tensor:
        """Sum of the log densities of the hyperparameters' priors, up to a constant."""
        return torch.stack([term.hyperprior() for term in self.terms]).sum()
