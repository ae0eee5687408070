"""Training data: Frames of one or several molecules, and the labels that they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DataError
from ...frames import Frames
from ...frames.checks import mapping
from ..molecules import WHOLE, FittedMolecule, Molecule, Molecules
from ..states import States
from .assemble import asked_for, label_sets
from .labels import PAIR, LabelSet
from .noise import CorrelatedNoise, RelativeNoise
from .whole import left_out, warn_left_out


class MoleculeSet:
    """Frames of a set of molecules: each molecule once, in the order in which it first appears.

    Parameters
    ----------
    parts
        Frames; those of the same molecule (kinds, bonds, cell or none) are joined.

    Attributes
    ----------
    sound
        The parts without frames that :func:`~kernelfe.geometry.broken_frames` finds broken: what the domain, all
        starting values and all labels are read from. :attr:`parts` keeps all frames, so that rows keep their numbers.

    Raises
    ------
    DataError
        If there are several molecules and a part is not Frames, lacks kinds, or differs in its parameters λ from the
        others.
    """

    def __init__(self, parts: Sequence[Frames]):
        groups: dict[Molecule, list[Frames]] = {}
        for number, part in enumerate(parts):
            if len(parts) > 1:
                _check_part(number, part, parts[0])
            groups.setdefault(Molecule.of(part), []).append(part)
        self.molecules = tuple(groups)
        self.parts = [_joined(group) for group in groups.values()]
        self._broken = [left_out(part) for part in self.parts]
        self.sound = [
            part[~broken] if broken.any() else part for part, broken in zip(self.parts, self._broken, strict=True)
        ]
        self.single = len(self.parts) == 1
        self.kinds = tuple(sorted({kind for molecule in self.molecules for kind in molecule.kinds or ()}))

    @property
    def temperature(self) -> np.ndarray:
        """Of all frames, K."""
        return np.concatenate([part.temperature for part in self.parts])

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """λ of all frames, by name."""
        return {name: np.concatenate([p.parameters[name] for p in self.parts]) for name in self.parts[0].parameters}

    @property
    def mean_kinds(self) -> tuple[str, ...]:
        """Kinds with mean functions of their own: all kinds of beads, or the whole frame of a single molecule."""
        return (WHOLE,) if self.single else self.kinds

    def labels(self, keys, noise, baseline) -> list[LabelSet]:
        """Label sets of all molecules; labels of one kind share their noise. Warns of broken frames, left out here.

        Parameters
        ----------
        keys, noise
            ``labels`` and ``noise`` of the regressor.
        baseline
            The fitted baseline, or None.

        Raises
        ------
        DataError
            As :func:`~kernelfe.gp.observations.assemble.label_sets`, or if a molecule has none of the labels asked for.
        """
        asked = None if keys is None else asked_for(keys)
        wanted = [(asked, noise)] if self.single else self._wanted(asked, noise)
        out = []
        for molecule, part, broken, (own, stated) in zip(self.molecules, self.parts, self._broken, wanted, strict=True):
            warn_left_out(broken)
            counts = molecule.counts(self.mean_kinds)
            out += label_sets(part, own, stated, molecule.own(baseline), counts, molecule, without=broken)
        return out

    def _wanted(self, asked, noise) -> list[tuple[list[str] | None, dict[str, Any]]]:
        """Kinds of labels and stated noise of each of several molecules."""
        if isinstance(noise, CorrelatedNoise):
            raise DataError(
                "CorrelatedNoise learns the noise of the frames of one molecule, several do not share its axes: give "
                "noise= by label kind or None, or fit one molecule"
            )
        noise = mapping(noise, "noise", "{'mean_force': 0.1}, by label")
        have = [{key for key in part.labels if part.present[key].any()} for part in self.parts]
        for key in [*(asked or ()), *noise]:
            if key != PAIR and not any(key in own for own in have):
                every = sorted(set().union(*have))
                raise DataError(f"label {key!r} was asked for, but the Frames hold {every}")
        for key, value in noise.items():
            if np.ndim(value) or isinstance(value, RelativeNoise):
                raise DataError(
                    f"noise of {key!r}: with several molecules give one number, or state it in the Frames of each"
                )
        out = []
        for molecule, part, own in zip(self.molecules, self.parts, have, strict=True):
            keys = None if asked is None else [k for k in asked if k in own or (k == PAIR and len(part.pairs))]
            if keys == [] or (keys is None and not own and not len(part.pairs)):
                raise DataError(f"the frames of molecule {molecule} hold none of the labels: leave them out")
            out.append((keys, {key: value for key, value in noise.items() if key in own or key == PAIR}))
        return out

    def sampled(self, sample) -> list[States]:
        """Some states of every molecule, ``sample(n)`` their rows."""
        return [
            States.from_frames(part[sample(len(part))], molecule=molecule)
            for part, molecule in zip(self.sound, self.molecules, strict=True)
        ]

    def fitted(self, labels: list[LabelSet]) -> Molecules:
        """The molecules as a fitted model stores them."""
        known = {label.states.molecule for label in labels if label.kind == "free_energy"}
        entries = tuple(
            FittedMolecule(m, None if p.masses is None else tuple(map(float, p.masses)), m in known)
            for m, p in zip(self.molecules, self.parts, strict=True)
        )
        return Molecules(entries, self.mean_kinds)


def _check_part(number: int, part: Any, first: Frames) -> None:
    if not isinstance(part, Frames):
        raise DataError(f"part {number} is {type(part).__name__}: fit takes Frames, or a list of Frames")
    if part.positions is None or part.kinds is None:
        lacks = "bead positions" if part.positions is None else "kinds of its beads (kinds=)"
        raise DataError(f"part {number} of the list lacks {lacks}: molecules share terms by the kinds of their beads")
    if set(part.parameters) != set(first.parameters):
        raise DataError(
            f"part {number} has the parameters {sorted(part.parameters)}, part 0 {sorted(first.parameters)}"
        )


def _joined(group: list[Frames]) -> Frames:
    if len(group) == 1:
        return group[0]
    same = [part if part.bonds == group[0].bonds else part.replace(bonds=group[0].bonds) for part in group]
    return Frames.concatenate(same)
