"""Liquids: structure, pressure, heat capacity and diffusion of periodic samples, with block errors and floors.

Everything takes positions (n, beads, 3) in Å, wrapped or not, and a cell (3, 3) or (n, 3, 3) of any shape. Errors count
the correlation between frames (:func:`~kernelfe.statistics.series_mean`); ``series`` labels independent replicas.
"""

from __future__ import annotations

from .angles import AngularDistribution, angular_distribution, total_variation
from .comparison import (
    Comparison,
    LiquidComparison,
    LiquidProperties,
    LiquidSettings,
    compare_liquids,
    liquid_properties,
)
from .diffusion import Diffusion, diffusion_coefficient, finite_size_correction, unwrapped
from .distance_measures import Curve, Distance
from .figures import angular_figure, radial_figure, structure_factor_figure, tetrahedral_figure
from .heat import (
    HeatCapacities,
    ObservedHeatCapacity,
    heat_capacity_by_differences,
    heat_capacity_by_fluctuations,
    observed_heat_capacity,
)
from .order import Coordination, TetrahedralOrder, coordination_number, tetrahedral_order
from .pressure import density, isothermal_compressibility, pressure
from .radial import RadialDistribution, first_shell, l1_distance, radial_distribution, radial_distributions
from .samples import LiquidSamples
from .structure_factor import StructureFactor, structure_factor

__all__ = [
    "AngularDistribution",
    "Comparison",
    "Coordination",
    "Curve",
    "Diffusion",
    "Distance",
    "HeatCapacities",
    "LiquidComparison",
    "LiquidProperties",
    "LiquidSamples",
    "LiquidSettings",
    "ObservedHeatCapacity",
    "RadialDistribution",
    "StructureFactor",
    "TetrahedralOrder",
    "angular_distribution",
    "angular_figure",
    "compare_liquids",
    "coordination_number",
    "density",
    "diffusion_coefficient",
    "finite_size_correction",
    "first_shell",
    "heat_capacity_by_differences",
    "heat_capacity_by_fluctuations",
    "isothermal_compressibility",
    "l1_distance",
    "liquid_properties",
    "observed_heat_capacity",
    "pressure",
    "radial_distribution",
    "radial_distributions",
    "radial_figure",
    "structure_factor",
    "structure_factor_figure",
    "tetrahedral_figure",
    "tetrahedral_order",
    "total_variation",
    "unwrapped",
]
