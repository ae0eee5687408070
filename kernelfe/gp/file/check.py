"""What the fields and tensors of a model file may be. Each refusal names the field or the tensor.

A checksum finds damage, not a file that was made wrong: without these checks such a file would load and fail, or
answer nonsense, on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np

from ...errors import ModelFileError
from ...files.fields import is_count, is_flag, is_list, is_number, is_pair, is_positive, is_text, require
from ...frames import Frames
from ...kernels import Kernel, ParameterExpansion, ParameterPart, ThermalPart
from ..fitted.view import view
from ..observations.noise import CorrelatedNoise
from ..prior.mean import MeanFunction
from ..prior.term import Term
from ..solvers.specs import Dense, Iterative, Sparse
from ..starting import named_terms

#: Highest power of a parameter expansion in a file: the factorials of higher ones leave float64.
MAX_ORDER = 100


def _is_shape(value: Any) -> bool:
    return is_list(value, is_count) and (len(value) == 1 or (len(value) == 2 and value[1] == 3))


def _is_terms(value: Any) -> bool:
    def entry(item):
        return isinstance(item, list) and len(item) == 3 and is_text(item[0]) and is_count(item[2])

    return is_list(value, entry) and 0 < len(value) == len({name for name, _, _ in value})


def _is_mean(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {field.name for field in fields(MeanFunction)}
        and isinstance(value["parameters"], list)
        and is_list(value["offset"], is_number)
        and is_positive(value["energy"])
        and is_positive(value["heat_capacity"])
    )


def _is_composition(value: Any) -> bool:
    kinds, counts = (lambda v: is_list(v, is_text)), (lambda v: is_list(v, is_positive))
    return is_pair(value, kinds, counts) and 0 < len(value[0]) == len(value[1])


def _is_noise(value: Any) -> bool:
    return isinstance(value, dict) and all(is_pair(v, is_positive, is_number) for v in value.values())


def _is_domain(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"margin", "novelty"}
        and is_positive(value["margin"])
        and is_list(value["novelty"], is_positive)
    )


def is_molecules(value: Any) -> bool:
    """Records of several molecules: kinds, bonds between their beads, masses, two flags."""

    def is_bond(bond, beads):
        return is_pair(bond, *2 * (lambda i: type(i) is int and 0 <= i < beads,)) and bond[0] != bond[1]

    def one(v):
        if not (isinstance(v, dict) and set(v) == {"kinds", "bonds", "periodic", "masses", "zero_known"}):
            return False
        kinds, bonds, masses = v["kinds"], v["bonds"], v["masses"]
        return (
            (is_list(kinds, is_text) and len(kinds) > 0)
            and (bonds is None or is_list(bonds, lambda bond: is_bond(bond, len(kinds))))
            and (masses is None or (is_list(masses, is_positive) and len(masses) == len(kinds)))
            and is_flag(v["periodic"])
            and is_flag(v["zero_known"])
        )

    return is_list(value, one) and len(value) > 1


def _is_noise_model(value: Any) -> bool:
    def whole(v):
        return type(v) is int and v >= 0

    def layout(v):
        if v is None:
            return True
        if not isinstance(v, dict) or set(v) != {"kinds", "sizes", "arms", "dropped"}:
            return False
        arms, dropped = v["arms"], v["dropped"]
        return (
            is_list(v["kinds"], is_text, True)
            and is_list(v["sizes"], is_count)
            and 0 < len(v["kinds"]) == len(v["sizes"])
            and (arms is None or is_list(arms, lambda pair: is_pair(pair, whole, whole)))
            and (dropped is None or (whole(dropped) and arms is not None and dropped < len(arms)))
        )

    return (
        isinstance(value, dict)
        and set(value) == {"spec", "layout", "exponents", "reference", "inefficiency", "coupling"}
        and isinstance(value["spec"], dict)
        and layout(value["layout"])
        and is_list(value["exponents"], is_number)
        and len(value["exponents"]) == (0 if value["layout"] is None else sum(value["layout"]["sizes"]))
        and is_positive(value["reference"])
        and is_number(value["coupling"])
        and 0 <= value["coupling"] <= 1
        and isinstance(value["inefficiency"], dict)
        and all(is_positive(g) for g in value["inefficiency"].values())
    )


def is_density(value: Any) -> bool:
    """Pairs of temperature and effective number of frames, each temperature once."""
    pairs = is_list(value, lambda v: is_pair(v, is_positive, lambda n: is_number(n) and n >= 0))
    return pairs and len({t for t, _ in value}) == len(value)


# --- header -------------------------------------------------------------------------------------------------

#: Field → what it must be, in words, and whether it may be null.
FIELDS: dict[str, tuple[Callable[[Any], bool], str, bool]] = {
    "parameters": (lambda v: isinstance(v, dict), "the parameters of the estimator", False),
    "terms": (_is_terms, "a list of [name, term, columns] with distinct names", False),
    "mean": (_is_mean, "the numbers of a mean function, or null", True),
    "baseline": (lambda v: isinstance(v, dict), "a fitted baseline, or null", True),
    "composition": (_is_composition, "two equally long lists, of kinds and of positive counts", False),
    "noise": (_is_noise, "a pair (σ₀ > 0, exponent) by kind of label", False),
    "noise_levels": (_is_noise, "a pair (σ₀ > 0, exponent) by kind of label", False),
    "noise_model": (_is_noise_model, "the numbers of a correlated noise, or null", True),
    "noise_temperature": (is_positive, "a temperature in K", False),
    "solver": (lambda v: isinstance(v, dict), "a solver", False),
    "solver_reason": (is_text, "text", False),
    "log_evidence": (is_number, "a number, or null", True),
    "parameter_names": (lambda v: is_list(v, is_text) and is_list(v, is_text, True), "a list of names", False),
    "coordinate_shape": (_is_shape, "(beads, 3) or (variables,)", True),
    "kinds": (lambda v: is_list(v, is_text), "a list of names, or null", True),
    "masses": (lambda v: is_list(v, is_positive), "a list of positive masses, or null", True),
    "temperatures": (lambda v: is_list(v, is_positive) and len(v) > 0, "a list of temperatures in K", False),
    "zero_known": (is_flag, "true or false", False),
    "periodic": (is_flag, "true or false", True),
    "n_features_in": (is_count, "a number of columns, or null", True),
    "molecules": (is_molecules, "records of two or more molecules, or null", True),
    "concave": (is_flag, "true or false", False),
    "density": (is_density, "a list of [temperature, effective frames], or null", True),
    "domain": (_is_domain, "the margin and the novelties of a domain, or null", True),
    "posterior": (lambda v: v in ("dense", "sparse"), "'dense' or 'sparse'", False),
}

#: Fields that only some models have: those made by minimize_relative_entropy, those with correlated noise, and
#: (concave, domain, molecules) those of later versions than the first.
EXTRA = {"concave", "density", "domain", "molecules", "noise_levels", "noise_model"}


def check_header(header: dict[str, Any]) -> None:
    """Check the type of every field, and those that belong together.

    Raises
    ------
    ModelFileError
        If a field is missing, of another type, or contradicts another one.
    """
    for name, (passes, wanted, optional) in FIELDS.items():
        if name not in header and name in EXTRA:
            continue
        if name not in header:
            raise ModelFileError(f"the header lacks the field {name!r}: save the model again")
        value = header.get(name)
        require((optional and value is None) or passes(value), f"the field {name!r}", value, wanted)
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
    for name in ("coordinate_shape", "kinds", "masses", "periodic", "n_features_in"):
        require(header[name] is None, f"the field {name!r}", header[name], "null, as for several molecules")
    require(header.get("domain") is None, "the field 'domain'", header.get("domain"), "null, as for several molecules")
    unknown = sorted({kind for one in molecules for kind in one["kinds"]} - set(kinds))
    require(not unknown, "the kinds of the molecules", unknown, f"among those of the composition, {kinds}")
    if header["posterior"] == "dense":
        own = header.get("label_molecules", [])
        fits = is_list(own, lambda k: type(k) is int and 0 <= k < len(molecules)) and len(own) == len(header["labels"])
        require(fits, "the field 'label_molecules'", own, "the number of a molecule for every label set")


def _check_single(header: dict[str, Any]) -> None:
    shape = header["coordinate_shape"]
    require(shape is not None, "the field 'coordinate_shape'", shape, FIELDS["coordinate_shape"][1])
    require(header["periodic"] is not None, "the field 'periodic'", None, FIELDS["periodic"][1])
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


def check_solver(solver: Any, what: str, kind: type | tuple[type, ...] = (Dense, Iterative, Sparse)) -> None:
    """Check a solver and the types of its numbers.

    Raises
    ------
    ModelFileError
        If it is of another kind, or a number is none.
    """
    require(isinstance(solver, kind), what, solver, "a solver, as the kind of the posterior wants it")
    for field in fields(type(solver)):
        value = getattr(solver, field.name)
        kinds: tuple[Any, ...] = (int if field.default is None else type(field.default),)
        if str(field.type).endswith("| None"):
            kinds = (*kinds, type(None))
        require(type(value) in kinds, f"{field.name} of {what}", value, f"like {field.default}")


def _by_kind(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_positive, value.values()))


def check_estimator(parameters: dict[str, Any]) -> None:
    """Check the parameters of the estimator, specs built already.

    Raises
    ------
    ModelFileError
        If one is of another type.
    DataError
        If ``terms`` are none.
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
    if solver not in ("auto", "dense", "iterative", "sparse"):
        check_solver(solver, "the parameter 'solver' of the estimator")
    if terms is not None:
        for name, term in named_terms(terms, None):
            check_term(term, f"the parameter 'terms' of the estimator, term {name!r},", None)


def try_out(model) -> None:
    """Predict one free energy, at beads in a zigzag or at variables of one: what raises here would do so on use."""
    if model.molecules_ is not None:
        for one in model.molecules_:
            _try_out(view(model, one.molecule))
    else:
        _try_out(model)


def _try_out(model) -> None:
    shape, periodic = model.coordinate_shape_, model.periodic_
    parameters = dict.fromkeys(model.parameters_, 0.0)
    for _, term in model.terms_:  # where λ has a range, a value within it
        parameters |= {part.name: part.example for part in term.spec.parameters}
    common = {"temperature": model.temperatures_[0], "parameters": parameters}
    if len(shape) == 1:
        frames = Frames.from_arrays(variables=np.ones((1, *shape)), **common)
    else:
        bead = np.arange(shape[0])
        # apart and not in a line, so that the search for neighbours finds few and angles are defined
        x = np.stack([3.0 * bead, bead % 2, 0.5 * (bead % 3)], 1)
        cell = (x.max() + 1000.0) * np.eye(3) if periodic else None
        frames = Frames.from_arrays(positions=x[None], kinds=model.kinds_, cell=cell, **common)
    # the factor of an exact model is built when a first error bar is asked for: that takes as long as the fit
    model.predict(frames, "free_energy", reference=None, return_std=isinstance(model.solver_, Sparse))
