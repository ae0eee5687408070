"""Bounds: declarations of what a number, a name or a path may be, and the one place that checks them.

A bound is called with a value and returns it in plain form: Python numbers for those of NumPy, 25000 for 25e3, tuples
for lists. A value that is in plain form already is returned as the same object, because scikit-learn's ``clone``
compares identities. A bound refuses a value by a ValueError or TypeError; :func:`checked` turns it into a DataError
that names the value and what it must be. Specs declare the bounds of their fields in ``BOUNDS``; functions with
numeric options call :func:`checked`.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import DataError


def checked(name: str, value: Any, bound: Bound, owner: str = "") -> Any:
    """Return a value in plain form.

    Parameters
    ----------
    name
        Name of the field or argument, for the message.
    value
        The value.
    bound
        What it must be.
    owner
        The class or function that it belongs to, for the message.

    Raises
    ------
    DataError
        If the bound refuses the value.
    """
    try:
        return bound(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        whose = f"{owner}: " if owner else ""
        raise DataError(f"{whose}{name}={value!r:.80} must be {bound}") from None


class Bound:
    """Base of the bounds. A subclass returns the plain form of a value, and states in words what a value must be."""

    def __call__(self, value: Any) -> Any:
        """Return the plain form of ``value``; ValueError or TypeError if it is out of bounds."""
        raise NotImplementedError

    def __str__(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class Whole(Bound):
    """Whole numbers from ``least`` to ``most``, both included; None: no limit.

    25e3 becomes 25000; with ``strict``, a float is refused even if it is whole.
    """

    least: int | None = None
    most: int | None = None
    strict: bool = False

    def __call__(self, value: Any) -> int:
        given = number(value)
        whole = int(given)
        hold(
            whole == given,
            not self.strict or isinstance(value, numbers.Integral),
            self.least is None or whole >= self.least,
            self.most is None or whole <= self.most,
        )
        return whole

    def __str__(self) -> str:
        if self.least is None:
            return "a whole number"
        return f"a whole number{' (an int)' if self.strict else ''} of at least {self.least}" + (
            "" if self.most is None else f" and at most {self.most}"
        )


@dataclass(frozen=True)
class Real(Bound):
    """Real numbers.

    Parameters
    ----------
    above, least
        Lower limit, without and with the limit itself; None: no limit.
    below, most
        Upper limit, without and with the limit itself; None: no limit.
    finite
        Whether infinity is refused; NaN always is.
    """

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None
    finite: bool = True

    def __call__(self, value: Any) -> float:
        real = float(number(value))
        hold(
            math.isfinite(real) or not (self.finite or math.isnan(real)),
            self.above is None or real > self.above,
            self.least is None or real >= self.least,
            self.below is None or real < self.below,
            self.most is None or real <= self.most,
        )
        return real

    def __str__(self) -> str:
        if self == Real(above=0.0, finite=self.finite):
            return "positive and finite" if self.finite else "positive"
        limits = {"above": self.above, "of at least": self.least, "below": self.below, "of at most": self.most}
        words = [f"{word} {limit:g}" for word, limit in limits.items() if limit is not None]
        return ("a finite number " if self.finite else "a number ").rstrip() + (" " + " and ".join(words)) * bool(words)


@dataclass(frozen=True)
class Flag(Bound):
    """True or False; NumPy's become Python's."""

    def __call__(self, value: Any) -> bool:
        plain = item(value)
        hold(isinstance(plain, bool))
        return plain

    def __str__(self) -> str:
        return "True or False"


@dataclass(frozen=True)
class Text(Bound):
    """Text that is not empty."""

    def __call__(self, value: Any) -> str:
        hold(isinstance(value, str), value)
        return str(value)

    def __str__(self) -> str:
        return "a name"


@dataclass(frozen=True)
class Choice(Bound):
    """One of several names."""

    names: tuple[str, ...]

    def __call__(self, value: Any) -> str:
        hold(isinstance(value, str), value in self.names)
        return str(value)

    def __str__(self) -> str:
        *others, last = map(repr, self.names)
        return f"{', '.join(others)} or {last}"


@dataclass(frozen=True)
class PathName(Bound):
    """The path of a ``kind`` ("folder", "file"), as text; whether it exists is not looked up."""

    kind: str = "file"

    def __call__(self, value: Any) -> str:
        hold(isinstance(value, (str, os.PathLike)))
        path = os.fsdecode(value)
        hold(path)
        return path

    def __str__(self) -> str:
        return f"the path of a {self.kind}"


@dataclass(frozen=True)
class Instance(Bound):
    """An object of a class; ``words`` describes it in the message."""

    kind: type
    words: str

    def __call__(self, value: Any) -> Any:
        hold(isinstance(value, self.kind))
        return value

    def __str__(self) -> str:
        return self.words


# ---------------------------------------------------------------------- bounds made of others


@dataclass(frozen=True)
class OrNone(Bound):
    """Values of another bound, or None."""

    bound: Bound

    def __call__(self, value: Any) -> Any:
        return None if value is None else self.bound(value)

    def __str__(self) -> str:
        return f"{self.bound}, or None"


@dataclass(frozen=True)
class AnyOf(Bound):
    """Values of one of several bounds."""

    bounds: tuple[Bound, ...]

    def __call__(self, value: Any) -> Any:
        *others, last = self.bounds
        for bound in others:
            try:
                return bound(value)
            except (TypeError, ValueError, OverflowError, RuntimeError):
                continue
        return last(value)

    def __str__(self) -> str:
        return ", or ".join(map(str, self.bounds))


@dataclass(frozen=True)
class Each(Bound):
    """A tuple of values with the same bound; lists and arrays become tuples.

    Parameters
    ----------
    entry
        The bound of every entry.
    count
        Number of entries; None: any number from ``least``.
    least
        Least number of entries.
    distinct
        Whether equal entries are refused.
    """

    entry: Bound
    count: int | None = None
    least: int = 0
    distinct: bool = False

    def __call__(self, value: Any) -> tuple:
        hold(isinstance(value, Iterable), not isinstance(value, (str, bytes, Mapping)))
        entries = tuple(map(self.entry, value))
        hold(len(entries) == self.count if self.count is not None else len(entries) >= self.least)
        hold(not self.distinct or len(set(entries)) == len(entries))
        same = type(value) is tuple and all(a is b for a, b in zip(value, entries, strict=True))
        return value if same else entries

    def __str__(self) -> str:
        different = "different " if self.distinct else ""
        if self.count is not None:
            return f"a tuple of {self.count} {different}entries, each {self.entry}"
        several = f"of {self.least} or more" if self.least else "of"
        return f"a tuple {several} {different}entries, each {self.entry}"


@dataclass(frozen=True)
class Interval(Bound):
    """The two ends of a range, the lower one first."""

    end: Bound = Real()

    def __call__(self, value: Any) -> tuple:
        pair = Each(self.end, count=2)(value)
        hold(pair[0] < pair[1])
        return pair

    def __str__(self) -> str:
        return f"the lower and the upper end of a range, each {self.end}"


@dataclass(frozen=True)
class OneOrMore(Bound):
    """One value, or a tuple of one or more; arrays become flat tuples."""

    entry: Bound

    def __call__(self, value: Any) -> Any:
        if getattr(value, "ndim", 1) == 0 or not isinstance(value, Iterable):
            return self.entry(value)
        flat: Any = value.reshape(-1) if hasattr(value, "reshape") else value
        return Each(self.entry, least=1)(flat)

    def __str__(self) -> str:
        return f"{self.entry}: one value, or a tuple of values"


@dataclass(frozen=True)
class Table(Bound):
    """A dict of values with the same bound, by name; ``words`` describes it in the message."""

    entry: Bound
    words: str = "entries by name"

    def __call__(self, value: Any) -> Mapping[str, Any]:
        hold(isinstance(value, Mapping))
        entries = {Text()(name): self.entry(inner) for name, inner in value.items()}
        return value if all(value[name] is inner for name, inner in entries.items()) else entries

    def __str__(self) -> str:
        return f"a dict of {self.words}, each {self.entry}"


#: Seeds of random numbers, in the range that NumPy and torch share; None: other random numbers at every call.
SEED = OrNone(Whole(least=0, most=2**63 - 1))

# ---------------------------------------------------------------------- plain values


def item(value: Any) -> Any:
    """Python's form of NumPy's numbers and of arrays and tensors without dimensions; others as they are."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def number(value: Any) -> int | float:
    """The Python number of a value; TypeError for everything else, True and False included."""
    plain = item(value)
    if isinstance(plain, bool) or not isinstance(plain, (int, float)):
        raise TypeError
    return plain


def hold(*conditions: Any) -> None:
    """ValueError unless all conditions hold."""
    if not all(conditions):
        raise ValueError
