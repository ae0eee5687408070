"""The estimator: fit on any mix of labels, predict any quantity with its error bar."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from ..arrays import real_array, unwrapped
from ..calculators import FreeEnergyCalculator
from ..errors import DataError
from ..frames import Frames
from .attributes import FittedAttributes
from .file.write import write
from .fit import fitted_model
from .fitted.draws import PosteriorDraws
from .fitted.ensemble import HyperparameterEnsemble, ensemble_of
from .fitted.frozen import FrozenModel
from .fitted.joint import Joint, Query
from .fitted.model import FreeEnergy
from .fitted.predictive import JointPredictive
from .molecules import is_several
from .observations.inputs import training_data


class FreeEnergyRegressor(FittedAttributes, RegressorMixin, BaseEstimator):
    """Gaussian-process model of a coarse-grained free energy A(R; T, λ).

    Conditions jointly on any mix of linear functionals of A (forces, mean energies, responses, differences
    …, see :mod:`kernelfe.functionals`) at any temperatures, and predicts any of them with error bars. The fitted
    free energy is the attribute ``model_``, an immutable :class:`~kernelfe.gp.FreeEnergy`; the methods here pass
    their arguments to it.

    Parameters
    ----------
    terms : Term, list of pairs (str, Term) or None
        The sum that models A; None: one term on all bead distances (or on the variables), for periodic frames of
        many molecules those of :func:`~kernelfe.liquid_terms`.
    solver : "auto", "dense", "iterative", "sparse", or a spec: Dense, Iterative, Sparse
        How to condition; "auto" gives the reason for its choice in ``solver_reason_``.
    baseline : spec, None or False
        Physical baseline subtracted from every label; None: Boltzmann inversion for molecules, False: none.
    optimizer : "evidence" or None
        "evidence" fits length scales, prior scales and noise, starting from the numbers in the specs;
        None keeps the numbers (and the starting values from the data for numbers not given).
    labels : list of str or None
        Label kinds to condition on; None: all that are present.
    noise : dict, CorrelatedNoise or None
        Standard deviations by label kind (number, array or RelativeNoise), overriding those of the Frames. Kinds
        without any are learned: one level per kind, or with the correlations of :class:`CorrelatedNoise`.
    temperature : float
        Temperature in K for plain arrays, and for predictions on arrays that state none.
    random_state : int or None
        Seed of the random subsets on which hyperparameters are fitted; None: another every time.
    progress : bool
        Show progress bars.

    Attributes
    ----------
    model_ : FreeEnergy
        The fitted free energy; the other attributes are its parts.
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
            self.model_: FreeEnergy = fitted_model(self, training_data(self, X, y))
        except BaseException:  # restore the previous fit on failure or interrupt
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    # -------------------------------------------------------------- fitted attributes

    def _fitted(self) -> FreeEnergy:
        """The fitted model, with the present ``temperature`` for arrays."""
        check_is_fitted(self, "model_")
        same = self.model_.temperature == self.temperature
        return self.model_ if same else replace(self.model_, temperature=float(self.temperature))

    def with_model(self, model: FreeEnergy) -> FreeEnergyRegressor:
        """An estimator with the same parameters that holds another fitted model."""
        out = copy.copy(self)
        out.model_ = model
        return out

    # -------------------------------------------------------------- predict

    def predict(
        self, X, quantity=None, *, temperature=None, return_std=False, reference="auto", parameters=None, cell=None
    ):
        """Predict a quantity.

        Parameters
        ----------
        X : Frames, or array of shape (n, d) or (n, beads, 3)
            A model of several molecules takes Frames of any of them, of others made of the same kinds of beads, or
            a list of Frames, for which it returns lists.
        quantity : str or Functional
            What to predict; also kinds never seen in training. None: ``"free_energy"``.
        temperature : float or array of shape (n,)
            K; None: that of the Frames, or the estimator's for arrays (a warning if it is outside the training
            temperatures).
        return_std : bool
            Also return the marginal posterior standard deviation (of the quantity, without label noise); infinite
            for derivatives by the positions of beads that coincide, which do not exist.
        reference : "auto", "mean", int or None
            Zero of free energies, at each temperature: the mean over the rows of X at it, the configuration of
            one row of X, or None for the absolute value. "auto": None if the training labels fix it (they held
            free energies), else "mean".
        parameters : dict
            Values of λ for arrays; Frames carry their own.
        cell : array of shape (3, 3) or (n, 3, 3)
            Lattice vectors of arrays of positions, Å, for a model of periodic frames; Frames carry their own.

        Returns
        -------
        ndarray, or two of them
            Shape (n,) for scalars, (n, beads, 3) or (n, d) for vectors, (n, k) along displacement fields.
        """
        options = {"temperature": temperature, "return_std": return_std, "reference": reference}
        return self._fitted().predict(self._table(X), quantity, parameters=parameters, cell=cell, **options)

    def predict_difference(self, X1, X2, temperature1=None, temperature2=None, return_cov=False):
        """Free-energy differences A(X2; T2) − A(X1; T1), row by row, eV.

        Parameters
        ----------
        X1, X2 : Frames or arrays with n rows each
        temperature1, temperature2 : float or array of shape (n,)
        return_cov : bool
            Also return their posterior covariance, shape (n, n).
        """
        return self._fitted().predict_difference(X1, X2, temperature1, temperature2, return_cov)

    def concavity_violation(self, X, *, temperature=None, parameters=None):
        """Posterior probability that the predicted heat capacity is negative, P(C(R, T) < 0), shape (n,).

        True free energies are concave in T. Arguments as in :meth:`predict`; :meth:`concave` conditions on it.
        """
        return self._fitted().concavity_violation(self._table(X), temperature=temperature, parameters=parameters)

    def score(self, X, y=None, sample_weight=None) -> float:
        """R² of mean_force for Frames, of free_energy for arrays. Single-frame labels bound it by their noise.

        For a list of Frames of several molecules: the mean over them, each weighted by its number of frames.
        """
        if is_several(X):
            return float(np.average([self.score(part) for part in X], weights=[len(part) for part in X]))
        if isinstance(X, Frames):
            if "mean_force" not in X.labels or not X.present["mean_force"].any():
                raise DataError("score(frames) compares mean_force, and these Frames hold none")
            part = X[np.flatnonzero(X.present["mean_force"])]
            truth = part.labels["mean_force"].reshape(len(part), -1)
            if sample_weight is not None:
                sample_weight = real_array(sample_weight, "sample_weight")[X.present["mean_force"]]
            return r2_score(truth, self.predict(part, "mean_force").reshape(len(part), -1), sample_weight=sample_weight)
        y, sample_weight = unwrapped(y, "y", "eV"), unwrapped(sample_weight, "sample_weight")
        return r2_score(y, self.predict(X, "free_energy", reference=None), sample_weight=sample_weight)

    def domain_score(self, X) -> np.ndarray:
        """Distance of configurations from the training data, shape (n,); above 1 predictions are not reliable.

        Distances between beads and the novelty of environments are compared with those of the training frames, see
        :mod:`kernelfe.gp.fitted.domain`.

        Raises
        ------
        DataError
            If the model comes from a file of a version that did not store its domain, or was fitted to several
            molecules.
        """
        return self._fitted().domain_score(X)

    # -------------------------------------------------------------- uncertainty

    def joint(self, *queries: Query) -> Joint:
        """Posterior means and covariance of all rows of several queries; see :func:`kernelfe.gp.fitted.joint.joint`."""
        return self._fitted().joint(*queries)

    def pair_potential(self, r, term=None, **options):
        """Pair potential u(r; T) of a term on :class:`~kernelfe.descriptors.PairDistances`, with its error bar.

        Parameters
        ----------
        r
            Distances, (n,), Å.
        term
            Name of the term; None: the only one on pair distances.
        **options
            ``temperature``, K (None: the estimator's); ``quantity``, "free_energy" by default, or "mean_force"
            (−du/dr), "mean_energy", "entropy", …; ``parameters``, values of λ; ``return_std``;
            ``reference``, the distance in Å at which free energies, energies and entropies are zero (default
            "cutoff", None: as they are), because data fix them up to a constant only.

        Returns
        -------
        ndarray, or two with ``return_std``
            (n,), eV (eV/Å, eV/K), and the posterior standard deviations. The term alone: walls and bonds of the
            baseline are not in it.

        Raises
        ------
        DataError
            If the model has no such term, or an argument is out of range.
        """
        return self._fitted().pair_potential(r, term, **options)

    def covariance(self, X, quantity="free_energy", other=None, *, temperature=None, X2=None, temperature2=None):
        """Posterior covariance of a quantity at all rows of X, or between two quantities at any places.

        Parameters
        ----------
        X, quantity, temperature
            The rows: configurations, quantity key or functional (sums and multiples of functionals included), and K;
            None: that of the Frames, or the estimator's for arrays.
        other, X2, temperature2
            The columns; what is None is that of the rows.

        Returns
        -------
        ndarray, shape (n·m, n'·m')
            Rows frame by frame, components within; the noise of labels is not included. See :meth:`joint` for several
            quantities at once and for linear combinations.
        """
        options = {"temperature": temperature, "X2": X2, "temperature2": temperature2}
        return self._fitted().covariance(X, quantity, other, **options)

    def sample(self, X, quantities="free_energy", n=1, seed=0, *, temperature=None) -> dict[str, np.ndarray]:
        """Joint draws from the posterior: functions A that the data allow, read at X.

        Parameters
        ----------
        X
            Frames or array of configurations.
        quantities
            Quantity key, functional, or several: all are read from the same draws of A.
        n
            Draws.
        seed
            Seed or generator.
        temperature
            K; None: that of the Frames, or the estimator's for arrays.

        Returns
        -------
        dict
            Quantity key → draws, (n, configurations, …). The time goes with the cube of the number of rows.
        """
        return self._fitted().sample(X, quantities, n, seed, temperature=temperature)

    def draws(self, n: int = 64, seed: int = 0, features: int = 1024) -> PosteriorDraws:
        """Functions drawn from the posterior; see :func:`kernelfe.gp.pathwise_draws`."""
        return self._fitted().draws(n, seed, features)

    def ensemble(self, draws: int = 16, seed: int = 0) -> HyperparameterEnsemble:
        """Models with other plausible hyperparameters; see :func:`kernelfe.gp.hyperparameter_ensemble`."""
        found = ensemble_of(self._fitted(), draws, seed, self.random_state)
        return HyperparameterEnsemble(
            [self.with_model(model) for model in found.models], found.weights, found.effective
        )

    def noise_covariance(self, frames: Frames, kinds=None) -> np.ndarray:
        """Noise covariance of the labels of single frames; see :func:`kernelfe.gp.noise_covariance`."""
        return self._fitted().noise_covariance(frames, kinds)

    def predictive(self, frames: Frames, kinds=None, kept=None) -> JointPredictive:
        """Joint predictive density of the labels of frames; see :func:`kernelfe.gp.joint_predictive`."""
        return self._fitted().predictive(frames, kinds, kept)

    # -------------------------------------------------------------- change

    def condition(self, frames: Frames, labels=None, noise=None) -> FreeEnergyRegressor:
        """The model conditioned on more labels, as another estimator; see :func:`kernelfe.gp.condition`."""
        return self.with_model(self._fitted().condition(frames, labels, noise))

    def concave(self, X, *, temperature=None, parameters=None, estimate="mode") -> FreeEnergyRegressor:
        """The model conditioned on C ≥ 0, as another estimator; see :func:`kernelfe.gp.enforce_concavity`."""
        options = {"temperature": temperature, "parameters": parameters, "estimate": estimate}
        return self.with_model(self._fitted().concave(X, **options))

    def for_molecule(self, X) -> FreeEnergyRegressor:
        """Single-molecule view of this model, for samplers, calculators and analysis.

        Parameters
        ----------
        X : Frames, or array of shape (n, beads, 3)
            Configurations of one of the fitted molecules, or (Frames with kinds and bonds) of another one made of
            beads of known kinds; only kinds, bonds and shape are used.

        Returns
        -------
        FreeEnergyRegressor
            Shares the posterior; the model itself if it was fitted to one molecule.

        Raises
        ------
        DataError
            If the molecule cannot be identified, or has beads of unknown kinds.
        """
        one = self._fitted().for_molecule(X)
        return self if one.molecules == self.model_.molecules else self.with_model(one)

    # -------------------------------------------------------------- use

    def frozen(self, parameters: dict[str, float] | None = None) -> FrozenModel:
        """Energies and forces of batches of configurations, for samplers.

        Parameters
        ----------
        parameters
            Values of the parameters λ.
        """
        return self._fitted().frozen(parameters)

    def calculator(self, temperature=None, **options) -> FreeEnergyCalculator:
        """An ASE calculator of A(R; T) at ``temperature`` (K); ``options`` go to the calculator."""
        return self._fitted().calculator(temperature, **options)

    def fitted_terms(self) -> list:
        """The terms as specs that hold the fitted numbers."""
        return self._fitted().fitted_terms()

    def save(self, path) -> None:
        """Write the fitted model: safetensors with a versioned JSON header, never pickle; atomically."""
        write(path, self._fitted(), self.get_params(deep=False), getattr(self, "n_features_in_", None))

    def check_frames(self, frames: Frames) -> None:
        """Raise DataError unless Frames hold configurations of what the model was fitted to."""
        self._fitted().check_frames(frames)

    # ---------------------------------------------------------------- helpers

    def _table(self, X):
        """X; a table of a model fitted to one is checked by scikit-learn."""
        check_is_fitted(self, "model_")
        if "n_features_in_" in self.__dict__ and not isinstance(X, Frames):
            return validate_data(self, unwrapped(X, "X"), reset=False, dtype=np.float64)
        return X

    def __sklearn_is_fitted__(self) -> bool:
        return "model_" in self.__dict__

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = False
        return tags
