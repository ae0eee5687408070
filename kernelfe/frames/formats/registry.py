"""Frames from and to files and ASE Atoms: the part of Frames that knows formats, each in a module of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError, UnitsError
from ...files.npz import MAX_BYTES
from ...units import resolve

if TYPE_CHECKING:
    from ase import Atoms

    from ..frames import Frames

#: Suffixes of files that hold one Atoms per frame, and the module that reads and writes them.
_IMAGES = {".xyz": "_extxyz", ".extxyz": "_extxyz", ".traj": "_traj"}


class FrameFiles:
    """Reading and writing, mixed into :class:`kernelfe.Frames`."""

    @classmethod
    def from_atoms(
        cls,
        images: Atoms | Iterable[Atoms],
        labels: Mapping[str, str] | None = None,
        *,
        units: str | Mapping[str, str] | None = None,
        temperature: Any = None,
        noise: Mapping[str, Any] | None = None,
        displacements: Any = None,
        parameters: Mapping[str, Any] | None = None,
        kinds: Sequence[str] | None = None,
        masses: Any = None,
        bonds: Iterable[tuple[int, int]] | None = None,
    ) -> Frames:
        """Frames from ASE Atoms, one bead per atom.

        Parameters
        ----------
        images
            Atoms of one kind of molecule: the same beads in the same order.
        labels
            Quantity key to the key in ``atoms.arrays`` or ``atoms.info``; ``"forces"``, ``"energy"`` and
            ``"stress"`` also from a calculator, without the effect of constraints. Frames without the key lack
            the label. None: every key ``REF_<quantity>``.
        units
            Units of the numbers; None means ASE's.
        temperature
            A number, (n,), or a key of ``atoms.info``; None: the key ``temperature``.
        noise, displacements, parameters
            As in :meth:`from_arrays`, or strings naming keys of the Atoms.
        kinds
            Bead names; None: the array ``bead_kind`` if there is one, else the chemical symbols.
        masses
            None: those set explicitly on the Atoms. The default masses of elements are not bead masses.
        bonds
            Pairs of bonded beads.

        Raises
        ------
        DataError
            If frames hold different molecules, or a named key is in no frame, and as in :meth:`from_arrays`.
        """
        from . import atoms as _atoms

        build: Any = cls
        return build.from_arrays(
            units=units,
            **_atoms.arrays_of(
                images,
                labels,
                temperature=temperature,
                noise=noise,
                displacements=displacements,
                parameters=parameters,
                kinds=kinds,
                masses=masses,
                bonds=bonds,
            ),
        )

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        labels: Mapping[str, str] | None = None,
        *,
        units: str | Mapping[str, str] | None = None,
        layout: str | None = None,
        **options: Any,
    ) -> Frames:
        """Frames from an extended-XYZ or ``.traj`` file of ASE, or from a ``.npz`` file.

        Parameters
        ----------
        path
            ``.xyz``, ``.extxyz`` or ``.traj``; other formats: read them with ASE and use :meth:`from_atoms`.
            ``.npz``: as written by :meth:`save`, or in one of the layouts of :meth:`read_npz`.
        units
            Required, unless the file was written by kernelfe and says so itself.
        layout
            Of a ``.npz`` file of another program; then as :meth:`read_npz`.
        labels, **options
            As in :meth:`from_atoms`.

        Raises
        ------
        UnitsError
            If neither the file nor ``units`` states the units, or both do and differ.
        DataError
            As in :meth:`from_atoms`, and if the file is damaged or declares more than it can hold.
        """
        from . import extxyz as _extxyz
        from . import traj as _traj

        path = Path(path)
        if layout is not None:
            return cls.read_npz(path, layout, labels, units=units, **options)
        if path.suffix == ".npz":
            if units is not None or labels is not None or options:
                raise UnitsError(
                    "a .npz file of Frames.save is in internal units and complete; leave out units= and all other "
                    "options, or say layout= if it is the file of another program"
                )
            return cls.load(path)
        if path.suffix not in _IMAGES:
            raise DataError(
                f"cannot read {path.suffix or 'a file without suffix'!r}; read an all-atom trajectory with "
                f"kernelfe.allatom.Trajectory, or {path.name} with ase.io.read, and pass Atoms to Frames.from_atoms; "
                "mind the units that the reader returns"
            )
        images, stated = (_extxyz.read_extxyz if _IMAGES[path.suffix] == "_extxyz" else _traj.read_traj)(path)
        if stated is None and units is None:
            raise UnitsError(
                f"{path.name} does not state its units; pass units=, for example "
                "units={'energy': 'kJ/mol', 'length': 'nm'} or units='ase'"
            )
        if stated is not None and units is not None and resolve(units) != resolve(stated):
            raise UnitsError(f"{path.name} states its units ({stated}), and units= says otherwise; leave it out")
        return cls.from_atoms(images, labels, units=stated or units, **options)

    @classmethod
    def read_npz(
        cls,
        path: Any,
        layout: str,
        labels: Mapping[str, str] | None = None,
        *,
        units: str | Mapping[str, str] | None = None,
        **options: Any,
    ) -> Frames:
        """Frames from the arrays of another program's data set, read without pickle and within a size limit.

        ========== ================================================ ==========================================
        layout     arrays                                           units
        ========== ================================================ ==========================================
        sgdml      R, F, z; E, lattice (vectors in columns)         stated in r_unit, e_unit
        cgnet      coords (or coordinates), forces; embeddings      ``units=``; the published data: kcal/mol, Å
        mlcg       coords, forces; embeds; each also with ``cg_``   ``units=``; the published data: kcal/mol, Å
        chemtrain  R, F; U, box (vectors in columns), species       ``units=``; usually kJ/mol, nm
        ========== ================================================ ==========================================

        Parameters
        ----------
        path
            A ``.npz`` file; or a dict of array name to ``.npy`` file, as cgnet, mlcg and chemtrain keep them; or, for
            mlcg, a ``.h5`` file together with ``molecule="GROUP/NAME"``.
        layout
            A name of the table.
        labels
            Quantity key to the name of an array. None: the forces as ``mean_force``, and no energies, because a file
            does not say whether they are a ``mean_energy`` or a ``free_energy``.
        units
            Units of the numbers, required where the file does not state them.
        **options
            ``temperature``, ``kinds``, ``masses``, ``bonds``, ``noise``, ``parameters`` of :meth:`from_arrays`;
            ``fractional=True``: positions in units of the box (chemtrain); ``molecule`` (mlcg); ``max_bytes``.

        Raises
        ------
        UnitsError
            If neither the file nor ``units`` states the units, or both do and differ.
        DataError
            If an array is missing or misshapen, and as in :meth:`from_arrays`.
        ModelFileError
            If a file is damaged, too large, or holds pickled objects.
        """
        from . import layouts as _layouts

        build: Any = cls
        return build.from_arrays(**_layouts.read(path, layout, labels, units, options))

    @classmethod
    def load(cls, path: Any, max_bytes: int = MAX_BYTES) -> Frames:
        """Load what :meth:`save` wrote; safe with files from elsewhere.

        Parameters
        ----------
        path
            A path or an open binary file.
        max_bytes
            Limit on the unpacked size.

        Raises
        ------
        ModelFileError
            If the file is no such archive, of a later version, or inconsistent.
        """
        from .archive import load

        return load(path, max_bytes)

    # ------------------------------------------------------------------ writing

    def to_atoms(self) -> list[Atoms]:
        """One ASE Atoms per frame, in ASE's units, from which :meth:`from_atoms` builds the same Frames.

        Labels, their noise, bead kinds and everything else are in ``atoms.arrays`` and ``atoms.info`` under the keys
        that the files of :meth:`write` have; ``atoms.info["kernelfe_units"]`` is ``"ase"``. Beads whose kind is no
        chemical symbol are X, and masses are set only if the frames have them. Written by ASE itself, extended XYZ
        keeps 8 decimals, and ``.traj`` drops what is in ``atoms.arrays``: use :meth:`write`.

        Raises
        ------
        DataError
            If the frames hold variables or pair labels.
        """
        from . import atoms as _atoms

        frames: Any = self
        return _atoms.to_atoms(frames)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write to ``.npz`` (complete, see :meth:`save`), or to extended XYZ or ``.traj``, which lack pair labels.

        All are exact, state their units, and can be read by :meth:`read`; the last two by ASE, too.

        Raises
        ------
        DataError
            If the suffix is another, or the format cannot hold these frames.
        """
        from . import extxyz as _extxyz
        from . import traj as _traj

        frames: Any = self
        suffix = Path(path).suffix
        if suffix == ".npz":
            self.save(path)
        elif suffix in _IMAGES:
            (_extxyz.write_extxyz if _IMAGES[suffix] == "_extxyz" else _traj.write_traj)(frames, path)
        else:
            raise DataError(f"cannot write {suffix or 'a file without suffix'!r}; use .npz, .xyz, .extxyz or .traj")

    def write_npz(
        self,
        path: str | os.PathLike[str],
        layout: str,
        labels: Mapping[str, str] | None = None,
        *,
        units: str | Mapping[str, str],
        name: str = "kernelfe",
    ) -> None:
        """Write positions and labels in the layout of another program; see :meth:`read_npz`.

        Parameters
        ----------
        path
            The ``.npz`` file.
        layout
            ``"sgdml"``, ``"cgnet"``, ``"mlcg"`` or ``"chemtrain"``.
        labels
            Quantity key to the name of an array; None: ``mean_force`` as the forces.
        units
            Units to write in: energy and length.
        name
            Name of the data set (sGDML stores it).

        Raises
        ------
        DataError
            If the layout cannot hold these frames: variables, rows without the label, beads of no element (sGDML).
            Temperatures, noise, masses and bonds have no place in any of these layouts.
        """
        from . import layouts as _layouts

        frames: Any = self
        _layouts.write(frames, path, layout, labels, units, name)

    def save(self, path: str | os.PathLike[str], dtype: str = "float64") -> None:
        """Save to a npz archive, atomically and without pickle.

        Parameters
        ----------
        path
            Written under exactly this name.
        dtype
            ``"float32"`` halves the file at the price of rounding coordinates, fields and labels.
        """
        from .archive import save

        frames: Any = self
        save(frames, path, dtype)
