"""The fitted free energy of an ensemble of networks: everything that a prediction needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import functionals
from ..errors import DataError, require
from ..frames import Frames
from ..functionals import Functional
from ..gp.fitted.domain import Domain, require_domain
from ..gp.fitted.predict import default_temperature, reference_groups
from ..gp.fitted.reading import frames_in_cell, frames_of
from ..gp.molecules import Molecule, Molecules
from ..gp.observations.labels import baseline_rows
from ..gp.states import States
from ..runtime.threads import one_thread
from .frozen import NeuralFrozenModel, PeriodicNeuralFrozenModel
from .likelihood import NoiseModel
from .potential import Potential

#: States per evaluation: memory only.
_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class NeuralFreeEnergy:
    """A free energy as the mean of an ensemble of networks.

    Parameters
    ----------
    members
        Networks with thermal part and mean functions.
    noise
        Learned noise of each member.
    molecules
        The one molecule it was fitted to.
    baseline
        Fitted baseline, or None.
    temperatures
        Of the training frames, ascending, K.
    density
        Held-out log density per label row, of each member.
    parameters
        Names of the parameters λ, sorted.
    domain
        Region of the training configurations; None for variables and periodic systems.
    temperature
        Temperature of arrays that state none, K; a warning if used outside the training temperatures.
    """

    members: tuple[Potential, ...]
    noise: tuple[NoiseModel, ...]
    molecules: Molecules
    baseline: Any
    temperatures: tuple[float, ...]
    density: tuple[float, ...]
    parameters: tuple[str, ...] = ()
    domain: Domain | None = None
    temperature: float = 300.0

    @property
    def molecule(self) -> Molecule:
        """The molecule."""
        return self.molecules.entries[0].molecule

    @property
    def noise_levels(self) -> dict[str, tuple[float, float]]:
        """Learned noise (σ₀, p) by kind: geometric mean of σ₀ and mean of p over the members."""
        found = [member.values() for member in self.noise]
        return {
            kind: (
                float(np.exp(np.mean([np.log(one[kind][0]) for one in found]))),
                float(np.mean([one[kind][1] for one in found])),
            )
            for kind in found[0]
        }

    def states(self, X, temperature=None, parameters=None, cell=None) -> States:
        """Configurations and thermodynamic states of a prediction."""
        given = temperature
        if temperature is None and not isinstance(X, Frames):
            given = default_temperature(self.temperature, self.temperatures)
        if cell is not None:
            frames = frames_in_cell(self.molecules, X, given, parameters, cell)
        else:
            frames = frames_of(self.molecules, X, given, parameters)
        missing = sorted(set(self.parameters) - set(frames.parameters))
        require(not missing, f"the network was fitted with the parameters {missing}: give their values in parameters=")
        replaced = temperature if frames is X else None
        return States.from_frames(frames, replaced, np.ones((len(frames), 1)), molecule=self.molecule)

    def rows(self, functional: Functional, states: States) -> Tensor:
        """Rows of a functional from every member, baseline included, (members, n, m)."""
        out = []
        for start in range(0, max(len(states), 1), _AT_ONCE):
            part = states[slice(start, start + _AT_ONCE)]
            shape = functional.shape(part.coordinate_shape, part.field_count)
            base = baseline_rows(self.baseline, functional, part).reshape(len(part), int(np.prod(shape, dtype=int)))
            out.append(torch.stack([member.read(functional, part).detach() + base for member in self.members]))
        return torch.cat(out, 1)

    @one_thread()
    def predict(
        self, X, quantity=None, *, temperature=None, return_std=False, reference="auto", parameters=None, cell=None
    ):
        """Predict a quantity; see :meth:`kernelfe.NeuralFreeEnergyRegressor.predict`."""
        functional = functionals.get("free_energy" if quantity is None else quantity)
        states = self.states(X, temperature, parameters, cell)
        shape = (len(states), *functional.shape(states.coordinate_shape, states.field_count))
        found = self.rows(functional, states)
        known = self.molecules.zero_known
        for index, origin in reference_groups(functional, states, reference, known) or ():
            zero = found[:, index].mean(1, keepdim=True) if origin is None else self.rows(functional, origin)
            found[:, index] -= zero
        mean = found.mean(0).reshape(shape).numpy()
        if not return_std:
            return mean
        self._several("return_std=True")
        return mean, found.std(0).reshape(shape).numpy()

    @one_thread()
    def predict_difference(self, X1, X2, temperature1=None, temperature2=None, return_cov=False):
        """Free-energy differences; see :meth:`kernelfe.NeuralFreeEnergyRegressor.predict_difference`."""
        functional: Functional = functionals.get("free_energy")
        first, second = (
            self.rows(functional, self.states(X, t))[..., 0] for X, t in ((X1, temperature1), (X2, temperature2))
        )
        require(
            first.shape == second.shape,
            f"predict_difference compares row by row: X1 has {first.shape[1]} rows, X2 {second.shape[1]}",
        )
        difference = second - first
        mean = difference.mean(0).numpy()
        if not return_cov:
            return mean
        self._several("return_cov=True")
        return mean, np.cov(difference.numpy(), rowvar=False).reshape(len(mean), len(mean))

    @one_thread()
    def domain_score(self, X) -> np.ndarray:
        """Distance from the training configurations, (n,); above 1 predictions are not reliable."""
        states = self.states(X, None, dict.fromkeys(self.parameters, 0.0) or None)
        return require_domain(self.domain).score(states.coordinates, states.cell).numpy()

    def frozen(self, parameters: dict[str, float] | None = None) -> NeuralFrozenModel:
        """Energies and forces of batches of configurations, for samplers and trainers."""
        kind = PeriodicNeuralFrozenModel if self.molecule.periodic else NeuralFrozenModel
        return kind(self, parameters)

    def _several(self, what: str) -> None:
        if len(self.members) < 2:
            raise DataError(f"{what} needs an ensemble, and this is one network: fit with members=4 or more")
