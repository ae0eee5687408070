"""Classes of specs that model files name: those of the package, and the check that no other class has their names."""

from __future__ import annotations

from typing import Any

from ...descriptors import DESCRIPTORS
from ...errors import DataError
from ...kernels import (
    KERNELS,
    ParameterExpansion,
    ParameterKernel,
    SecondOrder,
    StationaryFreeEnergy,
    StationaryHeatCapacity,
    TemperatureKernel,
)
from ...specs import Spec
from ..baseline import BoltzmannInversion
from ..core import RepulsiveCore
from ..observations.noise import CorrelatedNoise
from ..prior.term import Term
from ..solvers.specs import SOLVERS

#: Name → class, of the specs that a file may hold without ``classes=``.
CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Term,
        SecondOrder,
        StationaryHeatCapacity,
        StationaryFreeEnergy,
        TemperatureKernel,
        ParameterExpansion,
        ParameterKernel,
        *SOLVERS.values(),
        BoltzmannInversion,
        RepulsiveCore,
        *KERNELS.values(),
        CorrelatedNoise,
        *DESCRIPTORS.values(),
    )
}


def check_names(value: Any) -> None:
    """Refuse specs of other classes that have a name of the package: a file could not tell them apart.

    Raises
    ------
    DataError
        Naming the class.
    """
    if isinstance(value, (list, tuple)):
        for part in value:
            check_names(part)
    if not isinstance(value, Spec):
        return
    own = type(value)
    if CLASSES.get(own.__name__, own) is not own:
        raise DataError(
            f"{own.__module__}.{own.__qualname__} has the name of a class of kernelfe, as which a file would be read: "
            "rename it"
        )
    for part in value.get_params(deep=False).values():
        check_names(part)
