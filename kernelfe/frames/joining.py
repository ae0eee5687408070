"""Joining several Frames into one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from .checks import frozen
from .pairs import PairLabels

if TYPE_CHECKING:
    from .frames import Frames


def concatenate(parts: list[Frames]) -> Frames:
    """See :meth:`kernelfe.Frames.concatenate`."""
    if not parts:
        raise DataError("nothing to concatenate; pass at least one Frames")
    first = parts[0]
    for number, part in enumerate(parts[1:], start=1):
        _check_same(first, part, number)
    counts = [len(part) for part in parts]
    labels, present, noise = {}, {}, {}
    for key in dict.fromkeys(key for part in parts for key in part.labels):
        shape = next(part.labels[key].shape[1:] for part in parts if key in part.labels)
        labels[key] = _stack([_get(part.labels, key, (n, *shape)) for part, n in zip(parts, counts, strict=True)])
        present[key] = _stack([part.present.get(key, np.zeros(n, bool)) for part, n in zip(parts, counts, strict=True)])
        joined = _noise([part for part in parts if key in part.labels and len(part)], parts, key, shape)
        if joined is not None:
            noise[key] = joined
    offsets = np.cumsum([0, *counts[:-1]])
    return replace(
        first,
        positions=_stack([part.positions for part in parts]),
        variables=_stack([part.variables for part in parts]),
        temperature=_stack([part.temperature for part in parts]),
        parameters={name: _stack([part.parameters[name] for part in parts]) for name in first.parameters},
        labels=labels,
        present=present,
        noise=noise,
        displacements=_fields(parts),
        cell=_stack([part.cell for part in parts]),
        pairs=PairLabels.joined([part.pairs.shifted(int(at)) for part, at in zip(parts, offsets, strict=True)]),
    )


def _check_same(first: Frames, part: Frames, number: int) -> None:
    def same(name: str) -> bool:
        a, b = getattr(first, name), getattr(part, name)
        return (a is None) == (b is None) and (a is None or np.array_equal(a, b))

    if first.shape[1:] != part.shape[1:] or (first.positions is None) != (part.positions is None):
        raise DataError(
            f"part {number} has coordinates of shape {part.shape[1:]}, part 0 {first.shape[1:]}; "
            "only frames of the same molecule can be joined"
        )
    for name in ("kinds", "masses", "bonds"):
        if not same(name):
            raise DataError(
                f"part {number} and part 0 differ in {name}; make them equal, for example with replace({name}=...)"
            )
    if (first.cell is None) != (part.cell is None):
        raise DataError(f"only one of part {number} and part 0 has a cell; give it to both or to none")
    if set(first.parameters) != set(part.parameters):
        raise DataError(
            f"part {number} has the parameters {list(part.parameters)}, part 0 {list(first.parameters)}; "
            "give every part the same parameters"
        )


def _stack(arrays: list) -> Any:
    """Rows of all arrays; None where the parts have None."""
    return None if arrays[0] is None else frozen(np.concatenate(arrays))


def _get(arrays: dict[str, np.ndarray], key: str, shape: tuple[int, ...]) -> np.ndarray:
    return arrays[key] if key in arrays else np.full(shape, np.nan)


def _fields(parts: list[Frames]) -> np.ndarray | None:
    shapes = {part.displacements.shape[1:] for part in parts if part.displacements is not None}
    if not shapes:
        return None
    if len(shapes) > 1:
        raise DataError(
            f"the parts have displacement fields of different shapes {sorted(shapes)}; "
            "give every part the same number of fields"
        )
    shape = shapes.pop()
    return _stack([np.full((len(p), *shape), np.nan) if p.displacements is None else p.displacements for p in parts])


def _noise(stating: list[Frames], parts: list[Frames], key: str, shape: tuple[int, ...]) -> float | np.ndarray | None:
    """Noise of one label kind over all parts, in the least form that holds every part's."""
    given = [part.noise.get(key) for part in stating]
    if all(value is None for value in given):
        return None
    if any(value is None for value in given):
        raise DataError(f"only some of the parts state the noise of {key!r}; state it in all of them or in none")
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
    joined = np.concatenate(rows)
    mask = np.concatenate([part.present.get(key, np.zeros(len(part), bool)) for part in parts])
    joined[~mask] = np.nan
    return frozen(joined)


def _is_block(part: Frames, key: str, shape: tuple[int, ...]) -> bool:
    value = part.noise[key]
    return not isinstance(value, float) and value.shape[1:] != shape
