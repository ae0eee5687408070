"""Relative entropy: the positions of equilibrium frames as labels.

Equilibrium frames are draws from exp(−A(R; T)/kT)/Z(T). Besides their forces and energies, their *positions* therefore
carry information about A: the depth of a basin, and the absence of frames where A is high. Their likelihood

    Σ_n [−A(R_n; T_n)/kT_n − ln Z(T_n)]

is the relative entropy of model and data up to a constant (Shell, J. Chem. Phys. 129, 144108, 2008). It is not a linear
functional of A, so it cannot join the exact conditioning. A model that is linear in its weights,
A = w·f(R, T) + baseline (:class:`~kernelfe.protocol.LinearModel`), has a normal distribution N(μ, Λ⁻¹) of them after
all linear labels: the posterior of a sparse fit, or the prior of a model of your own. With it as the prior, this module
finds the maximum of

    −½ (w − μ)ᵀ Λ (w − μ) − Σ_T (n_T/g_T) [w·f̄_T/kT + ln Z_T(w)],

f̄_T the mean of the features over the frames at T, g_T their statistical inefficiency (two of them where a torsion
is slow, see :mod:`~kernelfe.training.sides`). ln Z_T comes from samples of all models so far, joined as MBAR does it.
It proposes a step, cut where reweighting becomes unreliable; the proposal is sampled until its replicas have forgotten
their start (:mod:`~kernelfe.training.replicas`); and it is kept only if the relative entropy, measured between the two
sets of samples by Bennett's acceptance ratio, has fallen by more than its error. Otherwise the next step is half as
long. What is returned is therefore never worse, by this measure, than the model of the labels.
At the maximum the Laplace approximation adds (n_T/g_T) Cov_T(f, f)/(kT)² to the precision: error bars shrink as well.
The objective is concave in w, so there is one maximum.

Frames with a cell take another road to the same maximum (:mod:`~kernelfe.training.liquids`), since reweighting fails
for boxes of many beads, and labels and density are weighed against each other.
"""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import require
from ..frames import Frames
from ..gp.observations.whole import left_out, warn_left_out
from ..protocol import LinearModel
from ..runtime.threads import one_thread
from ..simulate import LangevinProtocol
from ..specs import OrNone, Real, checked
from .linear import linear_model
from .liquid_plan import LIQUID_SAMPLING, LiquidFit, LiquidPlan, LiquidRound
from .liquids import LiquidRefinement
from .refinement import Refinement, RelativeEntropyFit, RelativeEntropyPlan, Round

logger = logging.getLogger(__name__)

#: Default sampling of a round. No guard: where the model goes and the frames do not is what the density corrects.
SAMPLING = LangevinProtocol(friction=10.0, steps=200, stride=20, burn_in=100, moves="auto", moves_every=1, guard=None)


@one_thread()
def minimize_relative_entropy(
    model: Any,
    frames: Frames,
    protocol: LangevinProtocol | None = None,
    *,
    plan: RelativeEntropyPlan | LiquidPlan | None = None,
    inefficiency: float | None = None,
    masses: np.ndarray | None = None,
    progress: bool = True,
    **options: Any,
) -> RelativeEntropyFit:
    """Condition a linear model on the positions of equilibrium frames.

    Parameters
    ----------
    model
        A :class:`~kernelfe.protocol.LinearModel`, or a :class:`~kernelfe.FreeEnergyRegressor` (or its ``model_``)
        fitted by a solver of weights (``Sparse``, ``WeightSpace``) to configurations of beads, without parameters λ.
        With frames that have a cell, a model of your own needs ``energy_forces_stress(positions, cell, temperature)``
        and ``features(positions, temperature, cell)``.
    frames
        Unbiased equilibrium frames, at one or several temperatures; labels are not used, broken frames
        (:func:`~kernelfe.geometry.broken_frames`) are left out. Best those the model was fitted to: no further
        all-atom simulation is needed. Frames with a cell must be at constant volume: the cell may differ between
        temperatures, not within one. They are taken in their order as a series in time.
    protocol
        Sampling of a round: ``steps`` and ``burn_in`` to begin with, doubled as often as the samples ask for, up to
        the plan's ``longest``; ``seed`` of everything random. None:
        ``kernelfe.training.relative_entropy.SAMPLING``, with 200 steps, friction 10/ps and torsion moves after every
        step where the frames have bonds that can turn; for frames with a cell ``LIQUID_SAMPLING``, with 2000 steps and
        friction 2/ps. The ``guard`` of the former is not used.
    plan
        Number of rounds and replicas, and thresholds; a :class:`LiquidPlan` for frames with a cell, which may also be
        given for others.
    inefficiency
        Statistical inefficiency g = 2τ of the frames: n frames carry the information of n/g independent ones.
        None: estimated at each temperature, taking the frames in their order as a time series, from descriptors and
        torsions on each side of the slowest torsion, and from the crossings between the sides for their populations.
        Shuffled frames count as independent, and error bars are then too small.
    masses
        (beads,), u; None: equal masses. Averages do not depend on them.
    progress
        Show a progress bar.
    **options
        Fields of the protocol and of the plan to replace, for example ``rounds=4, timestep=2.0, seed=1``.

    Returns
    -------
    RelativeEntropyFit
        A :class:`LiquidFit` with a liquid's plan.

    Raises
    ------
    DataError
        If the model or the frames are not of the kind described above.
    SamplingError
        If the model given cannot be sampled (see :func:`~kernelfe.simulate.run_langevin`). If one that is tried later
        cannot, the step is halved. Whatever else interrupts the rounds of a liquid (Ctrl-C, for example) carries the
        best fit so far as its attribute ``fit``.
    """
    if plan is None:
        plan = RelativeEntropyPlan() if getattr(frames, "cell", None) is None else LiquidPlan()
    liquid = isinstance(plan, LiquidPlan)
    names = {one.name for one in fields(plan)}
    plan = replace(plan, **{k: v for k, v in options.items() if k in names})
    default = LIQUID_SAMPLING if liquid else SAMPLING
    protocol = (protocol or default).with_options(**{k: v for k, v in options.items() if k not in names})
    inefficiency = checked("inefficiency", inefficiency, OrNone(Real(above=0.0)))
    _check(linear_model(model), frames, plan)
    broken = left_out(frames)
    warn_left_out(broken)
    frames = frames[~broken] if broken.any() else frames
    with tqdm(total=plan.rounds, unit="round", desc="relative entropy", disable=not progress, leave=False) as bar:
        kind: Any = LiquidRefinement if liquid else Refinement
        found = kind(model, frames, protocol, plan, inefficiency, masses).run(bar.update)
    logger.log(logging.INFO if found.converged else logging.WARNING, "relative entropy: %s", found.outcome)
    return found


def _check(model: LinearModel, frames: Frames, plan: RelativeEntropyPlan | LiquidPlan) -> None:
    """Raise DataError if the frames do not fit the model; log temperatures outside those of its data."""
    require(
        isinstance(frames, Frames) and frames.positions is not None and not frames.parameters,
        "frames must be kernelfe.Frames of bead positions, without parameters: relative entropy samples the model",
    )
    liquid = isinstance(plan, LiquidPlan)
    require(liquid or frames.cell is None, "frames with a cell need a LiquidPlan, not a RelativeEntropyPlan")
    periodic = hasattr(model, "energy_forces_stress")
    require(
        periodic or frames.cell is None,
        f"frames with a cell need a periodic model: {type(model).__name__} has no energy_forces_stress(positions, "
        "cell, temperature)",
    )
    require(
        frames.cell is not None or not getattr(model, "needs_cell", False),
        "the model is that of a periodic system, and these frames have no cell",
    )
    assert frames.positions is not None
    kinds, here = getattr(model, "kinds", None), frames.positions.shape[1]
    beads = getattr(model, "beads", len(kinds) if kinds else here)
    count = len(np.unique(frames.temperature))
    same = beads == here and (None in (frames.kinds, kinds) or frames.kinds == kinds)
    require(same, "these frames are of another molecule than the model was fitted to")
    require(
        len(frames) and plan.replicas >= 2 * (1 if liquid else count),
        f"{len(frames)} frames, replicas={plan.replicas}: needed are frames, and two replicas for each of {count} "
        "temperatures (join temperatures that hardly differ)",
    )
    known = getattr(model, "temperatures", None)
    if known and not min(known) <= frames.temperature.min() <= frames.temperature.max() <= max(known):
        logger.warning(
            "relative entropy: some frames lie outside the %g to %g K the model was fitted at", min(known), max(known)
        )


__all__ = [
    "LIQUID_SAMPLING",
    "SAMPLING",
    "LiquidFit",
    "LiquidPlan",
    "LiquidRound",
    "RelativeEntropyFit",
    "RelativeEntropyPlan",
    "Round",
    "minimize_relative_entropy",
]
