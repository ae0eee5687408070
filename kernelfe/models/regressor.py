"""The estimator: fit on any mix of labels, predict any quantity with its error bar."""

from __future__ import annotations

import logging

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import functionals
from ..errors import DataError
from ..frames import Frames
from . import assemble
from .concavity import violation_probability
from .conditioning import condition_in_turn, natural_levels
from .domain import Domain, require_domain
from .evidence import NoiseLevels
from .frozen import FrozenModel, PeriodicFrozenModel
from .labels import baseline_rows, difference
from .noise import CorrelatedNoise
from .posterior import predict_mean
from .prior import frame_chunks
from .reference import reference_groups, relative_std, zero
from .solvers import choose_solver
from .states import States

logger = logging.getLogger(__name__)

#: Frames per batch of a prediction.
PREDICT_FRAMES = 1024


class FreeEnergyRegressor(RegressorMixin, BaseEstimator):
    """Gaussian-process model of a coarse-grained free energy A(R; T, λ).

    Conditions jointly on any mix of linear functionals of A (forces, mean energies, responses, differences
    …, see :mod:`kernelfe.functionals`) at any temperatures, and predicts any of them with error bars.

    Parameters
    ----------
    terms : Term, list of (name, Term) or None
        The sum that models A; None: one term on all bead distances (or on the variables).
    solver : "auto", "dense", "sparse", Dense or Sparse
        How to condition; "auto" says why it chose in ``solver_reason_``.
    baseline : spec, None or False
        Physical baseline subtracted from every label; None: Boltzmann inversion for molecules, False: none.
    optimizer : "evidence" or None
        "evidence" fits length scales, prior scales and noise, starting from the numbers in the specs;
        None keeps the numbers (and the starting values from the data where there are none).
    labels : list of str or None
        Label kinds to condition on; None: all that are present.
    noise : dict, CorrelatedNoise or None
        Standard deviations by label kind (number, array or RelativeNoise), overriding those of the Frames. Kinds
        without any are learned: one level per kind, or with the correlations of :class:`CorrelatedNoise`.
    temperature : float
        Temperature in K for plain arrays, and for predictions on arrays that state none.
    random_state : int or None
        Seed of the random subsets on which hyperparameters are fitted, not negative; None: another every time.
    progress : bool
        Show progress bars.

    Attributes
    ----------
    terms_ : list of (name, TermModule)
        Fitted terms; ``fitted_terms()`` gives them as specs.
    noise_ : dict
        Learned noise of each label kind, (σ₀, p): standard deviation σ₀ (T/T0)^p with T0 = ``noise_temperature_``.
    noise_model_ : FittedNoise or None
        The correlated noise, if that was asked for; see :func:`~kernelfe.models.noise_covariance`.
    solver_, solver_reason_ : spec, str
        The solver used and why.
    log_evidence_ : float
        Log evidence (or its collapsed lower bound) of the labels.
    density_ : dict or None
        Temperature → effective number of frames whose density the model was conditioned on (kernelfe.training);
        None for labels alone.
    """

    def __init__(
        self,
        terms=None,
        solver="auto",
        baseline=None,
        optimizer="evidence",
        labels=None,
        noise=None,
        temperature=300.0,
        random_state=0,
        progress=False,
    ):
        self.terms = terms
        self.solver = solver
        self.baseline = baseline
        self.optimizer = optimizer
        self.labels = labels
        self.noise = noise
        self.temperature = temperature
        self.random_state = random_state
        self.progress = progress

    # ------------------------------------------------------------------ fit

    def fit(self, X, y=None) -> FreeEnergyRegressor:
        """Condition on data.

        Parameters
        ----------
        X : Frames, or array of shape (n, d) or (n, beads, 3)
        y : None, array of shape (n,) or dict
            None for Frames; free energies (eV) at ``temperature``; or labels by quantity key together with
            ``"temperature"`` and, where needed, ``"displacements"`` and ``"parameters"``.

        Raises
        ------
        DataError
            If the data are incomplete or inconsistent; the message names the culprit.
        SolverError
            If the covariance of the labels cannot be factorized.
        """
        before = dict(self.__dict__)
        try:
            return self._fit(X, y)
        except BaseException:  # an interrupted fit, too, leaves the former one as it was
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _fit(self, X, y) -> FreeEnergyRegressor:
        if self.optimizer not in ("evidence", None):
            raise DataError(f"optimizer={self.optimizer!r}: use 'evidence' or None")
        frames = self._training_frames(X, y)
        composition = assemble.composition(frames)
        baseline = assemble.fit_baseline(self.baseline, frames)
        labels = assemble.label_sets(frames, self.labels, self.noise, baseline, composition.counts)
        rows = sum(len(label) for label in labels)
        solver, reason = choose_solver(self.solver, rows)
        logger.info("%s solver: %s", type(solver).__name__, reason)
        names, prior, noise_start, reference = assemble.build_prior(self.terms, frames, labels, composition.counts)
        noise = NoiseLevels(noise_start, reference, exponent=len(np.unique(frames.temperature)) > 1)
        rng = _generator(self.random_state)
        spec = self.noise if isinstance(self.noise, CorrelatedNoise) else None
        evidence = self.optimizer == "evidence"
        found = condition_in_turn(spec, solver, prior, labels, noise, rng, evidence, self.progress)
        posterior = found.posterior
        self.solver_, self.solver_reason_ = solver, reason
        self.composition_, self.baseline_, self.posterior_ = composition, baseline, posterior
        self.terms_ = list(zip(names, prior.terms, strict=True))
        self.noise_, self.noise_temperature_ = natural_levels(found), noise.reference
        self.noise_levels_, self.noise_model_ = found.levels.values(), found.noise
        self.log_evidence_ = posterior.log_evidence
        self.density_: dict[float, float] | None = None
        self.parameters_ = sorted(frames.parameters)
        self.coordinate_shape_ = tuple(frames.coordinates.shape[1:])
        self.kinds_, self.masses_, self.periodic_ = frames.kinds, frames.masses, frames.cell is not None
        self.temperatures_ = sorted({float(t) for t in np.unique(frames.temperature)})
        self.zero_known_ = any(label.kind == "free_energy" for label in labels)
        self.domain_: Domain | None = Domain.of(list(prior.terms), frames)
        return self

    def _training_frames(self, X, y) -> Frames:
        if isinstance(X, Frames):
            if y is not None:
                raise DataError("Frames carry their labels: call fit(frames) without y")
            self._forget_columns()
            return X
        if isinstance(y, dict):
            self._forget_columns()
            labels = dict(y)
            if "temperature" not in labels:
                raise DataError("labels given as a dict need a 'temperature' entry (K): no temperature is assumed")
            extra = {k: labels.pop(k) for k in ("temperature", "displacements", "parameters") if k in labels}
            X = _numbers(X)
            return Frames.from_arrays(**{"positions" if X.ndim == 3 else "variables": X}, labels=labels, **extra)
        if y is not None and _dimensions(X) == 3:  # scikit-learn checks tables only
            self._forget_columns()
            return Frames.from_arrays(_numbers(X), temperature=self.temperature, labels={"free_energy": y})
        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64, multi_output=False)
        return Frames.from_arrays(variables=X, temperature=float(self.temperature), labels={"free_energy": y})

    def _forget_columns(self) -> None:
        """What scikit-learn remembers of an earlier fit to plain arrays."""
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)

    # -------------------------------------------------------------- predict

    def predict(self, X, quantity=None, *, temperature=None, return_std=False, reference="auto", parameters=None):
        """Predict a quantity.

        Parameters
        ----------
        X : Frames, or array of shape (n, d) or (n, beads, 3)
        quantity : str or Functional
            What to predict; also kinds never seen in training. None: ``"free_energy"``.
        temperature : float or array of shape (n,)
            K; None: that of the Frames, or the estimator's for arrays.
        return_std : bool
            Also return the marginal posterior standard deviation (of the quantity, without label noise).
        reference : "auto", "mean", int or None
            Zero of free energies, at each temperature: the mean over the rows of X at it, the configuration of
            one row of X, or None for the absolute value. "auto": None if the training labels fix it (they held
            free energies), else "mean".
        parameters : dict
            Values of λ for arrays; Frames carry their own.

        Returns
        -------
        ndarray, or two of them
            Shape (n,) for scalars, (n, beads, 3) or (n, d) for vectors, (n, k) along displacement fields.
        """
        check_is_fitted(self, "posterior_")
        frames = self._frames(X, temperature, parameters)
        functional = functionals.get(quantity if quantity is not None else "free_energy")
        states = self._states(frames, temperature)
        shape = (len(states), *functional.shape(states.coordinate_shape, states.field_count))
        groups = reference_groups(functional, states, reference, self.zero_known_)
        mean, std = [], []
        with torch.no_grad():
            for start, stop in frame_chunks(len(states), PREDICT_FRAMES):
                part = states[start:stop]
                rows = self.posterior_.prior.rows(functional, part)
                mean.append(predict_mean(self.posterior_, rows) + baseline_rows(self.baseline_, functional, part))
                if return_std and groups is None:
                    std.append(self.posterior_.variance(rows).clamp_min(0.0).sqrt())
            values = torch.cat(mean) if mean else states.temperature.new_zeros(0)
            if return_std and not mean:
                std.append(values)
            if groups is not None:
                for index, origin in groups:
                    values[index] -= zero(self.posterior_, self.baseline_, functional, values[index], origin)
                    if return_std:
                        std.append(relative_std(self.posterior_, functional, states[index], origin))
                if return_std:
                    order = torch.cat([index for index, _ in groups])
                    ordered = torch.empty_like(values)
                    ordered[order] = torch.cat(std)
                    std = [ordered]
        mean_array = values.reshape(shape).numpy()
        return (mean_array, torch.cat(std).reshape(shape).numpy()) if return_std else mean_array

    def predict_difference(self, X1, X2, temperature1=None, temperature2=None, return_cov=False):
        """Free-energy differences A(X2; T2) − A(X1; T1), row by row, eV.

        Parameters
        ----------
        X1, X2 : Frames or arrays with n rows each
        temperature1, temperature2 : float or array of shape (n,)
        return_cov : bool
            Also return their posterior covariance, shape (n, n).
        """
        check_is_fitted(self, "posterior_")
        functional = functionals.get("free_energy")
        first = self._states(self._frames(X1, temperature1, None), temperature1)
        second = self._states(self._frames(X2, temperature2, None), temperature2)
        if len(first) != len(second):
            raise DataError(f"predict_difference compares row by row: X1 has {len(first)} rows, X2 {len(second)}")
        prior = self.posterior_.prior
        with torch.no_grad():
            rows = difference(prior.rows(functional, second), prior.rows(functional, first))
            value = predict_mean(self.posterior_, rows)
            value = value + baseline_rows(self.baseline_, functional, second)
            value = value - baseline_rows(self.baseline_, functional, first)
            if not return_cov:
                return value.numpy()
            return value.numpy(), self.posterior_.covariance(rows, rows).numpy()

    def covariance(self, X, quantity="free_energy", other=None, *, temperature=None):
        """Posterior covariance of a quantity at all rows of X, or between two quantities.

        Returns
        -------
        ndarray, shape (n·m, n·m')
            Rows frame by frame, components within; labels' noise is not included.
        """
        check_is_fitted(self, "posterior_")
        states = self._states(self._frames(X, temperature, None), temperature)
        with torch.no_grad():
            a = self.posterior_.prior.rows(functionals.get(quantity), states)
            b = a if other is None else self.posterior_.prior.rows(functionals.get(other), states)
            return self.posterior_.covariance(a, b).numpy()

    def concavity_violation(self, X, *, temperature=None, parameters=None):
        """Posterior probability that the predicted heat capacity is negative, P(C(R, T) < 0), shape (n,).

        True free energies are concave in T. Arguments as in :meth:`predict`; :func:`kernelfe.models.enforce_concavity`
        conditions on it.
        """
        found = self.predict(X, "heat_capacity", temperature=temperature, return_std=True, parameters=parameters)
        return violation_probability(*found)

    def score(self, X, y=None, sample_weight=None) -> float:
        """R² of mean_force for Frames, of free_energy for arrays. Single-frame labels bound it by their noise."""
        if isinstance(X, Frames):
            if "mean_force" not in X.labels or not X.present["mean_force"].any():
                raise DataError("score(frames) compares mean_force, and these Frames hold none")
            part = X[np.flatnonzero(X.present["mean_force"])]
            truth = part.labels["mean_force"].reshape(len(part), -1)
            if sample_weight is not None:
                sample_weight = np.asarray(sample_weight)[X.present["mean_force"]]
            return r2_score(truth, self.predict(part, "mean_force").reshape(len(part), -1), sample_weight=sample_weight)
        return r2_score(y, self.predict(X, "free_energy", reference=None), sample_weight=sample_weight)

    def domain_score(self, X) -> np.ndarray:
        """How far from the training configurations those of X lie, shape (n,): above 1 a prediction is a guess.

        Distances between beads and the novelty of environments beside those of the training frames, see
        :mod:`kernelfe.models.domain`.

        Raises
        ------
        DataError
            If the model comes from a file of a version that did not store its domain.
        """
        check_is_fitted(self, "posterior_")
        anywhere = None if isinstance(X, Frames) else dict.fromkeys(self.parameters_, 0.0)
        states = self._states(self._frames(X, None, anywhere), None)
        return require_domain(self.domain_).score(states.coordinates, states.cell).numpy()

    # -------------------------------------------------------------- sampling

    def frozen(self, parameters: dict[str, float] | None = None) -> FrozenModel:
        """The model as samplers use it: energies and forces of batches of configurations.

        Parameters
        ----------
        parameters
            Values of the parameters λ.
        """
        check_is_fitted(self, "posterior_")
        if set(self.parameters_) != set(parameters or {}):
            raise DataError(f"the model depends on the parameters {self.parameters_}: pass parameters={{name: value}}")
        return (PeriodicFrozenModel if self.periodic_ else FrozenModel)(
            [term for _, term in self.terms_],
            self.posterior_.expansions,
            self.posterior_.prior.mean,
            self.posterior_.mean_weights,
            torch.tensor([self.composition_.counts], dtype=torch.float64),
            self.baseline_,
            self.coordinate_shape_[0],
            parameters,
            self.domain_,
        )

    def calculator(self, temperature=None, **options):
        """An ASE calculator of A(R; T) at ``temperature`` (K); ``options`` go to the calculator."""
        from ..calculators import FreeEnergyCalculator  # the one declared import upwards

        return FreeEnergyCalculator(self, self.temperature if temperature is None else temperature, **options)

    # ------------------------------------------------------------ persistence

    def fitted_terms(self) -> list:
        """The terms as specs that hold the fitted numbers."""
        check_is_fitted(self, "posterior_")
        return [(name, term.fitted_spec()) for name, term in self.terms_]

    def save(self, path) -> None:
        """Write the fitted model: safetensors with a versioned JSON header, never pickle; atomically."""
        from .persistence import save

        check_is_fitted(self, "posterior_")
        save(self, path)

    # ---------------------------------------------------------------- helpers

    def check_frames(self, frames: Frames) -> None:
        """Raise DataError unless Frames hold configurations of what the model was fitted to."""
        check_is_fitted(self, "posterior_")
        if tuple(frames.coordinates.shape[1:]) != self.coordinate_shape_:
            raise DataError(
                f"the model was fitted to configurations of shape {self.coordinate_shape_}, "
                f"these have {tuple(frames.coordinates.shape[1:])}"
            )
        if None not in (frames.kinds, self.kinds_) and frames.kinds != self.kinds_:
            raise DataError(f"the model was fitted to beads {self.kinds_}, these are {frames.kinds}: another molecule")
        if (frames.cell is not None) != self.periodic_:
            fitted, given = ("with", "no") if self.periodic_ else ("without", "a")
            raise DataError(f"the model was fitted to frames {fitted} a cell, these have {given} cell")

    def _frames(self, X, temperature, parameters) -> Frames:
        if isinstance(X, Frames):
            self.check_frames(X)
            if parameters:
                raise DataError("Frames carry their parameters: use frames.replace(parameters=…) to change them")
            return X
        if self.periodic_:
            raise DataError("the model was fitted to frames with a cell: pass Frames with cell= instead of an array")
        t = self.temperature if temperature is None else temperature
        if len(self.coordinate_shape_) == 2:
            X = _numbers(X)
            if X.ndim == 2:
                X = X[None]
            if X.shape[1:] != self.coordinate_shape_:
                raise DataError(f"positions must have shape (n, {self.coordinate_shape_[0]}, 3), these have {X.shape}")
            return Frames.from_arrays(positions=X, temperature=t, parameters=parameters or {})
        if hasattr(self, "n_features_in_"):
            X = validate_data(self, X, reset=False, dtype=np.float64)
        X = _numbers(X)
        if X.ndim != 2 or X.shape[1:] != self.coordinate_shape_:
            raise DataError(f"variables must have shape (n, {self.coordinate_shape_[0]}), these have {X.shape}")
        return Frames.from_arrays(variables=X, temperature=t, parameters=parameters or {})

    def _states(self, frames: Frames, temperature) -> States:
        counts = np.tile(self.composition_.counts, (len(frames), 1))
        return States.from_frames(frames, temperature, counts)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = False
        return tags


def _generator(seed) -> np.random.Generator:
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise DataError(f"random_state={seed!r}: pass a whole number that is not negative, or None") from error


def _dimensions(X) -> int:
    """Axes of an array-like; 0 for what is none, which others refuse with better words."""
    try:
        return np.ndim(X)
    except (TypeError, ValueError):
        return 0


def _numbers(X) -> np.ndarray:
    try:
        return np.asarray(X, dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError("X is no rectangular array of numbers: every row must have the same shape") from error
