"""Reading a fitted model. Loading runs no code.

Tensors are stored as they are; specs as plain JSON, rebuilt only from kernelfe's own classes and those the
caller names. What a posterior can recompute (the Gram of the labels) is not stored. The container with its checksum
is in :mod:`kernelfe.files.tensors`, the checks of its content in :mod:`kernelfe.gp.file.check`, labels of exact
models in :mod:`kernelfe.gp.file.labels`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError, ModelFileError
from ...files import tensors as container
from ...files.fields import require, take
from ...kernels import (
    SecondOrder,
    ThermalPart,
)
from ...runtime.devices import device_or_cpu
from ...specs import from_dict
from ..baseline import FittedBaseline
from ..core import FittedCore
from ..correlated_noise.model import FittedNoise, Layout
from ..fitted.domain import Domain
from ..fitted.model import FreeEnergy, Noise, Provenance
from ..molecules import FittedMolecule, Molecule, Molecules
from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels
from ..observations.noise import CorrelatedNoise
from ..prior.mean import MeanFunction
from ..prior.prior import Prior
from ..prior.term import TermModule
from ..shared_baseline import SharedBaseline
from .check import check_estimator, check_expansions, check_header, check_solver, check_term, try_out
from .classes import CLASSES
from .labels import label_reads, stored_label
from .schema import completed


@dataclass(frozen=True)
class Stored:
    """Content of a model file.

    Parameters
    ----------
    model
        The fitted free energy.
    parameters
        Parameters of the estimator that held it.
    columns
        Columns of the table that the estimator was fitted to, or None.
    """

    model: FreeEnergy
    parameters: dict[str, Any]
    columns: int | None


def read(path: str | os.PathLike, classes: list[type] | None = None) -> Stored:
    """Read a model file.

    Parameters
    ----------
    path
        The file.
    classes
        Your own descriptor, kernel, solver or baseline classes that the model uses, if any.

    Raises
    ------
    ModelFileError
        If the file cannot be opened, is damaged, of another format or version, inconsistent, or names unknown
        classes.
    """
    header, tensors = container.read(Path(path))
    if not isinstance(classes, (list, tuple, type(None))) or not all(isinstance(cls, type) for cls in classes or []):
        raise DataError(f"classes={classes!r}: pass a list of classes, such as [MyKernel]")
    known = {**CLASSES, **{cls.__name__: cls for cls in classes or []}}
    try:
        header = completed(header)
        check_header(header)
        parameters = _estimator_parameters(header["parameters"], known)
        check_estimator(parameters)
        model = _rebuilt(header, tensors, known)
        try_out(model)
    except (ModelFileError, DataError) as error:
        raise ModelFileError(f"{path}: the file is inconsistent: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ModelFileError(f"{path}: the file is inconsistent ({type(error).__name__}: {error})") from error
    temperature = float(parameters.get("temperature", model.temperature))
    return Stored(replace(model, temperature=temperature), parameters, header["n_features_in"])


def _rebuilt(header: dict[str, Any], tensors: dict[str, Tensor], known: dict[str, type]) -> FreeEnergy:
    """The model of a header whose fields were checked one by one."""
    solver: Any = from_dict(header["solver"], known)
    sparse = header["posterior"] == "sparse"
    check_solver(solver, "the field 'solver'", keeps_labels=not sparse)
    device, molecules = device_or_cpu(solver), _molecules(header)
    terms = _terms(header, tensors, known, molecules)
    prior = Prior([module for _, module in terms], _mean(header, known)).to(device)
    # only correlated noise has levels of its own
    levels = NoiseLevels.of(header.get("noise_levels", header["noise"]), float(header["noise_temperature"])).to(device)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    labels = None if sparse else _labels(header, tensors, levels, molecules)
    posterior = solver.posterior_from(prior, levels, labels, tensors)
    found, density, domain = header["log_evidence"], header.get("density"), header.get("domain")
    posterior.log_evidence = float("nan") if found is None else found
    one = molecules.entries[0].molecule
    watched = one.shape if len(one.shape) == 2 and not one.periodic else None
    return FreeEnergy(
        posterior=posterior,
        names=tuple(name for name, _ in terms),
        molecules=molecules,
        baseline=_baseline(header, molecules),
        noise=Noise(
            NoiseLevels.of(header["noise"], levels.reference).values(),
            levels.reference,
            levels.values(),
            _noise_model(header.get("noise_model"), tensors, known),
        ),
        provenance=Provenance(
            solver,
            header["solver_reason"],
            tuple(header["temperatures"]),
            None if density is None else {float(t): float(n) for t, n in density},
            header.get("concave", False),
            header.get("handedness", ""),
        ),
        parameters=tuple(header["parameter_names"]),
        domain=None if domain is None else Domain.from_file(domain, tensors, prior.terms, watched),
    )


def _terms(header, tensors: dict[str, Tensor], known: dict[str, type], molecules) -> list[tuple[str, TermModule]]:
    names, out = set(header["parameter_names"]), []
    for t, (name, data, dimension) in enumerate(header["terms"]):
        spec = from_dict(data, known)
        check_term(spec, f"term {name!r}", names)
        for entry in molecules.entries:
            columns = spec.descriptor.dimension(entry.molecule.shape)
            require(dimension == columns, f"the number of columns of term {name!r}", dimension, f"{columns}")
        module = TermModule(spec, dimension)
        for parameter, own in module.named_parameters():
            own.data.copy_(take(tensors, f"term{t}.{parameter}", *own.shape))
        out.append((name, module.requires_grad_(False)))
    return out


def _molecules(header: dict[str, Any]) -> Molecules:
    kinds = tuple(header["composition"][0])
    records, shape = header.get("molecules"), header["coordinate_shape"]
    if records is None:
        records = [{name: header.get(name) for name in ("kinds", "bonds", "periodic", "masses", "zero_known")}]
    entries = []
    for record in records:
        names, bonds, masses = record["kinds"], record["bonds"], record["masses"]
        molecule = Molecule(
            None if names is None else tuple(names),
            None if bonds is None else tuple((i, j) for i, j in bonds),
            record["periodic"],
            () if shape is None else tuple(shape),
        )
        entries.append(FittedMolecule(molecule, None if masses is None else tuple(masses), record["zero_known"]))
    return Molecules(tuple(entries), kinds)


def _baseline(header: dict[str, Any], molecules: Molecules) -> FittedBaseline | SharedBaseline | FittedCore | None:
    if header["baseline"] is None:
        return None
    if header["baseline"].get("class") == FittedCore.__name__:
        return FittedCore.from_dict(header["baseline"])
    if not molecules.single:
        shared = from_dict(header["baseline"], {"SharedBaseline": SharedBaseline})
        require(isinstance(shared, SharedBaseline), "the field 'baseline'", shared, "one shared by molecules")
        return shared
    fitted, shape = FittedBaseline.from_dict(header["baseline"]), molecules.entries[0].molecule.shape
    require(shape == (fitted.beads, 3), "beads of the baseline", fitted.beads, f"those of frames of shape {shape}")
    return fitted


def _mean(header: dict[str, Any], known: dict[str, type]) -> MeanFunction | None:
    mean = header["mean"]
    if mean is None:
        return None
    thermal, expansions = from_dict(mean["thermal"], known), from_dict(mean["parameters"], known)
    complete = isinstance(thermal, ThermalPart) and thermal.components == SecondOrder.components
    complete = complete and getattr(thermal, "reference_temperature", None) is not None
    require(complete, "the thermal part of the mean function", thermal, "one with a reference temperature")
    check_expansions(expansions, "the mean function", set(header["parameter_names"]))
    widths = mean["energy"], mean["heat_capacity"], mean.get("change", MeanFunction.change)
    return MeanFunction(thermal, expansions, tuple(mean["offset"]), *widths)


def _noise_model(data: dict[str, Any] | None, tensors: dict[str, Tensor], known: dict[str, type]) -> FittedNoise | None:
    if data is None:
        return None
    spec, layout = from_dict(data["spec"], known), data["layout"]
    require(isinstance(spec, CorrelatedNoise), "the spec of the noise", spec, "a CorrelatedNoise")
    if layout is not None:
        arms = None if layout["arms"] is None else tuple((a, b) for a, b in layout["arms"])
        layout = Layout(tuple(layout["kinds"]), tuple(layout["sizes"]), arms, layout["dropped"])
    m = len(data["exponents"])
    covariance = take(tensors, "noise.covariance", m, m)
    definite = bool(torch.isfinite(covariance).all()) and int(torch.linalg.cholesky_ex(covariance)[1]) == 0
    # relative to the diagonal: numbers of different kinds come in different units
    std = covariance.diagonal().clamp_min(0.0).sqrt()
    symmetric = bool(((covariance - covariance.mT).abs() <= 1e-9 * torch.outer(std, std)).all())
    require(definite and symmetric, "the tensor 'noise.covariance'", "", "a covariance")
    numbers = {name: data[name] for name in ("reference", "inefficiency", "coupling")}
    return FittedNoise(spec, layout, covariance, tuple(data["exponents"]), **numbers)


def _labels(
    header: dict[str, Any], tensors: dict[str, Tensor], noise: NoiseLevels, molecules: Molecules
) -> list[LabelSet]:
    """The labels of a posterior that keeps them."""
    own = header.get("label_molecules", [0] * len(header["labels"]))
    which = [molecules.entries[k].molecule for k in own]
    labels = [
        stored_label(f"label{k}", kind, header, tensors, molecule)
        for k, (kind, molecule) in enumerate(zip(header["labels"], which, strict=True))
    ]
    for label, reads in zip(labels, header.get("label_reads", map(label_reads, labels)), strict=True):
        if label_reads(label) != reads:  # files of 0.2 have none
            raise ModelFileError(f"the functional {label.functional.key!r} is defined in another way than in the file")
        if label.learned and label.kind not in noise.kinds:
            raise ModelFileError(f"labels of kind {label.kind!r} have no noise: save the model again")
    return labels


def _estimator_parameters(data: dict[str, Any], known: dict[str, type]) -> dict[str, Any]:
    out = {}
    for name, value in data.items():
        if name == "terms" and isinstance(value, list):
            out[name] = [(key, from_dict(term, known)) for key, term in value]
        elif isinstance(value, dict) and "class" in value:
            out[name] = from_dict(value, known)
        else:
            out[name] = value
    return out
