"""Choice of configurations to label next: those that bring the model's ensemble closest to the truth.

If A has the error δA, the ensemble p ∝ e^{−A/kT} of the model is away from that of the truth by the relative entropy

    D ≈ Var_p(δA)/2(kT)²

to lowest order (constants in δA have no effect). Under the posterior δA is a Gaussian process, so the **expected**
divergence over samples R_1…R_n of the model,

    ⟨D⟩ = (1/2n(kT)²) Σ_j Var[A(R_j) − (1/n)Σ_i A(R_i)],

is known before anything is measured, and so is its value after labels at any configurations with known noise: Gaussian
posteriors narrow by the same amount whatever the values of the labels. Configurations are chosen one by one, each the
one that lowers ⟨D⟩ most given those before it. For an exact (dense) posterior the prediction is exact; a sparse one
counts the part that its inducing environments miss as further noise of the labels and predicts a slightly smaller gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..errors import SolverError, require
from ..frames import Frames
from ..frames.checks import mapping, numbers
from ..gp import FreeEnergyRegressor
from ..runtime.threads import one_thread
from ..units import BOLTZMANN


@dataclass(frozen=True)
class Proposal:
    """Configurations to label next.

    Parameters
    ----------
    rows
        Rows of the candidates, in the order of choice.
    divergence
        ⟨D⟩ before, and after each choice: (len(rows) + 1,).
    """

    rows: np.ndarray
    divergence: np.ndarray


@one_thread()
def expected_divergence(model: FreeEnergyRegressor, samples: Frames) -> float:
    """Relative entropy ⟨D⟩ expected from the model's own error bars; see the module's formula.

    Parameters
    ----------
    model
        Fitted model.
    samples
        Configurations drawn from exp(−A/kT) of the model at one or several temperatures, over which ⟨D⟩ is averaged.

    Raises
    ------
    DataError
        If ``samples`` is empty, or holds other beads than the model.
    """
    _check(model, samples)
    with torch.no_grad():
        rows = _rows(model, "free_energy", samples)
        covariance = model.posterior_.covariance(rows, rows)
        return float(_centred(_centred(covariance, samples).T, samples).diagonal().sum())


@one_thread()
def propose(
    model: FreeEnergyRegressor,
    candidates: Frames,
    samples: Frames,
    batch: int,
    noise: Mapping[str, float],
    max_rows: int = 8000,
) -> Proposal:
    """Choose candidates whose labels lower the expected divergence most.

    Parameters
    ----------
    model
        Fitted model.
    candidates
        Configurations and temperatures to choose from.
    samples
        As in :func:`expected_divergence`.
    batch
        Number of configurations to choose.
    noise
        Label kind to the standard deviation of such a label; its keys are the kinds that are measured.
    max_rows
        Largest number of label rows of all candidates together: their covariance is held as a matrix (512 MB for 8000).

    Raises
    ------
    DataError
        If there are fewer candidates than wanted, a noise is not positive, the frames are not of the model's beads, or
        the candidates have too many label rows.
    SolverError
        If the noise is too small compared with the rounding of the posterior covariance.
    """
    _check(model, samples)
    _check(model, candidates)
    noise = mapping(noise, "noise", "{'mean_force': 0.03}")
    require(
        isinstance(batch, (int, np.integer)) and 1 <= batch <= len(candidates),
        f"batch={batch}: choose at least one, and at most the {len(candidates)} candidates",
    )
    require(
        noise and all(0.0 < float(numbers(v, f"noise of {key!r}", ())) < np.inf for key, v in noise.items()),
        f"noise={dict(noise)}: give a positive standard deviation for every kind that is measured",
    )
    with torch.no_grad():
        blocks = [_rows(model, key, candidates) for key in noise]
        total = sum(len(block) for block in blocks)
        fits = total <= max_rows
        require(fits, f"{len(candidates)} candidates have {total} labels, more than {max_rows}: pass fewer")
        target = _rows(model, "free_energy", samples)
        covariance = model.posterior_.covariance
        joint = torch.cat([torch.cat([covariance(a, b) for b in blocks], 1) for a in blocks])
        cross = _centred(torch.cat([covariance(a, target) for a in blocks]), samples)
        variance = torch.cat(
            [torch.full((len(b),), float(s) ** 2) for b, s in zip(blocks, noise.values(), strict=True)]
        )
        rows, lowered = _greedy(joint, cross, variance.double(), _rows_of(blocks), batch)
    start = expected_divergence(model, samples)
    return Proposal(np.array(rows), start - np.concatenate([[0.0], np.cumsum(lowered)]))


def _greedy(joint: Tensor, cross: Tensor, noise: Tensor, rows_of: Tensor, batch: int) -> tuple[list[int], list[float]]:
    """Choices, and the decrease of ⟨D⟩ by each; ``joint`` and ``cross`` are overwritten.

    Parameters
    ----------
    joint, cross
        Posterior covariances of all candidate labels, (P, P), and with the scaled free energies, (P, J).
    noise
        (P,), variances.
    rows_of
        (candidates, m), the labels of each candidate.
    """
    chosen: list[int] = []
    gains: list[float] = []
    for _ in range(batch):
        blocks = joint[rows_of[:, :, None], rows_of[:, None, :]]
        blocks = blocks + torch.diag_embed(noise[rows_of])
        lower, failed = torch.linalg.cholesky_ex(blocks)
        if bool(failed.any()):
            raise SolverError(
                f"the labels of candidate {int(failed.argmax())} have rounding errors of the size of the stated noise: "
                "state the noise that the labels will really have, or choose fewer"
            )
        gain = torch.linalg.solve_triangular(lower, cross[rows_of], upper=False).square().sum((1, 2))
        gain[chosen] = -torch.inf
        best = int(gain.argmax())
        chosen.append(best)
        gains.append(float(gain[best]))
        index = rows_of[best]
        half = torch.linalg.solve_triangular(lower[best], joint[index], upper=False)  # (m, P)
        known = torch.linalg.solve_triangular(lower[best], cross[index], upper=False)  # (m, J)
        joint.addmm_(half.T, half, alpha=-1.0)
        cross.addmm_(half.T, known, alpha=-1.0)
    return chosen, gains


def _check(model: FreeEnergyRegressor, frames: Frames) -> None:
    check_is_fitted(model, "model_")
    rows = isinstance(frames, Frames) and len(frames)
    require(rows, "candidates and samples must be Frames with at least one row")
    model.model_.molecules.one("a proposal")
    model.check_frames(frames)


def _rows(model: FreeEnergyRegressor, key: str, frames: Frames):
    return model.model_.rows(frames, key)[0]


def _rows_of(blocks) -> Tensor:
    """The rows of every candidate, kind after kind, shape (candidates, Σ components)."""
    parts, offset = [], 0
    for block in blocks:
        parts.append(offset + torch.arange(len(block)).reshape(block.frames, block.components))
        offset += len(block)
    return torch.cat(parts, 1)


def _centred(matrix: Tensor, samples: Frames) -> Tensor:
    """Columns A(R_j) → (A(R_j) − mean at its temperature)/(√(2n) kT), ⟨D⟩ being the sum of their variances."""
    out = matrix.clone()
    temperatures, counts = np.unique(samples.temperature, return_counts=True)
    require(
        counts.min() >= 2,
        f"samples hold a single frame at {temperatures[counts.argmin()]:g} K: free energies are compared within a "
        "temperature, so draw two or more at each",
    )
    for t in temperatures:
        at = torch.from_numpy(np.flatnonzero(samples.temperature == t))
        part = matrix[:, at]
        scale = BOLTZMANN * float(t) * (2.0 * len(at) * len(temperatures)) ** 0.5
        out[:, at] = (part - part.mean(1, keepdim=True)) / scale
    return out
