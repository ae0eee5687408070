"""Specs: small frozen objects of plain numbers, and the bounds that their fields declare."""

from __future__ import annotations

from .bounds import (
    SEED,
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
    Table,
    Text,
    Whole,
    checked,
    hold,
)
from .spec import Spec, field_names, from_dict, to_plain

__all__ = [
    "SEED",
    "AnyOf",
    "Bound",
    "Choice",
    "Each",
    "Flag",
    "Instance",
    "Interval",
    "OneOrMore",
    "OrNone",
    "PathName",
    "Real",
    "Spec",
    "Table",
    "Text",
    "Whole",
    "checked",
    "field_names",
    "from_dict",
    "hold",
    "to_plain",
]
