"""Fitted models on disk: what of a model is stored, and how it is rebuilt. Loading runs no code.

Tensors are stored as they are; specs as plain JSON, rebuilt only from kernelfe's own classes and those the
caller names. What a posterior can recompute (the Gram of the labels) is not stored. The container with its checksum
is in :mod:`kernelfe.files.tensors`, the checks of its content in :mod:`kernelfe.gp.file.check`, labels of exact
models in :mod:`kernelfe.gp.file.labels`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...descriptors import DESCRIPTORS
from ...errors import DataError, ModelFileError
from ...files import tensors as modelfile
from ...files.fields import require, take
from ...kernels import (
    KERNELS,
    ParameterExpansion,
    ParameterKernel,
    SecondOrder,
    StationaryFreeEnergy,
    StationaryHeatCapacity,
    TemperatureKernel,
    ThermalPart,
)
from ...runtime.devices import device_or_cpu
from ...specs import Spec, from_dict
from ..baseline import BoltzmannInversion, FittedBaseline
from ..correlated_noise.model import FittedNoise, Layout
from ..fitted.domain import Domain
from ..observations.levels import NoiseLevels
from ..observations.molecules import Fitted
from ..observations.noise import CorrelatedNoise
from ..prior.mean import MeanFunction
from ..prior.prior import Prior
from ..prior.term import Term, TermModule
from ..shared_baseline import SharedBaseline
from ..solvers.dense import DensePosterior
from ..solvers.iterative.posterior import IterativePosterior
from ..solvers.sparse.basis import SparseBasis
from ..solvers.sparse.posterior import SparsePosterior
from ..solvers.specs import Dense, Iterative, Sparse
from ..states import Composition, Molecule
from .check import check_estimator, check_expansions, check_header, check_solver, check_term, try_out
from .labels import label_tensors, stored_label

_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Term,
        SecondOrder,
        StationaryHeatCapacity,
        StationaryFreeEnergy,
        TemperatureKernel,
        ParameterExpansion,
        ParameterKernel,
        Dense,
        Iterative,
        Sparse,
        BoltzmannInversion,
        *KERNELS.values(),
        CorrelatedNoise,
        *DESCRIPTORS.values(),
    )
}


def save(model, path: str | os.PathLike) -> None:
    """Write a fitted :class:`~kernelfe.FreeEnergyRegressor` to ``path``.

    Raises
    ------
    DataError
        If the path cannot be written, a parameter of the model is not plain, or it is the view of one molecule.
    """
    if model.molecule_ is not None:
        raise DataError("this is a model of several molecules as one of them sees it: save the whole, and ask it again")
    posterior = model.posterior_
    tensors: dict[str, Tensor] = {}
    mean, density = posterior.prior.mean, getattr(model, "density_", None)
    header: dict[str, Any] = {
        "parameters": _parameters(model),
        "terms": [[name, term.fitted_spec().to_dict(), term.dimension] for name, term in model.terms_],
        "mean": None
        if mean is None
        else {
            "thermal": mean.thermal.to_dict(),
            "parameters": [p.to_dict() for p in mean.parameters],
            "offset": list(mean.offset),
            "energy": mean.energy,
            "heat_capacity": mean.heat_capacity,
        },
        "baseline": None if model.baseline_ is None else model.baseline_.to_dict(),
        "composition": [list(model.composition_.kinds), list(model.composition_.counts)],
        "noise": {kind: list(value) for kind, value in model.noise_.items()},
        "noise_temperature": model.noise_temperature_,
        "solver": model.solver_.to_dict(),
        "solver_reason": model.solver_reason_,
        # conjugate gradients alone do not give it
        "log_evidence": None
        if isinstance(posterior, IterativePosterior) and np.isnan(model.log_evidence_)
        else model.log_evidence_,
        "parameter_names": model.parameters_,
        "coordinate_shape": None if model.coordinate_shape_ is None else list(model.coordinate_shape_),
        "kinds": None if model.kinds_ is None else list(model.kinds_),
        "masses": None if model.masses_ is None else [float(m) for m in model.masses_],
        "temperatures": model.temperatures_,
        "zero_known": model.zero_known_,
        "periodic": model.periodic_,
        "n_features_in": getattr(model, "n_features_in_", None),
        "molecules": None if model.molecules_ is None else [_molecule_fields(one) for one in model.molecules_],
        "concave": model.concave_,
        "density": None if density is None else [[float(t), float(n)] for t, n in sorted(density.items())],
    }
    for t, (_, term) in enumerate(model.terms_):
        # exact to the bit: the numbers of the specs went through exp
        tensors |= {f"term{t}.{name}": parameter.detach() for name, parameter in term.named_parameters()}
    if model.noise_model_ is not None:
        header["noise_model"] = model.noise_model_.to_dict()
        header["noise_levels"] = {kind: list(value) for kind, value in model.noise_levels_.items()}
        tensors["noise.covariance"] = model.noise_model_.covariance
    if isinstance(posterior, SparsePosterior):
        header["posterior"] = "sparse"
        tensors |= {"weights": posterior.weights, "lower": posterior.lower}
        for t, z in enumerate(posterior.basis.inducing):
            tensors[f"term{t}.inducing"] = z
            tensors[f"term{t}.whitening"] = posterior.basis.whitenings[t].matrix
    else:
        header["posterior"] = "dense"
        header["labels"] = [label.kind for label in posterior.labels]
        if model.molecules_ is not None:
            order = [one.molecule for one in model.molecules_]
            if {label.states.molecule for label in posterior.labels} - set(order):
                raise DataError("C ≥ 0 was enforced for a molecule that is none of the fitted ones: this is not stored")
            header["label_molecules"] = [order.index(label.states.molecule) for label in posterior.labels]
        tensors["weights"] = posterior.weights
        for k, label in enumerate(posterior.labels):
            tensors |= label_tensors(f"label{k}", label)
    # members of an ensemble have the domain of the model they come from, in the columns of its kernels
    if model.domain_ is not None and list(model.domain_.terms) == [term for _, term in model.terms_]:
        header["domain"], more = model.domain_.to_file()
        tensors |= more
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    modelfile.write(Path(path), header, tensors)


def load(path: str | os.PathLike, classes: list[type] | None = None):
    """Read a model written by :func:`save`.

    Parameters
    ----------
    path
        The file.
    classes
        Your own descriptor, kernel or baseline classes that the model uses, if any.

    Raises
    ------
    ModelFileError
        If the file cannot be opened, is damaged, of another format or version, inconsistent, or names unknown
        classes.
    """
    header, tensors = modelfile.read(Path(path))
    known = {**_CLASSES, **{cls.__name__: cls for cls in classes or []}}
    try:
        check_header(header)
        model = _rebuilt(header, tensors, known)
        try_out(model)
    except (ModelFileError, DataError) as error:
        raise ModelFileError(f"{path}: the file is inconsistent: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ModelFileError(f"{path}: the file is inconsistent ({type(error).__name__}: {error})") from error
    return model


def _rebuilt(header: dict[str, Any], tensors: dict[str, Tensor], known: dict[str, type]):
    """The model of a header whose fields were checked one by one."""
    from ..regressor import FreeEnergyRegressor

    estimator = _estimator_parameters(header["parameters"], known)
    check_estimator(estimator)
    model = FreeEnergyRegressor(**estimator)
    solver: Any = from_dict(header["solver"], known)
    sparse = header["posterior"] == "sparse"
    check_solver(solver, "the field 'solver'", Sparse if sparse else (Dense, Iterative))
    device = device_or_cpu(solver)
    model.terms_ = _terms(header, tensors, known)
    prior = Prior([module for _, module in model.terms_], _mean(header, known)).to(device)
    # only correlated noise has levels of its own
    noise = NoiseLevels.of(header.get("noise_levels", header["noise"]), float(header["noise_temperature"])).to(device)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    model.solver_, model.solver_reason_ = solver, header["solver_reason"]
    model.solver_check_ = None  # its sentence is part of the reason
    model.posterior_ = (
        _sparse(prior, solver.gradients, tensors) if sparse else _exact(prior, noise, solver, header, tensors)
    )
    found = header["log_evidence"]
    model.posterior_.log_evidence = model.log_evidence_ = float("nan") if found is None else found
    model.molecules_, model.molecule_ = _molecules(header), None
    shape = None if model.molecules_ is not None else tuple(header["coordinate_shape"])
    model.baseline_ = _baseline(header, shape)
    model.composition_ = Composition(tuple(header["composition"][0]), tuple(header["composition"][1]))
    model.noise_levels_, model.noise_temperature_ = noise.values(), noise.reference
    model.noise_ = NoiseLevels.of(header["noise"], noise.reference).values()
    model.noise_model_ = _noise_model(header.get("noise_model"), tensors, known)
    model.parameters_ = list(header["parameter_names"])
    model.coordinate_shape_ = shape
    model.kinds_ = None if header["kinds"] is None else tuple(header["kinds"])
    model.masses_ = None if header["masses"] is None else np.array(header["masses"], dtype=float)
    model.temperatures_, model.zero_known_ = header["temperatures"], header["zero_known"]
    model.periodic_ = header["periodic"]
    density = header.get("density")
    model.density_ = None if density is None else {float(t): float(n) for t, n in density}
    model.concave_ = header.get("concave", False)
    domain = header.get("domain")
    molecule = shape is not None and len(shape) == 2 and not model.periodic_
    model.domain_ = (
        None if domain is None else Domain.from_file(domain, tensors, prior.terms, shape if molecule else None)
    )
    if header["n_features_in"] is not None:
        model.n_features_in_ = header["n_features_in"]
    return model


def _terms(header: dict[str, Any], tensors: dict[str, Tensor], known: dict[str, type]) -> list[tuple[str, TermModule]]:
    names, out = set(header["parameter_names"]), []
    several = _molecules(header)
    shapes = [tuple(header["coordinate_shape"])] if several is None else [(len(m.molecule.kinds), 3) for m in several]
    for t, (name, data, dimension) in enumerate(header["terms"]):
        spec = from_dict(data, known)
        check_term(spec, f"term {name!r}", names)
        for shape in shapes:
            columns = spec.descriptor.dimension(shape)
            require(dimension == columns, f"the number of columns of term {name!r}", dimension, f"{columns}")
        module = TermModule(spec, dimension)
        for parameter, own in module.named_parameters():
            own.data.copy_(take(tensors, f"term{t}.{parameter}", *own.shape))
        out.append((name, module.requires_grad_(False)))
    return out


def _molecule_fields(one: Fitted) -> dict[str, Any]:
    molecule, masses = one.molecule, one.masses
    return {
        "kinds": list(molecule.kinds),
        "bonds": None if molecule.bonds is None else [list(bond) for bond in molecule.bonds],
        "periodic": molecule.periodic,
        "masses": None if masses is None else list(masses),
        "zero_known": one.zero_known,
    }


def _molecules(header: dict[str, Any]) -> tuple[Fitted, ...] | None:
    if header.get("molecules") is None:
        return None
    out = []
    for data in header["molecules"]:
        bonds = None if data["bonds"] is None else tuple((i, j) for i, j in data["bonds"])
        molecule = Molecule(tuple(data["kinds"]), bonds, data["periodic"])
        out.append(Fitted(molecule, None if data["masses"] is None else tuple(data["masses"]), data["zero_known"]))
    return tuple(out)


def _baseline(header: dict[str, Any], shape: tuple[int, ...] | None) -> FittedBaseline | SharedBaseline | None:
    if header["baseline"] is None:
        return None
    if shape is None:
        shared = from_dict(header["baseline"], {"SharedBaseline": SharedBaseline})
        require(isinstance(shared, SharedBaseline), "the field 'baseline'", shared, "one shared by molecules")
        return shared
    fitted = FittedBaseline.from_dict(header["baseline"])
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
    return MeanFunction(thermal, expansions, tuple(mean["offset"]), mean["energy"], mean["heat_capacity"])


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


def _sparse(prior: Prior, gradients: bool, tensors: dict[str, Tensor]) -> SparsePosterior:
    inducing, whitening = [], []
    for t, term in enumerate(prior.terms):
        z = take(tensors, f"term{t}.inducing", None, term.dimension)
        inducing.append(z)
        rows = len(z) * (1 + term.dimension if gradients else 1)
        whitening.append(take(tensors, f"term{t}.whitening", rows, None))
    basis = SparseBasis(prior, inducing, gradients, whitening)
    width = sum(rank * size for rank, size in zip(basis.ranks, basis.functions, strict=True))
    return SparsePosterior(basis, take(tensors, "weights", width), take(tensors, "lower", width, width))


def _exact(
    prior: Prior, noise: NoiseLevels, solver: Dense | Iterative, header: dict[str, Any], tensors: dict[str, Tensor]
) -> DensePosterior | IterativePosterior:
    molecules, own = _molecules(header), header.get("label_molecules", [])
    which = [None if molecules is None else molecules[own[k]].molecule for k in range(len(header["labels"]))]
    labels = [
        stored_label(f"label{k}", kind, header, tensors, molecule)
        for k, (kind, molecule) in enumerate(zip(header["labels"], which, strict=True))
    ]
    for label in labels:
        if label.learned and label.kind not in noise.kinds:
            raise ModelFileError(f"labels of kind {label.kind!r} have no noise: save the model again")
    weights = take(tensors, "weights", sum(len(label) for label in labels))
    if isinstance(solver, Iterative):
        return IterativePosterior(prior, labels, noise, solver, weights=weights)
    return DensePosterior(prior, labels, noise, weights=weights)


def _parameters(model) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in model.get_params(deep=False).items():
        if name == "terms" and value is not None and not isinstance(value, Term):
            value = [[key, term.to_dict()] for key, term in value]
        elif isinstance(value, Spec):
            value = value.to_dict()
        elif name == "noise" and value is not None:  # arrays belong to the training rows, not to the model
            value = {k: float(v) for k, v in value.items() if not hasattr(v, "__len__") and not hasattr(v, "scale")}
        out[name] = value
    return out


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
