"""The estimator of neural free energies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from ..arrays import real_array, unwrapped
from ..calculators import FreeEnergyCalculator
from ..errors import DataError
from ..frames import Frames
from ..gp.fitted.predict import default_temperature
from ..gp.observations.inputs import training_data
from .file import write
from .fit import fitted_model
from .fitted import NeuralFreeEnergy
from .frozen import NeuralFrozenModel


class NeuralFreeEnergyRegressor(RegressorMixin, BaseEstimator):
    """Neural network, or ensemble of networks, as the model of a coarse-grained free energy A(R; T, λ).

    Learns from the same labels as :class:`~kernelfe.FreeEnergyRegressor`: any mix of linear functionals of A at any
    temperatures, each read from the network by automatic differentiation, with a normal log density whose noise is
    given or learned for each kind of label. See the page "Neural free energies" of the documentation.

    Parameters
    ----------
    network : MLP, MessagePassing or None
        The network; None: :class:`~kernelfe.neural.MLP` for molecules and variables,
        :class:`~kernelfe.neural.MessagePassing` for periodic frames.
    thermal : SecondOrder, TemperatureInput or None
        Dependence on temperature. None: :class:`~kernelfe.kernels.SecondOrder`, three heads for the free energy, the
        entropy and the heat capacity at the mean temperature; or temperature as an input of the network.
    concave : bool
        Heat capacities C ≥ 0 at every configuration, by construction.
    baseline : spec, None or False
        Physical baseline subtracted from every label; None: Boltzmann inversion for molecules, for message passing in
        periodic frames a repulsive core; False: none.
    labels : list of str or None
        Label kinds to learn from; None: all that are present.
    noise : dict or None
        Standard deviations by label kind, overriding those of the Frames; kinds without any are learned.
    members : int
        Networks of the ensemble, each with its own start and its own held-out frames; error bars need at least 2.
    training : Training or None
        Settings of the training.
    temperature : float
        Temperature in K for plain arrays, and for predictions on arrays that state none.
    random_state : int or None
        Seed of all random numbers; None: others every time.
    progress : bool
        Show progress bars.

    Attributes
    ----------
    model_ : NeuralFreeEnergy
        The fitted free energy.
    records_ : list of Record
        Course of the training of each member; not stored in files.
    """

    def __init__(
        self,
        network=None,
        thermal=None,
        concave=False,
        baseline=None,
        labels=None,
        noise=None,
        members=1,
        training=None,
        temperature=300.0,
        random_state=0,
        progress=False,
    ):
        self.network = network
        self.thermal = thermal
        self.concave = concave
        self.baseline = baseline
        self.labels = labels
        self.noise = noise
        self.members = members
        self.training = training
        self.temperature = temperature
        self.random_state = random_state
        self.progress = progress

    def fit(self, X, y=None) -> NeuralFreeEnergyRegressor:
        """Train on data.

        Parameters
        ----------
        X : Frames, or array of shape (n, d) or (n, beads, 3)
            Of one molecule, in the order of time at each temperature: blocks of time are held out.
        y : None, array of shape (n,) or dict
            As of :meth:`kernelfe.FreeEnergyRegressor.fit`.

        Raises
        ------
        DataError
            If the data are incomplete or inconsistent; the message names the culprit.
        SolverError
            If the loss is not finite from the beginning.
        """
        before = dict(self.__dict__)
        try:
            self.model_, self.records_ = fitted_model(self, training_data(self, X, y))
        except BaseException:  # restore the previous fit on failure or interrupt
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _fitted(self) -> NeuralFreeEnergy:
        check_is_fitted(self, "model_")
        same = self.model_.temperature == self.temperature
        return self.model_ if same else replace(self.model_, temperature=float(self.temperature))

    # -------------------------------------------------------------- predict

    def predict(
        self, X, quantity=None, *, temperature=None, return_std=False, reference="auto", parameters=None, cell=None
    ):
        """Predict a quantity: the mean over the members.

        Parameters
        ----------
        X : Frames, or array of shape (n, d) or (n, beads, 3)
        quantity : str or Functional
            What to predict; also kinds never seen in training. None: ``"free_energy"``.
        temperature : float or array of shape (n,)
            K; None: that of the Frames, or the estimator's for arrays.
        return_std : bool
            Also return the standard deviation over the members (members ≥ 2), without label noise. It tells where
            networks disagree and is not calibrated: see the documentation.
        reference : "auto", "mean", int or None
            Zero of free energies, as of :meth:`kernelfe.FreeEnergyRegressor.predict`.
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
        """Free-energy differences A(X2; T2) − A(X1; T1), row by row, eV; and their covariance over the members."""
        return self._fitted().predict_difference(X1, X2, temperature1, temperature2, return_cov)

    def score(self, X, y=None, sample_weight=None) -> float:
        """R² of mean_force for Frames, of free_energy for arrays. Single-frame labels bound it by their noise."""
        if isinstance(X, Frames):
            if "mean_force" not in X.labels or not X.present["mean_force"].any():
                raise DataError("score(frames) compares mean_force, and these Frames hold none")
            part = X[np.flatnonzero(X.present["mean_force"])]
            truth = part.labels["mean_force"].reshape(len(part), -1)
            if sample_weight is not None:
                sample_weight = real_array(sample_weight, "sample_weight")[X.present["mean_force"]]
            found = self.predict(part, "mean_force").reshape(len(part), -1)
            return float(r2_score(truth, found, sample_weight=sample_weight))
        y, sample_weight = unwrapped(y, "y", "eV"), unwrapped(sample_weight, "sample_weight")
        return float(r2_score(y, self.predict(X, "free_energy", reference=None), sample_weight=sample_weight))

    def domain_score(self, X) -> np.ndarray:
        """Distance of configurations from the training data by distances between beads, (n,); 1 at the edge.

        Raises
        ------
        DataError
            If the model was fitted to variables or periodic frames, for which no domain is kept.
        """
        return self._fitted().domain_score(X)

    # -------------------------------------------------------------- use

    def frozen(self, parameters: dict[str, float] | None = None) -> NeuralFrozenModel:
        """Energies and forces of batches of configurations, for samplers and trainers."""
        return self._fitted().frozen(parameters)

    def calculator(self, temperature=None, **options) -> FreeEnergyCalculator:
        """An ASE calculator of A(R; T) at ``temperature`` (K); ``options`` go to the calculator."""
        model = self._fitted()
        kelvin = default_temperature(model.temperature, model.temperatures) if temperature is None else temperature
        return FreeEnergyCalculator(self, kelvin, **options)

    def save(self, path) -> None:
        """Write the fitted model: safetensors with a versioned JSON header, never pickle; atomically."""
        write(path, self._fitted(), self.get_params(deep=False), getattr(self, "n_features_in_", None))

    def check_frames(self, frames: Frames) -> None:
        """Raise DataError unless Frames hold configurations of what the model was fitted to."""
        self._fitted().molecules.check(frames)

    # -------------------------------------------------------------- fitted attributes

    @property
    def noise_(self) -> dict[str, tuple[float, float]]:
        """Learned noise of each label kind, (σ₀, p): standard deviation σ₀ (T/T0)^p, T0 = ``noise_temperature_``."""
        return self._fitted().noise_levels

    @property
    def noise_temperature_(self) -> float:
        """T0 of the learned noise, K."""
        return self._fitted().noise[0].reference

    @property
    def held_out_log_density_(self) -> tuple[float, ...]:
        """Log density per held-out label row of each member, at the parameters that were kept."""
        return self._fitted().density

    @property
    def baseline_(self):
        """The fitted baseline, or None."""
        return self._fitted().baseline

    @property
    def domain_(self):
        """Region of the training configurations, or None."""
        return self._fitted().domain

    @property
    def temperatures_(self) -> list[float]:
        """Temperatures of the training frames, ascending, K."""
        return list(self._fitted().temperatures)

    @property
    def parameters_(self) -> list[str]:
        """Names of the parameters λ."""
        return list(self._fitted().parameters)

    @property
    def masses_(self):
        """Masses of the beads."""
        return self._fitted().molecules.masses

    @property
    def kinds_(self):
        """Kinds of the beads; None if not known."""
        return self._fitted().molecule.kinds

    @property
    def periodic_(self) -> bool:
        """True if the frames have a cell."""
        return self._fitted().molecule.periodic

    @property
    def coordinate_shape_(self) -> tuple[int, ...]:
        """Shape of one configuration."""
        return self._fitted().molecule.shape

    # ---------------------------------------------------------------- helpers

    def _table(self, X):
        check_is_fitted(self, "model_")
        if "n_features_in_" in self.__dict__ and not isinstance(X, Frames):
            return validate_data(self, unwrapped(X, "X"), reset=False, dtype=np.float64)
        return X

    def __sklearn_is_fitted__(self) -> bool:
        return "model_" in self.__dict__

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags
