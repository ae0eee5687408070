"""Concavity in temperature: A is concave in T at every R, C = −T ∂²A/∂T² = k b² Var(U|R) ≥ 0.

A Gaussian posterior does not include this condition; its probability of violation is that of a negative C under the
marginal normal. Conditioning on C ≥ 0 at chosen **virtual points** truncates the posterior f ~ N(m, G) of their heat
capacities. Two estimates of the truncated normal are offered:

- its **mode**, the projection of the posterior mean onto f ≥ 0, min (f − m)ᵀG⁻¹(f − m) subject to f ≥ 0. It
  is a non-negative least-squares problem (Lawson & Hanson 1974, ch. 23). Projection onto a convex set that contains the
  truth does not increase the error in the metric of the posterior.
- its **mean**, by expectation propagation (Minka 2001; for truncated normals Cunningham, Hennig & Lacoste-Julien, arXiv
  1111.6832; for shape constraints of Gaussian processes Riihimäki & Vehtari, AISTATS 2010), with smaller error bars.

Both are exactly those of an ordinary posterior with a few more labels, normal observations of C at some of the virtual
points. So the constrained model predicts, samples, freezes and is saved like any other.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import log_ndtr, ndtr

from ... import functionals
from ...arrays import real_array
from ...errors import DataError, SolverError
from ..observations.labels import CONCAVITY, LabelSet
from ..observations.noise_models import Given
from ..posterior import predict_mean

FloatArray = NDArray[np.float64]


def violation_probability(mean, std) -> FloatArray:
    """P(C < 0) of normal marginals; for a standard deviation of zero, 0 or 1.

    Parameters
    ----------
    mean, std
        Means and standard deviations of C, any shape.
    """
    mean, std = real_array(mean, "mean"), real_array(std, "std")
    known = np.where(mean < 0, 1.0, 0.0)
    return np.where(std > 0, ndtr(-mean / np.where(std > 0, std, 1.0)), known)


def constrained(model, read, estimate="mode", *, negligible=1e-10, max_points=4000):
    """A :class:`~kernelfe.gp.FreeEnergy` conditioned on C ≥ 0; see :func:`kernelfe.gp.enforce_concavity`.

    Parameters
    ----------
    model
        The model.
    read
        Rows of the heat capacities at the virtual points, and their states, as ``model.rows`` gives them.
    estimate
        "mode" or "mean".
    negligible
        Constraints that say less than this (precision relative to the posterior's) are left out.
    max_points
        Virtual points up to which a dense covariance of them is reasonable.
    """
    if estimate not in ("mode", "mean"):
        raise DataError(f"estimate={estimate!r}: use 'mode' or 'mean'")
    rows, states, _ = read
    if not 0 < len(states) <= max_points:
        raise DataError(f"enforce_concavity takes 1 to {max_points} virtual points, X has {len(states)}")
    posterior, functional = model.posterior, functionals.get("heat_capacity")
    with torch.no_grad():
        mean = predict_mean(posterior, rows).cpu().numpy()
        reducible = posterior.reducible(rows)
        covariance = reducible.cpu().numpy()
        scale = np.sqrt(np.diag(covariance).clip(0.0))
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise SolverError("a heat capacity at a virtual point has no variance: it cannot be conditioned on")
        find = projection if estimate == "mode" else truncation_sites
        tau, nu = find(mean / scale, covariance / np.outer(scale, scale))
        told = np.flatnonzero(tau > negligible)
        if len(told) == 0:
            return model
        index, y, noise = (
            torch.from_numpy(array).to(rows.prior_mean.device)
            for array in (told, scale[told] * nu[told] / tau[told], scale[told] * tau[told] ** -0.5)
        )
        virtual = LabelSet(CONCAVITY, functional, states[index], y[:, None], Given(noise[:, None]))
        found = posterior.with_observations(virtual, reducible[index][:, index])
    return replace(model, posterior=found, provenance=replace(model.provenance, concave=True))


def projection(
    mean: FloatArray, covariance: FloatArray, margin: float = 1e-6, loose: float = 1e4
) -> tuple[FloatArray, FloatArray]:
    """The mode of N(mean, covariance) cut off at f ≥ 0, as normal observations that move the mean there.

    With multipliers α ≥ 0 the mode is mean + covariance α, α_j f_j = 0. Written with a square root B of the covariance,
    f = mean + B x, it asks for the shortest x with B x ≥ −mean: least-distance programming, one NNLS problem. An
    observation f + α/τ of small precision τ has the weight α and leaves the covariance as it is.

    Parameters
    ----------
    mean, covariance
        In units of standard deviations: the covariance has ones on its diagonal.
    margin
        How far inside the allowed region the mode is kept, in posterior standard deviations: rounding.
    loose
        Noise of the observations that stand for the mode, in posterior standard deviations: so large that error bars
        stay as they are.

    Returns
    -------
    ndarray, ndarray
        Precisions τ, zero where the constraint is not active, and τ times the numbers observed; shape (n,).

    Raises
    ------
    SolverError
        If no f satisfies all constraints.
    """
    if mean.min() >= 0.0:
        return np.zeros_like(mean), np.zeros_like(mean)
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-14 * values[-1]
    root = vectors[:, kept] * np.sqrt(values[kept])
    lowest = margin - mean
    matrix = np.vstack([root.T, lowest])
    target = np.zeros(len(matrix))
    target[-1] = 1.0
    try:
        u, _ = nnls(matrix, target, maxiter=30 * len(mean))
    except RuntimeError as error:
        raise SolverError(f"the constraints at {len(mean)} virtual points: {error}; use fewer points") from error
    left = 1.0 - lowest @ u
    if left < 1e-12:
        raise SolverError("no heat capacities of the model satisfy all constraints: use fewer virtual points")
    multipliers = u / left
    precision = np.where(multipliers > 0.0, loose**-2, 0.0)
    mode = mean + root @ (root.T @ multipliers)
    return precision, precision * mode + multipliers


def truncation_sites(
    mean: FloatArray, covariance: FloatArray, sweeps: int = 200, unchanged: float = 1e-8
) -> tuple[FloatArray, FloatArray]:
    """Normal stand-ins for the constraints f_j ≥ 0 on f ~ N(mean, covariance), by expectation propagation.

    Site j multiplies the density by exp(−τ_j f_j²/2 + ν_j f_j): an observation ν/τ with variance 1/τ. τ and ν are such
    that each marginal has the mean and the variance of its cavity (the marginal without site j) cut off at zero.

    Parameters
    ----------
    mean, covariance
        In units of standard deviations: the covariance has ones on its diagonal.
    sweeps
        Sweeps over the constraints after which propagation counts as failed.
    unchanged
        Change of means and variances in a sweep that counts as none.

    Returns
    -------
    ndarray, ndarray
        τ ≥ 0 and ν, shape (n,).

    Raises
    ------
    SolverError
        If the sites do not settle.
    """
    tau, nu = np.zeros_like(mean), np.zeros_like(mean)
    sigma, mu = covariance.copy(), mean.copy()
    for _ in range(sweeps):
        before = mu.copy(), np.diag(sigma).copy()
        for j in range(len(mu)):
            variance, column = sigma[j, j], sigma[:, j].copy()
            free = 1.0 / variance - tau[j]  # precision of the cavity
            if free <= 0.0:
                continue
            middle = (mu[j] / variance - nu[j]) / free
            new_tau, new_nu = _cut(middle, free)
            d_tau, d_nu = new_tau - tau[j], new_nu - nu[j]
            share = 1.0 + d_tau * variance
            mu += column * ((d_nu - d_tau * mu[j]) / share)
            sigma -= np.outer(column, column) * (d_tau / share)
            tau[j], nu[j] = new_tau, new_nu
        sigma, mu = _joined(covariance, mean, tau, nu)  # afresh: updates gather rounding errors
        if max(np.abs(mu - before[0]).max(), np.abs(np.diag(sigma) - before[1]).max()) < unchanged:
            return tau, nu
    raise SolverError(
        f"the constraints at {len(mean)} virtual points did not settle in {sweeps} sweeps: use fewer points, or points "
        "that are farther apart"
    )


def _cut(middle: float, precision: float) -> tuple[float, float]:
    """The site that gives a normal of known middle and precision the moments of its part above zero."""
    root = math.sqrt(precision)
    z = middle * root
    ratio = math.exp(-0.5 * z * z - 0.5 * math.log(2.0 * math.pi) - float(log_ndtr(z)))  # φ/Φ
    left = 1.0 - ratio * (z + ratio)  # variance that is left, in units of the cavity's
    if z < -1e3:  # the difference above has lost its digits: an exponential is left over
        left = 1.0 / (z * z)
    tau = precision * (1.0 / left - 1.0)
    return max(tau, 0.0), (z + ratio) * root / left - z * root


def _joined(prior: FloatArray, start: FloatArray, tau: FloatArray, nu: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Covariance and mean of the normal with all its sites, by the well-conditioned I + τ^½ K τ^½."""
    root = np.sqrt(tau)
    lower = np.linalg.cholesky(np.eye(len(tau)) + root[:, None] * prior * root)
    half = np.linalg.solve(lower, root[:, None] * prior)
    sigma = prior - half.T @ half
    return sigma, start + sigma @ (nu - tau * start)
