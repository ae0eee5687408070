"""Frames from and to files and ASE Atoms: the part of Frames that chooses a format, each in a module of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from ...errors import DataError, UnitsError, require
from ...files.npz import MAX_BYTES
from ...files.text import first_bytes, plain_suffix
from ...units import resolve
from ..arrays import FrameArrays
from . import archive, extxyz, layouts, traj
from . import atoms as _atoms

if TYPE_CHECKING:
    from ase import Atoms

#: Formats by suffix, compressed or not.
_FORMATS = {".npz": "npz", ".xyz": "extxyz", ".extxyz": "extxyz", ".traj": "traj"}
#: Readers of files that hold one Atoms per frame.
_READERS: dict[str, Callable[..., tuple[list, str | None]]] = {"extxyz": extxyz.read_extxyz, "traj": traj.read_traj}
_WRITERS: dict[str, Callable[[FrameArrays, str | os.PathLike[str]], None]] = {
    ".xyz": extxyz.write_extxyz,
    ".extxyz": extxyz.write_extxyz,
    ".traj": traj.write_traj,
}


def read_images(
    path: str | os.PathLike[str], form: str | None = None, first: bool = False
) -> tuple[list, str | None] | None:
    """Atoms of an extended-XYZ or ``.traj`` file and the units they state; None for ``.npz``.

    Parameters
    ----------
    path
        The file.
    form
        ``"extxyz"``, ``"traj"`` or ``"npz"``; None: by suffix, else by the first bytes.
    first
        Read the first frame only.

    Raises
    ------
    DataError
        If the format is unknown, and as the readers raise.
    """
    path = Path(path)
    known = ", ".join(dict.fromkeys(_FORMATS.values()))
    require(form is None or form in _FORMATS.values(), f"unknown format={form!r}; known: {known}")
    if form is None:
        start = first_bytes(path) if path.is_file() else b""
        form = _FORMATS.get(plain_suffix(path)) or ("traj" if start.startswith((b"- of Ulm", b"AFFormat")) else None)
    if form is None:
        raise DataError(
            f"cannot read {path.suffix or 'a file without suffix'!r}; pass format= ({known}) if it is one of these, "
            f"read an all-atom trajectory with kernelfe.allatom.Trajectory, or {path.name} with ase.io.read, and pass "
            "Atoms to Frames.from_atoms; mind the units that the reader returns"
        )
    return _READERS[form](path, first=first) if form in _READERS else None


class FrameFiles(FrameArrays):
    """Reading and writing of :class:`kernelfe.Frames`."""

    @classmethod
    def from_atoms(
        cls,
        images: Atoms | Iterable[Atoms],
        labels: Mapping[str, str] | None = None,
        *,
        units: str | Mapping[str, str] | None = None,
        **options: Unpack[_atoms.AtomOptions],
    ) -> Self:
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
        **options
            ``temperature``: a number, (n,), or a key of ``atoms.info``; default: the key ``temperature``.
            ``noise``, ``displacements``, ``parameters``: as in :meth:`from_arrays`, or strings naming keys of the
            Atoms. ``kinds``: bead names; default: the array ``bead_kind`` if there is one, else the chemical symbols.
            ``masses``: default: those set explicitly on the Atoms, because the default masses of elements are not
            bead masses. ``bonds``: pairs of bonded beads.

        Raises
        ------
        DataError
            If frames hold different molecules, or a named key is in no frame, and as in :meth:`from_arrays`.
        """
        build: Any = cls
        return build.from_arrays(units=units, **_atoms.arrays_of(images, labels, options))

    @classmethod
    def read(
        cls,
        path: Any,
        labels: Mapping[str, str] | None = None,
        *,
        units: str | Mapping[str, str] | None = None,
        layout: str | None = None,
        format: str | None = None,
        **options: Any,
    ) -> Self:
        """Frames from an extended-XYZ or ``.traj`` file of ASE, or from a ``.npz`` file.

        Parameters
        ----------
        path
            ``.xyz`` or ``.extxyz``, also compressed (``.gz``, ``.bz2``, ``.xz``), or ``.traj``; other formats: read
            them with ASE and use :meth:`from_atoms`. ``.npz``: as written by :meth:`save`, or in one of the layouts of
            :meth:`read_npz`. With ``layout``, whatever :meth:`read_npz` takes.
        units
            Required, unless the file was written by kernelfe and states them.
        layout
            Of the arrays of another program; then as :meth:`read_npz`.
        format
            ``"extxyz"``, ``"traj"`` or ``"npz"``. None: by the suffix.
        labels, **options
            As in :meth:`from_atoms`.

        Raises
        ------
        UnitsError
            If neither the file nor ``units`` states the units, or both do and differ.
        DataError
            As in :meth:`from_atoms`, and if the file is damaged or declares more than it can hold.
        """
        if layout is not None:
            return cls.read_npz(path, layout, labels, units=units, **options)
        single = isinstance(path, (str, os.PathLike)) and Path(path).suffix.lower() != ".npy"
        require(
            single,
            f"{path} holds single arrays: name those of positions and forces and their layout=, for example "
            "Frames.read(('coords.npy', 'forces.npy'), layout='cgnet', units='charmm')",
        )
        path = Path(path)
        found = read_images(path, format)
        if found is None:
            require(
                units is None and labels is None and not options,
                "a .npz file of Frames.save is in internal units and complete; leave out units= and all other "
                "options, or pass layout= if it is the file of another program",
                UnitsError,
            )
            return cls.load(path)
        images, stated = found
        require(
            stated is not None or units is not None,
            f"{path.name} does not state its units; pass units=, for example "
            "units={'energy': 'kJ/mol', 'length': 'nm'} or units='ase'",
            UnitsError,
        )
        require(
            stated is None or units is None or resolve(units) == resolve(stated),
            f"{path.name} states its units ({stated}), which differ from units=; leave it out",
            UnitsError,
        )
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
    ) -> Self:
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
            A ``.npz`` file; or a dict of array name to ``.npy`` file, as cgnet, mlcg and chemtrain keep them; or the
            two ``.npy`` files of positions and forces; or, for mlcg, a ``.h5`` file together with
            ``molecule="GROUP/NAME"``.
        layout
            A name of the table.
        labels
            Quantity key to the name of an array. None: the forces as ``mean_force``, and no energies, because a file
            does not say whether they are a ``mean_energy`` or a ``free_energy``.
        units
            Units of the numbers, required where the file does not state them.
        **options
            ``temperature``, ``kinds``, ``masses``, ``bonds``, ``noise``, ``parameters`` of :meth:`from_arrays`;
            ``fractional=True``: positions in units of the box (chemtrain); ``False``: they are lengths, though they
            look like fractions; ``molecule`` (mlcg); ``max_bytes``.

        Raises
        ------
        UnitsError
            If neither the file nor ``units`` states the units, or both do and differ.
        DataError
            If an array is missing or misshapen, or positions look like fractions of the cell and ``fractional`` does
            not say so, and as in :meth:`from_arrays`.
        ModelFileError
            If a file is damaged, too large, or holds pickled objects.
        """
        build: Any = cls
        return build.from_arrays(**layouts.read(path, layout, labels, units, options))

    @classmethod
    def load(cls, path: Any, max_bytes: int = MAX_BYTES) -> Self:
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
            If the file is not such an archive, of a later version, or inconsistent.
        """
        build: Any = cls
        arguments, pairs = archive.load(path, max_bytes)
        with archive.consistent(path):
            frames = build.from_arrays(**arguments)
            if pairs is not None:
                frames.add_pair_labels(**pairs)
        return frames

    # ------------------------------------------------------------------ writing

    def to_atoms(self) -> list[Atoms]:
        """One ASE Atoms per frame, in ASE's units, from which :meth:`from_atoms` builds the same Frames.

        Labels, their noise, bead kinds and everything else are in ``atoms.arrays`` and ``atoms.info`` under the keys
        that the files of :meth:`write` have; ``atoms.info["kernelfe_units"]`` is ``"ase"``. Beads whose kind is not
        a chemical symbol are X, and masses are set only if the frames have them. Written by ASE itself, extended XYZ
        keeps 8 decimals, and ``.traj`` drops what is in ``atoms.arrays``: use :meth:`write`.

        Raises
        ------
        DataError
            If the frames hold variables or pair labels.
        """
        return _atoms.to_atoms(self)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write to ``.npz`` (complete, see :meth:`save`), or to extended XYZ or ``.traj``, which lack pair labels.

        All are exact, state their units, and can be read by :meth:`read`; the last two also by ASE.

        Raises
        ------
        DataError
            If the suffix is another, or the format cannot hold these frames.
        """
        suffix = Path(path).suffix.lower()
        if suffix == ".npz":
            self.save(path)
        elif suffix in _WRITERS:
            _WRITERS[suffix](self, path)
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
            If the layout cannot hold these frames: variables, rows without the label, beads that are not elements
            (sGDML), or the name does not end in ``.npz``. Temperatures, noise, masses and bonds have no place in any of
            these layouts.
        """
        _require_npz(path)
        layouts.write(self, path, layout, labels, units, name)

    def save(self, path: str | os.PathLike[str], dtype: str = "float64") -> None:
        """Save to a npz archive, atomically and without pickle.

        Parameters
        ----------
        path
            Written under exactly this name, which ends in ``.npz``; :meth:`write` knows other formats.
        dtype
            ``"float32"`` halves the file at the price of rounding coordinates, fields and labels.

        Raises
        ------
        DataError
            If the name ends otherwise, or cannot be written.
        """
        _require_npz(path)
        archive.save(self, path, dtype)


def _require_npz(path: str | os.PathLike[str]) -> None:
    """An archive has the suffix by which it is read again; a file of another name would look like another format."""
    suffix = Path(path).suffix
    require(
        suffix.lower() == ".npz" or Path(path).is_dir(),  # folders have an error of their own
        f"cannot write a npz archive as {str(path)!r}: end the name in .npz"
        + (", or use Frames.write" if suffix.lower() in _WRITERS else ""),
    )
