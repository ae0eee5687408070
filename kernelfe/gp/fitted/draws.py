"""Draws from the posterior as functions, for the price of one batched solve: pathwise conditioning.

If f is a draw from the prior and ε one of the noise, then (Matheron's rule; Wilson et al. 2020, 2021)

    f + K(·, X) (K + Σ)⁻¹ (y − f(X) − ε)

is a draw from the posterior. Prior draws are made of explicit features (:mod:`kernelfe.kernels.features`) for every
function of state of every term, and exact for the mean functions; all draws are solved for at once. After that any
quantity at any configurations and temperatures is a read of these functions: no covariance, no further solve.

The sparse posterior is a normal distribution of the inducing variables u, and the same rule with u in the place of the
labels, f + K(·, Z) K_ZZ⁻¹ (u − f(Z)), also draws what the inducing environments leave open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import functionals
from ...kernels import Jets, Kernel, features_of
from ...kernels.features import Features
from ...specs import Whole, checked
from ..observations.labels import LabelSet, baseline_rows
from ..observations.levels import noise_variances
from ..posterior import predict_mean
from ..prior.prior import Prior
from ..prior.rows import RowBlock, frame_chunks
from ..solvers.sparse.posterior import SparsePosterior
from ..states import States
from .predict import reference_groups

#: Numbers held at a time while draws are read.
ENTRIES = 1 << 22


@dataclass(frozen=True)
class Nodes:
    """An expansion of n draws of one term whose functions of state go with each other.

    The coefficients of function k at node j are (c_j, w_j) times factors_jk.

    Parameters
    ----------
    z
        Nodes in the columns of the kernel, shape (J, D).
    c, w
        Shapes (J, n) and (J, D, n), or None for zero.
    factors
        Shape (J, size).
    """

    z: Tensor
    c: Tensor | None
    w: Tensor | None
    factors: Tensor

    def along(self, state: Tensor) -> tuple[Tensor, Tensor | None]:
        """c and w of Σ_k state_k g_k."""
        scale = self.factors @ state
        w = None if self.w is None else self.w * scale[:, None, None]
        return self.z.new_zeros(len(self.z), 1) if self.c is None else self.c * scale[:, None], w


class TermDraws:
    """n draws of the functions g_k of one term: features with normal weights, plus expansions on nodes.

    Parameters
    ----------
    kernel
        Of the term.
    features, weights
        Features of the kernel and their weights, prior scales included, shapes (features, size, n).
    """

    def __init__(self, kernel: Kernel, features: list[Features], weights: list[Tensor]):
        self.kernel, self.features, self.weights = kernel, features, weights
        self.nodes: list[list[Nodes]] = []  # those with the same z together

    def add(self, nodes: Nodes) -> None:
        """Add an expansion."""
        if not len(nodes.z):
            return
        for group in self.nodes:
            if group[0].z.shape == nodes.z.shape and torch.equal(group[0].z, nodes.z):
                group.append(nodes)
                return
        self.nodes.append([nodes])

    def read(self, jets: Jets, factors: Tensor) -> Tensor:
        """c g + w·∇g with g = Σ_k factors_k g_k, per environment, for all draws, shape (E, r, n)."""
        size, n = self.weights[0].shape[1:]
        out = factors.new_zeros(len(jets.z), jets.rows, n)
        states, which = torch.unique(factors, dim=0, return_inverse=True)
        if len(states) > size:  # many temperatures: function by function instead
            states, which = torch.eye(size, dtype=factors.dtype, device=factors.device), None
        for k, state in enumerate(states):
            at = torch.arange(len(jets.z), device=factors.device) if which is None else torch.nonzero(which == k)[:, 0]
            features = [torch.einsum("fkn,k->fn", weights, state) for weights in self.weights]
            expansions: list[tuple[Tensor, Tensor, Tensor | None]] = []
            for group in self.nodes:
                c, w = group[0].along(state)
                for nodes in group[1:]:
                    more = nodes.along(state)
                    c, w = c + more[0], more[1] if w is None else w if more[1] is None else w + more[1]
                expansions.append((group[0].z, c.expand(-1, n).contiguous(), w))
            pairs = sum(len(z) * jets.rows * (1 + z.shape[1]) for z, _, _ in expansions)
            widest = max(*(f.size for f in self.features), pairs, n * jets.z.shape[1])
            for start, stop in frame_chunks(len(at), max(1, ENTRIES // widest)):
                index = at[start:stop]
                found = self._rows(jets[index], features, expansions)
                out[index] += found if which is not None else found * factors[index, k, None, None]
        return out

    def _rows(self, jets: Jets, features: list[Tensor], expansions: list) -> Tensor:
        """The rows of some environments for one function of state."""
        n = features[0].shape[1]
        out = jets.z.new_zeros(len(jets.z), jets.rows, n)
        for feature, weights in zip(self.features, features, strict=True):
            out += _jet_rows(jets, *feature.jet_product(jets.z, weights, jets.w is not None))
        for nodes, c, w in expansions:
            columns = 1 if w is None else 1 + nodes.shape[1]
            # a Gram and one matrix product, or the kernel's own pass over the pairs for every draw: by operations
            if jets.rows * columns * (12 + n) < 32 * n:
                gram = self.kernel.gram(jets, Jets.values(nodes) if w is None else Jets.full(nodes))
                out += (gram.flatten(0, 1).flatten(1) @ _stacked(c, w)).reshape(out.shape)
            else:
                out += _jet_rows(jets, *self.kernel.jet_product(jets.z, nodes, c, w))
        return out


def _stacked(c: Tensor, w: Tensor | None) -> Tensor:
    """Coefficients of value and slopes of every node, below each other."""
    return c if w is None else torch.cat([c[:, None], w], 1).flatten(0, 1)


def _jet_rows(jets: Jets, value: Tensor, gradient: Tensor | None) -> Tensor:
    """c·value + w·gradient, shape (E, r, n)."""
    out = value.new_zeros(()) if jets.c is None else jets.c[:, :, None] * value[:, None]
    return out if jets.w is None else out + torch.einsum("erd,edn->ern", jets.w, gradient)


class PosteriorDraws:
    """Functions A that the data allow, n of them; made by :func:`pathwise_draws`.

    They are kept as deviations from the posterior mean, which is exact.

    Parameters
    ----------
    model
        The fitted model.
    terms
        Deviations of the functions of every term.
    mean
        Deviations of the weights of the mean functions, shape (X, size, n), or None.
    """

    def __init__(self, model, terms: list[TermDraws], mean: Tensor | None, n: int):
        self.model, self.terms, self.mean, self.n = model, terms, mean, n

    def __len__(self) -> int:
        return self.n

    def predict(
        self, X, quantity="free_energy", *, temperature=None, parameters=None, reference="auto"
    ) -> NDArray[np.float64]:
        """A quantity of every draw.

        Parameters
        ----------
        X
            Frames or array of configurations.
        quantity
            Quantity key or functional.
        temperature, parameters, reference
            As of :meth:`~kernelfe.FreeEnergyRegressor.predict`. With ``reference="mean"`` every draw has its own
            zero.

        Returns
        -------
        ndarray, shape (n, configurations, …)
            Time and memory are linear in configurations and draws. All calls read the same functions.
        """
        functional = functionals.get(quantity)
        with torch.no_grad():
            rows, states, baseline = self.model.rows(X, functional, temperature, parameters)
            posterior = self.model.posterior
            mean = predict_mean(posterior, rows) + baseline_rows(baseline, functional, states)
            values = mean[:, None] + self._deviations(rows)
            for index, origin in reference_groups(functional, states, reference, self.model.molecules.zero_known) or []:
                if origin is None:
                    values[index] -= values[index].mean(0)
                    continue
                values[index] -= self._at(functional, origin, baseline)
        shape = functional.shape(states.coordinate_shape, states.field_count)
        return values.T.reshape(self.n, len(states), *shape).cpu().numpy()

    def std(
        self, X, quantity="free_energy", *, temperature=None, parameters=None, reference="auto"
    ) -> NDArray[np.float64]:
        """Standard deviations, shape (configurations, …): root mean squares about the exact posterior mean.

        Their own relative error is 1/√(2n) from the draws, beside that of the random features. Arguments as of
        :meth:`predict`.
        """
        options = {"temperature": temperature, "parameters": parameters, "reference": reference}
        mean = self.model.predict(X, quantity, **options)
        return np.sqrt(np.mean((self.predict(X, quantity, **options) - mean) ** 2, axis=0))

    def _at(self, functional, states: States, baseline) -> Tensor:
        posterior = self.model.posterior
        rows = posterior.prior.rows(functional, states)
        mean = predict_mean(posterior, rows) + baseline_rows(baseline, functional, states)
        return mean[:, None] + self._deviations(rows)

    def _deviations(self, rows: RowBlock) -> Tensor:
        return read_rows(rows, self.terms, self.mean, self.n)


def read_rows(rows: RowBlock, terms: list[TermDraws], mean: Tensor | None, n: int) -> Tensor:
    """Draws of the rows of a block, shape (len(rows), n)."""
    out = rows.prior_mean.new_zeros(len(rows), n)
    for reads, draws in zip(rows.terms, terms, strict=True):
        for read in reads:
            factors = read.factors if read.jets.frame is None else read.factors[read.jets.frame]
            if len(read.jets.z):
                out += rows.scatter(draws.read(read.jets, factors), read.jets)
    if mean is not None:
        for features, factors in rows.mean:
            out += torch.einsum("ix,ik,xkn->in", features, factors, mean)
    return out


def pathwise_draws(model, n: int = 64, seed: int = 0, features: int = 1024) -> PosteriorDraws:
    """Functions drawn from the posterior of a fitted model, to read any quantity from.

    For n draws and N label rows this takes one solve with n right-hand sides. ``model.sample`` draws at given rows from
    their exact joint covariance, which takes the cube of the number of rows; this takes time linear in it, and the
    draws are functions: surfaces on fine grids, heat capacities at many temperatures, a draw followed by a sampler.

    Parameters
    ----------
    model
        A fitted model of any solver.
    n
        Draws. Standard deviations estimated from them have the relative error 1/√(2n).
    seed
        Whole number, not negative; the same seed gives the same functions.
    features
        Frequencies per term (and per part of a sum of kernels). The prior covariance of the draws is off by about
        features^-½ of the variance where environments differ; what the labels determine is not affected, for the update
        is exact.

    Raises
    ------
    DataError
        If a kernel has no known spectral density, or the numbers make no sense.
    SolverError
        If the linear systems cannot be solved.
    """
    n, features = (checked(k, v, Whole(least=1), "pathwise_draws") for k, v in (("n", n), ("features", features)))
    seed = checked("seed", seed, Whole(least=0), "pathwise_draws")
    posterior, prior = model.posterior, model.posterior.prior
    rng, device = np.random.default_rng(seed), prior.device
    with torch.no_grad():
        terms = []
        for t, term in enumerate(prior.terms):
            kernel = term.kernel
            found = [f.to(device) for f in features_of(kernel, term.width, features, [seed, t])]
            scale = term.variances().sqrt()[None, :, None]
            terms.append(TermDraws(kernel, found, [scale * _normal(rng, device, f.size, term.size, n) for f in found]))
        if isinstance(posterior, SparsePosterior):
            return PosteriorDraws(model, terms, _condition_sparse(posterior, terms, rng, n), n)
        mean = None
        if prior.mean is not None:
            scale = prior.mean.variances(device).sqrt()[:, None]
            mean = scale * _normal(rng, device, len(prior.mean.offset), prior.mean.size, n)
        observed = torch.cat([read_rows(block, terms, mean, n) for block in posterior.blocks])
        observed += torch.cat([_noise(label, posterior.noise, rng, n) for label in posterior.labels])
        mean = _condition(prior, posterior.blocks, -posterior.solve(observed), terms, mean)
        return PosteriorDraws(model, terms, mean, n)


def _normal(rng: np.random.Generator, like: torch.device, *shape: int) -> Tensor:
    """Standard normal numbers, the same on every device."""
    return torch.from_numpy(rng.standard_normal(shape)).to(like)


def _noise(label: LabelSet, noise: Any, rng: np.random.Generator, n: int) -> Tensor:
    """Draws of the noise of a label set, shape (rows, n)."""
    variances, _ = noise_variances(label, noise)
    if variances is not None:
        return variances.sqrt()[:, None] * _normal(rng, variances.device, len(variances), n)
    assert label.noise is not None
    frames, m = label.y.shape
    return (torch.linalg.cholesky(label.noise) @ _normal(rng, label.noise.device, frames, m, n)).flatten(0, 1)


def _condition(
    prior: Prior, blocks: list[RowBlock], weights: Tensor, terms: list[TermDraws], mean: Tensor | None
) -> Tensor | None:
    """Add K(·, X) weights to the draws, weights (rows, n); the weights of the mean functions are returned."""
    row, n = 0, weights.shape[1]
    for block in blocks:
        own = weights[row : row + len(block)]
        row += len(block)
        by_frame = own.reshape(block.frames, block.components, n)
        for term, reads, draws in zip(prior.terms, block.terms, terms, strict=True):
            for read in reads:
                jets = read.jets
                local = by_frame if jets.frame is None else by_frame[jets.frame]
                if jets.label is not None:
                    local = torch.gather(local, 1, jets.label[:, :, None].expand(-1, -1, n))
                factors = (read.factors if jets.frame is None else read.factors[jets.frame]) * term.variances()
                c = None if jets.c is None else torch.einsum("er,ern->en", jets.c, local)
                w = None if jets.w is None else torch.einsum("erd,ern->edn", jets.w, local)
                draws.add(Nodes(jets.z, c, w, factors))
        if mean is not None:
            for features, factors in block.mean:
                mean = mean + torch.einsum("ix,ik,in->xkn", features, factors * prior.mean.variances(prior.device), own)  # type: ignore[union-attr]
    return mean


def _condition_sparse(
    posterior: SparsePosterior, terms: list[TermDraws], rng: np.random.Generator, n: int
) -> Tensor | None:
    """Add K(·, Z) K_ZZ⁻¹ (u − f(Z)) to the draws, u from its posterior without its mean."""
    basis, prior = posterior.basis, posterior.prior
    noise = _normal(rng, prior.device, len(posterior.lower), n)
    drawn = torch.linalg.solve_triangular(posterior.lower.T, noise, upper=True)
    drawn, at = drawn * basis.amplitudes()[:, None], 0
    for t, (term, draws) in enumerate(zip(prior.terms, terms, strict=True)):
        jets, matrix, rank, size = basis.jets[t], basis.whitenings[t].matrix, basis.ranks[t], term.size
        units = torch.eye(size, dtype=torch.float64, device=prior.device)
        present = [draws.read(jets, unit.expand(len(jets.z), size)).flatten(0, 1) for unit in units]
        for k, wanted in enumerate(drawn[at : at + rank * size].reshape(size, rank, n)):
            coefficients = (matrix @ (wanted - matrix.T @ present[k])).reshape(len(jets.z), jets.rows, n)
            c = torch.einsum("er,ern->en", jets.c, coefficients)
            w = None if jets.w is None else torch.einsum("erd,ern->edn", jets.w, coefficients)
            draws.add(Nodes(jets.z, c, w, units[k].expand(len(jets.z), size)))
        at += rank * size
    if prior.mean is None:
        return None
    return drawn[at:].reshape(prior.mean.size, -1, n).transpose(0, 1)
