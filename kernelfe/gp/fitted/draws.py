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

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import functionals
from ...kernels import Jets, Kernel, features_of
from ...kernels.features import Features
from ...kernels.jets import plus
from ...runtime.seeds import whole_seed
from ...runtime.threads import one_thread
from ...specs import SEED, Whole, checked
from ..observations.labels import baseline_rows
from ..posterior import Nodes, predict_mean, read_rows
from ..prior.rows import RowBlock, frame_chunks
from ..solvers.exact import normal
from ..states import States
from .predict import reference_groups


class TermDraws:
    """n draws of the functions g_k of one term: features with normal weights, plus expansions on nodes.

    Parameters
    ----------
    kernel
        Of the term.
    features, weights
        Features of the kernel and their weights, prior scales included, shapes (features, size, n).
    """

    #: Numbers held at a time while draws are read: memory only.
    entries_at_once: ClassVar[int] = 1 << 22

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
        out = factors.new_zeros(len(jets), jets.rows, n)
        states, which = torch.unique(factors, dim=0, return_inverse=True)
        if len(states) > size:  # many temperatures: function by function instead
            states, which = torch.eye(size, dtype=factors.dtype, device=factors.device), None
        for k, state in enumerate(states):
            at = torch.arange(len(jets), device=factors.device) if which is None else torch.nonzero(which == k)[:, 0]
            features = [torch.einsum("fkn,k->fn", weights, state) for weights in self.weights]
            expansions: list[tuple[Tensor, Tensor, Tensor | None]] = []
            for group in self.nodes:
                c, w = group[0].along(state)
                for nodes in group[1:]:
                    more = nodes.along(state)
                    c, w = c + more[0], plus(w, more[1])
                expansions.append((group[0].z, c.expand(-1, n).contiguous(), w))
            pairs = sum(len(z) * jets.rows * (1 + z.shape[1]) for z, _, _ in expansions)
            widest = max(*(f.size for f in self.features), pairs, n * jets.z.shape[1])
            for start, stop in frame_chunks(len(at), max(1, self.entries_at_once // widest)):
                index = at[start:stop]
                found = self._rows(jets[index], features, expansions)
                out[index] += found if which is not None else found * factors[index, k, None, None]
        return out

    def _rows(self, jets: Jets, features: list[Tensor], expansions: list) -> Tensor:
        """The rows of some environments for one function of state."""
        n = features[0].shape[1]
        out = jets.z.new_zeros(len(jets), jets.rows, n)
        for feature, weights in zip(self.features, features, strict=True):
            out += jets.read(*feature.jet_product(jets.z, weights, jets.reads_slopes))
        for nodes, c, w in expansions:
            columns = 1 if w is None else 1 + nodes.shape[1]
            # a Gram and one matrix product, or the kernel's own pass over the pairs for every draw: by operations
            if jets.rows * columns * (12 + n) < 32 * n:
                gram = self.kernel.gram(jets, Jets.values(nodes) if w is None else Jets.full(nodes))
                out += (gram.flatten(0, 1).flatten(1) @ _stacked(c, w)).reshape(out.shape)
            else:
                out += jets.read(*self.kernel.jet_product(jets.z, nodes, c, w))
        return out


def _stacked(c: Tensor, w: Tensor | None) -> Tensor:
    """Coefficients of value and slopes of every node, below each other."""
    return c if w is None else torch.cat([c[:, None], w], 1).flatten(0, 1)


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

    @one_thread()
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

    @one_thread()
    def std(
        self, X, quantity="free_energy", *, temperature=None, parameters=None, reference="auto"
    ) -> NDArray[np.float64]:
        """Standard deviations, shape (configurations, …): root mean squares about the exact posterior mean.

        Their relative error is 1/√(2n) from the draws, in addition to that of the random features. Arguments as of
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
        Whole number; the same seed gives the same functions. None: others at every call.
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
    seed = whole_seed(checked("seed", seed, SEED, "pathwise_draws"))
    posterior, prior = model.posterior, model.posterior.prior
    rng, device = np.random.default_rng(seed), prior.device
    with torch.no_grad():
        terms = []
        for t, term in enumerate(prior.terms):
            kernel = term.kernel
            found = [f.to(device) for f in features_of(kernel, term.width, features, [seed, t])]
            scale = term.variances().sqrt()[None, :, None]
            terms.append(TermDraws(kernel, found, [scale * normal(rng, device, f.size, term.size, n) for f in found]))
        correction = posterior.correction(terms, rng, n)
        for draws, more in zip(terms, correction.terms, strict=True):
            for nodes in more:
                draws.add(nodes)
        return PosteriorDraws(model, terms, correction.mean, n)
