"""Structure and pressure of a model beside those of all-atom frames, each difference with its floor."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...arrays import kelvin
from ...errors import require
from ...statistics import Estimate
from .angles import AngularDistribution, angular_of, total_variation
from .distance_measures import Distance
from .order import Coordination, TetrahedralOrder, coordination_of, tetrahedral_of
from .pressure import pressure
from .radial import RadialDistribution, first_shell, kind_pairs, l1_distance, radial_bins, radial_of
from .samples import LiquidSamples
from .structure_factor import StructureFactor, structure_of

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LiquidSettings:
    """Settings of the measurements on samples of a liquid.

    Attributes
    ----------
    shell
        Cutoff of the first shell for angles and coordination, Å; 3.3 suits water. None: the first minimum of g(r) of
        all beads alike, of the reference where there is one.
    lower, upper
        Range of the distance between radial distributions, Å. ``upper`` is lowered to half the least height of the
        smaller cell.
    width
        Bins of g(r), Å.
    bins
        Bins of the angle.
    k_max
        Longest wave vector of the structure factor, 1/Å.
    """

    shell: float | None = 3.3
    lower: float = 2.0
    upper: float = 9.0
    width: float = 0.05
    bins: int = 60
    k_max: float = 6.0


@dataclass(frozen=True, eq=False)
class LiquidProperties:
    """Structure and pressure of samples of a liquid: a reference is measured once and compared often.

    Attributes
    ----------
    temperature
        K.
    samples
        Number of frames.
    radial
        Pair of kinds → g(r); the key None without kinds.
    angular
        Angles within the first shell, all kinds alike.
    tetrahedral
        Order of all beads.
    coordination
        Neighbours in the first shell, all kinds alike.
    structure
        S(k), all kinds alike.
    pressure
        bar, or None without virials.
    settings
        What was measured; the first shell that was found.
    """

    temperature: float
    samples: int
    radial: dict[tuple[str, str] | None, RadialDistribution]
    angular: AngularDistribution
    tetrahedral: TetrahedralOrder
    coordination: Coordination
    structure: StructureFactor
    pressure: Estimate | None
    settings: LiquidSettings


@dataclass(frozen=True, eq=False)
class Comparison:
    """One row of the table.

    Attributes
    ----------
    quantity, unit
        Name and unit.
    model, reference
        Values with errors; None for distances between curves.
    distance
        Distance between curves, or |difference| of the values, with its error and its floor: what two exact samples of
        these sizes would show on average.
    """

    quantity: str
    unit: str
    model: Estimate | None
    reference: Estimate | None
    distance: Distance


@dataclass(frozen=True, eq=False)
class LiquidComparison:
    """A model beside all-atom frames.

    Attributes
    ----------
    model, reference
        All that was measured.
    rows
        The table.
    """

    model: LiquidProperties
    reference: LiquidProperties
    rows: tuple[Comparison, ...]

    def with_row(self, quantity: str, unit: str, model: Estimate, reference: Estimate) -> LiquidComparison:
        """The comparison with one more number: a heat capacity, a diffusion coefficient, a density.

        Parameters
        ----------
        quantity, unit
            Name and unit.
        model, reference
            Values with errors, in that unit.
        """
        return replace(self, rows=(*self.rows, _scalar(quantity, unit, model, reference)))

    def __getitem__(self, quantity: str) -> Comparison:
        for row in self.rows:
            if row.quantity == quantity:
                return row
        raise KeyError(f"{quantity!r} is not in the table; it has: {', '.join(row.quantity for row in self.rows)}")

    def __str__(self) -> str:
        lines = [
            f"{self.model.samples} samples and {self.reference.samples} all-atom frames at {self.model.temperature:g} K"
        ]
        for row in self.rows:
            values = "" if row.model is None else f"model {row.model}, all-atom {row.reference}, difference "
            unit = f" {row.unit}" if row.unit else ""
            lines.append(f"{row.quantity}: {values}{row.distance.value:.3g} (floor {row.distance.floor:.3g}){unit}")
        return "\n".join(lines)


def liquid_properties(
    samples: LiquidSamples, temperature: float, settings: LiquidSettings | None = None
) -> LiquidProperties:
    """Measure structure and pressure of samples.

    Parameters
    ----------
    samples
        At one temperature.
    temperature
        K.
    settings
        What to measure; None: for water.

    Raises
    ------
    DataError
        If a cell is too small for the first shell, or beads coincide; names the frame.
    """
    t, chosen, frames = kelvin(temperature), settings or LiquidSettings(), samples.frames
    width, bins = radial_bins(frames, None, chosen.width)
    if chosen.shell is None:
        chosen = replace(chosen, shell=first_shell(radial_of(frames, None, width, bins)))
    assert chosen.shell is not None
    pairs: list[tuple[str, str] | None] = list(kind_pairs(frames)) if frames.kinds is not None else [None]
    found = None
    if samples.virials is not None:
        found = pressure(t, frames.given, frames.beads, virials=samples.virials, series=frames.series)
    return LiquidProperties(
        t,
        len(samples),
        {pair: radial_of(frames, pair, width, bins) for pair in pairs},
        angular_of(frames, chosen.shell, None, chosen.bins),
        tetrahedral_of(frames),
        coordination_of(frames, chosen.shell),
        structure_of(frames, None, chosen.k_max),
        found,
        chosen,
    )


def compare_liquids(
    model: LiquidSamples | LiquidProperties,
    reference: LiquidSamples | LiquidProperties,
    temperature: float,
    settings: LiquidSettings | None = None,
) -> LiquidComparison:
    """Compare samples of a model with all-atom frames at one temperature.

    Parameters
    ----------
    model, reference
        Samples, or what :func:`liquid_properties` measured on them.
    temperature
        K.
    settings
        What to measure; None: that of measured properties, or for water.

    Returns
    -------
    LiquidComparison
        Rows: L1 distance of each g(r), total variation of the angles, triplets per bead, neighbours, tetrahedral order,
        and pressure where both are known.

    Raises
    ------
    DataError
        If kinds, temperatures or settings differ, or a frame is wrong; names the frame.
    """
    t = kelvin(temperature)
    measured = [x.settings for x in (model, reference) if isinstance(x, LiquidProperties)]
    chosen = settings or (measured[0] if measured else LiquidSettings())
    two = reference if isinstance(reference, LiquidProperties) else liquid_properties(reference, t, chosen)
    if chosen.shell is None:
        chosen = replace(chosen, shell=two.settings.shell)
    one = model if isinstance(model, LiquidProperties) else liquid_properties(model, t, chosen)
    for part, name in ((one, "model"), (two, "reference")):
        require(part.temperature == t, f"the {name} was measured at {part.temperature:g} K, not at {t:g} K")
        require(part.settings == chosen, f"the {name} was measured with other settings: {part.settings}")
    require(set(one.radial) == set(two.radial), "model and reference hold beads of other kinds")
    rows = []
    for pair, g in one.radial.items():
        other = two.radial[pair]
        upper = min(chosen.upper, g.edges[-1], other.edges[-1])
        name = "g(r) L1" if pair is None or len(one.radial) == 1 else f"g(r) L1, {pair[0]}–{pair[1]}"
        name += "" if upper == chosen.upper else f" (up to {upper:.4g} Å)"
        rows.append(Comparison(name, "", None, None, l1_distance(g, other, chosen.lower, upper)))
    rows.append(Comparison("angular total variation", "", None, None, total_variation(one.angular, two.angular)))
    rows.append(_scalar("triplets per bead", "", one.angular.triplets, two.angular.triplets))
    rows.append(_scalar("neighbours", "", one.coordination.mean, two.coordination.mean))
    rows.append(_scalar("tetrahedral order q", "", one.tetrahedral.mean, two.tetrahedral.mean))
    if one.pressure is not None and two.pressure is not None:
        rows.append(_scalar("pressure", "bar", one.pressure, two.pressure))
    return LiquidComparison(one, two, tuple(rows))


def _scalar(quantity: str, unit: str, model: Estimate, reference: Estimate) -> Comparison:
    error = math.hypot(model.error, reference.error)
    distance = Distance(abs(model.value - reference.value), error, math.sqrt(2.0 / math.pi) * error)
    return Comparison(quantity, unit, model, reference, distance)
