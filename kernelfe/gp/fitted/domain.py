"""The training domain: a score of configurations that is 1 at the edge of the training data.

A fitted free energy answers at any configuration, also where nothing was ever seen. Two things tell:

- **Distances between beads** (or the columns of a descriptor, for plain variables and periodic systems). For a column
  with median m and smallest and largest training values a and b, a value x scores

      (x − m)/(g (b − m)) above m,    (1/x − 1/m)/(g (1/a − 1/m)) below it (distances; linear otherwise).

  The inverse below keeps overlapping beads far out: they are a matter of contact, not of spread. The largest of n
  normal numbers lies near √(2 ln n) standard deviations; g is such that this becomes 4.5, and at least 1.25.
- **Novelty of an environment**, the share of the prior variance of a term's function that anchors do not explain,

      v(z) = 1 − k(z, Z) K⁻¹ k(Z, z)/k(z, z),    score √(v/v₁),

  with anchors Z chosen among the training environments and v₁ half as much again as the largest v of training
  environments from other blocks of time than the anchors were chosen from.

The score of a configuration is the largest of all; above 1 it is outside of what the model was shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...files.fields import require, take
from ...kernels import Jets
from ...linalg import Whitening
from ...runtime.threads import one_thread
from ...specs import Bound, Real, Spec, Whole
from ..prior.rows import frame_chunks
from ..solvers.sparse.inducing import choose_inducing
from ..states import States
from .single import Memo, SingleScore

#: Frames taken at a time at most, and numbers of all their pairs of beads.
_FRAMES_AT_ONCE, _ENTRIES = 4096, 1 << 22


@dataclass(frozen=True)
class DomainSettings(Spec):
    """Width of a domain, and the data it is made from.

    Parameters
    ----------
    reach
        Standard deviations from the median to the edge of the domain, if a distance is normally distributed.
    margin
        Least distance of the edge from the median, as a multiple of that of the extremes of training.
    novelty_margin
        The same for the novelty, a variance: multiple of the largest one of training.
    novelty_floor
        Smallest novelty that counts; below it is rounding.
    rigid
        Share by which a distance may always vary: rigid bonds of all-atom runs are soft in a model.
    anchors
        Anchors per term.
    pool
        Frames among which the anchors are chosen.
    time_blocks
        Blocks of time that these frames are split into.
    pairs
        Most pairs of beads that are watched: those closest to each other.
    alike
        Relative difference of temperatures whose frames count together, so that each frame may have its own.
    """

    reach: float = 4.5
    margin: float = 1.25
    novelty_margin: float = 1.5
    novelty_floor: float = 1e-7
    rigid: float = 0.04
    anchors: int = 128
    pool: int = 2000
    time_blocks: int = 20
    pairs: int = 5000
    alike: float = 0.02

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "reach": Real(above=0.0),
        "margin": Real(above=0.0),
        "novelty_margin": Real(above=0.0),
        "novelty_floor": Real(above=0.0),
        "rigid": Real(above=0.0),
        "anchors": Whole(least=1),
        "pool": Whole(least=1),
        "time_blocks": Whole(least=2),
        "pairs": Whole(least=1),
        "alike": Real(least=0.0, below=1.0),
    }


@dataclass
class Domain:
    """Region of the training frames.

    Parameters
    ----------
    terms
        The fitted terms.
    pairs
        Pairs of beads whose distances are watched, shape (P, 2); None: columns of the terms' environments.
    low, middle, high
        Smallest, median and largest training value of each distance or column, shape (P,).
    margin
        g.
    anchors
        Anchors of each term, in the columns of its kernel, shapes (M, D').
    novelty
        v₁ of each term.
    settings
        Used again when the domain is extended; a model file does not carry them.
    """

    terms: list
    pairs: Tensor | None
    low: Tensor
    middle: Tensor
    high: Tensor
    margin: float
    anchors: list[Tensor]
    novelty: list[float]
    settings: DomainSettings = DomainSettings()

    def __post_init__(self) -> None:
        with torch.no_grad():
            self._kernels = [term.kernel for term in self.terms]
        self._whitenings = [
            Whitening.of(_covariance(kernel, z, z)) for kernel, z in zip(self._kernels, self.anchors, strict=True)
        ]
        self._singles: dict[tuple[int, ...], SingleScore] = Memo()

    @classmethod
    def of(cls, terms: list, frames, settings: DomainSettings | None = None) -> Domain:
        """The domain of the training frames of a fit.

        Parameters
        ----------
        terms
            Fitted :class:`~kernelfe.gp.prior.term.TermModule` objects.
        frames
            The training frames, in the order of time (at each temperature).
        settings
            Margins and sizes; None: the defaults.
        """
        settings = DomainSettings() if settings is None else settings
        with torch.no_grad():
            whole = frames.positions is not None and frames.cell is None
            pairs = _pairs(frames.positions, settings.pairs).to(_device(terms)) if whole else None
            low, middle, high = _extremes(terms, frames, pairs, settings.rigid)
            pool = frames[np.unique(np.linspace(0, len(frames) - 1, min(len(frames), settings.pool)).astype(int))]
            states = States.from_frames(pool, device=_device(terms))
            # blocks of time: neighbouring frames are alike, and would make everything look familiar
            block = (np.arange(len(pool)) * settings.time_blocks // max(1, len(pool))) % 2
            half = torch.from_numpy(block == 0).to(_device(terms))
            anchors, novelty = [], []
            for term in terms:
                if _sums(term):  # linear in its environments, of which there is one per frame: nothing is novel
                    anchors.append(torch.zeros(0, term.dimension, dtype=torch.float64, device=_device(terms)))
                    novelty.append(1.0)
                    continue
                environments = states.environments(term.spec.descriptor)
                z = term.kernel.embedding(environments.z).z
                shown = half[environments.owner]
                anchors.append(_chosen(term, z, settings))
                if bool(shown.all()) or not bool(shown.any()):
                    novelty.append(1.0)  # a single frame says nothing about its own scatter
                    continue
                some, kernel = _chosen(term, z[shown], settings), term.kernel
                others = _novelty(kernel, some, Whitening.of(_covariance(kernel, some, some)), z[~shown])
                novelty.append(max(settings.novelty_margin * float(others.max()), settings.novelty_floor))
        # at and near the temperature with the fewest frames: it may be the hottest, which alone makes the extremes
        fewest = _fewest_alike(frames.temperature, settings.alike)
        margin = max(settings.margin, settings.reach / np.sqrt(2.0 * np.log(max(fewest, 5))))
        return cls(terms, pairs, low, middle, high, float(margin), anchors, novelty, settings)

    def extended(self, frames) -> Domain:
        """The domain of more training frames: wider extremes and more anchors; the unit of novelty stays."""
        settings = self.settings
        with torch.no_grad():
            low, _, high = _extremes(self.terms, frames, self.pairs, settings.rigid)
            states, anchors = States.from_frames(frames, device=_device(self.terms)), []
            for term, old in zip(self.terms, self.anchors, strict=True):
                if _sums(term):
                    anchors.append(old)
                    continue
                z = term.kernel.embedding(states.environments(term.spec.descriptor).z).z
                together = torch.cat([old, z[:: max(1, len(z) // settings.pool)]])
                some = choose_inducing(together, term.kernel, len(old) + settings.anchors)
                anchors.append(together[some])
        low = torch.minimum(self.low, torch.minimum(low, self.middle))
        high = torch.maximum(self.high, torch.maximum(high, self.middle))
        return replace(self, low=low, high=high, anchors=anchors)

    def numbers(self) -> dict:
        """Numbers for the header of a model file."""
        return {"margin": self.margin, "novelty": self.novelty}

    def tensors(self) -> dict[str, Tensor]:
        """Tensors for a model file."""
        out = {"domain.low": self.low, "domain.middle": self.middle, "domain.high": self.high}
        if self.pairs is not None:
            out["domain.pairs"] = self.pairs.double()
        return out | {f"domain.anchors{t}": z for t, z in enumerate(self.anchors)}

    @classmethod
    def from_file(cls, numbers: dict, tensors: dict[str, Tensor], terms, molecule: tuple[int, ...] | None) -> Domain:
        """Rebuild from :meth:`to_file`; ``molecule`` is the shape of the configurations where pairs are watched.

        Raises
        ------
        ModelFileError
            If a tensor is missing or of the wrong shape, or a pair names no two beads.
        """
        pairs, size = None, sum(term.dimension for term in terms)
        if molecule is not None:
            pairs = take(tensors, "domain.pairs", None, 2).long()
            size = len(pairs)
            fits = bool(((pairs >= 0) & (pairs < molecule[0])).all()) and bool((pairs[:, 0] != pairs[:, 1]).all())
            require(fits, "the pairs of the domain", pairs.tolist(), f"pairs of {molecule[0]} beads")
        low, middle, high = (take(tensors, f"domain.{name}", size) for name in ("low", "middle", "high"))
        require(bool((low < middle).all() and (middle < high).all()), "the domain", "limits", "in ascending order")
        anchors = [take(tensors, f"domain.anchors{t}", None, term.width) for t, term in enumerate(terms)]
        return cls(list(terms), pairs, low, middle, high, numbers["margin"], anchors, numbers["novelty"])

    @one_thread()
    def score(self, coordinates: Tensor, cell: Tensor | None = None) -> Tensor:
        """Score of configurations, 1 at the edge of the domain.

        Parameters
        ----------
        coordinates
            Shape (n, beads, 3) or (n, d).
        cell
            Shape (n, 3, 3), or None.

        Returns
        -------
        Tensor, shape (n,)
            Infinite where coordinates are not finite.
        """
        home, here = coordinates.device, _device(self.terms)
        if len(coordinates) == 1 and cell is None and home.type == here.type == "cpu":
            shape = tuple(coordinates.shape[1:])
            if shape not in self._singles:
                self._singles[shape] = SingleScore(self, shape)
            return self._singles[shape](coordinates)
        coordinates, cell = coordinates.to(here, torch.float64), None if cell is None else cell.to(here)
        parts = [
            self._score(coordinates[start:stop], None if cell is None else cell[start:stop])
            for start, stop in frame_chunks(len(coordinates), _at_once(coordinates, self.pairs))
        ]
        return (torch.cat(parts) if parts else coordinates.new_zeros(0)).to(home)

    def _score(self, x: Tensor, cell: Tensor | None) -> Tensor:
        with torch.no_grad():
            finite = torch.isfinite(x).flatten(1).all(1)
            # places of their own, so that no two beads of what is replaced coincide
            apart = torch.arange(x[0].numel(), device=x.device).reshape(x.shape[1:])
            x = torch.where(finite.reshape(-1, *[1] * (x.ndim - 1)), x, apart)
            environments = [term.spec.descriptor.values_and_pullback(x, cell=cell)[:2] for term in self.terms]
            columns = environments if self.pairs is None else _distances(x, self.pairs)
            out = x.new_zeros(len(x))
            for values, frame, part in _with_parts(columns):
                score = self._beyond(values, part).amax(1) if values.shape[1] else values.new_zeros(len(values))
                out = _frame_maximum(out, score, frame)
            for t, (kernel, (z, frame)) in enumerate(zip(self._kernels, environments, strict=True)):
                if not len(self.anchors[t]):
                    continue
                new = _novelty(kernel, self.anchors[t], self._whitenings[t], kernel.embedding(z).z)
                out = _frame_maximum(out, (new / self.novelty[t]).sqrt(), frame)
            # coinciding beads have no angles: what is not a number is not familiar
            return torch.where(finite & ~torch.isnan(out), out, torch.full_like(out, torch.inf))

    def culprit(self, coordinates: Tensor) -> str:
        """The most unusual feature of one configuration, in words.

        Parameters
        ----------
        coordinates
            Shape (beads, 3) or (d,).
        """
        if not bool(torch.isfinite(coordinates).all()):
            return "its coordinates are not finite"
        if self.pairs is None:
            return "it is far from every training configuration"
        values = _distances(coordinates.to(self.pairs.device, torch.float64)[None], self.pairs)[0][0]
        score = self._beyond(values, slice(0, len(self.low)))[0]
        worst = int(score.argmax())
        i, j = self.pairs[worst].tolist()
        if float(score[worst]) <= 1.0:
            return "every distance was seen, but not together"
        return (
            f"beads {i} and {j} are {float(values[0, worst]):.2f} Å apart, in training "
            f"{float(self.low[worst]):.2f} to {float(self.high[worst]):.2f} Å"
        )

    def _beyond(self, x: Tensor, part: slice) -> Tensor:
        """Scores of single columns, shape of ``x``."""
        low, middle, high = self.low[part], self.middle[part], self.high[part]
        above = (x - middle) / (self.margin * (high - middle))
        if self.pairs is None:
            below = (middle - x) / (self.margin * (middle - low))
        else:
            below = (1.0 / x - 1.0 / middle) / (self.margin * (1.0 / low - 1.0 / middle))
        return torch.maximum(above, below)


def _sums(term) -> bool:
    """True for a term on sums over a basis of functions: one environment per frame, the same for all its pairs."""
    return getattr(term.spec.descriptor, "weight_nodes", None) is not None


def _pairs(positions: np.ndarray, most: int) -> Tensor:
    """Pairs of beads, the closest ones if there are more than ``most``."""
    beads = positions.shape[1]
    i, j = torch.triu_indices(beads, beads, 1, device="cpu")
    if len(i) > most:
        x = torch.from_numpy(np.array(positions[:: max(1, len(positions) // 50)]))
        mean = torch.stack([torch.cdist(frame, frame)[i, j] for frame in x]).mean(0)
        nearest = mean.argsort()[:most].sort().values
        i, j = i[nearest], j[nearest]
    return torch.stack([i, j], 1)


def _extremes(terms: list, frames, pairs: Tensor | None, rigid: float) -> tuple[Tensor, Tensor, Tensor]:
    """Smallest, median and largest value of every watched column."""
    lows, highs, some = [], [], []
    for start, stop in frame_chunks(len(frames), _at_once(frames.coordinates, pairs)):
        states = States.from_frames(frames[start:stop], device=_device(terms))
        if pairs is None:
            every = [states.values(term.spec.descriptor) for term in terms]
            columns = [(e.z, e.frame) for e in every]
        else:
            columns = _distances(states.coordinates, pairs)
        every = [values for values, _ in columns]
        lows.append(torch.cat([_lowest(values) for values in every]))
        highs.append(torch.cat([-_lowest(-values) for values in every]))
        some.append([values[:: max(1, len(values) // 500)] for values in every])
    low, high = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
    together = [torch.cat(parts) for parts in zip(*some, strict=True)]
    middle = torch.cat([v.median(0).values if len(v) else v.new_full(v.shape[1:], torch.nan) for v in together])
    least = rigid * middle if pairs is not None else (0.01 * (high - low)).clamp_min(1e-9 * (1.0 + middle.abs()))
    return torch.fmin(low, middle - least), middle, torch.fmax(high, middle + least)


def _fewest_alike(temperature: np.ndarray, alike: float) -> int:
    """Fewest frames near any temperature: within a ratio of 1 ± ``alike``, so that each may have its own."""
    t = np.sort(temperature)
    return int((np.searchsorted(t, t * (1.0 + alike), side="right") - np.searchsorted(t, t * (1.0 - alike))).min())


def _device(terms: list) -> torch.device:
    return terms[0].log_scales.device if terms else torch.device("cpu")


def _lowest(values: Tensor) -> Tensor:
    """Smallest value of every column; infinite without values, such as no pair of beads within a cutoff."""
    return values.amin(0) if len(values) else values.new_full(values.shape[1:], torch.inf)


def _at_once(coordinates, pairs: Tensor | None) -> int:
    """Frames whose pairs fit in memory: of many beads fewer."""
    watched = coordinates.shape[1] ** 2 if pairs is None else 3 * len(pairs)
    return max(1, min(_FRAMES_AT_ONCE, _ENTRIES // max(1, watched)))


def _distances(x: Tensor, pairs: Tensor) -> list[tuple[Tensor, None]]:
    return [(torch.linalg.vector_norm(x[:, pairs[:, 0]] - x[:, pairs[:, 1]], dim=2), None)]


def _with_parts(columns):
    start = 0
    for values, frame in columns:
        yield values, frame, slice(start, start + values.shape[1])
        start += values.shape[1]


def _chosen(term, z: Tensor, settings: DomainSettings) -> Tensor:
    some = z[:: max(1, len(z) // settings.pool)]
    return some[choose_inducing(some, term.kernel, settings.anchors)]


def _covariance(kernel, a: Tensor, b: Tensor) -> Tensor:
    return kernel.gram(Jets.values(a), Jets.values(b))[:, 0, :, 0]


def _novelty(kernel, anchors: Tensor, whitening: Whitening, z: Tensor) -> Tensor:
    """v(z), shape (E,)."""
    variance = kernel.diagonal(Jets.values(z))[:, 0]
    explained = (_covariance(kernel, z, anchors) @ whitening.matrix).square().sum(1)
    return (1.0 - explained / variance).clamp_min(0.0)


def _frame_maximum(out: Tensor, score: Tensor, frame: Tensor | None) -> Tensor:
    return torch.maximum(out, score) if frame is None else out.scatter_reduce(0, frame, score, "amax")


def require_domain(domain: Domain | None) -> Domain:
    """Return the domain of a model; DataError if the model has none."""
    if domain is None:
        raise DataError(
            "this model has no training domain: sums of splines over a liquid have none, nor have files of earlier "
            "versions and of members of an ensemble; in these cases fit it again"
        )
    return domain
