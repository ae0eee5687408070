"""Sampling a free energy: batched Langevin dynamics, Monte Carlo moves, constant pressure, replica exchange."""

from __future__ import annotations

from .exchange import ExchangeResult, exchange_exponent, run_replica_exchange
from .guard import DomainGuard
from .langevin import langevin_init, langevin_step, run_langevin, sample
from .moves import Move, TorsionMoves, metropolis
from .pressure import run_npt
from .protocol import LangevinProtocol
from .state import LangevinState, MoveStatistics, SamplingError, Trajectory, load_state, uniform_masses

__all__ = [
    "DomainGuard",
    "ExchangeResult",
    "LangevinProtocol",
    "LangevinState",
    "Move",
    "MoveStatistics",
    "SamplingError",
    "TorsionMoves",
    "Trajectory",
    "exchange_exponent",
    "langevin_init",
    "langevin_step",
    "load_state",
    "metropolis",
    "run_langevin",
    "run_npt",
    "run_replica_exchange",
    "sample",
    "uniform_masses",
]
