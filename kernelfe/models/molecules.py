"""Several molecules in one fit: who they are, what they share, and the view of a fitted model for one of them.

    A_m(R; T) = baseline_m(R) + Σ_X N_X(m) [e_X + c_X τ(T)] + Σ_terms Σ_{environments e of m} f_term(z_e(R); T)

Everything but the number of environments and of beads N_X belongs to kinds of beads, not to molecules: terms, mean
functions, baseline, noise of a label kind. What is learned of one molecule is known of all, and of molecules made of
the same kinds that were not fitted.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._checks import mapping
from ..descriptors import Bonded, Distances, PairDistances
from ..errors import DataError
from ..frames import Frames
from ..kernels import Term
from ..topology import angles_of, dihedrals_of
from .assemble import Composition, asked_for, composition, fit_baseline, label_sets
from .baseline import BoltzmannInversion
from .labels import PAIR, LabelSet
from .molecule import Molecule
from .noise import CorrelatedNoise, RelativeNoise
from .shared_baseline import SharedBaseline, fit_shared
from .states import States

#: Cutoff of the pair terms made here, in units of the largest distance of the data.
REACH = 2.0


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
                    "found by kernelfe.topology.infer_bonds), or pass baseline=False"
                )
        return fit_shared(spec, self.parts)

    def labels(self, keys, noise, baseline: SharedBaseline | None) -> list[LabelSet]:
        """Label sets of all molecules; kinds of labels share their noise.

        Raises
        ------
        DataError
            As :func:`~kernelfe.models.assemble.label_sets`, or if a molecule has none of the labels asked for.
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


def local_terms(parts: Frames | Sequence[Frames], cutoff: float | None = None) -> list[tuple[str, Term]]:
    """Terms by the kinds of beads that molecules of different sizes can share.

    One for the bonds, the angles and the dihedrals of each combination of kinds that occurs, and one for the distances
    of each two kinds: of all pairs three or more bonds apart where bonds are known, else of all pairs.

    Parameters
    ----------
    parts
        Frames of one or several molecules, with kinds.
    cutoff
        Of the pair distances, Å; None: twice the largest distance in the frames (not for periodic frames).

    Returns
    -------
    list of (str, Term)
        ``terms`` of the regressor; numbers are left to the data.

    Raises
    ------
    DataError
        If kinds are missing, or a cutoff is needed.
    """
    cast = MoleculeSet([parts] if isinstance(parts, Frames) else list(parts))
    if cutoff is None:
        if any(molecule.periodic for molecule in cast.molecules):
            raise DataError("local_terms of periodic frames needs cutoff=, in Å")
        cutoff = REACH * max(_extent(part.positions) for part in cast.parts if len(part))
    out, bonded = [], all(molecule.bonds is not None for molecule in cast.molecules)
    if bonded:
        for beads, name in ((2, "bond"), (3, "angle"), (4, "dihedral")):
            found = sorted({kinds for molecule in cast.molecules for kinds in _chains(molecule, beads)})
            out += [(f"{name} {'-'.join(kinds)}", Term(Bonded(kinds))) for kinds in found]
    apart = 3 if bonded else 0
    for first, kind in enumerate(cast.kinds):
        for other in cast.kinds[first:]:
            descriptor = PairDistances(float(cutoff), (kind, other), apart=apart)
            if any(_pairs_exist(molecule, descriptor) for molecule in cast.molecules):
                out.append((f"pair {kind}-{other}", Term(descriptor)))
    return out


def default_terms(terms, frames):
    """``terms``; for molecules of which nothing is said, all distances where beads are the same, else by kinds."""
    if terms is not None or not isinstance(frames, MoleculeSet):
        return terms
    if len({molecule.kinds for molecule in frames.molecules}) == 1:
        return [("distances", Term(Distances()))]
    return local_terms(frames.parts)


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


# --- the fitted model, seen by one molecule ------------------------------------------------------------------


def is_several(X) -> bool:
    """Whether X is a list of Frames."""
    return isinstance(X, (list, tuple)) and len(X) > 0 and all(isinstance(part, Frames) for part in X)


def view(model, X):
    """A model of several molecules as a model of one: that of Frames or an array of positions, or a :class:`Molecule`.

    Raises
    ------
    DataError
        If the molecule cannot be told, or holds beads of kinds the model does not know.
    """
    molecule = X if isinstance(X, Molecule) else _molecule_of(model, X)
    own = next((one for one in model.molecules_ if one.molecule == molecule), Fitted(molecule))
    kinds = model.composition_.kinds
    if unknown := sorted(set(molecule.kinds) - set(kinds)):
        raise DataError(
            f"the model knows beads of the kinds {list(kinds)}, not {unknown}: fit with a molecule that has them"
        )
    out = copy.copy(model)
    out.molecules_, out.molecule_ = None, molecule
    out.composition_ = Composition(kinds, molecule.counts(kinds))
    out.baseline_ = None if model.baseline_ is None else model.baseline_.for_molecule(molecule.kinds, molecule.bonds)
    out.terms_ = [(name, bound_module(module, molecule)) for name, module in model.terms_]
    out.coordinate_shape_, out.kinds_ = (len(molecule.kinds), 3), molecule.kinds
    out.masses_ = None if own.masses is None else np.array(own.masses)
    out.periodic_, out.zero_known_ = molecule.periodic, own.zero_known
    return out


def predict_each(model, X, quantity, **options):
    """Predictions of a model of several molecules: of the molecule of X, or of a list of Frames part by part."""
    if not is_several(X):
        return view(model, X).predict(X, quantity, **options)
    if np.ndim(options["temperature"]):
        raise DataError("predict(list of Frames) takes one temperature for all, or that of the Frames")
    found = [view(model, part).predict(part, quantity, **options) for part in X]
    return tuple(map(list, zip(*found, strict=True))) if options["return_std"] else found


def require_one(model, what: str) -> None:
    """Raise DataError if a model is one of several molecules."""
    if model.molecules_ is not None:
        names = ", ".join(str(one.molecule) for one in model.molecules_)
        raise DataError(
            f"{what} belongs to one molecule, the model was fitted to {names}: call it of model.for_molecule(frames)"
        )


def _molecule_of(model, X) -> Molecule:
    known = [one.molecule for one in model.molecules_]
    if is_several(X):
        raise DataError("these are Frames of several molecules: pass those of one at a time")
    if isinstance(X, Frames):
        if X.positions is None:
            raise DataError("the model was fitted to molecules of beads, these Frames hold variables")
        if X.kinds is not None and X.bonds is not None:
            return Molecule.of(X)
        beads, periodic, kinds = X.positions.shape[1], X.cell is not None, X.kinds
    else:
        shape = np.shape(X)
        beads, periodic, kinds = shape[-2] if len(shape) in (2, 3) else 0, False, None
    alike = [m for m in known if len(m.kinds) == beads and m.periodic == periodic and kinds in (None, m.kinds)]
    if len(alike) == 1:
        return alike[0]
    if kinds is not None and not alike:
        return Molecule.of(X)
    raise DataError(
        f"{len(alike)} of the fitted molecules ({', '.join(map(str, known))}) have {beads} beads"
        f"{' and a cell' if periodic else ''}: pass Frames with kinds= and bonds="
    )


def bound_module(module, molecule: Molecule):
    """A term as one molecule has it: the same hyperparameters, the descriptor bound to its beads."""
    out = copy.copy(module)
    out.spec = replace(module.spec, descriptor=molecule.bound(module.spec.descriptor))
    return out


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


def _extent(positions: Any) -> float:
    """No distance between beads exceeds it: the largest diagonal of the boxes around the frames, Å."""
    return float(np.linalg.norm(np.ptp(positions, axis=1), axis=-1).max())


def _chains(molecule: Molecule, beads: int) -> set[tuple[str, ...]]:
    bonds = molecule.bonds or ()
    entries: Any = bonds if beads == 2 else angles_of(bonds) if beads == 3 else dihedrals_of(bonds)
    kinds = {tuple(molecule.kinds[bead] for bead in entry) for entry in entries}
    return {min(kind, kind[::-1]) for kind in kinds}


def _pairs_exist(molecule: Molecule, descriptor: PairDistances) -> bool:
    bound = molecule.bound(descriptor)
    if not isinstance(bound, PairDistances):
        return False
    mask = bound._wanted(len(molecule.kinds))
    return molecule.periodic or mask is None or bool(np.triu(mask, 1).any())
