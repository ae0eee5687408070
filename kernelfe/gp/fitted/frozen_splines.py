"""Frozen model of a liquid whose terms are all sums of splines: compiled sums with the weights of each temperature.

At one temperature such a free energy is a pair function for every two kinds, tabulated as the cubic polynomials that
its splines are, and a function of two distances and an angle for every three. Pairs come from a list with a skin, one
per replica, kept from call to call; results do not depend on what it has seen before.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...compiled import CloseBeads, PairTables, Table, kind_numbers, triplet_energy
from ...descriptors import PairSplines, TripletSplines
from ...descriptors.manybody.fast import TripletSums, grid_of, triplet_sums
from ...geometry.skin import SkinList
from ...kernels import SplineWeights
from ...runtime.threads import side_by_side
from ..core import FittedCore
from .frozen import FrozenModel, PeriodicFrozenModel

#: Width of the intervals of a tabulated core, Å: its forces are those of the formula to 1e-8.
_CORE_STEP = 1e-3


@dataclass(frozen=True)
class Share:
    """Terms that go over the same pairs.

    Attributes
    ----------
    wanted
        Mask of the pairs, None for all.
    cutoff
        Of the longest term, Å.
    pairs, triplets
        Numbers of the terms, the latter with their sums.
    core
        Whether the core goes over these pairs as well.
    """

    wanted: NDArray[np.bool_] | None
    cutoff: float
    pairs: tuple[int, ...]
    triplets: tuple[tuple[int, TripletSums], ...]
    core: bool


class Replica:
    """Lists of one replica, one for each :class:`Share`."""

    def __init__(self, shares: tuple[Share, ...], beads: int, skin: float):
        self.lists = [SkinList(share.cutoff, skin, share.wanted) for share in shares]
        self.close = [[CloseBeads(beads) for _ in share.triplets] for share in shares]


class FrozenSplines(PeriodicFrozenModel):
    """A(R; T), forces and stress of a liquid, one replica after the other or side by side on the cores that are free.

    Parameters
    ----------
    model, parameters
        As of :class:`~kernelfe.gp.fitted.frozen.FrozenModel`; all terms are on :class:`PairSplines` and
        :class:`TripletSplines` with :class:`SplineWeights`.
    """

    #: Skin of the lists, Å.
    skin: ClassVar[float] = 1.0
    #: Most replicas whose lists are kept; of further ones they are made at every call.
    most_replicas: ClassVar[int] = 256

    def __init__(self, model, parameters: dict[str, float] | None = None):
        super().__init__(model, parameters)
        kinds = model.molecules.entries[0].molecule.kinds
        self._names = sorted(set(kinds)) if kinds else ["*"]
        self._kinds = kind_numbers([self._names.index(k) for k in kinds] if kinds else [0] * self.beads)
        self._core = None if self.baseline is None else self._tabulated(self.baseline)
        self._shares = self._shared()
        self._replicas: list[Replica] = []
        self._weights: dict[float, tuple[list, float]] = {}
        self._lock = threading.Lock()  # lists change in every call

    def energy_forces_stress(
        self, positions: Tensor, cell: Tensor, temperature: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A(R; T), −∇A and the excess stress; see :meth:`PeriodicFrozenModel.energy_forces_stress`.

        A replica with a position that is not finite has energy, forces and stress NaN.
        """
        self._check(positions)
        home = positions.device
        x = positions.detach().to("cpu", torch.float64).numpy()
        n, beads = x.shape[:2]
        boxes = cell.detach().to("cpu", torch.float64).expand(n, 3, 3).numpy()
        kelvin = [float(temperature)] * n if _one(temperature) else temperature.tolist()  # type: ignore[union-attr]
        energy, forces, strain = np.zeros(n), np.zeros((n, beads, 3)), np.zeros((n, 6))
        with self._lock:
            tables = {t: self._at(t) for t in dict.fromkeys(kelvin)}
            while len(self._replicas) < min(n, self.most_replicas):
                self._replicas.append(Replica(self._shares, self.beads, self.skin))

            def one(k: int) -> None:
                kept = k < len(self._replicas)
                replica = self._replicas[k] if kept else Replica(self._shares, self.beads, 0.01)
                energy[k] = self._sum(x[k], boxes[k], tables[kelvin[k]], replica, forces[k], strain[k])

            side_by_side(one, range(n))
        volume = np.abs((boxes[:, 0] * np.cross(boxes[:, 1], boxes[:, 2])).sum(1))
        stress = torch.from_numpy(strain / volume[:, None])
        return torch.from_numpy(energy).to(home), torch.from_numpy(forces).to(home), stress.to(home)

    def _sum(self, x, cell, tables, replica: Replica, forces, strain) -> float:
        """Energy of one replica; forces and derivatives by strain are added to the arrays."""
        if not np.isfinite(x).all():
            forces[:], strain[:] = np.nan, np.nan
            return float("nan")
        functions, energy = tables
        for share, (pair, triplets), known, close in zip(
            self._shares, functions, replica.lists, replica.close, strict=True
        ):
            pairs = known.pairs(x, cell)
            energy += pair.add(pairs, self._kinds, forces, strain)
            for (_, sums), coefficients, near in zip(share.triplets, triplets, close, strict=True):
                near.fill(pairs, sums.cutoff)
                energy += triplet_energy(near, sums.numbers(len(x)), sums.grid, coefficients, forces, strain)
        return energy

    # ------------------------------------------------------------------ what a temperature needs

    def _at(self, temperature: float) -> tuple[list, float]:
        """Tables and coefficients of every share, and the constant, at one temperature; made once."""
        found = self._weights.get(temperature)
        if found is None:
            if len(self._weights) > 256:
                self._weights.clear()
            constant = float(self._constant(temperature)) if self._mean is not None else 0.0
            found = self._weights[temperature] = [self._functions(s, temperature) for s in self._shares], constant
        return found

    def _functions(self, share: Share, temperature: float) -> tuple[PairTables, list[NDArray[np.float64]]]:
        tables = [self._pair_table(t, temperature) for t in share.pairs]
        if share.core and self._core is not None:
            tables.append(self._core)
        triplets = [s.columns.coefficients(self._linear(t, temperature), s.top) for t, s in share.triplets]
        return PairTables(tables), triplets

    def _linear(self, t: int, temperature: float) -> NDArray[np.float64]:
        """Weights of a term at one temperature: its slope, which is the same everywhere."""
        z = torch.zeros(1, self._terms[t].dimension, dtype=torch.float64)
        with torch.no_grad():
            return self._term(t, z, None, temperature, 1)[1][0].numpy()

    def _pair_table(self, t: int, temperature: float) -> Table:
        descriptor = self._terms[t].spec.descriptor
        which = np.zeros((len(self._names),) * 2, int)
        if descriptor.kinds is not None:
            i, j = (self._names.index(kind) for kind in descriptor.kinds)
            which[:] = -1
            which[i, j] = which[j, i] = 0
        grid = grid_of(descriptor.splines)
        return Table(grid.start, grid.spacing, grid.polynomials(self._linear(t, temperature)[None]), which)

    def _tabulated(self, core: FittedCore) -> Table:
        """The core on a fine grid."""
        r = _CORE_STEP * np.arange(int(np.ceil(core.cutoff / _CORE_STEP)) + 1)
        value, slope = core.functions(r)
        names = ["*"] * len(self._names) if core.kinds == (("*", "*"),) else self._names
        entries = {pair: number for number, pair in enumerate(core.kinds)}
        which = [[entries.get((min(a, b), max(a, b)), -1) for b in names] for a in names]
        return Table.hermite(0.0, _CORE_STEP, value, slope, np.array(which))

    def _shared(self) -> tuple[Share, ...]:
        """Terms by the pairs they go over: those that leave out bonded beads go over fewer."""
        descriptors = [term.spec.descriptor for term in self._terms]
        masks: dict[bytes, NDArray[np.bool_] | None] = {}
        members: dict[bytes, list[int]] = {}
        if self._core is not None:
            masks[b""], members[b""] = None, []
        for t, descriptor in enumerate(descriptors):
            far = descriptor.far(self.beads) if isinstance(descriptor, PairSplines) else None
            key = b"" if far is None else far.tobytes()
            masks[key] = far
            members.setdefault(key, []).append(t)
        out = []
        for key, terms in members.items():
            pairs = tuple(t for t in terms if isinstance(descriptors[t], PairSplines))
            sums = {
                t: triplet_sums(d.splines, d.products, d.degree, d.kinds, d.bead_kinds)
                for t, d in ((t, descriptors[t]) for t in terms if t not in pairs)
            }
            core = key == b"" and self._core is not None
            reach = [descriptors[t].cutoff for t in terms] + ([self.baseline.cutoff] if core else [])
            out.append(Share(masks[key], max(reach), pairs, tuple(sums.items()), core))
        return tuple(out)

    def __getstate__(self) -> dict:
        """Without lists and lock, which belong to a process."""
        return {k: v for k, v in self.__dict__.items() if k != "_lock"} | {"_replicas": []}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _one(temperature: float | Tensor) -> bool:
    """True for one temperature of all replicas."""
    return not isinstance(temperature, Tensor) or temperature.numel() == 1


def frozen_model(model, parameters: dict[str, float] | None = None) -> FrozenModel:
    """The frozen form of a model of one molecule: periodic or not, of splines only or of any terms."""
    if not model.molecules.entries[0].molecule.periodic:
        return FrozenModel(model, parameters)
    return (FrozenSplines if _all_splines(model) else PeriodicFrozenModel)(model, parameters)


def _all_splines(model) -> bool:
    """True if a periodic model can be frozen as :class:`FrozenSplines`."""
    terms = [term for _, term in model.terms]
    fits = all(
        isinstance(term.spec.descriptor, PairSplines | TripletSplines) and isinstance(term.kernel, SplineWeights)
        for term in terms
    )
    cored = model.baseline is None or isinstance(model.baseline, FittedCore)
    return bool(terms) and fits and cored and model.posterior.prior.device.type == "cpu"


__all__ = ["FrozenSplines", "frozen_model"]
