"""The Gaussian-process prior over free energies, and the rows through which labels read it.

A **row block** is one functional on a batch of frames: for each read and term the environment jets and
the factors of (T, λ). Covariances of two blocks are

    Gram = Σ_terms Σ_reads B (Σ_k a_k² φ_k φ'_k ∘ K_jets) B'ᵀ + mean functions,

where B sums the jets of a label over its environments. Everything here is differentiable in the
hyperparameters; nothing here depends on the list of observables.
"""

from __future__ import annotations

import gpytorch
import torch
from torch import Tensor

from ...functionals import Functional, Spatial
from ...kernels import label_covariances, spatial_jets
from ..states import States
from .mean import MeanFunction
from .rows import RowBlock, TermRead, environments_at_once
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
        """Device of the hyperparameters, and of everything that is computed from them."""
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
            values = functional.spatial is Spatial.VALUE
            environments = (states.values if values else states.environments)(term.spec.descriptor)
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
        kernel, reads = self.terms[t].kernel, a.terms[t]
        total = a.prior_mean.new_zeros(a.frames, a.components, self.terms[t].size)
        for i, x in enumerate(reads):
            for j, y in enumerate(reads[: i + 1]):
                # the two rows of a variance are of one frame, so that its factors stand outside
                alone = label_covariances(kernel, x.jets, y.jets, a.frames, a.components)
                factors = x.factors * y.factors if i == j else 2.0 * x.factors * y.factors
                total = total + alone[:, :, None] * factors[:, None, :]
        return total.flatten(0, 1)

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

    def _pair(self, a: RowBlock, b: RowBlock, term: TermModule, x: TermRead, y: TermRead) -> Tensor:
        """Covariances of the labels of one read with those of another, by one term."""
        if not len(x.jets) or not len(y.jets):  # the mean of no environments has no gradient
            return a.prior_mean.new_zeros(len(a), len(b))
        kernel, variances = term.kernel, term.variances()

        def columns(right: TermRead) -> Tensor:
            """Covariances of all labels of ``a`` with rows of ``b``, shape (len(a), E_b r_b)."""

            def rows(left: TermRead) -> Tensor:
                weight = (left.factors * variances) @ right.factors.T
                return kernel.gram(left.jets, right.jets, weight).flatten(2)

            return a.summed(x, environments_at_once(x.jets, len(right.jets) * right.jets.rows), rows)

        if y.jets.direct:
            return columns(y)
        step = environments_at_once(y.jets, len(a))

        def by_second(right: TermRead) -> Tensor:
            return columns(right).T.reshape(len(right.jets), right.jets.rows, len(a)).contiguous()

        return b.summed(y, step, by_second).T

    def hyperpriors(self) -> Tensor:
        """Sum of the log densities of the hyperparameters' priors, up to a constant."""
        return torch.stack([term.hyperprior() for term in self.terms]).sum()
