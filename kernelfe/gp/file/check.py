"""Checks of the fields and tensors of a model file. Each refusal names the field or the tensor.

A checksum finds damage, not a file that was made wrong: without these checks such a file would load and fail, or
answer nonsense, on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ModelFileError
from ...files.fields import is_count, is_flag, is_list, is_number, is_positive, is_text, require
from ...frames import Frames
from ...kernels import Kernel, ParameterExpansion, ParameterPart, ThermalPart
from ..observations.noise import CorrelatedNoise
from ..prior.term import Term
from ..solvers.base import Solver
from ..solvers.specs import SOLVERS
from ..starting import named_terms
from .schema import FIELDS

#: Highest power of a parameter expansion in a file: the factorials of higher ones leave float64.
MAX_ORDER = 100

#: Most beads or variables of a file: a configuration of this size is built to try the model out.
MAX_BEADS = 1_000_000


def check_header(header: dict[str, Any]) -> None:
    """Check the type of every field, and those that belong together.

    Raises
    ------
    ModelFileError
        If a field is missing, of another type, or contradicts another one.
    """
    for name, field in FIELDS.items():
        if name not in header and field.later:
            continue
        if name not in header:
            raise ModelFileError(f"the header lacks the field {name!r}: save the model again")
        value = header[name]
        require((field.optional and value is None) or field.passes(value), f"the field {name!r}", value, field.wanted)
    if header["mean"] is not None:
        offset = header["mean"]["offset"]
        count = len(header["composition"][0])
        require(len(offset) == count, "the offset of the mean function", offset, f"a list of {count} as the kinds are")
    if header.get("domain") is not None:
        novelty, count = header["domain"]["novelty"], len(header["terms"])
        require(len(novelty) == count, "the novelties of the domain", novelty, f"a list of {count}, one for each term")
    if header["posterior"] == "dense":
        labels = header.get("labels")
        require(is_list(labels, is_text) and bool(labels), "the field 'labels'", labels, "a list of kinds of labels")
    if header.get("molecules") is None:
        _check_single(header)
    else:
        _check_several(header)


def _check_several(header: dict[str, Any]) -> None:
    molecules, kinds = header["molecules"], header["composition"][0]
    for name in ("coordinate_shape", "kinds", "bonds", "masses", "periodic", "n_features_in"):
        require(header.get(name) is None, f"the field {name!r}", header.get(name), "null, as for several molecules")
    require(header.get("domain") is None, "the field 'domain'", header.get("domain"), "null, as for several molecules")
    unknown = sorted({kind for one in molecules for kind in one["kinds"]} - set(kinds))
    require(not unknown, "the kinds of the molecules", unknown, f"among those of the composition, {kinds}")
    if header["posterior"] == "dense":
        own = header.get("label_molecules", [])
        fits = is_list(own, lambda k: type(k) is int and 0 <= k < len(molecules)) and len(own) == len(header["labels"])
        require(fits, "the field 'label_molecules'", own, "the number of a molecule for every label set")


def _check_single(header: dict[str, Any]) -> None:
    shape = header["coordinate_shape"]
    require(shape is not None, "the field 'coordinate_shape'", shape, FIELDS["coordinate_shape"].wanted)
    require(header["periodic"] is not None, "the field 'periodic'", None, FIELDS["periodic"].wanted)
    require(shape[0] <= MAX_BEADS, "the field 'coordinate_shape'", shape, f"of at most {MAX_BEADS} beads")
    molecule = len(shape) == 2
    for name in ("kinds", "masses"):
        value = header[name]
        require(
            value is None or (molecule and len(value) == shape[0]),
            f"the field {name!r}",
            value,
            f"one entry for each bead of frames of shape {shape}",
        )
    require(molecule or not header["periodic"], "the field 'periodic'", True, "false, as for all variables")
    bonds = header.get("bonds")  # files of 0.2 have none
    fits = bonds is None or (molecule and max((i for bond in bonds for i in bond), default=0) < shape[0])
    require(fits, "the field 'bonds'", bonds, f"pairs of beads of frames of shape {shape}")
    columns = header["n_features_in"]
    require(columns is None or [columns] == shape, "the field 'n_features_in'", columns, f"the size of {shape}")


# --- specs --------------------------------------------------------------------------------------------------


def check_term(term: Any, what: str, parameters: set[str] | None) -> None:
    """Check the parts of a term; with the names of the ``parameters`` of a fit, also that no part is missing.

    Raises
    ------
    ModelFileError
        If a part is of another kind, or missing.
    """
    require(isinstance(term, Term), what, term, "a Term")
    fitted = parameters is not None

    def part(name: str, passes: Callable[[Any], bool], wanted: str) -> None:
        value = getattr(term, name)
        require(passes(value) or (value is None and not fitted), f"{name} of {what}", value, wanted)

    part("descriptor", lambda v: hasattr(v, "environments") and hasattr(v, "dimension"), "a descriptor")
    part("kernel", lambda v: isinstance(v, Kernel), "a kernel")
    part("thermal", lambda v: isinstance(v, ThermalPart), "a thermal part")
    part("parameters", lambda v: isinstance(v, tuple), "a list of expansions")
    require(is_flag(term.fixed), f"fixed of {what}", term.fixed, "true or false")
    check_expansions(term.parameters or (), what, parameters)


def check_expansions(expansions: Any, what: str, parameters: set[str] | None) -> None:
    """Check parameter expansions; with ``parameters``, also that each expands one of these.

    Raises
    ------
    ModelFileError
        If one is of another kind or of another parameter.
    """
    for e in expansions:
        ok = isinstance(e, ParameterPart) and is_text(e.name)
        if isinstance(e, ParameterExpansion):
            ok = ok and is_number(e.reference) and is_count(e.order) and e.order <= MAX_ORDER
        require(ok, f"an expansion of {what}", e, "a ParameterExpansion or another parameter part")
        ok = parameters is None or e.name in parameters
        require(ok, f"the parameter of an expansion of {what}", e.name, "a parameter of the model")


def check_solver(solver: Any, what: str, keeps_labels: bool | None = None) -> None:
    """Check a solver; its numbers were checked when it was built.

    Parameters
    ----------
    keeps_labels
        Whether its posterior has to keep the labels; None: any solver passes.

    Raises
    ------
    ModelFileError
        If it is not such a solver.
    """
    fits = isinstance(solver, Solver) and keeps_labels in (None, solver.keeps_labels)
    require(fits, what, solver, "a solver, as the kind of the posterior wants it")


def _by_kind(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_positive, value.values()))


def check_estimator(parameters: dict[str, Any]) -> None:
    """Check the parameters of the estimator, specs built already.

    Raises
    ------
    ModelFileError
        If one is of another type.
    DataError
        If ``terms`` is not a list of terms.
    """

    def is_seed(v):
        return v is None or (type(v) is int and v >= 0)

    def optional(passes):
        return lambda v: v is None or passes(v)

    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "baseline": (lambda v: v is None or v is False or hasattr(v, "fit"), "a baseline, null or false"),
        "optimizer": (optional(lambda v: v == "evidence"), "'evidence' or null"),
        "labels": (optional(lambda v: is_text(v) or is_list(v, is_text)), "a list of kinds of labels, or null"),
        "noise": (
            lambda v: v is None or isinstance(v, CorrelatedNoise) or _by_kind(v),
            "numbers by kind, a CorrelatedNoise, or null",
        ),
        "temperature": (is_positive, "a temperature in K"),
        "random_state": (lambda v: is_seed(v) or is_list(v, is_seed), "a seed"),
        "progress": (lambda v: is_flag(v) or is_number(v), "true or false"),
    }
    for name, (passes, wanted) in checks.items():
        if name in parameters:
            require(passes(parameters[name]), f"the parameter {name!r} of the estimator", parameters[name], wanted)
    solver, terms = parameters.get("solver", "auto"), parameters.get("terms")
    if solver not in ("auto", *SOLVERS):
        check_solver(solver, "the parameter 'solver' of the estimator")
    if terms is not None:
        for name, term in named_terms(terms):
            check_term(term, f"the parameter 'terms' of the estimator, term {name!r},", None)


def try_out(model) -> None:
    """Predict one free energy of every molecule, so that a broken file fails when it is loaded, not when it is used."""
    for entry in model.molecules.entries:
        _try_out(model.for_molecule(entry.molecule))


def _try_out(model) -> None:
    molecule = model.molecules.entries[0].molecule
    parameters = dict.fromkeys(model.parameters, 0.0)
    for _, term in model.terms:  # where λ has a range, a value within it
        parameters |= {part.name: part.example for part in term.spec.parameters}
    common = {"temperature": model.provenance.temperatures[0], "parameters": parameters}
    if len(molecule.shape) == 1:
        frames = Frames.from_arrays(variables=np.ones((1, *molecule.shape)), **common)
    else:
        bead = np.arange(molecule.shape[0])
        # apart and not in a line, so that the search for neighbours finds few and angles are defined
        x = np.stack([3.0 * bead, bead % 2, 0.5 * (bead % 3)], 1)
        cell = (x.max() + 1000.0) * np.eye(3) if molecule.periodic else None
        frames = Frames.from_arrays(positions=x[None], kinds=molecule.kinds, cell=cell, **common)
    # the factor of an exact model is built when a first error bar is needed: that takes as long as the fit
    model.predict(frames, "free_energy", reference=None, return_std=not model.provenance.solver.keeps_labels)
