"""The potential of a liquid as engines take it: functions of pairs and of triplets at one temperature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from ..errors import DataError, require

#: Matches beads of every kind.
ANY = "*"


@dataclass(frozen=True)
class PairFunction:
    """Energy u(r) of every pair of beads of two kinds.

    Parameters
    ----------
    kinds
        The two kinds, in any order; ``"*"`` matches every kind.
    cutoff
        Distance from which u is zero, Å.
    function
        Distances (n,), Å, all below the cutoff → u in eV and du/dr in eV/Å, each (n,).
    """

    kinds: tuple[str, str]
    cutoff: float
    function: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]

    def of(self, a: str, b: str) -> bool:
        """True if the function acts between beads of kinds a and b."""
        return any(x in (ANY, a) and y in (ANY, b) for x, y in (self.kinds, self.kinds[::-1]))

    def __call__(self, r: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """u and du/dr at any distances (n,)."""
        inside = r < self.cutoff
        out = np.zeros((2, len(r)))
        if inside.any():
            out[:, inside] = self.function(r[inside])
        return out[0], out[1]


@dataclass(frozen=True)
class TripletFunction:
    """Energy V(r, s, θ) = Σ_abl C_abl B_a(r) B_b(s) P_l(cos θ) of a bead and every two of its neighbours.

    B_a are cubic B-splines on the knots first + step·(a … a + 4), P_l Legendre polynomials.

    Parameters
    ----------
    kinds
        Kind of the centre, of the neighbour at r and of that at s; ``"*"`` matches every kind. Where both neighbours
        may be of the same kind, C must not change when a and b are exchanged.
    first, step
        Å.
    coefficients
        C, (n, n, degree + 1), eV.

    Raises
    ------
    DataError
        If shapes, symmetry or numbers are wrong.
    """

    kinds: tuple[str, str, str]
    first: float
    step: float
    coefficients: NDArray[np.float64]

    def __post_init__(self) -> None:
        c = np.array(self.coefficients, float)
        fine = c.ndim == 3 and c.shape[0] == c.shape[1] and c.size > 0 and bool(np.isfinite(c).all())
        require(fine, f"a function of triplets needs finite coefficients (n, n, degree + 1), not {c.shape}")
        require(self.step > 0.0 and self.first >= 0.0, "a function of triplets needs step > 0 and first ≥ 0, Å")
        same = ANY in self.kinds[1:] or self.kinds[1] == self.kinds[2]
        require(
            not same or bool(np.allclose(c, c.swapaxes(0, 1), rtol=1e-9, atol=1e-12 * np.abs(c).max(initial=1e-300))),
            f"triplets {self.kinds}: the coefficients must be symmetric in both neighbours, which may be of one kind",
        )
        object.__setattr__(self, "coefficients", c)

    @property
    def cutoff(self) -> float:
        """Distance of a neighbour from which V is zero, Å."""
        return self.first + self.step * (len(self.coefficients) + 3)

    def turned(self, centre: str, a: str, b: str) -> NDArray[np.float64] | None:
        """Coefficients with r belonging to a neighbour of kind a and s to one of kind b; None if V is zero there."""
        if self.kinds[0] not in (ANY, centre):
            return None
        for kinds, c in ((self.kinds[1:], self.coefficients), (self.kinds[:0:-1], self.coefficients.swapaxes(0, 1))):
            if kinds[0] in (ANY, a) and kinds[1] in (ANY, b):
                return c
        return None

    def basis(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        """B_a(r), shape (n, len(r))."""
        knots = self.first + self.step * (np.arange(len(self.coefficients))[:, None] + np.arange(5))
        return np.array([np.nan_to_num(BSpline.basis_element(t, extrapolate=False)(r)) for t in knots])


@dataclass(frozen=True)
class LiquidPotential:
    """A free energy A(R; T) at one temperature: a sum of functions of pairs and triplets of beads.

    Parameters
    ----------
    temperature
        K.
    kinds
        Kinds of the beads; the engine's types have this order.
    pairs, triplets
        Functions; those that act on the same kinds add.
    masses
        Mass of a bead of each kind, u; None if not known.
    constant
        Part of A that does not depend on the configuration, eV per box of the model's beads. Engines do without it.

    Raises
    ------
    DataError
        If kinds are missing or given twice, a function acts on none of them, or nothing is left.
    """

    temperature: float
    kinds: tuple[str, ...]
    pairs: tuple[PairFunction, ...] = ()
    triplets: tuple[TripletFunction, ...] = ()
    masses: tuple[float, ...] | None = None
    constant: float = 0.0

    def __post_init__(self) -> None:
        require(np.isfinite(self.temperature) and self.temperature > 0.0, "the temperature must be positive, K")
        require(self.kinds and len(set(self.kinds)) == len(self.kinds), f"kinds {self.kinds}: name each kind once")
        require(self.pairs or self.triplets, "the potential has neither functions of pairs nor of triplets")
        require(self.masses is None or len(self.masses) == len(self.kinds), "give one mass for each kind, or none")
        for kinds in [f.kinds for f in self.pairs] + [f.kinds for f in self.triplets]:
            missing = set(kinds) - {ANY, *self.kinds}
            require(not missing, f"a function acts on {kinds}, and there are no beads of {sorted(missing)}")

    def pair_cutoff(self, a: str, b: str) -> float:
        """Largest cutoff of the pair functions of two kinds, Å; 0 without one."""
        return max((f.cutoff for f in self.pairs if f.of(a, b)), default=0.0)

    def pair(self, a: str, b: str, r: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energy of a pair of two kinds in eV and its derivative by the distance in eV/Å, at distances (n,), Å."""
        r = np.asarray(r, float)
        found = [f(r) for f in self.pairs if f.of(a, b)]
        return sum((u for u, _ in found), np.zeros(len(r))), sum((d for _, d in found), np.zeros(len(r)))

    def triplet_functions(self, centre: str, a: str, b: str) -> list[TripletFunction]:
        """Functions of a centre and two neighbours, r belonging to the one of kind a and s to that of kind b."""
        found = []
        for f in self.triplets:
            if (c := f.turned(centre, a, b)) is not None:
                found.append(TripletFunction((centre, a, b), f.first, f.step, c))
        return found

    def triplet(self, centre: str, a: str, b: str, r, s, cosine) -> NDArray[np.float64]:
        """Energy of triplets in eV; r, s in Å and the cosine of the angle between them are arrays of one shape (n,)."""
        out = np.zeros(len(r))
        for f in self.triplet_functions(centre, a, b):
            angular = legendre.legvander(cosine, f.coefficients.shape[2] - 1)
            out += np.einsum("abl,an,bn,nl->n", f.coefficients, f.basis(r), f.basis(s), angular)
        return out


def as_potential(model: Any, temperature: float | None) -> LiquidPotential:
    """The potential of a model at a temperature, K; a :class:`LiquidPotential` is taken as it is.

    Raises
    ------
    DataError
        If the temperature is missing or another one, or the model has no such potential.
    """
    if isinstance(model, LiquidPotential):
        if temperature is not None and temperature != model.temperature:
            raise DataError(f"the potential belongs to {model.temperature:g} K, not to {temperature:g} K")
        return model
    model = getattr(model, "model_", model)  # of an estimator, what it has fitted
    if not hasattr(model, "liquid_potential"):
        raise DataError(
            f"{type(model).__name__} cannot be exported: pass a fitted model of a liquid or a LiquidPotential"
        )
    require(temperature is not None, "give the temperature: A(R; T) is another potential at every temperature")
    found = model.liquid_potential(temperature)
    assert isinstance(found, LiquidPotential)
    return found
