"""The view of a model of several molecules for one of them."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from ...errors import DataError
from ...frames import Frames
from ..observations.molecules import Fitted
from ..states import Composition, Molecule

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
