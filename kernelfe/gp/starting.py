"""Starting numbers of a fit: what terms leave to the data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .. import functionals
from ..descriptors import Distances, PairDistances, Variables
from ..errors import DataError
from ..kernels import RBF, Kernel, ParameterExpansion, SecondOrder, SplineWeights
from .observations.labels import LabelSet
from .prior.mean import MeanFunction
from .prior.prior import Prior
from .prior.term import Term, TermModule
from .states import States

logger = logging.getLogger(__name__)

#: Numbers in the rows of the labels from which the starting scales of a term are read: memory and time only.
NUMBERS = 1_000_000


def named_terms(terms) -> list[tuple[str, Term]]:
    """``terms`` of the regressor as a list of (name, Term).

    Raises
    ------
    DataError
        If it is neither a Term nor a list of (name, Term) with distinct names.
    """
    if isinstance(terms, Term):
        return [("term", terms)]
    try:
        pairs = [(str(name), term) for name, term in terms]
    except (TypeError, ValueError) as error:
        raise DataError("terms must be a Term or a list of (name, Term)") from error
    if not pairs or len({name for name, _ in pairs}) != len(pairs) or not all(isinstance(t, Term) for _, t in pairs):
        raise DataError("terms must be a non-empty list of (name, Term) with distinct names")
    return pairs


def build_prior(terms, data, labels: list[LabelSet]) -> tuple[list[str], Prior, dict[str, float], float]:
    """Fill in what the specs leave to the data, and build fresh modules.

    Parameters
    ----------
    terms
        A Term or a list of (name, Term).
    data
        The :class:`~kernelfe.gp.observations.molecules.MoleculeSet` of the fit.
    labels
        What is conditioned on.

    Returns
    -------
    list of str, Prior, dict, float
        Names of the terms, the prior, starting noise levels of the kinds whose noise is learned, and the mean
        temperature.

    Warns
    -----
    UserWarning
        If a term is expanded about a temperature or a parameter outside the data.
    """
    temperature, values = data.temperature, data.parameters
    reference = float(np.clip(np.mean(temperature), temperature.min(), temperature.max()))  # of equal ones exactly that
    expansions = tuple(_expansion(name, given) for name, given in sorted(values.items()))
    names, modules, spreads = [], [], _spreads(labels)
    states, pairs = data.sampled(_sample), named_terms(terms)
    for name, term in pairs:
        descriptor = term.descriptor
        if descriptor is None:
            descriptor = Variables() if data.parts[0].positions is None else Distances()
        descriptor, z = sampled_environments(descriptor, states)
        if not len(z):
            logger.warning(
                "term %r is zero: no frame has an environment of %s. Check its kinds, bonds and cutoff",
                name,
                descriptor,
            )
        _warn_of_jumps(name, descriptor, z, states)
        kernel = term.kernel if term.kernel is not None else default_kernel(descriptor)
        if not isinstance(kernel, Kernel):
            raise DataError(f"term {name!r}: kernel={kernel!r} is not a kernel; pass one such as RBF(), or None")
        inner = getattr(descriptor, "descriptor", descriptor)  # what Symmetrized wraps
        kernel = kernel.completed(z, per_column=isinstance(inner, Variables))
        thermal: Any = term.thermal if term.thermal is not None else SecondOrder()
        if "reference_temperature" in thermal.missing():
            thermal = replace(thermal, reference_temperature=reference)
        parameters = expansions if term.parameters is None else tuple(term.parameters)
        unknown = {p.name for p in parameters} - set(values)
        if unknown:
            raise DataError(f"term {name!r} depends on {sorted(unknown)}, the Frames have {sorted(values)}")
        _warn_outside(f"reference_temperature of the thermal part of term {name!r}", thermal, temperature)
        for part in parameters:
            _warn_outside(f"reference of the parameter {part.name!r} in term {name!r}", part, values[part.name])
        filled = replace(term, descriptor=descriptor, kernel=kernel, parameters=parameters)
        if unset := thermal.missing():
            # without λ, whose functions together have unit variance in the middle of the data
            unit = replace(filled, thermal=replace(thermal, **dict.fromkeys(thermal.components, 1.0)), parameters=())
            start = _scales(TermModule(unit, z.shape[1]), labels, spreads, reference, len(pairs))
            thermal = replace(thermal, **{component: start[component] for component in unset})
        names.append(name)
        modules.append(TermModule(replace(filled, thermal=thermal), z.shape[1]))
    shared: Any = modules[0].spec.thermal
    if shared.components != SecondOrder.components:
        shared = SecondOrder(reference_temperature=reference)
    # what depends on λ and not on R is broad up to second order; beyond that the terms can have it
    mean = _mean_function(shared, expansions, labels, len(data.mean_kinds))
    noise = {
        label.kind: max(0.7 * spreads[label.kind], _tiny(label)) / _relative_size(label)
        for label in labels
        if label.learned
    }
    return names, Prior(modules, mean), noise, reference


def sums_of_splines(terms: Any) -> bool:
    """True if a term sums up a basis of functions over pairs or triplets, which end at the smallest distance."""
    given = [] if terms is None else named_terms(terms)
    return any(getattr(term.descriptor, "weight_nodes", None) is not None for _, term in given)


def default_kernel(descriptor: Any) -> Kernel:
    """The kernel of a term that states none: RBF, or a prior on weights where the descriptor sums up a basis."""
    nodes = getattr(descriptor, "weight_nodes", None)
    if nodes is None:
        return RBF()
    return SplineWeights(nodes.nodes, nodes.groups, nodes.symmetric, lengthscale=3.0 * nodes.spacing)


def sampled_environments(descriptor, states: list[States]) -> tuple[Any, torch.Tensor]:
    """Environments of a term in some states of every molecule.

    Returns
    -------
    descriptor, Tensor
        Bound to the beads where there is one molecule; with several, every molecule binds it when it is read.

    Raises
    ------
    DataError
        If several molecules have environments of different columns, or none has any.
    """
    if len(states) == 1:
        (only,) = states
        assert only.molecule is not None
        descriptor = descriptor.for_molecule(only.molecule.kinds, only.molecule.bonds)
        if getattr(descriptor, "weight_nodes", None) is not None:  # nothing of the kernel is left to the data
            return descriptor, only[:4].values(descriptor).z
        return descriptor, descriptor.environments(only.coordinates, cell=only.cell).z
    wide = sorted({descriptor.dimension(one.coordinate_shape) for one in states})
    if len(wide) > 1:
        raise DataError(
            f"{type(descriptor).__name__} gives {wide} columns in molecules of different sizes, which no term can "
            "share: use descriptors by kinds of beads (PairDistances, Bonded), for example those of local_terms(...)"
        )
    z = torch.cat([one.environments(descriptor).z for one in states])
    if not len(z):
        raise DataError(f"no molecule has an environment of {descriptor}: check its kinds, bonds and cutoff")
    return descriptor, z


def _warn_of_jumps(name: str, descriptor: Any, z: torch.Tensor, states: list[States], edge: float = 0.98) -> None:
    """Warn if pairs of periodic frames cross the cutoff of a term that does not vanish there."""
    if not isinstance(descriptor, PairDistances) or descriptor.weight_nodes is not None:
        return
    if any(one.cell is not None for one in states) and bool((z > edge * descriptor.cutoff).any()):
        cutoff = descriptor.cutoff
        warnings.warn(
            f"term {name!r}: pairs cross the cutoff of PairDistances, {cutoff:g} Å, and the free energy jumps with "
            f"each of them, by an energy that forces do not fix. Use PairSplines({cutoff:g}), which ends smoothly, or "
            "kernelfe.liquid_terms(frames), unless you know that the pair function is flat at the cutoff",
            stacklevel=3,
        )


def _sample(size: int, most: int = 200) -> np.ndarray:
    """Frames from which starting values are read: ``most`` of ``size``, equally spaced."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).astype(int))


def _warn_outside(what: str, part: Any, values: np.ndarray) -> None:
    """Warn if a function of T or λ is expanded about a point outside the data."""
    origin = getattr(part, "reference_temperature", getattr(part, "reference", None))
    low, high = float(values.min()), float(values.max())
    if origin is not None and not low <= origin <= high:
        warnings.warn(
            f"the {what} is {origin:g}, outside the data ({low:g} to {high:g}): there the free energy and its changes "
            "are independent a priori, so labels elsewhere imply a change that nothing supports. Leave it None, or "
            "give a value within the data",
            stacklevel=3,
        )


def _expansion(name: str, values: np.ndarray) -> ParameterExpansion:
    spread = float(np.std(values))
    return ParameterExpansion(name, reference=float(np.mean(values)), scale=1.0 / spread if spread > 0 else 1.0)


def _spreads(labels: list[LabelSet]) -> dict[str, float]:
    """Scatter of the labels of every kind: what their configurations and their noise make of it.

    Scalars scatter about a smooth function of temperature, parameters and composition, fitted to all of a kind: no
    grouping is needed, and the values do not depend on how many frames share a temperature. Vectors scatter about zero.
    """
    out = {}
    for kind in dict.fromkeys(label.kind for label in labels):
        same = [label for label in labels if label.kind == kind]
        y = torch.cat([label.y.reshape(-1) for label in same])
        if all(label.y.shape[1] == 1 for label in same):
            y = _detrended(y, _trends([label.states for label in same]), most=max(1, (len(y) - 1) // 2))
        out[kind] = float(y.square().mean().sqrt())
    return out


def _trends(states: list[States]) -> Iterator[torch.Tensor]:
    """Smooth functions of the state of every frame, the most important first: N, N T, N_X, N λ, N T², N λ²."""

    def column(of: Callable[[States], torch.Tensor]) -> torch.Tensor:
        return torch.cat([of(one) for one in states])

    counts = column(lambda one: one.counts)
    size = counts.sum(1)
    parameters = sorted({name for one in states for name in one.parameters})
    axes = [column(lambda one: one.temperature)]
    axes += [column(lambda one, name=name: one.parameters[name]) for name in parameters]  # type: ignore[misc]
    axes = [(x - x.mean()) / (x.abs().max() or 1.0) for x in axes]
    yield size
    yield size * axes[0]
    yield from counts.T
    yield from (size * x for x in axes[1:])
    yield from (size * x * x for x in axes)


def _detrended(y: torch.Tensor, trends: Iterator[torch.Tensor], most: int) -> torch.Tensor:
    """Labels without what up to ``most`` independent trends explain, by least squares."""
    basis: list[torch.Tensor] = []
    for trend in trends:
        rest = trend
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            for one in basis:
                rest = rest - (one @ rest) * one
        if len(basis) < most and float(rest.norm()) > 1e-8 * float(trend.norm()):
            basis.append(rest / rest.norm())
    for one in basis:
        y = y - (one @ y) * one
    return y


def _relative_size(label: LabelSet) -> float:
    relative = label.noise.tensors().get("relative")
    return 1.0 if relative is None else float(relative.square().mean().sqrt())


def _tiny(label: LabelSet) -> float:
    return 1e-6 * float(label.y.abs().max()) or 1e-6


def _scales(
    module: TermModule, labels: list[LabelSet], spreads: dict[str, float], reference: float, terms: int
) -> dict[str, float]:
    """Starting scales by component: half of the variance of each label kind, shared among the terms, is signal."""
    thermal: Any = module.spec.thermal
    estimates: dict[str, list[float]] = {component: [] for component in thermal.components}
    with torch.no_grad():
        prior = Prior([module], None)
        for kind, spread in spreads.items():
            total, count = torch.zeros(thermal.size, dtype=torch.float64), 0
            for label in labels:
                if label.kind == kind:
                    most = max(4, min(200, NUMBERS // (label.y.shape[1] * module.dimension)))
                    rows = label.subset(torch.from_numpy(_sample(len(label.y), most))).rows(prior)
                    total, count = total + prior.kernel_diagonal(rows, 0).sum(0), count + len(rows)
            for component, parts in zip(thermal.components, (total / count).split(thermal.functions), strict=True):
                # only kinds that a component contributes to strongly say something about its scale
                if (share := float(parts.sum())) > 1e-30 and spread > 0:
                    estimates[component].append(spread * (0.5 / share / terms) ** 0.5 / module.weight)
    found = {component: float(np.median(values)) for component, values in estimates.items() if values}
    if "energy" in found:
        u = found["energy"]
    elif "heat_capacity" in found:
        u = found["heat_capacity"] * reference
    else:
        u = found["entropy"] * reference if "entropy" in found else 1.0
    usual = {"energy": u, "entropy": u / reference, "heat_capacity": u / reference}
    return {**dict.fromkeys(thermal.components, 1.0), **found, **usual}


def _alike(a: LabelSet, b: LabelSet) -> bool:
    """True for labels of one kind, of frames with equal numbers of beads of each kind."""
    return a is b or (a.kind == b.kind and torch.equal(a.states.counts[:1], b.states.counts[:1]))


def _mean_function(
    thermal: Any, expansions, labels: list[LabelSet], kinds: int, broad: float = 30.0
) -> MeanFunction | None:
    """Mean functions with broad priors about a least-squares start; None when no label sees a constant.

    Widths are per bead: ``broad`` times what one bead (of any kind) would have to do to explain the spread of the
    labels.
    """
    seen = [label for label in labels if label.functional.spatial is functionals.Spatial.VALUE and label.minus is None]
    if not seen:
        return None
    # the start: e_X and c_X that depend neither on λ nor, but for τ(T), on the temperature
    unit = MeanFunction(SecondOrder(reference_temperature=thermal.reference_temperature), (), (0.0,) * kinds, 1.0, 1.0)
    columns, factors, values, widths = [], [], [], []
    for label in seen:
        states = label.states
        rows = sum(
            unit.factors(states.resolve(read), states.temperature, states.parameters) for read in label.functional.reads
        )
        y = torch.cat([other.y for other in seen if _alike(label, other)])
        width = float(y.std(correction=0)) or float(y.abs().max()) or 1.0
        columns.append((rows[:, :, None] * states.counts[:, None, :]).flatten(1))  # type: ignore[index]
        factors.append(rows * states.counts.sum(1, keepdim=True))
        values.append(label.y[:, 0])
        widths.append(width)
    scaled = torch.cat([f / w for f, w in zip(columns, widths, strict=True)])
    target = torch.cat([y / w for y, w in zip(values, widths, strict=True)])
    column = scaled.norm(dim=0).clamp_min(1e-300)
    start = torch.linalg.lstsq(scaled / column, target[:, None], driver="gelsd").solution[:, 0] / column
    spreads = []
    for k in range(2):
        reach = [
            w / float(f[:, k].abs().max())
            for f, w in zip(factors, widths, strict=True)
            if float(f[:, k].abs().max()) > 1e-9
        ]
        largest = float(start[kinds:].abs().max()) if k else 0.0
        spreads.append(max([*reach, largest]) if reach else 1.0)
    offset = torch.where(scaled[:, :kinds].abs().amax(0) > 0, start[:kinds], 0.0)
    return MeanFunction(thermal, expansions, tuple(offset.tolist()), broad * spreads[0], broad * spreads[1])
