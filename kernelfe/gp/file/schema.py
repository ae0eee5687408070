"""Content of a model file: one table, from which files are written and by which they are checked.

Every entry names the part of a :class:`~kernelfe.gp.FreeEnergy` it comes from, how that becomes JSON, and what it may
be in a file. Tensors are not in the table: those of the posterior, the hyperparameters and the domain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from ...files.fields import is_count, is_flag, is_list, is_number, is_pair, is_positive, is_text
from ..molecules import FittedMolecule
from ..prior.mean import MeanFunction


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _spec(value: Any) -> Any:
    return None if value is None else value.to_dict()


def _always(model) -> bool:
    return True


@dataclass(frozen=True)
class Field:
    """One field of the header.

    Parameters
    ----------
    path
        The part of the model it comes from, a dotted attribute; "" for what the estimator adds.
    passes, wanted
        Predicate of the value in a file, and the same in words.
    convert
        Turns the part of the model into plain JSON.
    optional
        Whether the value may be null.
    later
        Whether files of the first release, or files of simpler models, lack the field.
    stored
        Whether it is written for a model.
    """

    path: str
    passes: Callable[[Any], bool]
    wanted: str
    convert: Callable[[Any], Any] = _plain
    optional: bool = False
    later: bool = False
    stored: Callable[[Any], bool] = _always

    def encode(self, model) -> Any:
        """The value for the header."""
        return self.convert(attrgetter(self.path)(model)) if self.path else None


# --- predicates of composite values ---------------------------------------------------------------------------


def _is_shape(value: Any) -> bool:
    return is_list(value, is_count) and (len(value) == 1 or (len(value) == 2 and value[1] == 3))


def _is_terms(value: Any) -> bool:
    def entry(item):
        return isinstance(item, list) and len(item) == 3 and is_text(item[0]) and is_count(item[2])

    return is_list(value, entry) and 0 < len(value) == len({name for name, _, _ in value})


def _is_mean(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {*value, "change"} == {field.name for field in fields(MeanFunction)}  # files of 0.2 lack it
        and isinstance(value["parameters"], list)
        and is_list(value["offset"], is_number)
        and is_positive(value["energy"])
        and is_positive(value["heat_capacity"])
        and is_positive(value.get("change", MeanFunction.change))
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


def _is_bonds(value: Any, beads: int | None = None) -> bool:
    def bead(i):
        return type(i) is int and i >= 0 and (beads is None or i < beads)

    return is_list(value, lambda bond: is_pair(bond, bead, bead) and bond[0] != bond[1])


def _is_molecules(value: Any) -> bool:
    """Records of several molecules: kinds, bonds between their beads, masses, two flags."""

    def one(v):
        if not (isinstance(v, dict) and set(v) == {"kinds", "bonds", "periodic", "masses", "zero_known"}):
            return False
        kinds, bonds, masses = v["kinds"], v["bonds"], v["masses"]
        return (
            (is_list(kinds, is_text) and len(kinds) > 0)
            and (bonds is None or _is_bonds(bonds, len(kinds)))
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


def _is_density(value: Any) -> bool:
    """Pairs of temperature and effective number of frames, each temperature once."""
    pairs = is_list(value, lambda v: is_pair(v, is_positive, lambda n: is_number(n) and n >= 0))
    return pairs and len({t for t, _ in value}) == len(value)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


# --- parts of a model as JSON -----------------------------------------------------------------------------------


def _terms(terms) -> list:
    return [[name, term.fitted_spec().to_dict(), term.dimension] for name, term in terms]


def _mean(mean: MeanFunction | None) -> dict[str, Any] | None:
    if mean is None:
        return None
    return {
        "thermal": mean.thermal.to_dict(),
        "parameters": [p.to_dict() for p in mean.parameters],
        "offset": list(mean.offset),
        "energy": mean.energy,
        "heat_capacity": mean.heat_capacity,
        "change": mean.change,
    }


def _pairs(values: dict[str, tuple]) -> dict[str, list]:
    return {kind: list(value) for kind, value in values.items()}


def _density(density: dict[float, float] | None) -> list | None:
    return None if density is None else [[float(t), float(n)] for t, n in sorted(density.items())]


def _bonds(molecule) -> list | None:
    return None if molecule.bonds is None else [list(bond) for bond in molecule.bonds]


def _record(entry: FittedMolecule) -> dict[str, Any]:
    return {
        "kinds": _plain(entry.molecule.kinds),
        "bonds": _bonds(entry.molecule),
        "periodic": entry.molecule.periodic,
        "masses": _plain(entry.masses),
        "zero_known": entry.zero_known,
    }


def _single(part: Callable[[FittedMolecule], Any]) -> Callable[[Any], Any]:
    """A part of the record of a single molecule, null with several."""
    return lambda molecules: _plain(part(molecules.entries[0])) if molecules.single else None


def _own_domain(model) -> bool:
    """True if the domain is that of this model; members of an ensemble have the one of the model they come from."""
    return model.domain is not None and list(model.domain.terms) == [term for _, term in model.terms]


#: Name in the header → what it stores.
FIELDS: dict[str, Field] = {
    "parameters": Field("", _is_dict, "the parameters of the estimator"),
    "terms": Field("terms", _is_terms, "a list of [name, term, columns] with distinct names", _terms),
    "mean": Field("posterior.prior.mean", _is_mean, "the numbers of a mean function, or null", _mean, optional=True),
    "baseline": Field("baseline", _is_dict, "a fitted baseline, or null", _spec, optional=True),
    "composition": Field(
        "molecules.composition",
        _is_composition,
        "two equally long lists, of kinds and of positive counts",
        lambda c: [list(c.kinds), list(c.counts)],
    ),
    "noise": Field("noise.levels", _is_noise, "a pair (σ₀ > 0, exponent) by kind of label", _pairs),
    "noise_temperature": Field("noise.reference", is_positive, "a temperature in K"),
    "noise_levels": Field(
        "noise.conditioned",
        _is_noise,
        "a pair (σ₀ > 0, exponent) by kind of label",
        _pairs,
        later=True,
        stored=lambda model: model.noise.correlated is not None,
    ),
    "noise_model": Field(
        "noise.correlated",
        _is_noise_model,
        "the numbers of a correlated noise, or null",
        _spec,
        optional=True,
        later=True,
        stored=lambda model: model.noise.correlated is not None,
    ),
    "solver": Field("provenance.solver", _is_dict, "a solver", _spec),
    "solver_reason": Field("provenance.solver_reason", is_text, "text"),
    "log_evidence": Field(  # conjugate gradients alone do not give it
        "posterior.log_evidence",
        is_number,
        "a number, or null",
        lambda value: None if math.isnan(value) else value,
        optional=True,
    ),
    "temperatures": Field(
        "provenance.temperatures", lambda v: is_list(v, is_positive) and len(v) > 0, "a list of temperatures in K"
    ),
    "density": Field(
        "provenance.density",
        _is_density,
        "a list of [temperature, effective frames], or null",
        _density,
        optional=True,
        later=True,
    ),
    "concave": Field("provenance.concave", is_flag, "true or false", later=True),
    "handedness": Field("provenance.handedness", lambda v: isinstance(v, str), "text", later=True),
    "parameter_names": Field(
        "parameters", lambda v: is_list(v, is_text) and is_list(v, is_text, True), "a list of names"
    ),
    "coordinate_shape": Field(
        "molecules",
        _is_shape,
        "(beads, 3) or (variables,)",
        _single(lambda entry: entry.molecule.shape),
        optional=True,
    ),
    "kinds": Field(
        "molecules",
        lambda v: is_list(v, is_text),
        "a list of names, or null",
        _single(lambda entry: entry.molecule.kinds),
        optional=True,
    ),
    "bonds": Field(
        "molecules",
        _is_bonds,
        "a list of pairs of beads, or null",
        _single(lambda entry: _bonds(entry.molecule)),
        optional=True,
        later=True,
    ),
    "masses": Field(
        "molecules",
        lambda v: is_list(v, is_positive),
        "a list of positive masses, or null",
        _single(lambda entry: entry.masses),
        optional=True,
    ),
    "periodic": Field(
        "molecules", is_flag, "true or false", _single(lambda entry: entry.molecule.periodic), optional=True
    ),
    "zero_known": Field("molecules.zero_known", is_flag, "true or false"),
    "molecules": Field(
        "molecules.entries",
        _is_molecules,
        "records of two or more molecules, or null",
        lambda entries: None if len(entries) == 1 else [_record(entry) for entry in entries],
        optional=True,
        later=True,
    ),
    "domain": Field(
        "domain",
        _is_domain,
        "the margin and the novelties of a domain, or null",
        lambda domain: domain.numbers(),
        optional=True,
        later=True,
        stored=_own_domain,
    ),
    "n_features_in": Field("", is_count, "a number of columns, or null", optional=True),
    "posterior": Field("", lambda v: v in ("dense", "sparse"), "'dense' or 'sparse'"),
}

#: Class of a spec → values of fields that files of 0.1 and 0.2 lack, where these are not the defaults of today.
BEFORE: dict[str, dict[str, Any]] = {
    "SecondOrder": {"anchored": False},
    "StationaryHeatCapacity": {"anchored": False},
    "StationaryFreeEnergy": {"anchored": False},
}


def completed(data: Any) -> Any:
    """JSON of a header with the fields that files of earlier releases lack, as those releases had them."""
    if isinstance(data, list):
        return [completed(item) for item in data]
    if not isinstance(data, dict):
        return data
    name = data.get("class")
    before = BEFORE.get(name, {}) if isinstance(name, str) else {}
    return before | {key: completed(value) for key, value in data.items()}
