"""Pair potential of a fitted term, with its error bar.

A term on :class:`~kernelfe.descriptors.PairDistances` is a sum over pairs, A = … + Σ u(r; T): u is read at two beads by
themselves, without any cell. Data fix u up to a constant only, so that values are relative to u at a distance, by
default at the cutoff. The repulsive core of a liquid (:mod:`kernelfe.gp.core`) is part of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...arrays import real_array
from ...descriptors import PairDistances
from ...errors import DataError, require
from ...functionals import Functional, Spatial
from ...functionals import observables as functionals
from ...kernels import spatial_jets
from ...specs import OrNone, Real, checked
from ..core import FittedCore
from ..prior.rows import RowBlock, TermRead

_FORCE = 3  # of the six components of the two beads, x of the second: −du/dr


@torch.no_grad()
def pair_potential(
    model,
    r,
    term=None,
    *,
    temperature=None,
    quantity="free_energy",
    parameters=None,
    return_std=False,
    reference="cutoff",
):
    """Pair potential; see :meth:`kernelfe.FreeEnergyRegressor.pair_potential`."""
    distances = np.atleast_1d(real_array(r, "r", "Å"))
    require(
        distances.ndim == 1 and len(distances) and np.isfinite(distances).all() and (distances > 0).all(),
        "r must be positive and finite distances, Å, of shape (n,)",
    )
    functional: Functional = functionals.get(quantity)
    require(
        functional.spatial in (Spatial.VALUE, Spatial.GRADIENT),
        f"a pair has no {functional.key}: use free_energy, mean_force, mean_energy, entropy, heat_capacity …",
    )
    index = _chosen(model, term)
    kelvin = model.temperature if temperature is None else temperature
    kelvin = checked("temperature", kelvin, Real(above=0.0), "pair_potential")
    require(
        set(parameters or {}) == set(model.parameters),
        f"the model depends on the parameters {list(model.parameters)}: pass parameters={{name: value}}",
    )
    at = (model.posterior.prior, index, functional, kelvin, parameters or {})
    cutoff = _descriptor(model.posterior.prior.terms[index]).cutoff
    require(distances.max() < cutoff, f"r must be below the cutoff of the term, {cutoff:g} Å: there is nothing beyond")
    rows = _rows(distances, *at)
    if functional.spatial is Spatial.VALUE and reference is not None:
        origin = cutoff * (1.0 - 1e-9) if reference == "cutoff" else reference
        origin = checked("reference", origin, OrNone(Real(above=0.0)), "pair_potential")
        rows = rows - _rows(np.full(len(distances), origin), *at)
        core = _core(model, index, functional, kelvin, np.full(1, origin))
    else:
        core = 0.0
    picked = slice(None) if functional.spatial is Spatial.VALUE else slice(_FORCE, None, 6)
    mean = model.posterior.mean(rows)[picked].cpu().numpy() + _core(model, index, functional, kelvin, distances) - core
    if not return_std:
        return mean
    return mean, model.posterior.variance(rows).clamp_min(0.0).sqrt()[picked].cpu().numpy()


def _core(model, index: int, functional: Functional, kelvin: float, distances: np.ndarray) -> np.ndarray | float:
    """What the core adds to a quantity of pairs; it does not depend on temperature."""
    descriptor = _descriptor(model.posterior.prior.terms[index])
    if not isinstance(model.baseline, FittedCore) or descriptor.weight_nodes is None:
        return 0.0
    value, slope = model.baseline.pair(distances, descriptor.kinds)
    weight = sum(c * kelvin**p for read in functional.reads for c, p, n in read.thermal if n == 0)
    return weight * (value if functional.spatial is Spatial.VALUE else slope)


def _chosen(model, term: str | None) -> int:
    """Index of the pair term that is meant."""
    pairs = [
        k for k, module in enumerate(model.posterior.prior.terms) if isinstance(_descriptor(module), PairDistances)
    ]
    names = [model.names[k] for k in pairs]
    if term is None and len(pairs) == 1:
        return pairs[0]
    require(names, "the model has no term on PairDistances, and so no pair potential: use predict")
    if term not in names:
        raise DataError(f"term={term!r}: name one of the pair terms, {', '.join(map(repr, names))}")
    return pairs[names.index(term)]


def _descriptor(module):
    return module.spec.descriptor


def _rows(distances: np.ndarray, prior, index: int, functional, temperature: float, parameters) -> RowBlock:
    """Rows that read one pair term at pairs of beads, and no other term."""
    module, count = prior.terms[index], len(distances)
    coordinates = torch.zeros(count, 2, 3, dtype=torch.float64, device=prior.device)
    coordinates[:, 1, 0] = torch.from_numpy(distances)
    alone: PairDistances = replace(_descriptor(module), apart=0, bonds=None, bead_kinds=_descriptor(module).kinds)
    environments = alone.environments(coordinates)
    jets = module.embed(spatial_jets(environments, functional.spatial))
    kelvin = torch.full((count,), temperature, dtype=torch.float64, device=prior.device)
    values = {name: torch.full_like(kelvin, float(value)) for name, value in parameters.items()}
    terms: list[list[TermRead]] = [[] for _ in prior.terms]
    terms[index] = [TermRead(jets, module.factors(_named(read, values), kelvin, values)) for read in functional.reads]
    components = 1 if functional.spatial is Spatial.VALUE else 6
    return RowBlock(count, components, terms, [], kelvin.new_zeros(count * components))


def _named(read, parameters: dict[str, Tensor]):
    """The read with ``"*"`` replaced by the only parameter."""
    if read.parameter != "*":
        return read
    require(len(parameters) == 1, "say which parameter is meant, as in 'parameter_derivative:NAME'")
    return replace(read, parameter=next(iter(parameters)))


__all__ = ["pair_potential"]
