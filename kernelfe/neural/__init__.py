"""Free energies as neural networks: the second backend besides :mod:`kernelfe.gp`."""

from __future__ import annotations

from .fitted import NeuralFreeEnergy
from .frozen import NeuralFrozenModel, PeriodicNeuralFrozenModel
from .loading import load
from .regressor import NeuralFreeEnergyRegressor
from .specs import MLP, MessagePassing, TemperatureInput, Training
from .training import Record

__all__ = [
    "MLP",
    "MessagePassing",
    "NeuralFreeEnergy",
    "NeuralFreeEnergyRegressor",
    "NeuralFrozenModel",
    "PeriodicNeuralFrozenModel",
    "Record",
    "TemperatureInput",
    "Training",
    "load",
]
