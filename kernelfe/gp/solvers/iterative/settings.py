"""Settings of the preconditioner of the exact solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ....specs import Bound, OrNone, Real, Spec, Whole


@dataclass(frozen=True)
class PreconditionerSettings(Spec):
    """Cost limits and composition of a preconditioner. Solutions depend on it to their tolerance only.

    Parameters
    ----------
    max_rank, max_bytes
        Columns of the low-rank part at most, and bytes.
    products
        Products with A that setting up the low-rank part may cost.
    number_cost
        Operations that take as long as computing one number of the covariances of labels with its environments.
    pool
        Environments from which those of the low-rank part are chosen.
    inwards
        How far environments of the low-rank part move towards the mean of those around them.
    worthwhile
        Share of the variance of values that a low-rank part must account for to be worth its cost.
    group_rows
        Rows of a neighbourhood at most, if more than one frame fits: a frame and the frames that it looks at.
    fewest
        Frames to look at below which none is looked at: with three neighbours ethanol took 270 iterations, with none
        169.
    most
        Frames that a frame looks at, at most; None: as many as the group has room for. Of frames with one label each,
        50 take half the time of a hundred to set up, and a solve takes less.
    spread_out
        Frames up to which the order of conditioning is spread out (farthest first), which takes time that goes with
        their square and 5 % off the iterations; beyond, it is random.
    little
        What the low-rank part may leave of the variance of labels, in units of their noise, so that no label looks at
        its neighbours: a solve then takes less time, if more iterations. 0: they always do.
    tested
        Frames of each label set that are tested for that.
    """

    max_rank: int = 2000
    max_bytes: int = 1 << 30
    products: float = 120.0
    number_cost: float = 400.0
    pool: int = 4000
    inwards: float = 0.8
    worthwhile: float = 0.25
    group_rows: int = 100
    fewest: int = 5
    most: int | None = 50
    spread_out: int = 20_000
    little: float = 2.0
    tested: int = 100

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "max_rank": Whole(least=0),
        "max_bytes": Whole(least=0),
        "products": Real(least=0.0),
        "number_cost": Real(least=0.0),
        "pool": Whole(least=1),
        "inwards": Real(least=0.0, most=1.0),
        "worthwhile": Real(least=0.0),
        "group_rows": Whole(least=0),
        "fewest": Whole(least=0),
        "most": OrNone(Whole(least=0)),
        "spread_out": Whole(least=0),
        "little": Real(least=0.0),
        "tested": Whole(least=1),
    }

    def for_evidence(self) -> PreconditionerSettings:
        """The same with all neighbours that fit: the error of an evidence depends on how close P is to A."""
        return replace(self, little=0.0, most=None)
