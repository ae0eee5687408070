"""Boxes of a liquid for relative entropy: frames of one temperature and cell, and samples of a model in that cell.

Correlations in time are measured in the directions that matter. A series of boxes has hundreds of features; the slowest
of so many estimated correlation times is a matter of chance, and their plain average counts features that are known
from elsewhere. Here the autocorrelations of the modes of the quadratic likelihood are averaged with the share of each
that the frames determine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import require
from ..frames import Frames
from ..protocol import FixedCell, LinearModel
from ..simulate import LangevinProtocol, Trajectory, run_langevin, sample
from ..statistics.weighted import weighted_inefficiency
from ..units import BOLTZMANN


@dataclass(frozen=True)
class Box:
    """Frames of one temperature in one cell.

    Parameters
    ----------
    temperature
        K.
    cell
        (3, 3), Å, or None without periodic boundaries.
    positions
        (n, beads, 3), Å, in the order of time.
    """

    temperature: float
    cell: np.ndarray | None
    positions: np.ndarray

    @property
    def b(self) -> float:
        """1/kT, 1/eV."""
        return 1.0 / (BOLTZMANN * self.temperature)

    @property
    def beads(self) -> int:
        """Number of beads."""
        return self.positions.shape[1]

    def fixed(self, model: Any) -> Any:
        """The model in this cell, as samplers need it."""
        return model if self.cell is None else FixedCell(model, torch.from_numpy(self.cell))

    def features(self, model: LinearModel, positions: np.ndarray, lower: Tensor, block: int = 64) -> Iterator[Tensor]:
        """Whitened features L⁻¹ f of configurations (n, beads, 3), some at a time."""
        frames = max(1, block * 256 // self.beads)
        for start in range(0, len(positions), frames):
            x = torch.from_numpy(np.array(positions[start : start + frames], dtype=np.float64, order="C"))
            if self.cell is None:
                f = model.features(x, self.temperature)
            else:
                cell = torch.from_numpy(self.cell).expand(len(x), 3, 3)
                f = model.features(x, self.temperature, cell)  # type: ignore[call-arg]
            f = f.detach().to("cpu", torch.float64)
            require(
                f.shape == (len(x), len(lower)) and bool(torch.isfinite(f).all()),
                f"{type(model).__name__}: features at {self.temperature:g} K have the shape {tuple(f.shape)} instead "
                f"of {(len(x), len(lower))}, or are not finite",
            )
            yield torch.linalg.solve_triangular(lower, f.T, upper=False).T


def boxes_of(frames: Frames, most: int = 30) -> list[Box]:
    """Group frames by temperature and cell.

    Raises
    ------
    DataError
        If there are more than ``most`` groups: frames at constant pressure, or every one at its own temperature.
    """
    positions, kelvin = np.asarray(frames.positions, dtype=np.float64), np.asarray(frames.temperature, dtype=float)
    cells = None if frames.cell is None else np.broadcast_to(np.asarray(frames.cell, float), (len(kelvin), 3, 3))
    state = kelvin[:, None] if cells is None else np.c_[kelvin, np.round(cells.reshape(-1, 9), 6)]
    states, which = np.unique(state, axis=0, return_inverse=True)
    which = which.reshape(-1)
    require(
        len(states) <= most,
        f"the {len(kelvin)} frames have {len(states)} different temperatures or cells: relative entropy samples the "
        "model in each of them; use frames at constant volume and at few temperatures",
    )
    return [
        Box(
            float(kelvin[which == k][0]),
            None if cells is None else np.array(cells[which == k][0]),
            positions[which == k],
        )
        for k in range(len(states))
    ]


@dataclass(frozen=True)
class BoxSamples:
    """Samples of one model in one box.

    Parameters
    ----------
    features
        (samples, replicas, W), L⁻¹(f − f̄), f̄ the mean over the frames of the box.
    steps
        Steps of production.
    last
        (replicas, beads, 3), configurations at the end.
    """

    features: Tensor
    steps: int
    last: np.ndarray

    @property
    def flat(self) -> Tensor:
        """(samples · replicas, W), sample by sample."""
        return self.features.flatten(0, 1)

    @property
    def mean(self) -> Tensor:
        """⟨f⟩ − f̄, whitened, (W,)."""
        return self.flat.mean(0)

    @property
    def covariance(self) -> Tensor:
        """Cov(f, f), whitened, (W, W)."""
        off = self.flat - self.mean
        return off.T @ off / max(1, len(off) - 1)

    def drift(self, vectors: Tensor, shares: Tensor) -> float:
        """Squared difference of the means of both halves over what chance gives, 1 on average in equilibrium.

        Parameters
        ----------
        vectors, shares
            Directions (W, k) and their weights (k,) in the average.
        """
        y = self.features @ vectors
        half = len(y) // 2
        if half < 1 or y.shape[1] < 2:
            return 1.0
        change = y[-half:].mean(0) - y[:half].mean(0)
        chance = change.var(0) / change.shape[0]
        total = float((shares * chance / _unit(y.flatten(0, 1).var(0))).sum())
        return float((shares * change.mean(0) ** 2 / _unit(y.flatten(0, 1).var(0))).sum()) / total if total else 1.0


class Runs:
    """Replicas of a model in one box, which go from model to model.

    Parameters
    ----------
    box
        The frames; replicas start from some of them, equally spaced.
    replicas
        Their number.
    protocol
        First length of a run.
    masses
        (beads,), u.
    longest
        Most steps of production.
    rng
        Source of the seeds.
    """

    def __init__(
        self,
        box: Box,
        replicas: int,
        protocol: LangevinProtocol,
        masses: np.ndarray,
        longest: int,
        rng: np.random.Generator,
    ):
        self.box, self.protocol, self.masses, self.longest, self.rng = box, protocol, masses, longest, rng
        self.start = box.positions[np.arange(replicas) * len(box.positions) // replicas]

    def begin(self, model: LinearModel) -> Trajectory:
        """First run of a model, from the last configurations of the model before."""
        protocol = replace(self.protocol, seed=int(self.rng.integers(2**62)))
        box = self.box
        return run_langevin(box.fixed(model), self.start, box.temperature, protocol, masses=self.masses, progress=False)

    def more(self, model: LinearModel, run: Trajectory, steps: int) -> Trajectory:
        """Continue a run."""
        assert run.state is not None
        stride = self.protocol.stride
        return sample(
            self.box.fixed(model), run.state, burn_in=0, steps=steps, stride=stride, guard=None, progress=False
        )


def inefficiency(series: list[Tensor], vectors: Tensor, shares: Tensor) -> float:
    """Statistical inefficiency g = 2τ, at least 1, of series of whitened features.

    Parameters
    ----------
    series
        Independent runs (n, W), equally spaced in time, of one length.
    vectors, shares
        Modes (W, k) and their weights (k,): the autocorrelations of the modes are averaged with them.
    """
    return weighted_inefficiency([(x @ vectors).numpy() for x in series], shares.numpy())


def _unit(variance: Tensor) -> Tensor:
    return torch.where(variance > 0.0, variance, torch.ones_like(variance))


__all__ = ["Box", "BoxSamples", "Runs", "boxes_of", "inefficiency"]
