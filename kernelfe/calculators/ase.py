"""ASE calculator of a coarse-grained free energy."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import atomic_numbers
from ase.io import write

from ..errors import DomainError, require
from ..protocol import FreeEnergyModel, ObservableModel, PeriodicFreeEnergyModel, TrainingDomain
from .fitted import fitted_model

#: Results beyond ASE's own → (quantity key, True for its standard deviation).
EXTRA_RESULTS: dict[str, tuple[str, bool]] = {
    "mean_energy": ("mean_energy", False),
    "entropy": ("entropy", False),
    "heat_capacity": ("heat_capacity", False),
    "thermal_response_force": ("thermal_response_force", False),
    "energy_std": ("free_energy", True),
    "forces_std": ("mean_force", True),
    "mean_energy_std": ("mean_energy", True),
    "entropy_std": ("entropy", True),
    "heat_capacity_std": ("heat_capacity", True),
    "thermal_response_force_std": ("thermal_response_force", True),
    "concavity_violation": ("heat_capacity", True),
}


#: Score beyond which each choice of ``outside`` raises.
OUTSIDE: dict[str, float] = {"warn": 2.0, "raise": 1.0, "ignore": float("inf")}


class FreeEnergyCalculator(Calculator):
    """A(R; T) as an ASE potential: one atom per bead.

    ``energy`` and ``free_energy`` are both A(R; T) in eV (``free_energy`` is what ASE calls force-consistent),
    ``forces`` −∇A in eV/Å, and, for periodic models, ``stress`` (∂A/∂strain)/V in eV/Å³, without the kinetic part of
    the pressure. A model with the ``observables`` method adds ``mean_energy`` (eV), ``entropy`` and ``heat_capacity``
    (eV/K), ``thermal_response_force`` (eV/Å/K), and the posterior standard deviations ``energy_std``, ``forces_std``,
    ``mean_energy_std``, …, and ``concavity_violation``, the probability that the predicted heat capacity is negative:
    ask with ``atoms.calc.get_property("mean_energy", atoms)``, or name them in ``extras`` to find them in
    ``atoms.calc.results`` after every evaluation.

    For molecular dynamics use ``ase.md.langevin.Langevin(..., fixcm=False)``: with ASE's default the fixed centre of
    mass makes systems of few beads run hot. Bead masses come from the Atoms object; the mass of element X is 1 u, so
    set them.

    Parameters
    ----------
    model
        A :class:`~kernelfe.protocol.FreeEnergyModel`, or a fitted estimator, which is wrapped in a
        :class:`~kernelfe.calculators.FittedModel`. Periodic systems need a
        :class:`~kernelfe.protocol.PeriodicFreeEnergyModel`, such as the estimator of periodic frames or its frozen
        model; their Atoms object needs a cell and ``pbc=True``.
    temperature
        K. Changing it (``calc.temperature = 350`` or ``calc.set(temperature=350)``) empties the cache.
    extras
        Extra results to compute with every evaluation.
    outside
        Treatment of configurations outside the model's training data: "warn" (once, when the score exceeds 1, and raise
        when it exceeds 2), "raise" (above 1), or "ignore". The score is the result ``domain_score``.
    restart
        File (of any format that ASE writes, .traj keeps velocities) to which the last configuration within the training
        data is written before an error is raised.
    device
        Device of the positions passed to the model; None: that of the model.
    **kwargs
        Passed to ``ase.calculators.calculator.Calculator``.

    Raises
    ------
    DataError
        If the temperature is not positive and finite, or the model does not offer one of ``extras``; when evaluated, if
        number or kinds of beads do not fit the model or a periodic system meets a model without cells.
    DomainError
        When evaluated, if the model is not finite, or a configuration is far outside the training data.
    """

    discard_results_on_any_change = True  # else set(temperature=...) would leave stale results behind

    def __init__(
        self,
        model: FreeEnergyModel | Any,
        temperature: float,
        *,
        extras: Sequence[str] = (),
        outside: str = "warn",
        restart: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ):
        if not isinstance(model, FreeEnergyModel):
            model = fitted_model(model)
        self.model = model
        self.device = torch.device(getattr(model, "device", None) or "cpu" if device is None else device)
        self.implemented_properties = ["energy", "free_energy", "forces"]
        if isinstance(model, PeriodicFreeEnergyModel):
            self.implemented_properties.append("stress")
        if isinstance(model, ObservableModel):
            self.implemented_properties.extend(EXTRA_RESULTS)
        unknown = [name for name in extras if name not in EXTRA_RESULTS or name not in self.implemented_properties]
        offered = [name for name in self.implemented_properties if name in EXTRA_RESULTS]
        require(not unknown, f"extras={unknown}: {type(model).__name__} offers {offered or 'none'}")
        require(outside in OUTSIDE, f"outside={outside!r}: use one of {', '.join(OUTSIDE)}")
        self.domain = getattr(model, "domain", None)
        if self.domain is not None:
            self.implemented_properties.append("domain_score")
        self.outside, self.restart = outside, restart
        self._warned, self._sound = False, None
        self.extras = tuple(extras)
        super().__init__(temperature=temperature, **kwargs)

    @property
    def temperature(self) -> float:
        """Temperature of the free energy, K; assigning empties the cache."""
        return self.parameters["temperature"]

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.set(temperature=value)

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters (``temperature``) and discard all results; returns the changes.

        Raises
        ------
        DataError
            If the temperature is not positive and finite, or the parameter is unknown.
        """
        unknown = sorted(set(kwargs) - {"temperature"})
        require(not unknown, f"FreeEnergyCalculator has no parameter {', '.join(unknown)}; it has temperature")
        if "temperature" in kwargs:
            value = kwargs["temperature"]
            positive = isinstance(value, (int, float, np.number)) and 0 < float(value) < np.inf
            require(positive, f"temperature={value!r} must be one positive number, K")
            kwargs["temperature"] = float(value)
        return super().set(**kwargs)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Changes since the last evaluation; in dynamics only positions change, which takes little time to find out."""
        old = self.atoms
        if old is None or not _alike(old, atoms):
            return super().check_state(atoms, tol)
        return [] if _same(old.positions, atoms.positions) else ["positions"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the model at ``atoms`` and fill ``results``; called by ASE.

        Raises
        ------
        DataError
            See the class.
        """
        if system_changes:  # also when called directly, not through get_property, which resets
            self.results = {}
        if atoms is not None:
            self.atoms = atoms.copy()  # all that Calculator.calculate does for a calculator without files
        positions, cell = self._inputs(self.get_atoms() if self.atoms is None else self.atoms)
        if self.domain is not None and (self.outside != "ignore" or "domain_score" in properties):
            self._watch(self.domain, positions, cell)
        wanted = list(dict.fromkeys([*properties, *self.extras]))
        basic = [name for name in wanted if name not in (*EXTRA_RESULTS, "domain_score")]
        if basic and any(name not in self.results for name in basic):
            self._basic(positions, cell)
        missing = [name for name in wanted if name in EXTRA_RESULTS and name not in self.results]
        if missing:
            self._extra(positions, cell, missing)

    def _watch(self, domain: TrainingDomain, positions: torch.Tensor, cell: torch.Tensor | None) -> None:
        """Score the configuration against the training data, and warn or stop."""
        score = float(domain.score(positions, cell)[0])
        self.results["domain_score"] = score
        if score <= 1.0:
            if self.restart is not None:
                self._sound = self.get_atoms().copy()
            return
        what = f"a configuration is outside the model's training data: {domain.culprit(positions[0])}"
        if score > OUTSIDE[self.outside]:
            if self.restart is not None and self._sound is not None:
                try:
                    write(os.fspath(self.restart), self._sound)
                except Exception as failed:  # an error of ASE's writers must not hide that of the run
                    what += f". The last configuration within them could not be written ({failed})"
                else:
                    what += f". The last configuration within them is in {os.fspath(self.restart)}"
            raise DomainError(f"{what}. Try a smaller timestep, or add training frames there")
        if not self._warned and self.outside != "ignore":
            self._warned = True
            warnings.warn(f"{what} (score {score:.2f}, the edge is at 1)", stacklevel=2)

    def _basic(self, positions: torch.Tensor, cell: torch.Tensor | None) -> None:
        if cell is None:
            energy, forces = self.model.energy_and_forces(positions, self.temperature)
        else:
            energy, forces, stress = self.model.energy_forces_stress(positions, cell, self.temperature)  # type: ignore[attr-defined]
            self.results["stress"] = _numpy(stress)
        value, slopes = float(energy[0]), _numpy(forces)
        if not (math.isfinite(value) and np.isfinite(slopes).all()):
            raise DomainError(
                f"{type(self.model).__name__} is not finite at this configuration: it lies outside the domain of the "
                "model. Try a smaller timestep"
            )
        self.results["energy"] = self.results["free_energy"] = value
        self.results["forces"] = slopes

    def _extra(self, positions: torch.Tensor, cell: torch.Tensor | None, names: Sequence[str]) -> None:
        keys = tuple(dict.fromkeys(EXTRA_RESULTS[name][0] for name in names))
        spread = any(EXTRA_RESULTS[name][1] for name in names)
        found = self.model.observables(  # type: ignore[attr-defined]
            positions, self.temperature, keys, return_std=spread, **({} if cell is None else {"cell": cell})
        )
        for name in names:
            key, std = EXTRA_RESULTS[name]
            value = _numpy(found[key + "_std" if std else key])
            if name == "concavity_violation":
                value = _probability_below_zero(_numpy(found[key]), value)
            self.results[name] = float(value) if value.ndim == 0 else value

    def _inputs(self, atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Positions (1, beads, 3) and cell (1, 3, 3) | None as tensors, after checking that the beads fit."""
        kinds = getattr(self.model, "kinds", None)
        shape = getattr(self.model, "shape", None) if kinds is None else (len(kinds), 3)
        require(
            shape in (None, (len(atoms), 3)),
            f"the model has {shape and shape[0]} beads, the Atoms object {len(atoms)}: map the atoms first",
        )
        if kinds is not None:
            _check_kinds(atoms, tuple(kinds))
        require(
            np.all(np.isfinite(atoms.positions)),
            "positions contain a non-finite value; if dynamics has become unstable, reduce its timestep",
        )
        positions = torch.from_numpy(atoms.positions[None].copy()).to(self.device)
        periodic, needed = atoms.pbc.tolist(), getattr(self.model, "needs_cell", False)
        require(
            all(periodic) or not needed,
            f"the model was fitted to periodic frames, and the atoms have pbc={periodic}: set atoms.cell and "
            "atoms.pbc = True",
        )
        if not any(periodic):
            return positions, None
        require(
            "stress" in self.implemented_properties,
            f"the system is periodic (pbc={periodic}) but {type(self.model).__name__} has no cells; "
            "unwrap the molecule and set atoms.pbc = False",
        )
        require(all(periodic), f"pbc={periodic}: the model needs all three directions periodic, or none")
        return positions, torch.from_numpy(np.array(atoms.cell))[None].to(self.device)


def _alike(old: Atoms, new: Atoms) -> bool:
    """True if nothing but positions can differ of what ASE compares; False where ASE has to compare."""
    charged = "initial_charges" in new.arrays or "initial_magmoms" in new.arrays
    charged = charged or "initial_charges" in old.arrays or "initial_magmoms" in old.arrays
    same = _same(old.numbers, new.numbers) and _same(old.pbc, new.pbc)
    return same and not charged and _same(old.cell.array, new.cell.array)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """True if all bits are equal: a tenth of the time of NumPy's comparison of a few numbers."""
    return a.tobytes() == b.tobytes()


def _check_kinds(atoms: Atoms, kinds: tuple[str, ...]) -> None:
    """Raise unless ``atoms`` are the beads of the model.

    Kinds are read from ``atoms.arrays["kinds"]`` if there, else from the chemical symbols if all kinds of the model are
    symbols and no atom is X; other names (CA, W1) cannot be told from an Atoms object, and only the number is checked.
    """
    if "kinds" in atoms.arrays:
        found = tuple(str(kind) for kind in atoms.arrays["kinds"])
    else:
        found = tuple(atoms.get_chemical_symbols())
        if "X" in found or any(kind not in atomic_numbers for kind in kinds):
            return
    for bead, (has, needs) in enumerate(zip(found, kinds, strict=True)):
        require(has == needs, f"bead {bead} is {has!r}, the model needs {needs!r}: reorder or rename the beads")


def _probability_below_zero(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """P(C < 0) of a normal marginal."""
    z = float(mean) / max(float(std), 1e-300)
    return np.array(0.5 * math.erfc(z / math.sqrt(2.0)))


def _numpy(value: torch.Tensor | np.ndarray) -> np.ndarray:
    """First configuration of a batch as a new array."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.array(value[0], dtype=float)


__all__ = ["EXTRA_RESULTS", "FreeEnergyCalculator"]
