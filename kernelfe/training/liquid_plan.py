"""Plan and result of relative entropy for liquids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..simulate import LangevinProtocol
from ..specs import Bound, Choice, OrNone, Real, Spec, Whole
from .refinement import RelativeEntropyFit, Round

#: Default sampling of a round: 4 ps of burn-in and 10 ps of production of every replica at the usual 5 fs.
LIQUID_SAMPLING = LangevinProtocol(friction=2.0, steps=2000, stride=40, burn_in=800, guard=None)


@dataclass(frozen=True)
class LiquidPlan(Spec):
    """Rounds, replicas and thresholds of :func:`minimize_relative_entropy` for frames with a cell.

    Parameters
    ----------
    rounds
        Most models that are sampled, that of the labels included.
    replicas
        Boxes that are sampled at each temperature, at least two. They start from different frames.
    label_weight
        κ, the weight of the labels' posterior against the density. 1 takes its error bars at their word, which is right
        if a model of this form can be exact. It seldom can: the weights that fit the forces best and those that fit the
        structure best then differ by more than the error bars of either, and κ < 1 allows for the difference.
        None: the κ whose step agrees best with frames and samples it was not made from, at most 1.
    response
        "kept": the step is the same at all temperatures, only weights whose features do not depend on T move.
        "free": all weights move. "auto": kept if all frames are at one temperature, else free.
    step
        Largest relative-entropy change of a step in the quadratic approximation, nats per bead. A larger step is taken
        where reweighting is reliable (``trusted``).
    trusted
        Share of the samples that reweighting must leave effective to be called reliable.
    settled
        Converged is a model from which further steps promise less than this share of what chance in the frames is
        worth, besides what chance in the samples promises.
    sure
        Standard errors by which a step must improve the objective to be kept.
    enough
        Independent samples wanted for each independent frame: a run is extended until it has them.
    longest
        Most steps of production of each replica in a round.
    overlap
        Overlap of two ensembles from which Bennett's acceptance ratio is used; below, moments of the work.
    """

    rounds: int = 6
    replicas: int = 8
    label_weight: float | None = None
    response: str = "auto"
    step: float = 0.1
    trusted: float = 0.3
    settled: float = 0.1
    sure: float = 2.0
    enough: float = 2.0
    longest: int = 8000
    overlap: float = 0.05

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("rounds", "longest"), Whole(least=1)),
        "replicas": Whole(least=2),
        "label_weight": OrNone(Real(above=0.0)),
        "response": Choice(("auto", "kept", "free")),
        "step": Real(above=0.0),
        "trusted": Real(above=0.0, most=1.0),
        "overlap": Real(least=0.0, most=1.0),
        **dict.fromkeys(("settled", "sure", "enough"), Real(least=0.0)),
    }


@dataclass(frozen=True)
class LiquidRound(Round):
    """One model of a liquid that was sampled; ``memory`` is the squared drift within the run over that of chance.

    Parameters
    ----------
    change
        Predicted relative-entropy change of the step, nats per bead, the largest of all temperatures.
    overlap
        Least overlap with the best model before.
    label_weight
        κ by which the step was chosen.
    """

    change: float = 0.0
    overlap: float = 1.0
    label_weight: float = 1.0


@dataclass(frozen=True)
class LiquidFit(RelativeEntropyFit):
    """Result of :func:`minimize_relative_entropy` for a liquid.

    Parameters
    ----------
    label_weight
        κ of the result.
    open_directions
        (j, W), directions in the space of the weights about which the frames say nothing, independent of each other:
        there the result is that of the labels.
    open_weights
        Weights that lie mostly in these directions.
    """

    label_weight: float = 1.0
    open_directions: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    open_weights: tuple[int, ...] = ()


__all__ = ["LIQUID_SAMPLING", "LiquidFit", "LiquidPlan", "LiquidRound"]
