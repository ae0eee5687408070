"""Row blocks: the rows of one functional on a batch of frames, and the selection and difference of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from ...kernels import Jets

#: Numbers of rows of environments in memory at a time, before they are summed into labels: memory only, 128 MB.
ENVIRONMENT_NUMBERS = 1 << 24


@dataclass
class TermRead:
    """One read of one term on a batch of frames."""

    jets: Jets  # in the kernel's own columns
    factors: Tensor  # (n, size)

    def slice(self, start: int, stop: int) -> TermRead:
        """The read on frames start…stop−1."""
        return TermRead(self.jets.slice(start, stop), self.factors[start:stop])

    def take(self, frames: Tensor) -> TermRead:
        """The read on some frames, in the order given."""
        return TermRead(self.jets.take(frames), self.factors[frames])

    def __neg__(self) -> TermRead:
        return TermRead(self.jets, -self.factors)

    def spread(self) -> Tensor:
        """Factors of every environment, shape (E, size)."""
        return self.jets.spread(self.factors)


@dataclass
class RowBlock:
    """Rows of one functional on n frames: label i of the block is component i % m of frame i // m."""

    frames: int
    components: int  # m
    terms: list[list[TermRead]]  # terms × reads
    mean: list[tuple[Tensor, Tensor]]  # reads: features (n, X), factors (n, size)
    prior_mean: Tensor  # (n·m,)

    def __len__(self) -> int:
        return self.frames * self.components

    def slice(self, start: int, stop: int) -> RowBlock:
        """The rows of frames start…stop−1."""
        m = self.components
        mean = [(features[start:stop], factors[start:stop]) for features, factors in self.mean]
        terms = [[read.slice(start, stop) for read in reads] for reads in self.terms]
        return RowBlock(stop - start, m, terms, mean, self.prior_mean[start * m : stop * m])

    def take(self, frames: Tensor) -> RowBlock:
        """The rows of some frames, in the order given."""
        m = self.components
        mean = [(features[frames], factors[frames]) for features, factors in self.mean]
        terms = [[read.take(frames) for read in reads] for reads in self.terms]
        at = (frames[:, None] * m + torch.arange(m, device=frames.device)).reshape(-1)
        return RowBlock(len(frames), m, terms, mean, self.prior_mean[at])

    def bare(self) -> RowBlock:
        """The same rows without mean functions."""
        return replace(self, mean=[])

    def only(self, read: TermRead) -> RowBlock:
        """Rows of one read by itself."""
        return replace(self, terms=[[read]], mean=[])

    def __sub__(self, other: RowBlock) -> RowBlock:
        terms = [[*own, *(-read for read in others)] for own, others in zip(self.terms, other.terms, strict=True)]
        mean = self.mean + [(features, -factors) for features, factors in other.mean]
        return RowBlock(self.frames, self.components, terms, mean, self.prior_mean - other.prior_mean)

    def gather(self, values: Tensor, jets: Jets) -> Tensor:
        """Bᵀ · values: those of labels, (n·m, k), for rows of environments, (E, r, k)."""
        return jets.gather(values.reshape(self.frames, self.components, -1))

    def scatter(self, rows: Tensor, jets: Jets) -> Tensor:
        """B · rows: those of environments, (E, r, k), summed into labels, (n·m, k)."""
        return jets.scatter(rows, len(self), self.components)

    def summed(self, read: TermRead, step: int, rows: Callable[[TermRead], Tensor]) -> Tensor:
        """B · rows(read), of labels, shape (n·m, k), of some environments at a time.

        Parameters
        ----------
        read
            A read of the block.
        step
            Environments whose rows are in memory together (:func:`environments_at_once`).
        rows
            Takes a read of environments by themselves, one per frame, and makes their rows, shape (E, r, k).
        """
        jets, factors = read.jets, read.spread()
        alone = TermRead(Jets(jets.z, jets.c, jets.w), factors)
        if len(jets) <= step:
            return self.scatter(rows(alone), jets)
        chunks = frame_chunks(len(jets), step)
        if jets.direct:
            return self.scatter(torch.cat([rows(alone.slice(*chunk)) for chunk in chunks]), jets)
        place, parts = jets.place(self.components), (rows(alone.slice(*chunk)).flatten(0, 1) for chunk in chunks)
        first = next(parts)
        out = first.new_zeros(len(self), first.shape[1])
        for index, part in zip(place.split(step), chain([first], parts), strict=True):
            out.index_add_(0, index.reshape(-1), part)
        return out


def environments_at_once(jets: Jets, width: int) -> int:
    """Environments whose rows of ``width`` numbers are in memory together; all, where their sums take as much."""
    return len(jets) if jets.direct else max(1, ENVIRONMENT_NUMBERS // max(1, jets.rows * width))


def frame_chunks(frames: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) pairs that cover ``frames`` in steps of ``size``."""
    for start in range(0, frames, size):
        yield start, min(start + size, frames)


def temperature_runs(
    temperature: float | Tensor, size: int, block: int, shortest_run: int = 32
) -> Iterator[tuple[int, int, float | None]]:
    """(start, stop, temperature) of blocks of rows; None where a block holds several temperatures.

    Replicas sorted by temperature, long runs of each, are taken run by run: one temperature needs a collapsed
    coefficient per node only. ``shortest_run``: mean length of runs from which they are worth blocks of their own.
    """
    if not isinstance(temperature, Tensor) or temperature.numel() == 1:
        yield from ((start, stop, float(temperature)) for start, stop in frame_chunks(size, block))
        return
    values, counts = torch.unique_consecutive(temperature, return_counts=True)
    if len(values) * shortest_run > size:
        yield from ((start, stop, None) for start, stop in frame_chunks(size, block))
        return
    begin = 0
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        yield from ((begin + start, begin + stop, value) for start, stop in frame_chunks(count, block))
        begin += count
