"""The estimator: fit on any mix of labels, predict any quantity with its error bar."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted

from .. import functionals
from ..errors import DataError
from ..frames import Frames
from ..runtime.devices import device_of
from ..runtime.processes import Processes, launched
from ..runtime.seeds import generator
from .conditioning import condition_in_turn, natural_levels
from .default_terms import default_terms
from .fitted.concavity import violation_probability
from .fitted.domain import Domain, require_domain
from .fitted.frozen import FrozenModel, PeriodicFrozenModel
from .fitted.joint import JointPredictions, undefined_rows
from .fitted.predict import predicted, reference_groups
from .fitted.view import is_several, predict_each, require_one, view
from .observations.inputs import check_frames, prediction_frames, training_frames
from .observations.labels import baseline_rows, difference
from .observations.levels import NoiseLevels
from .observations.molecules import conditioned, remembered
from .observations.noise import CorrelatedNoise
from .posterior import predict_mean
from .solvers.sparse.check import enlarged
from .solvers.sparse.posterior import remark
from .solvers.specs import Dense, choose_solver
from .starting import build_prior
from .states import States

logger = logging.getLogger(__name__)


class FreeEnergyRegressor(JointPredictions, RegressorMixin, BaseEstimator):
    """Gaussian-process model of a coarse-grained free energy A(R; T, λ).

    Conditions jointly on any mix of linear functionals of A (forces, mean energies, responses, differences
    …, see :mod:`kernelfe.functionals`) at any temperatures, and predicts any of them with error bars.

    Parameters
    ----------
    terms : Term, list of (name, Term) or None
        The sum that models A; None: one term on all bead distances (or on the variables).
    solver : "auto", "dense", "iterative", "sparse", or a spec: Dense, Iterative, Sparse
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
        The correlated noise, if that was asked for; see :func:`~kernelfe.gp.noise_covariance`.
    solver_, solver_reason_ : spec, str
        The solver used and why.
    solver_check_ : SolverCheck or None
        With solver="auto", how a sparse answer compares with the exact one on a sample
        (:mod:`kernelfe.gp.solvers.sparse.check`).
    log_evidence_ : float
        Log evidence (or its collapsed lower bound) of the labels; nan for ``Iterative`` unless evidence_rows=None.
    density_ : dict or None
        Temperature → effective number of frames whose density the model was conditioned on (kernelfe.training);
        None for labels alone.
    concave_ : bool
        Whether C ≥ 0 was enforced somewhere (:func:`~kernelfe.gp.enforce_concavity`).
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
        X : Frames, list of Frames of several molecules, or array of shape (n, d) or (n, beads, 3)
            Molecules of a list need ``kinds`` (and mostly ``bonds``) and share terms and mean functions by them.
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
        frames = training_frames(self, X, y)
        composition, baseline, labels = conditioned(frames, self.baseline, self.labels, self.noise)
        rows = sum(len(label) for label in labels)
        solver, reason = choose_solver(self.solver, rows)
        logger.info("%s solver: %s", type(solver).__name__, reason)
        names, prior, noise_start, reference = build_prior(
            default_terms(self.terms, frames), frames, labels, composition.counts
        )
        noise = NoiseLevels(noise_start, reference, exponent=len(np.unique(frames.temperature)) > 1)
        # before processes meet: without a card there is nothing to wait for
        spec = self.noise if isinstance(self.noise, CorrelatedNoise) else None
        if device_of(solver).type != "cpu" and spec is not None:
            raise DataError(
                "CorrelatedNoise is estimated on the processor: use device='cpu', or give noise= by label kind or None"
            )
        evidence = self.optimizer == "evidence"
        automatic = isinstance(self.solver, str) and self.solver == "auto"
        # under torchrun, processes share the work of a large fit; a dense one each does for itself
        with nullcontext(Processes()) if isinstance(solver, Dense) else launched(device=solver.device) as processes:
            device = device_of(solver)
            prior, noise, labels = prior.to(device), noise.to(device), [label.to(device) for label in labels]
            rng = generator(self.random_state, solver, processes)
            found = condition_in_turn(spec, solver, prior, labels, noise, rng, evidence, self.progress, automatic)
        posterior = found.posterior
        self.solver_check_ = getattr(posterior, "check", None)
        self.solver_, self.solver_reason_ = enlarged(solver, self.solver_check_), reason + remark(posterior)
        self.composition_, self.baseline_, self.posterior_ = composition, baseline, posterior
        self.terms_ = list(zip(names, prior.terms, strict=True))
        self.noise_, self.noise_temperature_ = natural_levels(found), noise.reference
        self.noise_levels_, self.noise_model_ = found.levels.values(), found.noise
        self.log_evidence_ = posterior.log_evidence
        self.density_: dict[float, float] | None = None
        self.concave_ = False
        self.parameters_ = sorted(frames.parameters)
        self.molecule_ = None
        self.molecules_, (self.coordinate_shape_, self.kinds_, self.masses_, self.periodic_) = remembered(
            frames, labels
        )
        self.temperatures_ = sorted({float(t) for t in np.unique(frames.temperature)})
        self.zero_known_ = any(label.kind == "free_energy" for label in labels)
        several = not isinstance(frames, Frames)  # whose domain is not watched
        self.domain_: Domain | None = None if several else Domain.of(list(prior.terms), frames)
        return self

    # -------------------------------------------------------------- predict

    def predict(self, X, quantity=None, *, temperature=None, return_std=False, reference="auto", parameters=None):
        """Predict a quantity.

        Parameters
        ----------
        X : Frames, or array of shape (n, d) or (n, beads, 3)
            A model of several molecules takes Frames of any of them, of others made of the same kinds of beads, or
            a list of Frames, for which it returns lists.
        quantity : str or Functional
            What to predict; also kinds never seen in training. None: ``"free_energy"``.
        temperature : float or array of shape (n,)
            K; None: that of the Frames, or the estimator's for arrays.
        return_std : bool
            Also return the marginal posterior standard deviation (of the quantity, without label noise); infinite
            for derivatives by the positions of beads that coincide, which do not exist.
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
        if self.molecules_ is not None:
            asked = {"temperature": temperature, "return_std": return_std, "reference": reference}
            return predict_each(self, X, quantity, parameters=parameters, **asked)
        frames = prediction_frames(self, X, temperature, parameters)
        functional = functionals.get(quantity if quantity is not None else "free_energy")
        states = self._states(frames, temperature)
        shape = (len(states), *functional.shape(states.coordinate_shape, states.field_count))
        groups = reference_groups(functional, states, reference, self.zero_known_)
        mean, std = predicted(self.posterior_, self.baseline_, functional, states, groups, return_std)
        values = mean.reshape(shape).cpu().numpy()
        if std is None:
            return values
        unknown = undefined_rows(functional, states)
        return values, std.masked_fill(unknown, np.inf).reshape(shape).cpu().numpy()

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
        one, two = self.for_molecule(X1), self.for_molecule(X2)
        first = one._states(prediction_frames(one, X1, temperature1, None), temperature1)
        second = two._states(prediction_frames(two, X2, temperature2, None), temperature2)
        if len(first) != len(second):
            raise DataError(f"predict_difference compares row by row: X1 has {len(first)} rows, X2 {len(second)}")
        prior = self.posterior_.prior
        with torch.no_grad():
            rows = difference(prior.rows(functional, second), prior.rows(functional, first))
            value = predict_mean(self.posterior_, rows)
            value = value + baseline_rows(two.baseline_, functional, second)
            value = value - baseline_rows(one.baseline_, functional, first)
            if not return_cov:
                return value.cpu().numpy()
            return value.cpu().numpy(), self.posterior_.covariance(rows, rows).cpu().numpy()

    def concavity_violation(self, X, *, temperature=None, parameters=None):
        """Posterior probability that the predicted heat capacity is negative, P(C(R, T) < 0), shape (n,).

        True free energies are concave in T. Arguments as in :meth:`predict`; :func:`kernelfe.gp.enforce_concavity`
        conditions on it.
        """
        if is_several(X):
            return [self.concavity_violation(part, temperature=temperature, parameters=parameters) for part in X]
        found = self.predict(X, "heat_capacity", temperature=temperature, return_std=True, parameters=parameters)
        return violation_probability(*found)

    def score(self, X, y=None, sample_weight=None) -> float:
        """R² of mean_force for Frames, of free_energy for arrays. Single-frame labels bound it by their noise.

        Of a list of Frames of several molecules: the mean over them, each by its number of frames.
        """
        if is_several(X):
            return float(np.average([self.score(part) for part in X], weights=[len(part) for part in X]))
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
        :mod:`kernelfe.gp.fitted.domain`.

        Raises
        ------
        DataError
            If the model comes from a file of a version that did not store its domain, or was fitted to several
            molecules.
        """
        check_is_fitted(self, "posterior_")
        if self.molecules_ is not None or self.molecule_ is not None:
            raise DataError(
                "the domain of a fit of several molecules is not known: fit one to score its configurations"
            )
        anywhere = None if isinstance(X, Frames) else dict.fromkeys(self.parameters_, 0.0)
        states = self._states(prediction_frames(self, X, None, anywhere), None)
        return require_domain(self.domain_).score(states.coordinates, states.cell).cpu().numpy()

    # -------------------------------------------------------------- sampling

    def for_molecule(self, X) -> FreeEnergyRegressor:
        """This model as one of a single molecule: what a sampler, a calculator or an analysis of one molecule takes.

        Parameters
        ----------
        X : Frames, or array of shape (n, beads, 3)
            Configurations of one of the fitted molecules, or (Frames with kinds and bonds) of another one made of
            beads of known kinds; the numbers are not looked at.

        Returns
        -------
        FreeEnergyRegressor
            Shares the posterior; the model itself if it was fitted to one molecule.

        Raises
        ------
        DataError
            If the molecule cannot be told, or has beads of unknown kinds.
        """
        check_is_fitted(self, "posterior_")
        return self if self.molecules_ is None else view(self, X)

    def frozen(self, parameters: dict[str, float] | None = None) -> FrozenModel:
        """The model as samplers use it: energies and forces of batches of configurations.

        Parameters
        ----------
        parameters
            Values of the parameters λ.
        """
        check_is_fitted(self, "posterior_")
        require_one(self, "frozen")
        if set(self.parameters_) != set(parameters or {}):
            raise DataError(f"the model depends on the parameters {self.parameters_}: pass parameters={{name: value}}")
        return (PeriodicFrozenModel if self.periodic_ else FrozenModel)(
            [term for _, term in self.terms_],
            self.posterior_.expansions,
            self.posterior_.prior.mean,
            self.posterior_.mean_weights,
            torch.tensor([self.composition_.counts], dtype=torch.float64, device=self.posterior_.prior.device),
            self.baseline_,
            self.coordinate_shape_[0],
            parameters,
            self.domain_,
        )

    def calculator(self, temperature=None, **options):
        """An ASE calculator of A(R; T) at ``temperature`` (K); ``options`` go to the calculator."""
        from ..calculators import FreeEnergyCalculator  # the one declared import upwards

        require_one(self, "calculator")
        return FreeEnergyCalculator(self, self.temperature if temperature is None else temperature, **options)

    # ------------------------------------------------------------ persistence

    def fitted_terms(self) -> list:
        """The terms as specs that hold the fitted numbers."""
        check_is_fitted(self, "posterior_")
        return [(name, term.fitted_spec()) for name, term in self.terms_]

    def save(self, path) -> None:
        """Write the fitted model: safetensors with a versioned JSON header, never pickle; atomically."""
        from .file.save import save

        check_is_fitted(self, "posterior_")
        save(self, path)

    # ---------------------------------------------------------------- helpers

    def check_frames(self, frames: Frames) -> None:
        """Raise DataError unless Frames hold configurations of what the model was fitted to."""
        check_is_fitted(self, "posterior_")
        check_frames(self.for_molecule(frames), frames)

    def _states(self, frames: Frames, temperature) -> States:
        counts = np.tile(self.composition_.counts, (len(frames), 1))
        return States.from_frames(frames, temperature, counts, self.posterior_.prior.device, self.molecule_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = False
        return tags
