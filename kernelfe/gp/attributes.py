"""Fitted attributes of the estimator: the parts of ``model_`` under the names of scikit-learn's convention."""

from __future__ import annotations

from typing import Any

from sklearn.utils.validation import check_is_fitted

from .correlated_noise.model import FittedNoise
from .fitted.domain import Domain
from .fitted.model import FreeEnergy
from .molecules import FittedMolecule
from .prior.term import TermModule


class FittedAttributes:
    """Read-only views of the fitted model; before a fit they raise NotFittedError, an AttributeError."""

    model_: FreeEnergy

    def _part(self) -> FreeEnergy:
        check_is_fitted(self, "model_")
        return self.model_

    def _only(self, name: str) -> Any:
        """A property of the one molecule; None for several."""
        molecules = self._part().molecules
        return getattr(molecules.entries[0].molecule, name) if molecules.single else None

    # -------------------------------------------------------------- the model

    @property
    def posterior_(self) -> Any:
        """Posterior of the sum of terms, a :class:`~kernelfe.gp.posterior.Posterior`."""
        return self._part().posterior

    @property
    def terms_(self) -> list[tuple[str, TermModule]]:
        """Fitted terms; ``fitted_terms()`` gives them as specs."""
        return self._part().terms

    @property
    def baseline_(self) -> Any:
        """The fitted baseline, of the one molecule or shared by several; or None."""
        return self._part().baseline

    @property
    def solver_(self) -> Any:
        """Spec of the solver that was used."""
        return self._part().provenance.solver

    @property
    def solver_reason_(self) -> str:
        """Why it was used."""
        return self._part().provenance.solver_reason

    @property
    def solver_check_(self) -> Any:
        """With solver="auto", a comparison of a sparse answer with the exact one on a sample; or None.

        See :mod:`kernelfe.gp.solvers.sparse.check`.
        """
        return getattr(self._part().posterior, "check", None)

    @property
    def log_evidence_(self) -> float:
        """Log evidence of the labels (or its collapsed lower bound).

        nan for ``Iterative`` unless evidence_rows=None.
        """
        return self._part().posterior.log_evidence

    # -------------------------------------------------------------- noise

    @property
    def noise_(self) -> dict[str, tuple[float, float]]:
        """Learned noise of each label kind, (σ₀, p): standard deviation σ₀ (T/T0)^p, T0 = ``noise_temperature_``."""
        return dict(self._part().noise.levels)

    @property
    def noise_levels_(self) -> dict[str, tuple[float, float]]:
        """The same for the labels that the posterior was conditioned on; they differ if the noise is correlated."""
        return dict(self._part().noise.conditioned)

    @property
    def noise_temperature_(self) -> float:
        """T0 of the learned noise, K."""
        return self._part().noise.reference

    @property
    def noise_model_(self) -> FittedNoise | None:
        """The correlated noise, if that was asked for; see :func:`~kernelfe.gp.noise_covariance`."""
        return self._part().noise.correlated

    # -------------------------------------------------------------- data

    @property
    def temperatures_(self) -> list[float]:
        """Temperatures of the training frames, ascending, K."""
        return list(self._part().provenance.temperatures)

    @property
    def parameters_(self) -> list[str]:
        """Names of the parameters λ."""
        return list(self._part().parameters)

    @property
    def density_(self) -> dict[float, float] | None:
        """Temperature → effective number of frames whose density the model was conditioned on (kernelfe.training).

        None for labels alone.
        """
        density = self._part().provenance.density
        return None if density is None else dict(density)

    @property
    def concave_(self) -> bool:
        """True if C ≥ 0 was enforced somewhere (:func:`~kernelfe.gp.enforce_concavity`)."""
        return self._part().provenance.concave

    @property
    def handedness_(self) -> str:
        """Result of the handedness test: do left and right differ in the training data, and what tells them apart.

        An empty string if not recorded.

        See :mod:`kernelfe.gp.handedness`.
        """
        return self._part().provenance.handedness

    @property
    def domain_(self) -> Domain | None:
        """Region of the training configurations; None if it was not stored, or for several molecules."""
        return self._part().domain

    @property
    def zero_known_(self) -> bool:
        """True if the labels fix the zero of the free energy."""
        return self._part().molecules.zero_known

    # -------------------------------------------------------------- molecules

    @property
    def composition_(self) -> Any:
        """Kinds of beads, and their numbers in every molecule."""
        return self._part().molecules.composition

    @property
    def molecules_(self) -> tuple[FittedMolecule, ...] | None:
        """The molecules of a model of several; None for one."""
        molecules = self._part().molecules
        return None if molecules.single else molecules.entries

    @property
    def masses_(self) -> Any:
        """Masses of the beads."""
        return self._part().molecules.masses

    @property
    def kinds_(self) -> Any:
        """Kinds of the beads of the one molecule; None if not known, or for several."""
        return self._only("kinds")

    @property
    def periodic_(self) -> bool | None:
        """True if the frames of the one molecule have a cell; None for several molecules."""
        return self._only("periodic")

    @property
    def coordinate_shape_(self) -> tuple[int, ...] | None:
        """Shape of one configuration of the one molecule; None for several."""
        return self._only("shape")
