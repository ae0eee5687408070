"""The functions of pairs and triplets of a fitted model of a liquid, for engines that run them by themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...deploy import LiquidPotential, PairFunction, TripletFunction
from ...deploy.potential import ANY
from ...descriptors import PairDistances, PairSplines, TripletSplines
from ...errors import DataError, require
from ...specs import Real, checked
from ..core import FittedCore
from .frozen import FrozenModel


def liquid_potential(model: Any, temperature: float, parameters: dict[str, float] | None = None) -> LiquidPotential:
    """A(R; T) of a model of one box, at one temperature, as functions of pairs and triplets.

    Parameters
    ----------
    model
        A :class:`~kernelfe.gp.FreeEnergy`.
    temperature
        K.
    parameters
        Values of the parameters λ.

    Raises
    ------
    DataError
        If the model has other terms, pairs that bonds leave out, or another baseline than a repulsive core.
    """
    temperature = checked("temperature", temperature, Real(above=0.0), "liquid_potential")
    require(
        set(parameters or {}) == set(model.parameters),
        f"the model depends on the parameters {list(model.parameters)}: pass parameters={{name: value}}",
    )
    molecule, frozen = model.molecules.entries[0].molecule, model.frozen(parameters)
    beads = molecule.kinds
    kinds = tuple(sorted(set(beads))) if beads is not None else ("X",)
    pairs: list[PairFunction] = []
    triplets: list[TripletFunction] = []
    for number, name in enumerate(model.names):
        descriptor = model.posterior.prior.terms[number].spec.descriptor
        if isinstance(descriptor, TripletSplines):
            triplets.append(_triplets(frozen, number, descriptor, temperature))
        elif isinstance(descriptor, PairDistances):
            _no_exclusions(descriptor, name)
            if isinstance(descriptor, PairSplines):
                function = partial(_splines, frozen, number, descriptor, temperature)
            else:
                function = partial(_kernel, frozen, number, temperature)
            pairs.append(PairFunction(descriptor.kinds or (ANY, ANY), descriptor.cutoff, function))
        else:
            raise DataError(
                f"the term {name!r} is a function of {type(descriptor).__name__}, not of pairs or triplets: engines "
                "cannot run it from tables. Drive it from ASE with model.calculator(temperature)"
            )
    core = model.baseline
    if isinstance(core, FittedCore):
        pairs += [PairFunction(k, core.reach(k), partial(core.pair_and_slope, kinds=k)) for k in core.kinds]
    elif core is not None:
        raise DataError(
            f"the baseline is {type(core).__name__}, of bonds and angles: only models of liquids without bonds are "
            "exported"
        )
    masses, constant = _masses(model, kinds), float(frozen._constant(temperature).sum())
    return LiquidPotential(temperature, kinds, tuple(pairs), tuple(triplets), masses, constant)


def _masses(model: Any, kinds: tuple[str, ...]) -> tuple[float, ...] | None:
    """Masses of kinds, u; None where they are not known or beads of one kind differ."""
    entry = model.molecules.entries[0]
    if entry.masses is None:
        return None
    beads = entry.molecule.kinds or kinds * len(entry.masses)
    found = {kind: {mass for mass, k in zip(entry.masses, beads, strict=True) if k == kind} for kind in kinds}
    return tuple(next(iter(m)) for m in found.values()) if all(len(m) == 1 for m in found.values()) else None


def _no_exclusions(descriptor: PairDistances, name: str) -> None:
    if descriptor.apart and descriptor.bonds:
        raise DataError(
            f"the term {name!r} leaves out pairs less than {descriptor.apart} bonds apart: export is for liquids of "
            "beads without bonds"
        )


def _weights(frozen: FrozenModel, term: int, size: int, temperature: float) -> NDArray[np.float64]:
    """Coefficients of the splines of a term: its slope by z, for it is linear in z."""
    zero = torch.zeros(1, size, dtype=torch.float64, device=frozen.device)
    return frozen._term(term, zero, None, temperature, 1)[1][0].cpu().numpy()


def _splines(frozen: FrozenModel, term: int, descriptor: PairSplines, temperature: float, r: NDArray) -> Any:
    """u and du/dr of a term on splines."""
    weights = _weights(frozen, term, descriptor.splines.count, temperature)
    value, slope = descriptor.splines.dense(torch.from_numpy(np.array(r, float)))
    return value.numpy() @ weights, slope.numpy() @ weights


@torch.no_grad()
def _kernel(frozen: FrozenModel, term: int, temperature: float, r: NDArray) -> Any:
    """u and du/dr of a term on distances, with any kernel."""
    z = torch.from_numpy(np.array(r, float))[:, None].to(frozen.device)
    value, slope = frozen._term(term, z, None, temperature, len(z))
    return value.cpu().numpy(), slope[:, 0].cpu().numpy()


def _triplets(frozen: FrozenModel, term: int, descriptor: TripletSplines, temperature: float) -> TripletFunction:
    splines, degrees = descriptor.splines, descriptor.degree + 1
    weights = _weights(frozen, term, len(descriptor.products) * degrees, temperature).reshape(-1, degrees)
    coefficients = np.zeros((splines.count, splines.count, degrees))
    for (a, b), row in zip(descriptor.products, weights, strict=True):
        coefficients[a, b] = row
        if descriptor.symmetric:
            coefficients[b, a] = row
    return TripletFunction(descriptor.kinds or (ANY, ANY, ANY), splines.first, splines.step, coefficients)
