"""Specs of networks, of their dependence on temperature, and of their training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..descriptors import Descriptor
from ..specs import Bound, Choice, Each, Instance, OrNone, PathName, Real, Spec, Whole

_WIDTH = Whole(least=1, most=4096)


@dataclass(frozen=True)
class MLP(Spec):
    """Multilayer perceptron on the standardised columns of a descriptor, summed over the environments of a frame.

    Parameters
    ----------
    descriptor
        A descriptor; None: that of the default term of :class:`~kernelfe.FreeEnergyRegressor`, the distances between
        all beads (with signed volumes where left and right differ), or the variables.
    hidden
        Widths of the hidden layers.
    activation
        "silu" or "tanh", both smooth.
    """

    descriptor: Descriptor | None = None
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "silu"

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "descriptor": OrNone(Instance(Descriptor, "a descriptor")),
        "hidden": Each(_WIDTH, least=1),
        "activation": Choice(("silu", "tanh")),
    }


@dataclass(frozen=True)
class MessagePassing(Spec):
    """Equivariant message passing between beads within a cutoff; see :mod:`kernelfe.neural.message_passing`.

    Parameters
    ----------
    cutoff
        Largest distance of two beads that exchange messages, Å; messages and two derivatives vanish there.
    channels
        Features of each degree l per bead.
    layers
        Rounds of messages.
    basis
        Radial functions.
    hidden
        Width of the layers that mix invariants.
    """

    cutoff: float = 6.0
    channels: int = 12
    layers: int = 2
    basis: int = 8
    hidden: int = 32

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "cutoff": Real(above=0.0),
        "channels": _WIDTH,
        "layers": Whole(least=1, most=16),
        "basis": Whole(least=2, most=256),
        "hidden": _WIDTH,
    }


@dataclass(frozen=True)
class TemperatureInput(Spec):
    """Temperature as an input of the network: any dependence on T, with derivatives by automatic differentiation.

    Parameters
    ----------
    reference_temperature
        T0 in K; the network reads (T − T0)/T0. None: the mean temperature of the data.
    """

    reference_temperature: float | None = None

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"reference_temperature": OrNone(Real(above=0.0))}


@dataclass(frozen=True)
class Training(Spec):
    """Training of a network by Adam on mini-batches.

    Parameters
    ----------
    epochs
        Most passes through the data.
    batch
        Frames of a step.
    rate
        Learning rate at the start.
    schedule
        "cosine": the rate falls to ``final`` along half a cosine over ``epochs``; "plateau": it is halved after
        ``patience``/3 epochs without improvement.
    final
        Last learning rate of the cosine, and the smallest one of the plateau, relative to ``rate``.
    weight_decay
        Precision of a normal prior of the weights (not of mean functions and noise): the log density has
        −½ ``weight_decay`` Σ w².
    held_out
        Share of the frames that are held out, in blocks of time at each temperature; 0 for none.
    blocks
        Blocks of time per temperature.
    patience
        Epochs without a better held-out log density after which training stops.
    checkpoint
        Folder for checkpoints, from which a repeated fit of the same data resumes; None for none.
    checkpoint_seconds
        Least time between checkpoints, s; they are written between epochs.
    """

    epochs: int = 400
    batch: int = 100
    rate: float = 3e-3
    schedule: str = "cosine"
    final: float = 0.01
    weight_decay: float = 1e-2
    held_out: float = 0.1
    blocks: int = 20
    patience: int = 80
    checkpoint: str | None = None
    checkpoint_seconds: float = 30.0

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "epochs": Whole(least=1),
        "batch": Whole(least=1),
        "rate": Real(above=0.0),
        "schedule": Choice(("cosine", "plateau")),
        "final": Real(above=0.0, most=1.0),
        "weight_decay": Real(least=0.0),
        "held_out": Real(least=0.0, most=0.5),
        "blocks": Whole(least=2),
        "patience": Whole(least=1),
        "checkpoint": OrNone(PathName("folder")),
        "checkpoint_seconds": Real(least=0.0),
    }
