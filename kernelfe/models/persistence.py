"""Fitted models on disk: one safetensors file whose header is versioned JSON. Loading runs no code.

Tensors are stored as they are; specs as plain JSON, rebuilt only from kernelfe's own classes and those the
caller names. What a posterior can recompute (the Gram of the labels) is not stored.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .. import functionals
from ..descriptors import DESCRIPTORS
from ..errors import ModelFileError
from ..io import atomic_write
from ..kernels import RBF, Matern52, MeanFunction, ParameterExpansion, SecondOrder, Term, TermModule
from ..specs import Spec, _plain, from_dict
from .assemble import Composition
from .baseline import BoltzmannInversion, FittedBaseline
from .dense import DensePosterior
from .evidence import NoiseLevels
from .labels import PAIR, LabelSet
from .prior import Prior
from .solvers import Dense, Sparse
from .sparse import SparseBasis, SparsePosterior
from .states import States

FORMAT, VERSION = "kernelfe-model", 1
#: Largest JSON header that is read, bytes.
MAX_HEADER = 64 << 20
_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Term,
        RBF,
        Matern52,
        SecondOrder,
        ParameterExpansion,
        Dense,
        Sparse,
        BoltzmannInversion,
        *DESCRIPTORS.values(),
    )
}


def save(model, path: str | os.PathLike) -> None:
    """Write a fitted :class:`~kernelfe.FreeEnergyRegressor` to ``path``."""
    posterior, tensors = model.posterior_, {}
    mean = posterior.prior.mean
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
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
        "log_evidence": model.log_evidence_,
        "parameter_names": model.parameters_,
        "coordinate_shape": list(model.coordinate_shape_),
        "kinds": None if model.kinds_ is None else list(model.kinds_),
        "masses": None if model.masses_ is None else [float(m) for m in model.masses_],
        "temperatures": model.temperatures_,
        "zero_known": model.zero_known_,
        "periodic": model.periodic_,
        "n_features_in": getattr(model, "n_features_in_", None),
    }
    for t, (_, term) in enumerate(model.terms_):
        # exact to the bit: the numbers of the specs went through exp
        tensors[f"term{t}.log_lengthscale"] = term.log_lengthscale.detach()
        tensors[f"term{t}.log_scales"] = term.log_scales.detach()
    if isinstance(posterior, SparsePosterior):
        header["posterior"] = "sparse"
        tensors |= {"weights": posterior.weights, "lower": posterior.lower}
        for t, z in enumerate(posterior.basis.inducing):
            tensors[f"term{t}.inducing"] = z
            tensors[f"term{t}.whitening"] = posterior.basis.whitenings[t].matrix
    else:
        header["posterior"] = "dense"
        header["labels"] = [label.kind for label in posterior.labels]
        tensors["weights"] = posterior.weights
        for k, label in enumerate(posterior.labels):
            tensors |= _label_tensors(f"label{k}", label)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header["tensors"] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    data = safetensors.torch.save(tensors, metadata={"kernelfe": json.dumps(header, default=_plain)})
    with atomic_write(Path(path)) as target:
        target.write_bytes(data)


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
        If the file is truncated, of another format or version, or names unknown classes.
    """
    from .regressor import FreeEnergyRegressor

    header, tensors = _read(Path(path))
    known = {**_CLASSES, **{cls.__name__: cls for cls in classes or []}}
    try:
        model = FreeEnergyRegressor(**_estimator_parameters(header["parameters"], known))
        specs = [(name, from_dict(term, known), dimension) for name, term, dimension in header["terms"]]
        modules = []
        for t, (_, spec, dimension) in enumerate(specs):
            module = TermModule(spec, int(dimension))
            for name in ("log_lengthscale", "log_scales"):
                parameter, value = getattr(module, name), tensors[f"term{t}.{name}"]
                if value.shape != parameter.shape:
                    raise ModelFileError(f"{path}: {name} of term {t} has shape {tuple(value.shape)}")
                parameter.data.copy_(value)
            modules.append(module.requires_grad_(False))
        mean = header["mean"]
        prior = Prior(
            modules,
            None
            if mean is None
            else MeanFunction(
                from_dict(mean["thermal"], known),
                from_dict(mean["parameters"], known),
                tuple(mean["offset"]),
                mean["energy"],
                mean["heat_capacity"],
            ),
        )
        noise = NoiseLevels.of(header["noise"], float(header["noise_temperature"]))
        if header["posterior"] == "sparse":
            solver = from_dict(header["solver"], known)
            inducing = [tensors[f"term{t}.inducing"] for t in range(len(modules))]
            basis = SparseBasis(
                prior, inducing, solver.gradients, [tensors[f"term{t}.whitening"] for t in range(len(modules))]
            )
            model.posterior_ = SparsePosterior(basis, tensors["weights"], tensors["lower"])
        else:
            labels = [_label(f"label{k}", kind, tensors) for k, kind in enumerate(header["labels"])]
            model.posterior_ = DensePosterior(prior, labels, noise, weights=tensors["weights"])
        model.posterior_.log_evidence = model.log_evidence_ = header["log_evidence"]
        model.baseline_ = None if header["baseline"] is None else FittedBaseline.from_dict(header["baseline"])
        model.terms_ = [(name, module) for (name, _, _), module in zip(specs, modules, strict=True)]
        model.composition_ = Composition(tuple(header["composition"][0]), tuple(header["composition"][1]))
        model.noise_, model.noise_temperature_ = noise.values(), noise.reference
        model.solver_, model.solver_reason_ = from_dict(header["solver"], known), header["solver_reason"]
        model.parameters_ = list(header["parameter_names"])
        model.coordinate_shape_ = tuple(header["coordinate_shape"])
        model.kinds_ = None if header["kinds"] is None else tuple(header["kinds"])
        model.masses_ = (
            None if header["masses"] is None else torch.tensor(header["masses"], dtype=torch.float64).numpy()
        )
        model.temperatures_, model.zero_known_ = header["temperatures"], header["zero_known"]
        model.periodic_ = header["periodic"]
        if header["n_features_in"] is not None:
            model.n_features_in_ = header["n_features_in"]
    except ModelFileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, ArithmeticError) as error:
        raise ModelFileError(f"{path}: the file is inconsistent ({type(error).__name__}: {error})") from error
    return model


def _read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    size = path.stat().st_size
    with open(path, "rb") as handle:
        start = handle.read(8)
    if len(start) < 8:
        raise ModelFileError(f"{path} is truncated: {size} bytes")
    if not 0 < struct.unpack("<Q", start)[0] <= min(MAX_HEADER, size - 8):
        raise ModelFileError(f"{path} is not a kernelfe model, or is truncated")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("kernelfe")
            if text is None:
                raise ModelFileError(f"{path} is a safetensors file, but not a kernelfe model")
            header = json.loads(text, parse_constant=_refuse)
            if header.get("format") != FORMAT or header.get("version") != VERSION:
                raise ModelFileError(
                    f"{path} has format {header.get('format')!r} version {header.get('version')!r}; this kernelfe "
                    f"reads {FORMAT!r} version {VERSION}: refit, or install the version that wrote it"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except ModelFileError:
        raise
    except (safetensors.SafetensorError, ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} is truncated or damaged ({error}): save the model again") from error
    listed = header.get("tensors")
    if listed != {name: list(tensor.shape) for name, tensor in tensors.items()}:
        raise ModelFileError(f"{path} does not hold the tensors that its header lists: save the model again")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{path}: tensor {name!r} holds non-finite numbers")
    return header, tensors


def _refuse(constant: str):
    raise ValueError(f"its header holds {constant}")


def _parameters(model) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in model.get_params(deep=False).items():
        if name == "terms" and value is not None and not isinstance(value, Term):
            value = [[key, term.to_dict()] for key, term in value]
        elif isinstance(value, Spec):
            value = value.to_dict()
        elif name == "noise" and value is not None:  # arrays belong to the training rows, not to the model
            value = {k: float(v) for k, v in value.items() if not hasattr(v, "__len__")}
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


def _label_tensors(prefix: str, label: LabelSet) -> dict[str, Tensor]:
    out = {f"{prefix}.y": label.y}
    for name in ("noise", "relative"):
        if getattr(label, name) is not None:
            out[f"{prefix}.{name}"] = getattr(label, name)
    for end, states in (("states", label.states), ("minus", label.minus)):
        if states is None:
            continue
        out[f"{prefix}.{end}.coordinates"] = states.coordinates
        out[f"{prefix}.{end}.temperature"] = states.temperature
        out[f"{prefix}.{end}.counts"] = states.counts
        if label.functional.spatial is functionals.Spatial.DISPLACEMENT and states.fields is not None:
            out[f"{prefix}.{end}.fields"] = states.fields
        if states.cell is not None:
            out[f"{prefix}.{end}.cell"] = states.cell
        for name, value in states.parameters.items():
            out[f"{prefix}.{end}.parameter.{name}"] = value
    return out


def _label(prefix: str, kind: str, tensors: dict[str, Tensor]) -> LabelSet:
    def states(end: str) -> States | None:
        start = f"{prefix}.{end}."
        part = {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}
        if not part:
            return None
        parameters = {n.removeprefix("parameter."): v for n, v in part.items() if n.startswith("parameter.")}
        return States(
            part["coordinates"], part["temperature"], parameters, part["counts"], part.get("fields"), part.get("cell")
        )

    functional = functionals.get("free_energy" if kind == PAIR else kind)
    at = states("states")
    if at is None or not math.isfinite(float(tensors[f"{prefix}.y"].sum())):
        raise ModelFileError(f"the labels of kind {kind!r} are incomplete")
    noise, relative = tensors.get(f"{prefix}.noise"), tensors.get(f"{prefix}.relative")
    return LabelSet(kind, functional, at, tensors[f"{prefix}.y"], noise, states("minus"), relative)
