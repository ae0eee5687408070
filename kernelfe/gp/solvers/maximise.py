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

from ...errors import SolverError

logger = logging.getLogger(__name__)


def maximise(
    objective: Callable[[], Tensor],
    parameters: list[torch.nn.Parameter],
    max_iter: int,
    scale: float = 1.0,
    gain: float | None = None,
    reach: float = 14.0,
) -> float:
    """Maximise a differentiable objective over parameters by L-BFGS-B; they end at the best point tried.

    A trial point where the covariance cannot be factorized counts as very bad, not as an error. ``scale``, the
    number of labels, brings the gradient to order one: the first step then cannot leave the sensible region. A step
    that gains less than ``gain`` (None: 1e-7 of the scaled objective, and at most 0.005) is the last. No parameter, a
    logarithm, moves farther than ``reach`` from its start.
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

    def bad() -> float:  # a finite penalty of the size of the best value keeps the line search stable
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
        bounds=[(v - reach, v + reach) for v in start],
        options=_fine(max_iter, scale) if gain is None else _coarse(max_iter, gain / scale),
    )
    assign(best[1])
    if not math.isfinite(best[0]):
        raise SolverError(
            "the evidence could not be evaluated at the starting hyperparameters: check the labels' scales"
        )
    return best[0]


def _coarse(max_iter: int, gain: float) -> dict:
    """L-BFGS options for a noisy objective: loose tolerance, few line-search steps."""
    return {"maxiter": max_iter, "ftol": gain, "maxls": 6}


def _fine(max_iter: int, scale: float) -> dict:
    """L-BFGS options for an exact objective, whatever the number of labels.

    With many labels a step that is small per label may still gain much.
    """
    return {"maxiter": max_iter, "ftol": min(1e-7, 5e-3 / scale), "maxls": 20}
