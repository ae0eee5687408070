"""Specs: small frozen objects of plain numbers that describe a model.

Terms, kernels, thermal parts, solvers, descriptors and baselines are specs. ``fit`` reads them and
builds fresh torch modules; it never changes a spec. They follow scikit-learn's parameter protocol
(``get_params`` / ``set_params`` / ``clone``) and turn into JSON and back without running code.
Their fields declare bounds (:mod:`kernelfe.specs.bounds`), which are checked when a spec is made or changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import fields
from typing import Any, ClassVar, Self

from ..errors import DataError, ModelFileError, require
from .bounds import Bound, checked


class Spec:
    """Base of the frozen dataclasses that serve as parameters.

    A subclass declares what its fields may be in ``BOUNDS``. If it has a ``__post_init__`` of its own, for conditions
    that concern several fields, that one calls ``super().__post_init__()`` first.
    """

    #: Bounds by field name; those of base classes hold as well, unless declared again.
    BOUNDS: ClassVar[Mapping[str, Bound]] = {}

    @classmethod
    def field_bounds(cls) -> dict[str, Bound]:
        """Bounds of the fields by name, those of base classes included."""
        declared: dict[str, Bound] = {}
        for base in reversed(cls.__mro__):
            declared |= vars(base).get("BOUNDS", {})
        return declared

    @property
    def _title(self) -> str:
        """The spec's name in messages about its fields."""
        return type(self).__name__

    def __post_init__(self) -> None:
        for name, bound in self.field_bounds().items():
            value = getattr(self, name)
            given = checked(name, value, bound, self._title)
            if given is not value:
                object.__setattr__(self, name, given)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; with ``deep`` also those of nested specs as ``outer__inner``."""
        params: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            params[field.name] = value
            if deep and hasattr(value, "get_params"):
                params |= {f"{field.name}__{key}": inner for key, inner in value.get_params().items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name (``outer__inner`` for nested specs) and return self.

        Meant for scikit-learn's searches, which work on clones; everything else treats specs as frozen. A nested spec
        is replaced by a changed copy. Values out of bounds leave the spec as it was.
        """
        before = self.get_params(deep=False)
        own: dict[str, Any] = {}
        inner: dict[str, dict[str, Any]] = {}
        for key, value in params.items():
            name, _, rest = key.partition("__")
            require(name in before, f"{type(self).__name__} has no parameter {name!r}; it has {list(before)}")
            if rest:
                inner.setdefault(name, {})[rest] = value
            else:
                own[name] = value
        for name, values in inner.items():
            nested = own.get(name, before[name])
            require(
                hasattr(nested, "set_params"),
                f"{type(self).__name__}: {name!r} is {nested!r} without parameter {next(iter(values))!r}; "
                f"set {name} first",
            )
            own[name] = copy(nested).set_params(**values)  # a copy: other specs may hold the same nested one
        try:
            for name, value in own.items():
                object.__setattr__(self, name, value)
            self.__post_init__()
        except BaseException:
            for name, value in before.items():
                object.__setattr__(self, name, value)
            raise
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form: the class name and its parameters."""
        return {
            "class": type(self).__name__,
            **{key: to_plain(value) for key, value in self.get_params(deep=False).items()},
        }


def field_names(cls: type) -> set[str]:
    """Names of the fields of a dataclass."""
    return {field.name for field in fields(cls)}


def to_plain(value: Any) -> Any:
    """Return the JSON-ready form of a parameter; DataError if it has none."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    raise DataError(
        f"{value!r} of type {type(value).__name__} is not a plain parameter; use numbers, strings and tuples"
    )


def from_dict(data: Any, classes: dict[str, type]) -> Any:
    """Rebuild a spec from :meth:`Spec.to_dict`, using only the given ``classes``.

    Raises
    ------
    ModelFileError
        If a class is not among ``classes`` or refuses its parameters.
    """
    if isinstance(data, list):
        return tuple(from_dict(item, classes) for item in data)
    if not isinstance(data, dict):
        return data
    if "class" not in data:
        return {key: from_dict(value, classes) for key, value in data.items()}
    name = data["class"]
    require(
        name in classes,
        f"the file uses the class {name!r}, which is not a class of kernelfe; if it is yours, pass classes=[{name}]",
        ModelFileError,
    )
    arguments = {key: from_dict(value, classes) for key, value in data.items() if key != "class"}
    try:
        return classes[name](**arguments)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"the file holds parameters that {name} does not accept: {error}") from error
