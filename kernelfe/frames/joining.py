"""Joining several Frames into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import require
from .arrays import FrameArrays
from .checks import frozen
from .pairs import PairLabels


def joined(parts: Sequence[FrameArrays]) -> dict[str, Any]:
    """The fields of all rows of ``parts`` that differ from those of the first; see ``Frames.concatenate``."""
    first = parts[0]
    for number, part in enumerate(parts[1:], start=1):
        _check_same(first, part, number)
    counts = [len(part) for part in parts]
    labels, present, noise = {}, {}, {}
    for key in dict.fromkeys(key for part in parts for key in part.labels):
        shape = next(part.labels[key].shape[1:] for part in parts if key in part.labels)
        labels[key] = _stack([_get(part.labels, key, (n, *shape)) for part, n in zip(parts, counts, strict=True)])
        present[key] = _stack([part.present.get(key, np.zeros(n, bool)) for part, n in zip(parts, counts, strict=True)])
        level = _noise([part for part in parts if key in part.labels and len(part)], parts, key, shape)
        if level is not None:
            noise[key] = level
    offsets = np.cumsum([0, *counts[:-1]])
    return {
        "positions": _stack([part.positions for part in parts]),
        "variables": _stack([part.variables for part in parts]),
        "temperature": _stack([part.temperature for part in parts]),
        "parameters": {name: _stack([part.parameters[name] for part in parts]) for name in first.parameters},
        "labels": labels,
        "present": present,
        "noise": noise,
        "displacements": _fields(parts),
        "cell": _stack([part.cell for part in parts]),
        "pairs": PairLabels.joined([part.pairs.shifted(int(at)) for part, at in zip(parts, offsets, strict=True)]),
    }


def _check_same(first: FrameArrays, part: FrameArrays, number: int) -> None:
    def same(name: str) -> bool:
        a, b = getattr(first, name), getattr(part, name)
        return (a is None) == (b is None) and (a is None or np.array_equal(a, b))

    require(
        first.shape[1:] == part.shape[1:] and (first.positions is None) == (part.positions is None),
        f"part {number} has coordinates of shape {part.shape[1:]}, part 0 {first.shape[1:]}; "
        "only frames of the same molecule can be joined",
    )
    for name in ("kinds", "masses", "bonds"):
        require(
            same(name),
            f"part {number} and part 0 differ in {name}; make them equal, for example with replace({name}=...)",
        )
    require(
        (first.cell is None) == (part.cell is None),
        f"only one of part {number} and part 0 has a cell; give it to both or to none",
    )
    require(
        set(first.parameters) == set(part.parameters),
        f"part {number} has the parameters {list(part.parameters)}, part 0 {list(first.parameters)}; "
        "give every part the same parameters",
    )


def _stack(arrays: list) -> Any:
    """Rows of all arrays; None where the parts have None."""
    return None if arrays[0] is None else frozen(np.concatenate(arrays))


def _get(arrays: dict[str, np.ndarray], key: str, shape: tuple[int, ...]) -> np.ndarray:
    return arrays[key] if key in arrays else np.full(shape, np.nan)


def _fields(parts: Sequence[FrameArrays]) -> np.ndarray | None:
    shapes = {part.displacements.shape[1:] for part in parts if part.displacements is not None}
    if not shapes:
        return None
    require(
        len(shapes) == 1,
        f"the parts have displacement fields of different shapes {sorted(shapes)}; "
        "give every part the same number of fields",
    )
    shape = shapes.pop()
    return _stack([np.full((len(p), *shape), np.nan) if p.displacements is None else p.displacements for p in parts])


def _noise(
    stating: Sequence[FrameArrays], parts: Sequence[FrameArrays], key: str, shape: tuple[int, ...]
) -> float | np.ndarray | None:
    """Noise of one label kind over all parts, in the least form that holds every part's."""
    given = [part.noise.get(key) for part in stating]
    if all(value is None for value in given):
        return None
    require(
        all(value is not None for value in given),
        f"only some of the parts state the noise of {key!r}; state it in all of them or in none",
    )
    if all(isinstance(value, float) and value == given[0] for value in given):
        return given[0]
    m = int(np.prod(shape, dtype=int))
    as_blocks = any(_is_block(part, key, shape) for part in stating)
    rows: list[Any] = []
    for part in parts:
        n = len(part)
        value: Any = part.noise.get(key)
        if value is None:
            rows.append(np.full((n, m, m) if as_blocks else (n, *shape), np.nan))
            continue
        if as_blocks and not _is_block(part, key, shape):
            std = np.broadcast_to(value, (n, *shape)).reshape(n, m)
            value = std[:, :, None] ** 2 * np.eye(m)
        rows.append(np.broadcast_to(value, (n, *shape)) if not as_blocks else value)
    stacked = np.concatenate(rows)
    mask = np.concatenate([part.present.get(key, np.zeros(len(part), bool)) for part in parts])
    stacked[~mask] = np.nan
    return frozen(stacked)


def _is_block(part: FrameArrays, key: str, shape: tuple[int, ...]) -> bool:
    value = part.noise[key]
    return not isinstance(value, float) and value.shape[1:] != shape
