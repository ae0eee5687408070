"""Every Spec of the package: declared bounds refuse what lies outside, and accepted specs survive every round trip."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import kernelfe
from kernelfe.descriptors import Distances, InternalCoordinates, Variables
from kernelfe.descriptors.base import Beads
from kernelfe.errors import DataError, ModelFileError
from kernelfe.kernels import RBF, TemperatureKernel
from kernelfe.runtime.devices import DeviceName
from kernelfe.specs import (
    AnyOf,
    Bound,
    Choice,
    Each,
    Flag,
    Instance,
    Interval,
    OneOrMore,
    OrNone,
    PathName,
    Real,
    Spec,
    Table,
    Text,
    Whole,
    checked,
    from_dict,
)

#: Arguments of the classes that need some.
ARGUMENTS = {
    "Bonded": {"kinds": ("A", "B")},
    "Composite": {"kernels": (RBF(1.0), RBF(2.0))},
    "FittedBaseline": {"beads": 3},
    "HandedDistances": {"quadruples": ((0, 1, 2, 3),)},
    "InternalCoordinates": {"bonds": ((0, 1),), "angles": ((0, 1, 2),)},
    "FittedCore": {"kinds": (("A", "B"),), "sigma": (2.5,), "decay": (0.1,), "energy": (0.1,)},
    "PairDistances": {"cutoff": 3.0},
    "PairSplines": {"cutoff": 6.0},
    "SplineWeights": {"nodes": ((1.0,), (2.0,))},
    "ParameterExpansion": {"name": "charge"},
    "ParameterKernel": {"name": "charge", "lengthscale": 1.0, "range": (0.0, 1.0)},
    "Product": {"kernels": (RBF(1.0), RBF(2.0))},
    "StationaryFreeEnergy": {"kernel": TemperatureKernel(200.0, (250.0, 500.0))},
    "StationaryHeatCapacity": {"kernel": TemperatureKernel(200.0, (250.0, 500.0))},
    "Sum": {"kernels": (RBF(1.0), RBF(2.0))},
    "Labelling": {"beads": "ca"},
    "Symmetrized": {"descriptor": Distances(), "permutations": ((0, 1), (1, 0))},
    "TorsionMoves": {"bonds": ((0, 1), (1, 2), (2, 3))},
    "TemperatureKernel": {"lengthscale": 200.0, "range": (250.0, 500.0)},
}


def spec_classes() -> list[type]:
    """Dataclasses of the package that derive from Spec."""
    for module in pkgutil.walk_packages(kernelfe.__path__, "kernelfe."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = set(), [Spec]
    while waiting:
        waiting += waiting.pop().__subclasses__() if not found.add(waiting[-1]) else []
    ours = [cls for cls in found if cls.__module__.startswith("kernelfe.") and "__dataclass_fields__" in vars(cls)]
    return sorted(ours, key=lambda cls: cls.__name__)


CLASSES = spec_classes()
BY_NAME = {cls.__name__: cls for cls in CLASSES}
DECLARED = [(cls, name) for cls in CLASSES for name in cls.field_bounds()]
IDS = [f"{cls.__name__}.{name}" for cls, name in DECLARED]


def example(cls: type) -> Spec:
    return cls(**ARGUMENTS.get(cls.__name__, {}))


# ---------------------------------------------------------------------- values inside and outside of a bound


def inside(bound: Bound, present) -> st.SearchStrategy:
    """Values that the bound accepts; ``present`` is one that a spec has."""
    match bound:
        case Whole(least, most, strict):
            low = 0 if least is None else least
            numbers = st.integers(low, low + 50 if most is None else most)
            if strict:
                return numbers | numbers.map(np.int64)
            return numbers | numbers.filter(lambda n: n < 2**53).map(float) | numbers.map(np.int64)
        case Real(above, least, below, most, finite):
            low = max((v for v in (above, least) if v is not None), default=-1e3)
            high = min((v for v in (below, most) if v is not None), default=low + 1e3)
            numbers = st.floats(low, high, exclude_min=low == above, exclude_max=high == below)
            numbers = numbers.filter(lambda x: x == 0.0 or abs(x) > 1e-30)
            return numbers | numbers.map(np.float64) | (st.nothing() if finite else st.just(math.inf))
        case Flag():
            return st.booleans() | st.booleans().map(np.bool_)
        case Text():
            return st.text(min_size=1)
        case Choice(names):
            return st.sampled_from(names)
        case PathName():
            return st.sampled_from(["x", Path("x")])
        case Instance():
            return st.just(present[0] if isinstance(present, tuple) else present)
        case OrNone(one):
            return st.none() | inside(one, present)
        case AnyOf(bounds):
            return st.one_of([inside(one, present) for one in bounds])
        case Each(entry, count, least, distinct):
            size = {"min_size": count or least, "max_size": count or least + 3}
            entries = st.lists(inside(entry, present), unique_by=float if distinct else None, **size)
            return entries | entries.map(tuple)
        case Interval(end):
            return st.tuples(inside(end, 0), inside(end, 0)).filter(lambda p: p[0] < p[1]).map(list)
        case OneOrMore(entry):
            return inside(entry, present) | st.lists(inside(entry, present), min_size=1, max_size=3)
        case Table(entry):
            return st.dictionaries(st.text(min_size=1), inside(entry, present), max_size=3)
        case Beads(size):
            return st.lists(st.permutations(range(5)).map(lambda p: p[:size]), max_size=3)
        case DeviceName():
            return st.sampled_from(["cpu", "cuda", "cuda:1", torch.device("cpu")])
    raise NotImplementedError(f"say what {type(bound).__name__} accepts")


def outside(bound: Bound) -> st.SearchStrategy:
    """Values that the bound must refuse."""
    junk = st.sampled_from([object(), 1j, torch])
    match bound:
        case Whole(least, most):
            wrong = st.floats().filter(lambda x: not x.is_integer()) | st.booleans() | st.just("3") | st.none() | junk
            beyond = st.nothing() if least is None else st.integers(max_value=least - 1)
            return wrong | beyond | (st.nothing() if most is None else st.integers(min_value=most + 1))
        case Real(above, least, below, most, finite):
            infinite = [math.inf, -math.inf] if finite else [-math.inf]
            wrong = st.sampled_from([math.nan, *infinite, True, "1", None]) | junk
            limits = [
                st.floats(max_value=above) if above is not None else st.nothing(),
                st.floats(max_value=least, exclude_max=True) if least is not None else st.nothing(),
                st.floats(min_value=below) if below is not None else st.nothing(),
                st.floats(min_value=most, exclude_min=True) if most is not None else st.nothing(),
            ]
            return wrong | st.one_of(limits)
        case Flag():
            return st.sampled_from([0, 1, "yes", None, np.int64(1)]) | junk
        case Text():
            return st.sampled_from(["", 3, None]) | junk
        case Choice(names):
            return st.text().filter(lambda word: word not in names) | st.sampled_from([None, 3]) | junk
        case PathName():
            return st.sampled_from(["", 3, None]) | junk
        case Instance():
            others = [value for value in ("RBF", 3.0, None, Variables()) if not isinstance(value, bound.kind)]
            return st.sampled_from(others) | junk
        case OrNone(one):
            return outside(one).filter(lambda value: value is not None)
        case AnyOf(bounds):
            return st.one_of([outside(one) for one in bounds]).filter(lambda v: not isinstance(v, bool | dict)) | junk
        case Each(entry, count):
            wrong = outside(entry).map(lambda value: (value,) * (count or 2))
            lengths = st.just(()) if count or bound.least else st.nothing()
            return wrong | lengths | st.sampled_from([5, "AB"]) | junk
        case Interval():
            return st.sampled_from([(2.0, 1.0), (1.0,), (1.0, 1.0), (1.0, math.inf), (1.0, "a"), 3, "ab", None]) | junk
        case OneOrMore(entry):
            return outside(entry).filter(lambda v: v is not None) | outside(entry).map(lambda v: [v]) | st.just([])
        case Table(entry):
            return outside(entry).map(lambda value: {"a": value}) | st.just({1: 1.0}) | junk
        case Beads(size):
            rows = st.lists(st.integers(-3, 5), max_size=5)
            good = lambda row: len(row) == len(set(row)) == size and min(row) >= 0  # noqa: E731
            return rows.filter(lambda row: not good(row)).map(lambda row: (row,)) | st.sampled_from(
                [5, ((0.5,) * size,)]
            )
        case DeviceName():
            return st.sampled_from(["mps", "gpu", "cuda:x", "", None, 0])
    raise NotImplementedError(f"say what {type(bound).__name__} refuses")


# ---------------------------------------------------------------------- all specs


def test_specs_were_found():
    assert len(CLASSES) > 25 and {"Sparse", "RBF", "Term", "DomainGuard", "ActivePlan"} <= set(BY_NAME)
    assert len(DECLARED) > 80


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_bounds_are_declared_for_fields(cls):
    assert set(cls.field_bounds()) <= {field.name for field in fields(cls)}
    example(cls)


@pytest.mark.parametrize(("cls", "name"), DECLARED, ids=IDS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_values_out_of_bounds_are_refused(cls, name, data):
    """A DataError names class and field, in the constructor and in set_params; for files it is a ModelFileError."""
    bad, spec = data.draw(outside(cls.field_bounds()[name])), example(cls)
    with pytest.raises(DataError) as caught:
        replace(spec, **{name: bad})
    assert cls.__name__ in str(caught.value) and name in str(caught.value) and "must be" in str(caught.value)
    changed = clone(spec)
    with pytest.raises(DataError, match=name):
        changed.set_params(**{name: bad})
    assert changed == spec  # as it was
    with pytest.raises(ModelFileError, match=cls.__name__):
        from_dict(spec.to_dict() | {name: bad}, BY_NAME)


@pytest.mark.parametrize(("cls", "name"), DECLARED, ids=IDS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_accepted_values_survive_round_trips(cls, name, data):
    spec = example(cls)
    # the present value meets conditions on several fields, which others may not
    value = data.draw(inside(cls.field_bounds()[name], getattr(spec, name)) | st.just(getattr(spec, name)))
    try:
        changed = replace(spec, **{name: value})
    except DataError as error:  # of another kind: a condition on several fields
        assert f"must be {cls.field_bounds()[name]}" not in str(error)
        return
    stored = json.loads(json.dumps(changed.to_dict()))
    kept = {key: getattr(changed, key) for key in changed.get_params(deep=False) if key not in stored}
    assert replace(from_dict(stored, BY_NAME), **kept) == changed
    assert clone(changed) == changed
    assert clone(spec).set_params(**{name: value}) == changed
    assert type(changed)(**changed.get_params(deep=False)) == changed
    if not isinstance(getattr(changed, name), dict):  # a mapping has no hash
        assert hash(clone(changed)) == hash(changed)


@pytest.mark.parametrize(("cls", "name"), DECLARED, ids=IDS)
def test_messages_say_what_a_value_must_be(cls, name):
    words = str(cls.field_bounds()[name])
    assert words and "<" not in words and "  " not in words


# ---------------------------------------------------------------------- bounds by themselves


@pytest.mark.parametrize(
    ("bound", "value", "plain"),
    [
        (Whole(1), 25e3, 25_000),
        (Whole(1), np.int32(3), 3),
        (Whole(0, 2**63 - 1), 2**63 - 1, 2**63 - 1),
        (Whole(), torch.tensor(4), 4),
        (Real(), 2, 2.0),
        (Real(), np.float32(0.5), 0.5),
        (Real(), np.array(0.5), 0.5),
        (Real(above=0.0, finite=False), math.inf, math.inf),
        (Flag(), np.bool_(True), True),
        (PathName(), Path("a") / "b", "a/b"),
        (Each(Real()), [1, 2], (1.0, 2.0)),
        (Each(Real()), np.arange(2), (0.0, 1.0)),
        (OneOrMore(Real()), np.ones((1, 2)), (1.0, 1.0)),
        (OneOrMore(Real()), torch.ones(2), (1.0, 1.0)),
        (OneOrMore(Real()), 3, 3.0),
        (Interval(), [1, 2], (1.0, 2.0)),
        (Table(Real()), {"a": 1}, {"a": 1.0}),
        (AnyOf((Flag(), Real())), 1, 1.0),
    ],
)
def test_plain_forms(bound, value, plain):
    found = bound(value)
    assert found == plain and type(found) is type(plain)
    assert repr(found) == repr(plain)
    assert bound(found) is found  # what scikit-learn's clone asks for


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (Whole(), "a whole number"),
        (Whole(1), "a whole number of at least 1"),
        (Whole(1, 12), "a whole number of at least 1 and at most 12"),
        (Real(), "a finite number"),
        (Real(above=0.0), "positive and finite"),
        (Real(above=0.0, finite=False), "positive"),
        (Real(above=0.0, below=1.0), "a finite number above 0 and below 1"),
        (OrNone(Choice(("a", "b", "c"))), "'a', 'b' or 'c', or None"),
        (Each(Text(), count=2), "a tuple of 2 entries, each a name"),
    ],
)
def test_words(bound, words):
    assert str(bound) == words


def test_arguments_of_functions():
    assert checked("n", 3.0, Whole(1)) == 3
    with pytest.raises(DataError, match=r"^draws: n=0 must be a whole number of at least 1$"):
        checked("n", 0, Whole(1), "draws")
    with pytest.raises(DataError, match=r"^n='x+") as caught:
        checked("n", "x" * 500, Whole(1))
    assert len(str(caught.value)) < 150


def test_nested_specs_are_checked_by_set_params():
    spec = kernelfe.Term(InternalCoordinates(bonds=((0, 1),)), RBF(1.0))
    with pytest.raises(DataError, match="RBF: lengthscale=-1"):
        spec.set_params(kernel__lengthscale=-1.0)
    assert spec.kernel == RBF(1.0)


def nested_pairs():
    """Every field of a class of the package whose default is a spec, with a field of that spec and another value."""
    for cls in CLASSES:
        for field in fields(cls):
            if isinstance(field.default, Spec):
                yield pytest.param(cls, field.name, id=f"{cls.__name__}.{field.name}")


@pytest.mark.parametrize(("cls", "name"), list(nested_pairs()))
def test_a_default_that_objects_share_is_not_changed_by_one_of_them(cls, name):
    shared = next(field.default for field in fields(cls) if field.name == name)
    before, spec = shared.to_dict(), cls()
    for inner, value in shared.get_params(deep=False).items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            spec.set_params(**{f"{name}__{inner}": value})
            assert getattr(spec, name) is not shared
            with suppress(DataError):
                spec.set_params(**{f"{name}__{inner}": value + 1})
            assert shared.to_dict() == before and getattr(cls(), name) is shared


def test_set_params_is_all_or_nothing():
    spec = kernelfe.Term(InternalCoordinates(bonds=((0, 1),)), RBF(1.0) + RBF(2.0))
    before = spec.to_dict()
    for wrong in (
        {"prior_width": 1.0, "kernel__bogus": 1},
        {"prior_width": 1.0, "kernel__kernels__0__lengthscale": 3.0, "kernel__kernels__1__lengthscale": -1.0},
        {"prior_width": 1.0, "thermal__energy": 1.0},
        {"prior_width": 1.0, "bogus": 1},
    ):
        with pytest.raises(DataError):
            spec.set_params(**wrong)
        assert spec.to_dict() == before
    kernel = spec.kernel
    spec.set_params(kernel__kernels__0__lengthscale=3.0, prior_width=1.0)
    assert kernel == RBF(1.0) + RBF(2.0) and spec.kernel == RBF(3.0) + RBF(2.0) and spec.prior_width == 1.0
