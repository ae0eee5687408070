"""One fit: from training data to an ensemble of trained networks."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..descriptors import Distances, Variables
from ..errors import DataError, require
from ..frames.virial import warn_of_forces
from ..gp import handedness as hands
from ..gp.default_terms import default_terms
from ..gp.fitted.domain import Domain
from ..gp.molecules import Molecule
from ..gp.observations.molecules import MoleculeSet
from ..gp.observations.noise import CorrelatedNoise
from ..gp.shared_baseline import fit_baseline
from ..kernels import SecondOrder
from ..runtime.seeds import generator
from ..runtime.threads import one_thread
from ..specs import Flag, Real, Whole, checked
from .fitted import NeuralFreeEnergy
from .likelihood import NoiseModel, groups_of, held_out, start_means
from .message_passing import MessageNetwork
from .mlp import DescriptorNetwork
from .potential import Potential
from .specs import MLP, MessagePassing, TemperatureInput, Training
from .training import Record, Trainer

#: Frames from which scales of columns are read, evenly spaced.
_SAMPLE = 5000


@one_thread()
def fitted_model(estimator: Any, data: MoleculeSet) -> tuple[NeuralFreeEnergy, list[Record]]:
    """Train the networks that an estimator describes.

    Parameters
    ----------
    estimator
        The :class:`~kernelfe.NeuralFreeEnergyRegressor`; its parameters are read, it is not changed.
    data
        The training data.

    Returns
    -------
    NeuralFreeEnergy, list of Record
        The fitted model, and the course of training of each member.
    """
    title = type(estimator).__name__
    temperature = checked("temperature", estimator.temperature, Real(above=0.0), title)
    members = checked("members", estimator.members, Whole(least=1, most=1000), title)
    training = Training() if estimator.training is None else estimator.training
    require(isinstance(training, Training), f"training={training!r}: pass a spec Training(…), or None")
    require(
        not isinstance(estimator.noise, CorrelatedNoise),
        "CorrelatedNoise belongs to kernel models: give noise= by label kind, or None to learn one level per kind",
    )
    if not data.single:
        names = ", ".join(map(str, data.molecules))
        raise DataError(f"{title} fits one molecule at a time, the data hold {names}: fit them apart")
    for part in data.sound:
        warn_of_forces(part)
    frames, molecule = data.parts[0], data.molecules[0]
    spec = deepcopy(estimator.network)
    if spec is None:
        spec = MessagePassing() if molecule.periodic else MLP()
    baseline = fit_baseline(estimator.baseline, data, core=isinstance(spec, MessagePassing))
    spec = complete_network(spec, data, baseline)
    labels = data.labels(estimator.labels, estimator.noise, baseline)
    thermal = complete_thermal(estimator.thermal, data.temperature)
    concave = checked("concave", estimator.concave, Flag(), title)
    several = len(np.unique(data.temperature)) > 1
    parameters = tuple(sorted(data.parameters))
    learned = tuple(dict.fromkeys(label.kind for label in labels if label.learned))
    rng = generator(estimator.random_state)
    groups: list[Any] = []
    models, noises, records = [], [], []
    for k in range(members):
        seed = int(rng.integers(2**62))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(spec, thermal, concave, molecule, parameters)
        noise = NoiseModel(learned, float(thermal.reference_temperature or 0.0), several)
        network: Any = model.network
        network.start(data.sampled(_evenly)[0])
        if parameters:
            values = torch.stack([torch.from_numpy(data.parameters[name].copy()) for name in parameters], 1)
            spread = values.std(0, correction=0)
            model.centre, model.width = values.mean(0), torch.where(spread > 0, spread, torch.ones_like(spread))
        groups = groups or groups_of(labels, network)
        start_means(model, noise, labels)
        mask = held_out(frames.temperature, training.held_out, training.blocks, np.random.default_rng(seed))
        masks = [_of_group(group, mask) for group in groups]
        name = f"member{k}"
        trainer = Trainer(model, noise, groups, masks, training, seed, bool(estimator.progress), name)
        records.append(trainer.run())
        models.append(model.eval())
        noises.append(noise)
    domain = Domain.of([], data.sound[0]) if frames.positions is not None and not molecule.periodic else None
    found = NeuralFreeEnergy(
        members=tuple(models),
        noise=tuple(noises),
        molecules=data.fitted(labels),
        baseline=baseline,
        temperatures=tuple(float(t) for t in np.unique(data.temperature)),
        density=tuple(-record.held_out[record.best] for record in records),
        parameters=parameters,
        domain=domain,
        temperature=float(temperature),
    )
    return found, records


def build(
    spec: MLP | MessagePassing, thermal: Any, concave: bool, molecule: Molecule, names: tuple[str, ...]
) -> Potential:
    """A network with random weights from torch's generator.

    Parameters
    ----------
    spec
        Complete spec of the network.
    thermal
        Complete thermal part.
    concave
        See :class:`~kernelfe.neural.potential.Potential`.
    molecule
        The molecule.
    names
        Parameters λ, sorted.
    """
    as_input = isinstance(thermal, TemperatureInput)
    extras, heads = as_input + len(names), 1 if as_input else 3
    network: Any
    if isinstance(spec, MessagePassing):
        network = MessageNetwork(spec, molecule.kinds, molecule.shape[0], extras, heads)
    else:
        columns = spec.descriptor.dimension(molecule.shape)  # type: ignore[union-attr]
        network = DescriptorNetwork(spec, molecule.bound(spec.descriptor), columns, extras, heads)
    require(not (concave and as_input), "concave=True needs heads of energy, entropy and heat capacity: SecondOrder()")
    return Potential(network, thermal, concave, names)


def complete_network(spec: Any, data: MoleculeSet, baseline: Any) -> MLP | MessagePassing:
    """The spec of a network with the descriptor that was left out."""
    require(isinstance(spec, (MLP, MessagePassing)), f"network={spec!r}: pass MLP(…), MessagePassing(…) or None")
    molecule, part = data.molecules[0], data.sound[0]
    if isinstance(spec, MessagePassing):
        require(len(molecule.shape) == 2, "MessagePassing reads positions of beads: use MLP() for plain variables")
        return spec
    if spec.descriptor is None:
        require(not molecule.periodic, "MLP of periodic frames needs a descriptor; or pass network=MessagePassing()")
        handed = [hands.examined(part, molecule, baseline)] if len(molecule.shape) == 2 else []
        found = default_terms(data, handed)[0][1].descriptor
        if found is None:
            found = Variables() if len(molecule.shape) == 1 else Distances()
        spec = replace(spec, descriptor=found)
    spec.descriptor.dimension(molecule.shape)  # type: ignore[union-attr]
    return spec


def complete_thermal(spec: Any, temperature: np.ndarray) -> SecondOrder | TemperatureInput:
    """The thermal part with its reference temperature."""
    spec = SecondOrder() if spec is None else spec
    require(
        isinstance(spec, (SecondOrder, TemperatureInput)),
        f"thermal={spec!r}: pass SecondOrder(), TemperatureInput() or None",
    )
    t0 = spec.reference_temperature
    t0 = float(temperature.mean()) if t0 is None else t0
    if isinstance(spec, SecondOrder):  # prior standard deviations belong to kernel models
        return SecondOrder(reference_temperature=t0)
    return TemperatureInput(t0)


def _evenly(size: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, min(size, _SAMPLE)).astype(int))


def _of_group(group: Any, mask: np.ndarray) -> np.ndarray:
    """Held-out states of a group; differences of free energies, which belong to two frames, are never held out."""
    frame = group.labels[0].frame
    return np.zeros(group.size, bool) if frame is None else mask[frame.numpy()]
