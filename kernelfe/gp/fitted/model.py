"""The fitted free energy A(R; T, λ): everything that a prediction needs, in one immutable object.

Whatever changes a fitted model (more labels, C ≥ 0, the density of frames, other hyperparameters, the view of one
molecule) returns another :class:`FreeEnergy`. The estimator :class:`~kernelfe.FreeEnergyRegressor` holds one as
``model_``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ... import functionals
from ...calculators import FreeEnergyCalculator
from ...errors import DataError
from ...frames import Frames
from ...functionals import Functional
from ...runtime.threads import one_thread
from ..correlated_noise.model import FittedNoise, noise_covariance
from ..file.write import write
from ..molecules import Molecules, over_parts
from ..observations.labels import baseline_rows
from ..posterior import predict_mean
from ..prior.rows import RowBlock
from ..prior.term import Term, TermModule
from ..states import States
from .concavity import constrained, violation_probability
from .domain import Domain, require_domain
from .draws import PosteriorDraws, pathwise_draws
from .frozen import FrozenModel
from .frozen_splines import frozen_model
from .joint import Joint, Query, joint, undefined_rows
from .liquid_potential import liquid_potential
from .pair_potential import pair_potential
from .predict import default_temperature, predicted, reference_groups
from .predictive import JointPredictive, joint_predictive
from .reading import frames_in_cell, frames_of
from .update import extended


@dataclass(frozen=True)
class Noise:
    """Learned noise of the labels.

    Parameters
    ----------
    levels
        (σ₀, p) by kind of label as it was given: standard deviation σ₀ (T/T0)^p.
    reference
        T0, K.
    conditioned
        The same for the labels that the posterior was conditioned on; they differ if the noise is correlated.
    correlated
        The fitted correlated noise, or None.
    """

    levels: dict[str, tuple[float, float]]
    reference: float
    conditioned: dict[str, tuple[float, float]]
    correlated: FittedNoise | None = None


@dataclass(frozen=True)
class Provenance:
    """Origin of a fitted model: the solver, and what it is conditioned on besides its labels.

    Parameters
    ----------
    solver
        Spec of the solver that was used.
    solver_reason
        Why it was used.
    temperatures
        Temperatures of the training frames, ascending, K.
    density
        Temperature → effective number of frames whose density the model is conditioned on; None for labels alone.
    concave
        Whether C ≥ 0 is enforced somewhere.
    handedness
        Whether left and right differ in the training data, and what tells them apart; "" if not recorded.
    """

    solver: Any
    solver_reason: str
    temperatures: tuple[float, ...]
    density: dict[float, float] | None = None
    concave: bool = False
    handedness: str = ""


@dataclass(frozen=True, eq=False)
class FreeEnergy:
    """A fitted free energy A(R; T, λ).

    Parameters
    ----------
    posterior
        Posterior of the sum of terms and mean functions, with its prior.
    names
        Names of the terms.
    molecules
        The molecules it was fitted to; for a view of one of several, that one.
    baseline
        Fitted baseline, of the one molecule or shared by several; or None.
    noise
        Learned noise of the labels.
    provenance
        Solver, temperatures and further conditions.
    parameters
        Names of the parameters λ, sorted.
    domain
        Region of the training configurations; None if it was not stored, or for several molecules.
    temperature
        Temperature of arrays that state none, K; a warning if used outside the training temperatures.
    """

    posterior: Any
    names: tuple[str, ...]
    molecules: Molecules
    baseline: Any
    noise: Noise
    provenance: Provenance
    parameters: tuple[str, ...] = ()
    domain: Domain | None = None
    temperature: float = 300.0

    # -------------------------------------------------------------- parts

    @cached_property
    def terms(self) -> list[tuple[str, TermModule]]:
        """Name and module of every term; of a single molecule, bound to its beads."""
        modules = list(self.posterior.prior.terms)
        if self.molecules.view:
            modules = [module.bound_to(self.molecules.entries[0].molecule) for module in modules]
        return list(zip(self.names, modules, strict=True))

    @property
    def kinds_(self) -> tuple[str, ...] | None:
        """Kinds of the beads of the one molecule, by which a calculator recognises others; None if not known."""
        return self.molecules.entries[0].molecule.kinds if self.molecules.single else None

    @property
    def coordinate_shape_(self) -> tuple[int, ...] | None:
        """Shape of one configuration of the one molecule; None for several."""
        return self.molecules.entries[0].molecule.shape if self.molecules.single else None

    def fitted_terms(self) -> list[tuple[str, Term]]:
        """The terms as specs that hold the fitted numbers."""
        return [(name, term.fitted_spec()) for name, term in self.terms]

    def for_molecule(self, X) -> FreeEnergy:
        """The model of a single molecule, for samplers, calculators and analysis.

        Parameters
        ----------
        X : Frames, or array of shape (n, beads, 3)
            Configurations of one of the fitted molecules, or (Frames with kinds and bonds) of another one made of
            beads of known kinds; only kinds, bonds and shape are used.

        Returns
        -------
        FreeEnergy
            Shares the posterior; the model itself if it was fitted to one molecule.

        Raises
        ------
        DataError
            If the molecule cannot be identified, or has beads of unknown kinds.
        """
        if self.molecules.single:
            return self
        molecules = self.molecules.narrowed(X)
        return replace(self, molecules=molecules, baseline=molecules.entries[0].molecule.own(self.baseline))

    def check_frames(self, frames: Frames) -> None:
        """Raise DataError unless Frames hold configurations of a molecule that the model was fitted to."""
        self.molecules.narrowed(frames).check(frames)

    # -------------------------------------------------------------- reading

    def states(self, X, temperature=None, parameters=None) -> States:
        """Configurations and thermodynamic states of a prediction, for a model of one molecule.

        Parameters
        ----------
        X, temperature, parameters
            As of :meth:`predict`.
        """
        frames = self._frames(X, temperature, parameters)
        counts = np.tile(self.molecules.composition.counts, (len(frames), 1))
        molecule, device = self.molecules.entries[0].molecule, self.posterior.prior.device
        return States.from_frames(frames, temperature, counts, device, molecule)

    def rows(self, X, quantity="free_energy", temperature=None, parameters=None) -> tuple[RowBlock, States, Any]:
        """Rows of the prior that read a quantity, the states they are read at, and the baseline there."""
        one = self.for_molecule(X)
        states = one.states(X, temperature, parameters)
        return self.posterior.prior.rows(functionals.get(quantity), states), states, one.baseline

    def _in_cell(self, X, temperature, parameters, cell) -> Frames:
        return frames_in_cell(self.molecules, X, self._kelvin(temperature), parameters, cell)

    def _frames(self, X, temperature, parameters) -> Frames:
        kelvin = None if isinstance(X, Frames) else self._kelvin(temperature)
        return frames_of(self.molecules, X, kelvin, parameters)

    def _kelvin(self, temperature):
        if temperature is not None:
            return temperature
        return default_temperature(self.temperature, self.provenance.temperatures)

    # -------------------------------------------------------------- predict

    def predict(
        self, X, quantity=None, *, temperature=None, return_std=False, reference="auto", parameters=None, cell=None
    ):
        """Predict a quantity; see :meth:`kernelfe.FreeEnergyRegressor.predict`."""
        X = X if cell is None else self._in_cell(X, temperature, parameters, cell)
        parameters = None if cell is not None else parameters
        if isinstance(X, (list, tuple)) and np.ndim(temperature) and isinstance(X[0], Frames):
            raise DataError("predict(list of Frames) takes one temperature for all, or that of the Frames")
        functional = functionals.get("free_energy" if quantity is None else quantity)

        def read(part):
            return self._predicted(part, functional, temperature, parameters, return_std, reference)

        return over_parts(read, X)

    @one_thread()
    def _predicted(self, X, functional: Functional, temperature, parameters, return_std, reference):
        one = self.for_molecule(X)
        states = one.states(X, temperature, parameters)
        shape = (len(states), *functional.shape(states.coordinate_shape, states.field_count))
        groups = reference_groups(functional, states, reference, one.molecules.entries[0].zero_known)
        mean, std = predicted(self.posterior, one.baseline, functional, states, groups, return_std)
        values = mean.reshape(shape).cpu().numpy()
        if std is None:
            return values
        unknown = undefined_rows(functional, states)
        return values, std.masked_fill(unknown, np.inf).reshape(shape).cpu().numpy()

    @one_thread()
    def predict_difference(self, X1, X2, temperature1=None, temperature2=None, return_cov=False):
        """Predict free-energy differences; see :meth:`kernelfe.FreeEnergyRegressor.predict_difference`."""
        functional: Functional = functionals.get("free_energy")
        with torch.no_grad():
            first, states1, baseline1 = self.rows(X1, functional, temperature1)
            second, states2, baseline2 = self.rows(X2, functional, temperature2)
            if len(states1) != len(states2):
                raise DataError(
                    f"predict_difference compares row by row: X1 has {len(states1)} rows, X2 {len(states2)}"
                )
            rows = second - first
            value = predict_mean(self.posterior, rows)
            value = value + baseline_rows(baseline2, functional, states2)
            value = value - baseline_rows(baseline1, functional, states1)
            if not return_cov:
                return value.cpu().numpy()
            return value.cpu().numpy(), self.posterior.covariance(rows, rows).cpu().numpy()

    def concavity_violation(self, X, *, temperature=None, parameters=None):
        """Probability that the predicted heat capacity is negative, P(C(R, T) < 0), shape (n,)."""
        options = {"temperature": temperature, "parameters": parameters, "return_std": True}
        return over_parts(lambda part: violation_probability(*self.predict(part, "heat_capacity", **options)), X)

    @one_thread()
    def domain_score(self, X) -> np.ndarray:
        """Distance from the training configurations; see :meth:`kernelfe.FreeEnergyRegressor.domain_score`."""
        if self.molecules.shared:
            raise DataError("domain_score needs a model fitted to a single molecule")
        anywhere = None if isinstance(X, Frames) else dict.fromkeys(self.parameters, 0.0)
        states = self.states(X, None, anywhere)
        return require_domain(self.domain).score(states.coordinates, states.cell).cpu().numpy()

    def pair_potential(self, r, term=None, **options):
        """Pair potential of a term; see :meth:`kernelfe.FreeEnergyRegressor.pair_potential`."""
        return pair_potential(self, r, term, **options)

    def liquid_potential(self, temperature, parameters=None):
        """The functions of pairs and triplets at a temperature (K), for engines; see :mod:`kernelfe.deploy`."""
        self.molecules.one("liquid_potential")
        return liquid_potential(self, temperature, parameters)

    # -------------------------------------------------------------- uncertainty

    @one_thread()
    def joint(self, *queries: Query) -> Joint:
        """Joint posterior of several queries; see :func:`kernelfe.gp.fitted.joint.joint`."""
        return joint(self, *queries)

    @one_thread()
    def covariance(self, X, quantity="free_energy", other=None, *, temperature=None, X2=None, temperature2=None):
        """Posterior covariance; see :meth:`kernelfe.FreeEnergyRegressor.covariance`."""
        with torch.no_grad():
            a = self.rows(X, quantity, temperature)[0]
            if other is None and X2 is None and temperature2 is None:
                return self.posterior.covariance(a, a).cpu().numpy()
            t2 = temperature if temperature2 is None else temperature2
            b = self.rows(X if X2 is None else X2, quantity if other is None else other, t2)[0]
            return self.posterior.covariance(a, b).cpu().numpy()

    @one_thread()
    def sample(self, X, quantities="free_energy", n=1, seed=0, *, temperature=None) -> dict[str, np.ndarray]:
        """Draw jointly from the posterior; see :meth:`kernelfe.FreeEnergyRegressor.sample`."""
        asked = [quantities] if isinstance(quantities, (str, Functional)) else list(quantities)
        wanted = [functionals.get(q) for q in asked]
        found = self.joint(*(Query(X, functional, temperature) for functional in wanted))
        draws, states = found.sample(n, seed), self.for_molecule(X).states(X, temperature)
        shapes = [functional.shape(states.coordinate_shape, states.field_count) for functional in wanted]
        return {
            f.key: draws[:, found.rows(k)].reshape(n, len(states), *shape)
            for k, (f, shape) in enumerate(zip(wanted, shapes, strict=True))
        }

    @one_thread()
    def draws(self, n: int = 64, seed: int = 0, features: int = 1024) -> PosteriorDraws:
        """Functions drawn from the posterior; see :func:`kernelfe.gp.pathwise_draws`."""
        return pathwise_draws(self, n, seed, features)

    @one_thread()
    def noise_covariance(self, frames: Frames, kinds=None) -> np.ndarray:
        """Noise covariance of the labels of single frames; see :func:`kernelfe.gp.noise_covariance`."""
        return noise_covariance(self, frames, kinds)

    @one_thread()
    def predictive(self, frames: Frames, kinds=None, kept=None) -> JointPredictive:
        """Joint predictive density of the labels of frames; see :func:`kernelfe.gp.joint_predictive`."""
        return joint_predictive(self.for_molecule(frames), frames, kinds, kept)

    # -------------------------------------------------------------- change

    @one_thread()
    def condition(self, frames: Frames, labels=None, noise=None) -> FreeEnergy:
        """The model conditioned on more labels; see :func:`kernelfe.gp.condition`."""
        return extended(self, frames, labels, noise)

    @one_thread()
    def concave(self, X, *, temperature=None, parameters=None, estimate="mode") -> FreeEnergy:
        """The model conditioned on C ≥ 0 at virtual points; see :func:`kernelfe.gp.enforce_concavity`."""
        return constrained(self, self.rows(X, "heat_capacity", temperature, parameters), estimate)

    # -------------------------------------------------------------- use

    def frozen(self, parameters: dict[str, float] | None = None) -> FrozenModel:
        """Energies and forces of batches of configurations, for samplers.

        Parameters
        ----------
        parameters
            Values of the parameters λ.
        """
        self.molecules.one("frozen")
        if set(self.parameters) != set(parameters or {}):
            raise DataError(
                f"the model depends on the parameters {list(self.parameters)}: pass parameters={{name: value}}"
            )
        return frozen_model(self, parameters)

    def calculator(self, temperature=None, **options) -> FreeEnergyCalculator:
        """An ASE calculator of A(R; T) at ``temperature`` (K); ``options`` go to the calculator."""
        self.molecules.one("calculator")
        return FreeEnergyCalculator(self, self._kelvin(temperature), **options)

    def save(self, path) -> None:
        """Write the model: safetensors with a versioned JSON header, never pickle; atomically.

        :func:`kernelfe.load` returns it as ``model_`` of an estimator with default parameters.
        """
        write(path, self, {"temperature": self.temperature})
