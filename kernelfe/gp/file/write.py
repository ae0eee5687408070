"""Writing a fitted model: header and tensors of a file, from the one table of what is stored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import DataError
from ...files import tensors as container
from ...specs import Spec
from ..prior.term import Term
from .classes import check_names
from .labels import label_reads, label_tensors
from .schema import FIELDS


def write(path: str | os.PathLike, model, parameters: dict[str, Any], columns: int | None = None) -> None:
    """Write a :class:`~kernelfe.gp.FreeEnergy` to ``path``, atomically.

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
        If the path cannot be written, a parameter is not plain, or the model is the view of one molecule.
    """
    if model.molecules.view:
        raise DataError("this is a single-molecule view of a model of several molecules: save the whole model")
    check_names([model.provenance.solver, *(term for _, term in model.fitted_terms())])
    header = {name: field.encode(model) for name, field in FIELDS.items() if field.stored(model)}
    header |= {"parameters": plain_parameters(parameters), "n_features_in": columns}
    posterior = model.posterior
    tensors: dict[str, Tensor] = {}
    for t, term in enumerate(posterior.prior.terms):
        # exact to the bit: the numbers of the specs went through exp
        tensors |= {f"term{t}.{name}": parameter.detach() for name, parameter in term.named_parameters()}
    if model.noise.correlated is not None:
        tensors["noise.covariance"] = model.noise.correlated.covariance
    # "dense" stands for every posterior that keeps its labels
    header["posterior"] = "sparse" if posterior.labels is None else "dense"
    tensors |= posterior.tensors()
    if posterior.labels is not None:
        header["labels"] = [label.kind for label in posterior.labels]
        header["label_reads"] = [label_reads(label) for label in posterior.labels]
        if not model.molecules.single:
            order = [entry.molecule for entry in model.molecules.entries]
            if {label.states.molecule for label in posterior.labels} - set(order):
                raise DataError("C ≥ 0 was enforced for a molecule that is not a fitted one: this is not stored")
            header["label_molecules"] = [order.index(label.states.molecule) for label in posterior.labels]
        for k, label in enumerate(posterior.labels):
            tensors |= label_tensors(f"label{k}", label)
    if FIELDS["domain"].stored(model):
        tensors |= model.domain.tensors()
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    container.write(Path(path), header, tensors)


def plain_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters of an estimator, ready for JSON."""
    out: dict[str, Any] = {}
    for name, value in parameters.items():
        if name == "terms" and value is not None and not isinstance(value, Term):
            value = [[key, term.to_dict()] for key, term in value]
        elif getattr(value, "ndim", None) == 0:  # numbers of NumPy, which JSON does not know
            value = value.item()
        elif isinstance(value, Spec):
            value = value.to_dict()
        elif name == "noise" and value is not None:  # arrays belong to the training rows, not to the model
            value = {k: float(v) for k, v in value.items() if not hasattr(v, "__len__") and not hasattr(v, "scale")}
        out[name] = value
    return out
