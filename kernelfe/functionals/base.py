"""A label is a linear functional of the free energy.

Every observable of kernelfe reads A(R; T, λ) through a short sum of elementary **reads**

    L[A] = Σ_reads  S_R · D_T · ∂_λ  A,        D_T = Σ_k c_k T^{p_k} ∂^{n_k}/∂T^{n_k},

a spatial operator S_R (the value, the gradient, the derivative along given displacement fields, the
strain derivative), a differential operator in temperature, and at most one derivative with respect to a parameter.
Functionals of the same output shape form a vector space: ``+``, ``-`` and scaling give functionals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from numbers import Real

from ..errors import DataError, require


class Spatial(Enum):
    """The spatial operator of a read; it fixes the shape of the output, per frame."""

    VALUE = "value"  #: f → f, scalar
    GRADIENT = "gradient"  #: f → ∇f, the shape of the coordinates
    DISPLACEMENT = "displacement"  #: f → t_k·∇f along the k given fields, shape (k,)
    STRAIN = "strain"  #: f → (∂f/∂strain)/V, shape (6,) in Voigt order xx, yy, zz, yz, xz, xy
    VOLUME = "volume"  #: f → ∂f/∂V at fixed scaled coordinates, scalar

    @property
    def needs_cell(self) -> bool:
        """True for derivatives by the shape or size of the cell."""
        return self in (Spatial.STRAIN, Spatial.VOLUME)


@dataclass(frozen=True)
class Read:
    """One elementary read: ``spatial`` ∘ Σ c·T^p·∂ⁿ/∂Tⁿ ∘ ∂/∂``parameter``.

    Parameters
    ----------
    spatial
        The spatial operator.
    thermal
        Triples (c, p, n): coefficient, power of T, order of the temperature derivative.
    parameter
        Name of the parameter of a derivative, or None for no derivative; ``"*"`` stands for the only parameter.
    """

    spatial: Spatial
    thermal: tuple[tuple[float, int, int], ...] = ((1.0, 0, 0),)
    parameter: str | None = None

    def __post_init__(self):
        kinds = ", ".join(f"Spatial.{one.name}" for one in Spatial)
        require(isinstance(self.spatial, Spatial), f"Read: spatial={self.spatial!r} must be one of {kinds}")
        sound = isinstance(self.thermal, tuple) and all(isinstance(e, tuple) and len(e) == 3 for e in self.thermal)
        require(sound, f"Read: thermal={self.thermal!r} must be a tuple of triples (c, p, n)")

    def plain(self) -> list:
        """The read as JSON: spatial operator, thermal triples, parameter."""
        return [self.spatial.value, [list(triple) for triple in self.thermal], self.parameter]

    def scaled(self, factor: float, power: int = 0) -> Read:
        """The same read times ``factor``·T^``power``."""
        return replace(self, thermal=tuple((factor * c, p + power, n) for c, p, n in self.thermal))


@dataclass(frozen=True)
class Functional:
    """A linear functional of the free energy (see the module's formula).

    Parameters
    ----------
    key
        The quantity key, for example ``"mean_force"``.
    unit
        Unit of the quantity in kernelfe's internal units, for example ``"eV/Å"``.
    reads
        Elementary reads of the sum; all with the same spatial operator.
    """

    key: str
    unit: str
    reads: tuple[Read, ...]

    def __post_init__(self):
        require(
            self.reads and len({read.spatial for read in self.reads}) == 1,
            f"functional {self.key!r} mixes outputs of different shape; add only functionals that read "
            "A through the same spatial operator",
        )

    @property
    def spatial(self) -> Spatial:
        """The spatial operator shared by all reads."""
        return self.reads[0].spatial

    def shape(self, coordinate_shape: tuple[int, ...], fields: int | None = None) -> tuple[int, ...]:
        """Shape of one frame's output.

        Parameters
        ----------
        coordinate_shape
            (beads, 3) or (d,).
        fields
            Number of displacement fields per frame.

        Raises
        ------
        DataError
            If the functional needs displacement fields and the frames have none.
        """
        if self.spatial in (Spatial.VALUE, Spatial.VOLUME):
            return ()
        if self.spatial is Spatial.GRADIENT:
            return tuple(coordinate_shape)
        if self.spatial is Spatial.STRAIN:
            return (6,)
        if fields is None:
            raise DataError(
                f"{self.key!r} is read along displacement fields of the beads: "
                "pass displacements=(frames, fields, beads, 3) when building the Frames"
            )
        return (fields,)

    def __add__(self, other: Functional) -> Functional:
        if not isinstance(other, Functional):
            return NotImplemented
        if self.unit != other.unit:
            raise DataError(f"cannot add {self.key!r} ({self.unit}) and {other.key!r} ({other.unit}): units differ")
        return Functional(f"({self.key} + {other.key})", self.unit, self.reads + other.reads)

    def __mul__(self, factor: float) -> Functional:
        if not isinstance(factor, Real):  # includes NumPy's numbers
            return NotImplemented
        return Functional(f"{factor:g}*{self.key}", self.unit, tuple(r.scaled(float(factor)) for r in self.reads))

    __rmul__ = __mul__

    def __neg__(self) -> Functional:
        return -1.0 * self

    def __sub__(self, other: Functional) -> Functional:
        return self + (-other)

    def times_temperature(self, power: int = 1, unit: str | None = None) -> Functional:
        """T^``power`` times this functional; ``unit`` names the unit of the product."""
        unit = unit if unit is not None else f"{self.unit}·K^{power}"
        return Functional(f"T^{power}*{self.key}", unit, tuple(r.scaled(1.0, power) for r in self.reads))
