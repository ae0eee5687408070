"""Several molecules in one fit: who they are, what they share, and the view of a fitted model for one of them.

    A_m(R; T) = baseline_m(R) + Σ_X N_X(m) [e_X + c_X τ(T)] + Σ_terms Σ_{environments e of m} f_term(z_e(R); T)

Everything but the number of environments and of beads N_X belongs to kinds of beads, not to molecules: terms, mean
functions, baseline, noise of a label kind. What is learned of one molecule is known of all, and of molecules made of
the same kinds that were not fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError
from ...frames import Frames
from ...frames.checks import mapping
from ..baseline import BoltzmannInversion
from ..shared_baseline import SharedBaseline, fit_shared
from ..states import Composition, Molecule, States
from .assemble import asked_for, label_sets
from .labels import PAIR, LabelSet
from .noise import CorrelatedNoise, RelativeNoise


def composition(frames) -> Composition:
    """The composition of Frames, which all hold the same beads."""
    return Composition(("frame",), (1.0,))


def fit_baseline(spec, frames):
    """The fitted baseline of a spec: None for molecules means Boltzmann inversion, False none."""
    if spec is False or (spec is None and (frames.positions is None or frames.cell is not None)):
        return None
    if spec is None:
        if frames.positions.shape[1] < 2 or len(frames) < 3:
            return None
        spec = BoltzmannInversion(bonds=None if frames.bonds is None else tuple(map(tuple, frames.bonds)))
    if not hasattr(spec, "fit"):
        raise DataError(f"baseline={spec!r}: pass a spec such as BoltzmannInversion(), None for the default, or False")
    if frames.positions is None:
        raise DataError("a baseline needs bead positions; these Frames hold collective variables: pass baseline=False")
    if getattr(spec, "by_kinds", False):
        if frames.kinds is None or frames.bonds is None:
            raise DataError("BoltzmannInversion(by_kinds=True) needs kinds= and bonds= of the Frames")
        return fit_shared(spec, [frames]).for_molecule(tuple(frames.kinds), tuple(map(tuple, frames.bonds)))
    return spec.fit(frames.positions, frames.temperature, frames.cell)


@dataclass(frozen=True)
class Fitted:
    """What a model remembers of a molecule it was fitted to.

    Parameters
    ----------
    molecule
        Which.
    masses
        Of its beads, u, or None.
    zero_known
        Whether its labels held absolute free energies.
    """

    molecule: Molecule
    masses: tuple[float, ...] | None = None
    zero_known: bool = False


class MoleculeSet:
    """Frames of several molecules: each molecule once, in the order in which it first appears.

    Parameters
    ----------
    parts
        Frames; those of the same molecule (kinds, bonds, cell or none) are joined.

    Raises
    ------
    DataError
        If a part is no Frames, lacks kinds, or differs in its parameters λ from the others.
    """

    def __init__(self, parts: Sequence[Frames]):
        groups: dict[Molecule, list[Frames]] = {}
        for number, part in enumerate(parts):
            _check_part(number, part, parts[0])
            groups.setdefault(Molecule.of(part), []).append(part)
        self.molecules = tuple(groups)
        self.parts = [_joined(group) for group in groups.values()]
        self.kinds = tuple(sorted({kind for molecule in self.molecules for kind in molecule.kinds}))

    @property
    def temperature(self) -> np.ndarray:
        """Of all frames, K."""
        return np.concatenate([part.temperature for part in self.parts])

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """λ of all frames, by name."""
        return {name: np.concatenate([p.parameters[name] for p in self.parts]) for name in self.parts[0].parameters}

    def composition(self) -> Composition:
        """All kinds of beads: e_X and c_X of each."""
        return Composition(self.kinds, (1.0,) * len(self.kinds))

    def baseline(self, spec) -> SharedBaseline | None:
        """The fitted baseline of a spec, shared by kinds; None of the default where any molecule is periodic."""
        if spec is False or (spec is None and any(molecule.periodic for molecule in self.molecules)):
            return None
        if spec is None:
            spec = BoltzmannInversion()
        if not isinstance(spec, BoltzmannInversion):
            raise DataError(
                f"baseline={spec!r}: several molecules share a baseline by the kinds of their beads, which is made by "
                "BoltzmannInversion(); pass that, None or False"
            )
        for molecule in self.molecules:
            if molecule.bonds is None:
                raise DataError(
                    f"the baseline needs the bonds of molecule {molecule}: give bonds= to its Frames (a chain's are "
                    "found by kernelfe.geometry.topology.infer_bonds), or pass baseline=False"
                )
        return fit_shared(spec, self.parts)

    def labels(self, keys, noise, baseline: SharedBaseline | None) -> list[LabelSet]:
        """Label sets of all molecules; kinds of labels share their noise.

        Raises
        ------
        DataError
            As :func:`~kernelfe.gp.observations.assemble.label_sets`, or if a molecule has none of the labels asked for.
        """
        asked = None if keys is None else asked_for(keys)
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
            wanted = (
                None if asked is None else [key for key in asked if key in own or (key == PAIR and len(part.pairs))]
            )
            if wanted == [] or (wanted is None and not own and not len(part.pairs)):
                raise DataError(f"the frames of molecule {molecule} hold none of the labels: leave them out")
            stated = {key: value for key, value in noise.items() if key in own or key == PAIR}
            own_baseline = None if baseline is None else baseline.for_molecule(molecule.kinds, molecule.bonds)
            out += label_sets(part, wanted, stated, own_baseline, molecule.counts(self.kinds), molecule)
        return out

    def sampled(self, sample) -> list[States]:
        """Some states of every molecule, ``sample(n)`` their rows."""
        return [
            States.from_frames(part[sample(len(part))], molecule=molecule)
            for part, molecule in zip(self.parts, self.molecules, strict=True)
        ]

    def fitted(self, labels: list[LabelSet]) -> tuple[Fitted, ...]:
        """What a model remembers of each."""
        known = {label.states.molecule for label in labels if label.kind == "free_energy"}
        return tuple(
            Fitted(m, None if p.masses is None else tuple(map(float, p.masses)), m in known)
            for m, p in zip(self.molecules, self.parts, strict=True)
        )


def conditioned(frames: Frames | MoleculeSet, baseline, keys, noise):
    """Composition, fitted baseline and label sets of training data, of one molecule or several."""
    if isinstance(frames, MoleculeSet):
        fitted = frames.baseline(baseline)
        return frames.composition(), fitted, frames.labels(keys, noise, fitted)
    own = composition(frames)
    fitted = fit_baseline(baseline, frames)
    return own, fitted, label_sets(frames, keys, noise, fitted, own.counts)


def remembered(frames: Frames | MoleculeSet, labels: list[LabelSet]):
    """What a model keeps of its molecules, and (coordinate shape, kinds, masses, periodic) of a single one."""
    if isinstance(frames, MoleculeSet):
        return frames.fitted(labels), (None, None, None, None)
    return None, (tuple(frames.coordinates.shape[1:]), frames.kinds, frames.masses, frames.cell is not None)


# --- helpers -------------------------------------------------------------------------------------------------


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
