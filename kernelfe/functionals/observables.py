"""The observables: one small class each, in the order of the theory page.

Notation: k Boltzmann's constant, b = 1/kT, ⟨·⟩ the average over the all-atom states that map to R,
f the mapped all-atom force, U the all-atom potential energy (it must not depend on T).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..errors import DataError, require
from ..units import BOLTZMANN
from .base import Functional, Read, Spatial


class FreeEnergy(Functional):
    """A(R; T, λ) itself; from MBAR or thermodynamic integration. Unit eV."""

    def __init__(self):
        super().__init__("free_energy", "eV", (Read(Spatial.VALUE),))


class MeanForce(Functional):
    """−∇A = ⟨f⟩, the mapped force, one frame or averaged. Unit eV/Å."""

    def __init__(self):
        super().__init__("mean_force", "eV/Å", (Read(Spatial.GRADIENT, ((-1.0, 0, 0),)),))


class GeneralizedForce(Functional):
    """−t(R)·∇A = ⟨f·w + kT (div w − div_R t)⟩ for any all-atom field w that moves the beads by t(R).

    div_R t is the divergence of t in the space of the beads, zero for constant fields and rigid rotations.
    Unit eV per unit of t.
    """

    def __init__(self):
        super().__init__("generalized_force", "eV/[t]", (Read(Spatial.DISPLACEMENT, ((-1.0, 0, 0),)),))


class MeanEnergy(Functional):
    """A − T ∂A/∂T = ∂(bA)/∂b = ⟨U⟩, the all-atom potential energy (Gibbs–Helmholtz). Unit eV."""

    def __init__(self):
        super().__init__("mean_energy", "eV", (Read(Spatial.VALUE, ((1.0, 0, 0), (-1.0, 1, 1))),))


class Entropy(Functional):
    """−∂A/∂T. Unit eV/K."""

    def __init__(self):
        super().__init__("entropy", "eV/K", (Read(Spatial.VALUE, ((-1.0, 0, 1),)),))


class HeatCapacity(Functional):
    """−T ∂²A/∂T² = k b² Var(U|R). Unit eV/K."""

    def __init__(self):
        super().__init__("heat_capacity", "eV/K", (Read(Spatial.VALUE, ((-1.0, 1, 2),)),))


class EnergyVariance(Functional):
    """−k T³ ∂²A/∂T² = Var(U|R). Unit eV²."""

    def __init__(self):
        super().__init__("energy_variance", "eV²", (Read(Spatial.VALUE, ((-BOLTZMANN, 3, 2),)),))


class ThermalResponseForce(Functional):
    """−∇ ∂A/∂T = d⟨f⟩/dT = ∇S = k b² Cov(f, U|R). Unit eV/Å/K."""

    def __init__(self):
        super().__init__("thermal_response_force", "eV/Å/K", (Read(Spatial.GRADIENT, ((-1.0, 0, 1),)),))


class GeneralizedThermalResponse(Functional):
    """−t(R)·∇ ∂A/∂T = d⟨q⟩/dT, q = f·w + kT (div w − div_R t) the generalised force. Unit eV/K per unit of t.

    k b² Cov(q, U|R) + k⟨div w − div_R t⟩. A field whose force has little noise also has a response with little noise.
    """

    def __init__(self):
        super().__init__("generalized_thermal_response", "eV/[t]/K", (Read(Spatial.DISPLACEMENT, ((-1.0, 0, 1),)),))


class SecondThermalResponseForce(Functional):
    """−∇ ∂²A/∂T², from the joint cumulants κ(f,U,U) and Cov(f,U): ∂ⁿ⟨f⟩/∂bⁿ = (−1)ⁿ κ(f,Uⁿ). Unit eV/Å/K²."""

    def __init__(self):
        super().__init__("second_thermal_response_force", "eV/Å/K²", (Read(Spatial.GRADIENT, ((-1.0, 0, 2),)),))


class ParameterDerivative(Functional):
    """∂A/∂λ = ⟨∂U/∂λ⟩. Unit eV per unit of λ.

    Parameters
    ----------
    parameter
        Name of λ; ``"*"`` means the only parameter of the data.
    """

    def __init__(self, parameter: str = "*"):
        super().__init__(_key("parameter_derivative", parameter), "eV/[λ]", (Read(Spatial.VALUE, parameter=parameter),))


class ParameterResponseForce(Functional):
    """−∇ ∂A/∂λ = ⟨∂f/∂λ⟩ − b Cov(f, ∂U/∂λ). Unit eV/Å per unit of λ.

    Parameters
    ----------
    parameter
        Name of λ; ``"*"`` means the only parameter of the data.
    """

    def __init__(self, parameter: str = "*"):
        super().__init__(
            _key("parameter_response_force", parameter),
            "eV/Å/[λ]",
            (Read(Spatial.GRADIENT, ((-1.0, 0, 0),), parameter=parameter),),
        )


class Stress(Functional):
    """(∂A/∂strain)/V, the excess stress in ASE's sign and Voigt order. Unit eV/Å³.

    From all-atom data: −(P − N_beads kT/V) with P the all-atom pressure tensor; for molecular centres of
    mass −(1/V) Σ R⊗F. The pressure is N_beads kT/V − tr(stress)/3: the stress does not include the kinetic part.
    """

    def __init__(self):
        super().__init__("stress", "eV/Å³", (Read(Spatial.STRAIN),))


class ExcessPressure(Functional):
    """−∂A/∂V at fixed scaled coordinates = ⟨P⟩ − N_beads kT/V, the pressure without its kinetic part. Unit eV/Å³.

    From all-atom data: the molecular virial over 3 V, −⟨∂U/∂V⟩ as the molecules' centres are scaled and the molecules
    keep their shape. Forces alone leave it undetermined in a liquid.
    """

    def __init__(self):
        super().__init__("excess_pressure", "eV/Å³", (Read(Spatial.VOLUME, ((-1.0, 0, 0),)),))


def _key(name: str, parameter: str) -> str:
    return name if parameter == "*" else f"{name}:{parameter}"


#: Every quantity key and the class behind it. A new observable is one class above and one entry here.
OBSERVABLES: dict[str, Callable[..., Functional]] = {
    "free_energy": FreeEnergy,
    "mean_force": MeanForce,
    "generalized_force": GeneralizedForce,
    "mean_energy": MeanEnergy,
    "entropy": Entropy,
    "heat_capacity": HeatCapacity,
    "energy_variance": EnergyVariance,
    "thermal_response_force": ThermalResponseForce,
    "generalized_thermal_response": GeneralizedThermalResponse,
    "second_thermal_response_force": SecondThermalResponseForce,
    "parameter_derivative": ParameterDerivative,
    "parameter_response_force": ParameterResponseForce,
    "stress": Stress,
    "excess_pressure": ExcessPressure,
}


def get(key: str | Functional) -> Functional:
    """Return the functional of a quantity key.

    Parameters
    ----------
    key
        A key of :data:`OBSERVABLES`, for the parameter observables optionally followed by ``:name``
        (``"parameter_derivative:charge"``), or a :class:`Functional`, which is returned unchanged.

    Raises
    ------
    DataError
        If the key is unknown.
    """
    if isinstance(key, Functional):
        return key
    name, colon, parameter = str(key).partition(":")
    if name not in OBSERVABLES or (colon and not (parameter and name.startswith("parameter_"))):
        raise DataError(
            f"unknown quantity {key!r}; known: {', '.join(OBSERVABLES)}. A functional of your own must be registered "
            "first: kernelfe.functionals.register(YourClass)"
        )
    return OBSERVABLES[name](parameter) if parameter else OBSERVABLES[name]()


#: Names that mean something else in files of frames.
_RESERVED = {
    *("bonds", "cell", "displacements", "energy", "forces", "kinds", "labels", "masses", "momenta", "noise", "numbers"),
    *("pairs", "parameters", "pbc", "pos", "positions", "present", "species", "temperature", "units", "variables"),
}


def register(observable: type[Functional]) -> type[Functional]:
    """Add a functional of your own to the quantity keys, so that Frames take labels of it and files may name it.

    Use it as a decorator of the class, or call it once before Frames with such labels are built.

    Parameters
    ----------
    observable
        A subclass of :class:`Functional` without arguments. Its key consists of small letters, digits and underscores.

    Raises
    ------
    DataError
        If it is not such a class, or its key is not a name, is reserved, or belongs to another class.
    """
    require(
        isinstance(observable, type) and issubclass(observable, Functional),
        f"register takes a subclass of Functional, not {observable!r}",
    )
    key = observable().key  # type: ignore[call-arg]
    name = re.fullmatch(r"[a-z][a-z0-9_]*", key) and key not in _RESERVED
    require(name, f"the quantity key {key!r} must be a name of small letters, digits and _, and not a reserved one")
    known: Any = OBSERVABLES.get(key, observable)
    # a class that is defined again, as in a notebook, replaces itself
    same = (known.__module__, known.__qualname__) == (observable.__module__, observable.__qualname__)
    require(same, f"the quantity key {key!r} belongs to {known.__qualname__}: choose another key")
    OBSERVABLES[key] = observable
    return observable
