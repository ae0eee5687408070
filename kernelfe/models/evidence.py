"""Hyperparameters by the evidence: length scales, prior scales and the noise of each label kind.

Every hyperparameter is positive, optimised as its logarithm, and has a weak log-normal prior about its
starting value, so what the data do not determine stays where it was. Small problems maximise the exact
log evidence with all gradients. Large ones maximise the collapsed bound of the sparse model: noise and
prior scales cost no pass over the data (:mod:`kernelfe.linalg.normal`), so they are optimised for every
trial of the length scales.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from ..errors import SolverError
from ..kernels.term import LOG_PRIOR_WIDTH
from ..linalg.normal import Stacked
from .dense import add_noise, noise_variances
from .labels import LabelSet
from .prior import Prior
from .sparse import SparseBasis, accumulate

logger = logging.getLogger(__name__)

#: How far the optimiser may move a logarithm from its start.
LOG_BOUND = 14.0
#: How far a search of the sparse model moves the logarithm of length scales, and of any other number of a kernel.
SEARCH, WIDE_SEARCH = 0.7, 2.0


class NoiseLevels(torch.nn.Module):
    """Learned noise of each label kind, a power law in temperature: σ(T) = σ₀ (T/T0)^p.

    A single frame's energy scatters by T·sqrt(k C), its forces by more at higher T too: one number per kind
    would give cold frames too little weight and hot ones too much.

    Parameters
    ----------
    start
        Starting values of σ₀ by kind.
    reference
        T0, K.
    exponent
        Whether to learn p; it stays 0 otherwise (labels at a single temperature).
    """

    def __init__(self, start: dict[str, float], reference: float = 300.0, exponent: bool = False):
        super().__init__()
        self.kinds, self.reference = list(start), reference
        self.register_buffer(
            "start", torch.tensor([math.log(v) for v in start.values()], dtype=torch.float64, device="cpu")
        )
        self.log_noise = torch.nn.Parameter(self.start.clone())
        self.exponent = torch.nn.Parameter(torch.zeros_like(self.start), requires_grad=exponent)

    @classmethod
    def of(cls, values: dict[str, tuple[float, float]], reference: float) -> NoiseLevels:
        """Levels with known values, the inverse of :meth:`values`."""
        out = cls({kind: float(sigma) for kind, (sigma, _) in values.items()}, reference)
        out.exponent.data.copy_(out.start.new_tensor([float(p) for _, p in values.values()]))
        return out.requires_grad_(False)

    def levels(self, kinds: list[str], temperature: Tensor) -> Tensor:
        """Standard deviations for pairs of kind and temperature; one where noise is given with the labels."""
        index = [self.kinds.index(kind) if kind in self.kinds else -1 for kind in kinds]
        if not self.kinds:
            return temperature.new_ones(len(kinds))
        at = torch.tensor(index, device=temperature.device)
        known, at = at < 0, at.clamp_min(0)
        learned = (self.log_noise[at] + self.exponent[at] * torch.log(temperature / self.reference)).exp()
        return torch.where(known, torch.ones_like(learned), learned)

    def hyperprior(self) -> Tensor:
        """Log density of the weak priors, up to a constant."""
        level = ((self.log_noise - self.start) / LOG_PRIOR_WIDTH) ** 2
        return -0.5 * (level + ((self.exponent - 0.5 * self.exponent.requires_grad) / 1.0) ** 2).sum()

    def values(self) -> dict[str, tuple[float, float]]:
        """(σ₀, p) by kind."""
        exponents = self.exponent.detach().tolist()
        return {
            k: (math.exp(v), p) for k, v, p in zip(self.kinds, self.log_noise.detach().tolist(), exponents, strict=True)
        }


def dense_log_evidence(prior: Prior, labels: list[LabelSet], noise: NoiseLevels) -> Tensor:
    """log N(y | prior mean, K + noise), differentiable in all hyperparameters.

    The same number as gpytorch's ``ExactMarginalLogLikelihood`` times the number of labels (that is the
    test oracle); computed here because gpytorch clamps noise variances at an absolute 1e-6, which is
    larger than those of labels in eV/K, and switches to loose iterations at 800 rows.
    """
    blocks = [label.kept_rows(prior) for label in labels]
    gram = torch.cat([torch.cat([prior.gram(a, b) for b in blocks], 1) for a in blocks])
    fixed = (
        torch.zeros_like(gram) if any(label.noise is not None and label.noise.ndim == 3 for label in labels) else None
    )
    parts, row, tempered = [], 0, gram.new_zeros(())
    for label in labels:
        variances, more = noise_variances(label, noise)
        tempered = tempered + more
        if variances is None:
            assert fixed is not None
            add_noise(fixed, row, label, noise)
            variances = gram.new_zeros(len(label))
        parts.append(variances)
        row += len(label)
    diagonal = torch.cat(parts)
    gram = gram + torch.diag(diagonal)
    if fixed is not None:
        gram = gram + fixed
    residual = torch.cat([label.y.reshape(-1) for label in labels]) - torch.cat([b.prior_mean for b in blocks])
    gram = gram + 1e-12 * torch.diag(gram.detach().diagonal())  # row by row: labels come in different units
    lower, info = torch.linalg.cholesky_ex(gram)
    if int(info):
        raise SolverError("the covariance of the labels is not positive definite")
    half = torch.linalg.solve_triangular(lower, residual[:, None], upper=False)[:, 0]
    constant = len(residual) * math.log(2.0 * math.pi)
    return tempered - 0.5 * (half @ half + 2.0 * lower.diagonal().log().sum() + constant)


def maximise(
    objective: Callable[[], Tensor],
    parameters: list[torch.nn.Parameter],
    max_iter: int,
    scale: float = 1.0,
    gain: float | None = None,
) -> float:
    """Maximise a differentiable objective over parameters by L-BFGS-B; they end at the best point seen.

    A trial point where the covariance cannot be factorized counts as very bad, not as an error. ``scale``, the
    number of labels, brings the gradient to order one: the first step then cannot leave the sensible region. A step
    that gains less than ``gain`` (None: 1e-6 of the scaled objective) is the last.
    """
    if not parameters:  # everything is fixed
        return objective().item()
    start = torch.cat([p.detach().reshape(-1) for p in parameters]).cpu().numpy().copy()
    best = (-math.inf, start)
    origin: float | None = None  # the first value: what is minimised, and when that ends, must not depend on units

    def assign(x: np.ndarray) -> None:
        values = torch.from_numpy(x).to(parameters[0].device)  # all of them cross the bus together
        for p, part in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
            p.data.copy_(part.reshape(p.shape))

    def bad() -> float:  # worse than anything seen, yet of its size: the line search interpolates and comes back
        gained = best[0] - (origin or 0.0)
        return 1e25 if best[0] == -math.inf else (10.0 * (1.0 + abs(gained)) - gained) / scale

    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, origin
        assign(x)
        for p in parameters:
            p.grad = None
        try:
            value = objective()
            value.backward()
        except SolverError:
            return bad(), np.zeros_like(x)
        slopes = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
        result, *gradient = torch.cat([value.detach().reshape(1), *slopes]).tolist()
        gradient = np.array(gradient)
        if not math.isfinite(result) or not np.isfinite(gradient).all():
            return bad(), np.zeros_like(x)
        if result > best[0]:
            best = (result, x.copy())
        origin = result if origin is None else origin
        return (origin - result) / scale, -gradient / scale

    scipy.optimize.minimize(
        negative,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(v - LOG_BOUND, v + LOG_BOUND) for v in start],
        options={"maxiter": max_iter, "ftol": 1e-6, "maxls": 20} if gain is None else _coarse(max_iter, gain / scale),
    )
    assign(best[1])
    if not math.isfinite(best[0]):
        raise SolverError(
            "the evidence could not be evaluated at the starting hyperparameters: check the labels' scales"
        )
    return best[0]


def _coarse(max_iter: int, gain: float) -> dict:
    """Options of a search whose objective is known to an error only: it stops early, and does not look for long."""
    return {"maxiter": max_iter, "ftol": gain, "maxls": 6}


def fit_dense(prior: Prior, labels: list[LabelSet], noise: NoiseLevels, max_iter: int = 60) -> float:
    """Maximise the exact log evidence; ``prior`` and ``noise`` are changed in place."""
    parameters = [
        *(p for p in prior.parameters() if p.requires_grad),
        *(p for p in noise.parameters() if p.requires_grad and noise.kinds),
    ]
    return maximise(
        lambda: dense_log_evidence(prior, labels, noise) + prior.hyperpriors() + noise.hyperprior(),
        parameters,
        max_iter,
        scale=float(sum(len(label) for label in labels)),
    )


def fit_scales(prior: Prior, noise: NoiseLevels, stacked: Stacked, max_iter: int) -> float:
    """Maximise the evidence over prior scales and noise with the length scales as they are: no pass over the data.

    Parameters
    ----------
    stacked
        All labels, accumulated in the basis of the present length scales.
    """
    free = [*(term.log_scales for term in prior.terms), *(noise.parameters() if noise.kinds else [])]

    def objective() -> Tensor:
        levels = noise.levels(stacked.kinds, stacked.temperature) ** 2
        evidence = stacked.log_evidence(prior.variances(), levels, bound=False)
        return evidence + prior.hyperpriors() + noise.hyperprior()

    return maximise(objective, [p for p in free if p.requires_grad], max_iter, scale=float(stacked.count.sum()))


def fit_sparse(
    prior: Prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    inducing: list[Tensor],
    *,
    gradients: bool = False,
    block_rows: int = 8192,
    evaluations: int = 4,
    progress=None,
) -> float:
    """Maximise the evidence of the sparse model; ``prior`` and ``noise`` are changed in place.

    What the kernels are made of (length scales by one common factor per kernel, every other number by itself) by
    bounded scalar searches in turn, twice where a term has several to search; everything else by gradients within each
    trial.
    """
    best: list = [-math.inf, None]

    def snapshot():
        return [p.detach().clone() for p in [*prior.parameters(), *noise.parameters()]]

    def restore(saved):
        for p, value in zip([*prior.parameters(), *noise.parameters()], saved, strict=True):
            p.data.copy_(value)

    def trial(max_iter: int) -> float:
        with torch.no_grad():
            stacked = accumulate(SparseBasis(prior, inducing, gradients), labels, block_rows)

        value = fit_scales(prior, noise, stacked, max_iter)
        if value > best[0]:
            best[:] = [value, snapshot()]
        if progress is not None:
            progress.update(1)
        return value

    trial(30)
    for index, term in enumerate(prior.terms):
        if term.spec.fixed:
            continue
        directions = term.spec.kernel.directions()
        for name, at in directions * (1 if len(directions) == 1 else 2):
            parameter, reach = term.log_hyperparameter(name), SEARCH if at is None else WIDE_SEARCH
            start = parameter.detach().clone()
            chosen = slice(None) if at is None else slice(at, at + 1)

            def shifted(shift: float, parameter=parameter, start=start, chosen=chosen) -> float:
                restore(best[1])
                parameter.data.copy_(start)
                parameter.data[chosen] += shift
                return -trial(6)

            scipy.optimize.minimize_scalar(
                shifted, bounds=(-reach, reach), method="bounded", options={"maxiter": evaluations, "xatol": 0.1}
            )
            restore(best[1])
        logger.info(
            "term %d: %s", index, {name: term.log_hyperparameter(name).exp().tolist() for name, _ in directions}
        )
    return best[0]
