"""Potential energies by step or time, and how they join the frames of a trajectory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import real_array
from ..errors import DataError, require

Steps = NDArray[np.int64] | None
Times = NDArray[np.float64] | None

_SAME = 1e-6  # relative difference of energies of one step that printing and summation order can cause


@dataclass(frozen=True, eq=False)
class EnergyTable:
    """Potential energies by step or time, in the order in which they were written.

    A restarted run repeats steps. Where the repeated rows have the same energies, they are one. Where they differ, the
    later rows replace the earlier ones from the restart on; if the frames go back at the restart as well, each part of
    the frames takes the energies of its own part of the table.

    Attributes
    ----------
    energies
        (rows,), eV.
    steps, times
        (rows,), steps of integration and ps; None where the table lacks them.
    name
        Name of the table in messages.

    Raises
    ------
    DataError
        If the arrays have different lengths, or hold a number that is not finite.
    """

    energies: NDArray[np.float64]
    steps: Steps = None
    times: Times = None
    name: str = "the energy table"

    def __post_init__(self) -> None:
        for name in ("energies", "steps", "times"):
            given = getattr(self, name)
            if given is None:
                continue
            values = real_array(given, name, "eV" if name == "energies" else None)
            require(
                values.ndim == 1 and len(values) == np.size(self.energies) and np.isfinite(values).all(),
                f"EnergyTable: {name} must be finite numbers, one per row of the table",
            )
            if name == "steps":
                require((values == np.rint(values)).all(), "EnergyTable: steps must be whole numbers")
            object.__setattr__(self, name, values if name != "steps" else np.asarray(given).astype(np.int64))

    def __len__(self) -> int:
        return len(self.energies)

    def at(self, steps: Steps, times: Times) -> NDArray[np.float64]:
        """Energies of frames (n,), NaN for frames without a row; see :meth:`rows`."""
        rows = self.rows(steps, times)
        return np.where(rows >= 0, self.energies[np.maximum(rows, 0)] if len(self) else np.nan, np.nan)

    def rows(self, steps: Steps, times: Times) -> NDArray[np.intp]:
        """Rows of the table for frames in the order of their trajectory (n,), −1 for frames without a row.

        By step if both sides have steps, else by time. Times agree within 1e-3 ps and a relative 2e-7, because
        trajectories store them in single precision.

        Raises
        ------
        DataError
            If frames and table have neither in common, the table is denser in time than that, steps agree where times
            do not, or the table goes back at another place than the frames.
        """
        own, wanted, within = self._keys(steps, times)
        parts = _parts(own, self.energies)
        if len(parts) == 1:
            return _found(own, parts[0], wanted, within)
        back = np.concatenate([[0], np.cumsum(np.diff(wanted) < -within[1:])]) if len(wanted) else np.zeros(0, int)
        count = int(back.max(initial=0)) + 1
        if count == 1:
            rows = _found(own, parts[-1], wanted, within)
            earlier = [_found(own, part, wanted, within) for part in parts[:-1]]
            touched = int(np.any([(e >= 0) & (rows >= 0) & (e != rows) for e in earlier], axis=0).sum())
            if touched:
                warnings.warn(
                    f"{self.name} has two energies for {touched} of the {len(rows)} frames, from before and after a "
                    "restart; those after it are used",
                    stacklevel=2,
                )
            return rows
        require(
            count == len(parts),
            f"{self.name} has different energies for one {self.unit}: it consists of {len(parts)} runs, and the frames "
            f"of {count}. Split both, one table for each run",
        )
        out = np.full(len(wanted), -1)
        for number, part in enumerate(parts):
            mine = back == number
            out[mine] = _found(own, part, wanted[mine], within[mine])
        return out

    @property
    def unit(self) -> str:
        """Key of the rows: "step" or "time"."""
        return "step" if self.steps is not None else "time"

    @property
    def restarted(self) -> bool:
        """True if a step or time has several energies, so that the join depends on the order of all frames."""
        return any(
            len(_parts(np.asarray(keys, float), self.energies)) > 1
            for keys in (self.steps, self.times)
            if keys is not None
        )

    def _keys(self, steps: Steps, times: Times) -> tuple[NDArray, NDArray, NDArray]:
        """Keys of the table, those of the frames, and how well they must agree."""
        if steps is not None and self.steps is not None:
            own, wanted = self.steps.astype(float), np.asarray(steps, float)
            if times is not None and self.times is not None:
                self._require_times(wanted, np.asarray(times, float))
            return own, wanted, np.full(len(wanted), 0.25)
        if times is not None and self.times is not None:
            wanted = np.asarray(times, float)
            rounding = 2e-7 * np.abs(wanted)
            gap = min(_gap(self.times), _gap(wanted))  # neighbours in time must not take each other's energies
            within = np.minimum(1e-3 + rounding, np.maximum(1e-6 + rounding, 0.4 * gap))
            require(
                not (_gap(self.times) < 2 * within.max(initial=0.0)),
                f"{self.name} is denser in time than single-precision times of frames can tell apart",
            )
            return self.times, wanted, within
        raise DataError("frames and energies have neither steps nor times in common; give energies= as an array")

    def _require_times(self, steps: NDArray, times: NDArray) -> None:
        """Require equal times at equal steps: other times mean another run."""
        assert self.steps is not None and self.times is not None
        unique, first, count = np.unique(self.steps, return_index=True, return_counts=True)
        if not len(unique):
            return
        near = np.minimum(np.searchsorted(unique, steps), len(unique) - 1)
        row = first[near]
        off = (unique[near] == steps) & (count[near] == 1)
        off &= np.abs(self.times[row] - times) > 1e-2 + 1e-5 * np.abs(times)
        if off.any():
            k = int(np.flatnonzero(off)[0])
            raise DataError(
                f"step {steps[k]:.0f} of the frames is at {times[k]:g} ps, and in {self.name} at "
                f"{self.times[row[k]]:g} ps: they are of different runs. If not, leave one of them out: "
                "EnergyTable(table.energies, steps=table.steps)"
            )


class Join:
    """The join of one table to the frames of one trajectory, chunk by chunk.

    Parameters
    ----------
    table
        The energies.
    """

    def __init__(self, table: EnergyTable):
        self.table = table
        self.frames = self.matched = 0
        self._taken = np.full(len(table), -1, np.int64)
        self._range: dict[str, tuple[float, float]] = {}
        self._missing: str | None = None

    def __call__(self, steps: Steps, times: Times) -> NDArray[np.float64]:
        """Energies (n,) of the next frames.

        Raises
        ------
        DataError
            As in :meth:`EnergyTable.rows`, or if two frames have the same step, for which the table has one energy.
        """
        rows = self.table.rows(steps, times)
        for name, keys in (("step", steps), ("time", times)):
            if keys is not None and len(keys):
                low, high = self._range.get(name, (np.inf, -np.inf))
                self._range[name] = min(low, float(keys.min())), max(high, float(keys.max()))
        here = np.flatnonzero(rows >= 0)
        taken = rows[here]
        again = self._taken[taken] >= 0
        self._taken[taken] = self.frames + here
        again |= self._taken[taken] != self.frames + here
        if again.any():
            row = taken[np.flatnonzero(again)[0]]
            key: Any = self.table.steps if self.table.steps is not None else self.table.times
            raise DataError(
                f"two different frames have the {self.table.unit} {key[row]:g}, for which {self.table.name} has one "
                "energy: leave out the frames of a minimisation, and read the frames of each run with its own table"
            )
        if len(here) < len(rows) and self._missing is None:
            k = int(np.flatnonzero(rows < 0)[0])
            self._missing = f"step {steps[k]}" if steps is not None else f"{times[k]:g} ps" if times is not None else ""
        self.frames, self.matched = self.frames + len(rows), self.matched + len(here)
        return np.where(rows >= 0, self.table.energies[np.maximum(rows, 0)] if len(self.table) else np.nan, np.nan)

    def finish(self) -> None:
        """Say how many frames have energies.

        Raises
        ------
        DataError
            If none has.
        """
        if self.matched == self.frames:
            return
        ranges = f"frames {_words(self._range)}; {self.table.name} {_words(_ranges(self.table))}"
        require(
            self.matched,
            f"none of the {self.frames} frames has a row in {self.table.name}: {ranges}. Give the table of the "
            "run that wrote the frames, or energies=None to do without",
        )
        warnings.warn(
            f"{self.frames - self.matched} of {self.frames} frames have no row in {self.table.name}, the first at "
            f"{self._missing}; they carry no mean_energy ({ranges})",
            stacklevel=3,
        )


def _gap(keys: NDArray) -> float:
    """Smallest distance of different keys."""
    gaps = np.diff(np.unique(keys))
    return float(gaps[gaps > 1e-6].min(initial=np.inf))


def _ranges(table: EnergyTable) -> dict[str, tuple[float, float]]:
    given = {"step": table.steps, "time": table.times}
    return {name: (float(k.min()), float(k.max())) for name, k in given.items() if k is not None and len(k)}


def _words(ranges: dict[str, tuple[float, float]]) -> str:
    said = {"step": "steps {:.10g} to {:.10g}", "time": "times {:.10g} to {:.10g} ps"}
    return " and ".join(said[name].format(*pair) for name, pair in ranges.items()) or "without steps and times"


def _parts(keys: NDArray, energies: NDArray) -> list[NDArray[np.intp]]:
    """Rows that hold after each run of a table: those of the run, and those of earlier runs from before its start.

    A run begins where keys go back *and* an earlier row of the same key has another energy; all else is one run, whose
    repeated rows are left out.
    """
    rows = np.arange(len(keys))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(keys) <= 1e-6) + 1, [len(keys)]]) if len(keys) else [0, 0]
    order = np.lexsort((rows, keys))
    same = np.diff(keys[order]) <= 1e-6
    apart = np.abs(np.diff(energies[order])) > _SAME * (1.0 + np.abs(energies[order][1:]))
    if not (same & apart).any():
        return [order[np.concatenate([[True], ~same])] if len(keys) else order]
    contradicts = np.zeros(len(keys), bool)
    contradicts[order[1:]] = same & apart
    parts: list[NDArray[np.intp]] = []
    held = rows[:0]
    for start, stop in pairwise(starts):
        block = rows[start:stop]
        if contradicts[block].any() and len(held):
            parts.append(held)
            held = held[keys[held] < keys[start] - 1e-6]
        held = np.concatenate([held, block])
        order = held[np.lexsort((held, keys[held]))]
        held = order[np.concatenate([[True], np.diff(keys[order]) > 1e-6])]
    return [*parts, held]


def _found(keys: NDArray, rows: NDArray[np.intp], wanted: NDArray, within: NDArray) -> NDArray[np.intp]:
    """Rows, sorted by their keys, that are nearest to the wanted keys; −1 if the distance is too large."""
    out = np.full(len(wanted), -1)
    if len(rows):
        sorted_keys = keys[rows]
        near = np.clip(np.searchsorted(sorted_keys, wanted), 1, max(len(rows) - 1, 1))
        near = np.minimum(near, len(rows) - 1)
        near = np.where(np.abs(sorted_keys[near - 1] - wanted) < np.abs(sorted_keys[near] - wanted), near - 1, near)
        hit = np.abs(sorted_keys[near] - wanted) <= within
        out[hit] = rows[near[hit]]
    return out
