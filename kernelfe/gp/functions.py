"""Methods of a fitted model as functions: what they do, in full.

``model`` is a fitted :class:`~kernelfe.FreeEnergyRegressor` or a :class:`~kernelfe.gp.FreeEnergy`; what returns a model
returns another one of the same type, and leaves the one passed in as it was.
"""

from __future__ import annotations

import numpy as np

from ..frames import Frames
from .fitted.draws import PosteriorDraws
from .fitted.ensemble import HyperparameterEnsemble, ensemble_of
from .fitted.model import FreeEnergy
from .fitted.predictive import JointPredictive


def condition(model, frames: Frames, labels=None, noise=None):
    """Condition a model on more labels, without fitting it again (``model.condition``).

    Parameters
    ----------
    model
        A fitted model.
    frames
        Configurations of the same molecule with new labels. Temperatures may be new.
    labels
        Label kinds to condition on; None: all that are present.
    noise
        Standard deviations by label kind, overriding those of the Frames. Kinds without any take the level that the
        fit learned.

    Returns
    -------
    FreeEnergyRegressor or FreeEnergy

    Raises
    ------
    DataError
        If the frames are of another molecule, a kind of label has no noise that is given or was learned, or the model
        is one of several molecules, of correlated noise, or conditioned on a density or on C ≥ 0.
    SolverError
        If the new labels contradict each other beyond their noise in float64.
    """
    return model.condition(frames, labels, noise)


def enforce_concavity(model, X, *, temperature=None, parameters=None, estimate="mode"):
    """Condition a model on C(R, T) ≥ 0 at virtual points (``model.concave``).

    Between the points nothing is enforced, but heat capacities are correlated: points within a length scale of each
    other leave little room. Check with ``model.concavity_violation``.

    Parameters
    ----------
    model
        A fitted model.
    X
        Virtual points: Frames, or configurations with ``temperature`` (K) and ``parameters`` as in ``predict``. For
        :class:`~kernelfe.kernels.SecondOrder`, whose C does not depend on T, one temperature is enough.
    estimate : "mode" or "mean"
        "mode": the least change of the prediction that is allowed; error bars stay those of the model given.
        "mean": mean and error bars of the truncated posterior. It keeps a distance from C = 0 that grows with the
        error bars and with the number of virtual points, so it needs a good prior.

    Returns
    -------
    FreeEnergyRegressor or FreeEnergy
        Predicted C are not negative at the virtual points. Hyperparameters and ``log_evidence_`` are those of the
        model given.

    Raises
    ------
    DataError
        If virtual points are missing or too many, or ``estimate`` is unknown.
    SolverError
        If the constrained posterior cannot be found.
    """
    return model.concave(X, temperature=temperature, parameters=parameters, estimate=estimate)


def pathwise_draws(model, n: int = 64, seed: int = 0, features: int = 1024) -> PosteriorDraws:
    """Draw functions from the posterior of a fitted model, to read any quantity from (``model.draws``).

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
    return model.draws(n, seed, features)


def hyperparameter_ensemble(model, draws: int = 16, seed: int = 0) -> HyperparameterEnsemble:
    """Draw hyperparameters that the labels allow, and condition a model with each of them (``model.ensemble``).

    Parameters
    ----------
    model
        A model fitted by the dense solver.
    draws
        Models in the ensemble.
    seed
        Of the draws.

    Returns
    -------
    HyperparameterEnsemble
        Predicts like one model, with error bars that include the uncertainty of the hyperparameters.

    Raises
    ------
    DataError
        If the model was fitted by another solver (a sparse model keeps none of its labels), without fitting any
        hyperparameter, or is conditioned on C ≥ 0.
    SolverError
        If no draw can be conditioned.
    """
    return ensemble_of(model, draws, seed) if isinstance(model, FreeEnergy) else model.ensemble(draws, seed)


def noise_covariance(model, frames: Frames, kinds=None) -> np.ndarray:
    """Noise covariance of the labels of single frames (``model.noise_covariance``).

    Parameters
    ----------
    model
        A fitted model of one molecule.
    frames
        n frames with temperatures (and displacement fields); their labels are not used.
    kinds
        Label kinds whose noise was learned, in order; None: all of these.

    Returns
    -------
    ndarray, shape (n, M, M)
        M numbers of a frame, kind after kind. Where the forces on all beads of every training frame add up to zero,
        the covariance is singular in the same way.

    Raises
    ------
    DataError
        If the model has not learned the noise of a kind.
    """
    return model.noise_covariance(frames, kinds)


def joint_predictive(model, frames: Frames, kinds=None, kept=None) -> JointPredictive:
    """Joint predictive density of the labels of each frame (``model.predictive``).

    Parameters
    ----------
    model
        A fitted model that learned the noise of ``kinds``.
    frames
        n frames not used in training, each with all the labels.
    kinds
        Label kinds; None: all whose noise the model learned.
    kept
        Mask (M,) of the numbers of a frame to look at, kind after kind; None: all. Leave redundant ones out (the
        forces on one bead, where those on all add up to zero): their covariance is singular.

    Raises
    ------
    DataError
        If a label is missing, or the covariance of a frame's labels is singular.
    """
    return model.predictive(frames, kinds, kept)
