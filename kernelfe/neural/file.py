"""Files of neural models: specs as JSON and tensors as safetensors. Loading runs no code."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError, ModelFileError
from ..files import tensors as container
from ..files.fields import require, take
from ..gp.baseline import FittedBaseline
from ..gp.core import FittedCore
from ..gp.file.classes import CLASSES as KERNEL_CLASSES
from ..gp.file.write import plain_parameters
from ..gp.fitted.domain import Domain
from ..gp.molecules import FittedMolecule, Molecule, Molecules
from ..kernels import SecondOrder
from ..specs import from_dict
from .fit import build
from .fitted import NeuralFreeEnergy
from .likelihood import NoiseModel
from .specs import MLP, MessagePassing, TemperatureInput, Training

CONTENT = container.Content("kernelfe-neural-model", 1, "kernelfe neural model", "save the model again")

_OWN: dict[str, type] = {cls.__name__: cls for cls in (MLP, MessagePassing, TemperatureInput, Training)}
_BASELINES: dict[str, type] = {cls.__name__: cls for cls in (FittedBaseline, FittedCore)}


@dataclass(frozen=True)
class Stored:
    """Content of a file: the model, the parameters of its estimator, and the columns of its table or None."""

    model: NeuralFreeEnergy
    parameters: dict[str, Any]
    columns: int | None


def write(
    path: str | os.PathLike, model: NeuralFreeEnergy, parameters: dict[str, Any], columns: int | None = None
) -> None:
    """Write a model, atomically.

    Parameters
    ----------
    path
        The file.
    model
        The model.
    parameters
        Parameters of the estimator that holds it.
    columns
        Columns of the table that the estimator was fitted to, or None.

    Raises
    ------
    DataError
        If the path cannot be written, or a parameter is not plain.
    """
    first, entry = model.members[0], model.molecules.entries[0]
    network: Any = first.network
    spec = network.spec
    header = {
        "parameters": plain_parameters(parameters),
        "n_features_in": columns,
        "network": spec.to_dict(),
        "native": bool(getattr(network, "native", True)),
        "thermal": first.thermal.to_dict(),
        "concave": first.concave,
        "members": len(model.members),
        "molecule": {
            "kinds": entry.molecule.kinds,
            "bonds": entry.molecule.bonds,
            "periodic": entry.molecule.periodic,
            "shape": entry.molecule.shape,
            "masses": entry.masses,
            "zero_known": entry.zero_known,
        },
        "baseline": None if model.baseline is None else model.baseline.to_dict(),
        "noise": {"kinds": model.noise[0].kinds, "reference": model.noise[0].reference},
        "noise_exponent": model.noise[0].exponent,
        "temperatures": model.temperatures,
        "density": [value if math.isfinite(value) else None for value in model.density],
        "parameter_names": model.parameters,
        "domain": None if model.domain is None else model.domain.numbers(),
    }
    tensors = {} if model.domain is None else model.domain.tensors()
    for k, (member, noise) in enumerate(zip(model.members, model.noise, strict=True)):
        tensors |= {f"member{k}.{name}": value for name, value in member.state_dict().items()}
        tensors |= {f"noise{k}.{name}": value for name, value in noise.state_dict().items()}
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    container.write(Path(path), header, own, CONTENT)


def read(path: str | os.PathLike, classes: list[type] | None = None) -> Stored:
    """Read a model.

    Parameters
    ----------
    path
        The file.
    classes
        Your own descriptor or baseline classes that the model uses, if any.

    Raises
    ------
    ModelFileError
        If the file cannot be opened, is damaged, of another format or version, inconsistent, or names unknown
        classes.
    """
    header, tensors = container.read(Path(path), CONTENT)
    known = {**KERNEL_CLASSES, **_OWN, **{cls.__name__: cls for cls in classes or []}}
    try:
        parameters = {k: from_dict(v, known) for k, v in header["parameters"].items()}
        return Stored(_rebuilt(header, tensors, known), parameters, header["n_features_in"])
    except (ModelFileError, DataError) as error:
        raise ModelFileError(f"{path}: the file is inconsistent: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ModelFileError(f"{path}: the file is inconsistent ({type(error).__name__}: {error})") from error


def _rebuilt(header: dict[str, Any], tensors: dict[str, torch.Tensor], known: dict[str, type]) -> NeuralFreeEnergy:
    spec, thermal = from_dict(header["network"], known), from_dict(header["thermal"], known)
    require(isinstance(spec, (MLP, MessagePassing)), "the network", spec, "MLP or MessagePassing")
    sound = isinstance(thermal, (SecondOrder, TemperatureInput)) and thermal.reference_temperature is not None
    require(sound, "the thermal part", thermal, "one with a reference temperature")
    for flag in ("native", "concave", "noise_exponent"):
        require(isinstance(header[flag], bool), f"the field {flag!r}", header[flag], "true or false")
    entry = _molecule(header["molecule"])
    names = tuple(header["parameter_names"])
    count = header["members"]
    # a file is no larger than its tensors: the count is checked against them before networks are made
    stored = sum(name.endswith(".shift") for name in tensors)
    require(type(count) is int and count == stored and count >= 1, "the number of members", count, f"{stored}")
    require(len(header["density"]) == count, "the field 'density'", header["density"], f"{count} numbers")
    members, noises = [], []
    kinds, reference = tuple(map(str, header["noise"]["kinds"])), float(header["noise"]["reference"])
    for k in range(count):
        sizes_of(spec, tensors, f"member{k}.network.")
        with torch.random.fork_rng(devices=[]):
            model = build(spec, thermal, header["concave"], entry.molecule, names)
        noise = NoiseModel(kinds, reference, header["noise_exponent"])
        for prefix, module in ((f"member{k}.", model), (f"noise{k}.", noise)):
            state = module.state_dict()
            found = {name: take(tensors, prefix + name, *value.shape).clone() for name, value in state.items()}
            module.load_state_dict(found)
        network: Any = model.network
        if hasattr(network, "native"):
            network.native = header["native"]
        members.append(model.eval())
        noises.append(noise)
    domain, baseline = header["domain"], header["baseline"]
    if baseline is not None:
        baseline = from_dict(baseline, {**known, **_BASELINES})
        fits = hasattr(baseline, "energy_and_gradient")
        require(fits, "the field 'baseline'", header["baseline"], "a fitted baseline")
        beads = getattr(baseline, "beads", entry.molecule.shape[0])
        require(beads == entry.molecule.shape[0], "beads of the baseline", beads, f"{entry.molecule.shape[0]}")
    return NeuralFreeEnergy(
        members=tuple(members),
        noise=tuple(noises),
        molecules=Molecules((entry,)),
        baseline=baseline,
        temperatures=tuple(map(float, header["temperatures"])),
        density=tuple(math.nan if value is None else float(value) for value in header["density"]),
        parameters=names,
        domain=None if domain is None else Domain.from_file(domain, tensors, [], entry.molecule.shape),
    )


def sizes_of(spec: MLP | MessagePassing, tensors: dict[str, torch.Tensor], prefix: str) -> None:
    """Refuse sizes that the stored tensors do not bear out, before memory is allocated by them."""
    total = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith(prefix))
    widest = max(spec.hidden) if isinstance(spec, MLP) else max(spec.hidden, spec.channels, spec.basis)
    layers = len(spec.hidden) if isinstance(spec, MLP) else spec.layers
    require(total >= widest * layers, "the network", spec.to_dict(), f"one of {total} stored numbers")


def _molecule(record: dict[str, Any]) -> FittedMolecule:
    kinds, bonds, masses = record["kinds"], record["bonds"], record["masses"]
    shape = tuple(record["shape"])
    plain = all(type(size) is int and size > 0 for size in shape) and (len(shape) == 1 or shape[1:] == (3,))
    require(plain, "the shape of configurations", shape, "(beads, 3) or (d,)")
    require(kinds is None or len(kinds) == shape[0], "the kinds of beads", kinds, f"{shape[0]} names")
    molecule = Molecule(
        None if kinds is None else tuple(map(str, kinds)),
        None if bonds is None else tuple((int(i), int(j)) for i, j in bonds),
        bool(record["periodic"]),
        shape,
    )
    return FittedMolecule(molecule, None if masses is None else tuple(map(float, masses)), bool(record["zero_known"]))


def with_temperature(stored: Stored) -> NeuralFreeEnergy:
    """The model with the temperature of its estimator for plain arrays."""
    return replace(stored.model, temperature=float(stored.parameters.get("temperature", 300.0)))
