"""Log density of labels under a network: normal noise, of given or learned size for each kind of label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..gp.observations.labels import PAIR, LabelSet
from .potential import Potential


class NoiseModel(nn.Module):
    """Learned noise σ = exp(log σ₀) (T/T0)^p by kind of label, as the kernel models have it.

    Parameters
    ----------
    kinds
        Kinds with learned noise.
    reference
        T0, K.
    exponent
        Whether p is learned; else it is zero.
    """

    def __init__(self, kinds: tuple[str, ...], reference: float, exponent: bool):
        super().__init__()
        self.kinds, self.reference, self.exponent = kinds, reference, exponent
        self.log = nn.Parameter(torch.zeros(len(kinds), dtype=torch.float64))
        self.power = nn.Parameter(torch.zeros(len(kinds), dtype=torch.float64))

    def log_level(self, kind: str, temperature: Tensor) -> Tensor | None:
        """log σ of frames (n,); None for kinds with given noise."""
        if kind not in self.kinds:
            return None
        k = self.kinds.index(kind)
        power = self.power[k] if self.exponent else 0.0 * self.power[k]
        return self.log[k] + power * torch.log(temperature / self.reference)

    def values(self) -> dict[str, tuple[float, float]]:
        """(σ₀, p) by kind."""
        powers = self.power.tolist() if self.exponent else [0.0] * len(self.kinds)
        return {kind: (math.exp(a), p) for kind, a, p in zip(self.kinds, self.log.tolist(), powers, strict=True)}


@dataclass
class Group:
    """Label sets that are read at the same states, so that one evaluation of the network serves them all.

    Parameters
    ----------
    labels
        The label sets.
    store
        Network inputs at their states.
    minus
        Of free-energy differences: inputs at the first ends.
    """

    labels: list[LabelSet]
    store: Any
    minus: Any = None

    @property
    def size(self) -> int:
        """Number of states."""
        return len(self.labels[0].states)

    def rows(self, index: Tensor) -> int:
        """Label rows of some states."""
        return sum(len(index) * label.y.shape[1] for label in self.labels)

    def predictions(self, model: Potential, index: Tensor, graph: bool) -> list[Tensor]:
        """Rows of each label set at some states, (n, m)."""
        batch = model.batch(self.store.take(index), graph)
        out = [batch.read(label.functional) for label in self.labels]
        if self.minus is not None:
            first = self.labels[0].minus
            assert first is not None
            out = [out[0] - model.batch(self.minus.take(index), graph).read(first.functional)]
        return out

    def loss(self, model: Potential, noise: NoiseModel, index: Tensor, graph: bool = True) -> Tensor:
        """−log density of the labels of some states."""
        total = torch.zeros((), dtype=torch.float64)
        for label, found in zip(self.labels, self.predictions(model, index, graph), strict=True):
            residual, components = label.y[index] - found, label.y.shape[1]
            whitening = label.noise.whitening(index, components)
            white = whitening(residual.reshape(-1)).reshape(residual.shape)
            log = noise.log_level(label.kind, label.states.temperature[index])
            if log is not None:
                white = white * torch.exp(-log)[:, None]
                total = total + components * log.sum()
            constant = residual.numel() * math.log(2.0 * math.pi)
            total = total + 0.5 * (white.square().sum() + whitening.log + constant)
        return total


def groups_of(labels: list[LabelSet], network: Any) -> list[Group]:
    """Label sets by the states that they share."""
    found: dict[int, Group] = {}
    for label in labels:
        if label.kind == PAIR or label.minus is not None:
            assert label.minus is not None
            found[id(label)] = Group([label], network.store(label.states), network.store(label.minus.states))
        elif id(label.states) in found:
            found[id(label.states)].labels.append(label)
        else:
            found[id(label.states)] = Group([label], network.store(label.states))
    return list(found.values())


def held_out(temperature: np.ndarray, share: float, blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Mask of the frames that are held out: whole blocks of time at each temperature.

    Parameters
    ----------
    temperature
        Of the frames, in the order of time at each temperature, (n,).
    share
        Share of the frames.
    blocks
        Blocks of each temperature; fewer where there are fewer frames.
    rng
        Generator that chooses the blocks.
    """
    mask = np.zeros(len(temperature), bool)
    if share == 0.0:
        return mask
    values, counts = np.unique(temperature, return_counts=True)
    if counts.min() < 2 * blocks:  # temperatures of few frames, such as one of its own each, are not split one by one
        runs = [np.arange(len(temperature))]
    else:
        runs = [np.flatnonzero(temperature == t) for t in values]
    for run in runs:
        parts = np.array_split(run, min(blocks, len(run)))
        count = max(1, round(share * len(parts))) if len(parts) > 1 else 0
        for k in rng.permutation(len(parts))[:count]:
            mask[parts[k]] = True
    return mask


@torch.no_grad()
def start_means(model: Potential, noise: NoiseModel, labels: list[LabelSet]) -> None:
    """Mean functions by least squares, and noise levels from what they leave.

    Each kind of label counts by one over its variance. The entropy s₀ takes part only if the labels determine it
    (mean energies do not): else it is gauge, and zero.
    """
    rows, values = [], []
    for label in labels:
        row = model.mean_rows(label.functional, label.states.temperature)
        if label.minus is not None:
            row = row - model.mean_rows(label.minus.functional, label.minus.states.temperature)
        if bool(row.any()):
            weight = 1.0 / max(float(label.y.std(correction=0)), 1e-12) / math.sqrt(len(label.y))
            rows.append(weight * row)
            values.append(weight * label.y[:, 0])
    if rows:
        design, target = torch.cat(rows), torch.cat(values)
        columns = [0, 2]
        if _rank(design) > _rank(design[:, columns]):
            columns = [0, 1, 2]
        used = design[:, columns]
        norm = used.norm(dim=0)
        keep = norm > 0
        unit = used[:, keep] / norm[keep]
        solution = torch.linalg.lstsq(unit, target[:, None], driver="gelsd", rcond=1e-10).solution[:, 0]
        for k, value in zip(torch.tensor(columns)[keep].tolist(), (solution / norm[keep]).tolist(), strict=True):
            model.offset[k], model.free[k] = value, 1.0
    for label in labels:
        left = label.y - (model.mean_rows(label.functional, label.states.temperature) @ model.offset)[:, None]
        _widen(model, label, left)
    for k, kind in enumerate(noise.kinds):
        left = []
        for label in labels:
            if label.kind == kind:
                mean = model.mean_rows(label.functional, label.states.temperature) @ model.offset
                left.append((label.y - mean[:, None]).reshape(-1))
        noise.log[k] = math.log(max(float(torch.cat(left).square().mean().sqrt()), 1e-12))


def _widen(model: Potential, label: LabelSet, left: Tensor) -> None:
    """Raise the scales of the heads to the size of labels that show it.

    Scales are kT0 and k, right for molecules. Plain variables may have energies of any size, which free energies,
    entropies and heat capacities show as they are, and forces times the spread of the coordinates. Energies and forces
    of single frames of molecules are mostly noise, and left out.
    """
    size, x = float(left.std(correction=0)), label.states.coordinates
    head = {"free_energy": 0, PAIR: 0, "entropy": 1, "heat_capacity": 2}.get(label.kind)
    if label.kind == "mean_force" and x.ndim == 2:
        head, size = 0, float((label.y.square().mean(0) * x.var(0, correction=0)).sum().sqrt())
    if head is not None and math.isfinite(size):
        model.scale[head] = max(float(model.scale[head]), size)


def _rank(design: Tensor) -> int:
    unit = design / design.norm(dim=0).clamp_min(1e-300)
    return int(torch.linalg.matrix_rank(unit, rtol=1e-7))
