"""Checkpoints: named tensors in files that are whole or absent, and that belong to one problem.

A file is the container of :mod:`kernelfe.files.tensors`. It is written aside in the same folder, flushed to the disk
and moved into place, so that a process killed at any moment leaves old files as they were. Its header holds a
fingerprint of the problem, its checksum finds truncated or altered files: these, foreign ones and those of earlier
releases are named in a warning and not used.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DataError, ModelFileError
from ..files import tensors as container

logger = logging.getLogger(__name__)

CONTENT = container.Content("kernelfe-checkpoint", 2, "kernelfe checkpoint of this release", "remove it")


class Checkpoint:
    """Files of one problem in a folder.

    Parameters
    ----------
    folder
        Made if it does not exist.
    problem
        Fingerprint, hexadecimal: names the files, so that several problems share a folder.
    belongs
        Further fingerprint that files must carry to be accepted, for what is known only later.

    Raises
    ------
    DataError
        If the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike, problem: str, belongs: str = ""):
        self.folder, self.problem, self.belongs = Path(folder), problem, belongs
        self._prefix = f"kernelfe-{problem[:16]}-"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"checkpoint folder {folder}: {error.strerror}; choose another") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise DataError(f"checkpoint folder {folder} cannot be written to; choose another")

    def belonging(self, to: str) -> Checkpoint:
        """Files of the same problem that also belong to something else."""
        return Checkpoint(self.folder, self.problem, to)

    def path(self, name: str) -> Path:
        """The file of a name."""
        return self.folder / f"{self._prefix}{name}.ckpt"

    def write(self, name: str, tensors: dict[str, Tensor]) -> str:
        """Write tensors (float64), replacing the file of that name; returns its checksum."""
        for key, tensor in tensors.items():
            if tensor.dtype != torch.float64:
                raise DataError(f"checkpoint {name}: {key} is {tensor.dtype}, and must be float64")
        header = {"problem": self.problem, "belongs": self.belongs, "name": name, "tensors": list(tensors)}
        # a folder of its own, because safetensors leaves a temporary file of any name when it is killed
        aside = self.folder / f".{self._prefix}{name}-{secrets.token_hex(8)}.part"
        aside.mkdir()
        try:
            own = {key: _own(tensor) for key, tensor in tensors.items()}
            digest = container.write(aside / "file", header, own, CONTENT)
            os.replace(aside / "file", self.path(name))
            self._sync()
        finally:
            _discard(aside)
        return digest

    def read(self, name: str) -> tuple[dict[str, Tensor], str]:
        """Tensors of a name, and the checksum of the file.

        Raises
        ------
        ModelFileError
            If the file does not exist, is truncated or damaged, or belongs to something else.
        """
        found, digest = self._read(name)
        return {key: tensor.clone() for key, tensor in found.items()}, digest  # into aligned memory

    def names(self, beginning: str = "") -> list[str]:
        """Names of all files that can be used.

        Every file is read through. One that cannot be used is named in a warning; files that a killed process
        left half written are removed.
        """
        found = []
        for aside in self.folder.glob(f".{self._prefix}*"):
            _discard(aside)
        for path in sorted(self.folder.glob(f"{self._prefix}{beginning}*.ckpt")):
            name = path.name.removeprefix(self._prefix).removesuffix(".ckpt")
            try:
                self._read(name)
            except ModelFileError as error:
                logger.warning("%s", error)
                continue
            found.append(name)
        return found

    def remove(self, name: str) -> None:
        """Remove the file of a name, if it exists."""
        self.path(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all files of the problem, and the folder if it is then empty."""
        for path in (*self.folder.glob(f"{self._prefix}*.ckpt"), *self.folder.glob(f".{self._prefix}*")):
            _discard(path)
        with suppress(OSError):
            self.folder.rmdir()

    def _read(self, name: str) -> tuple[dict[str, Tensor], str]:
        """As :meth:`read`; the tensors are mapped from the file."""
        path = self.path(name)
        try:
            header, tensors = container.read(path, CONTENT)
            if (header.get("problem"), header.get("belongs")) != (self.problem, self.belongs):
                raise ModelFileError("it belongs to another fit: other labels, settings or hyperparameters")
            if header.get("name") != name:
                raise ModelFileError(f"it was written as {header.get('name')!r}")
            return {key: tensors[key] for key in header["tensors"]}, header["checksum"]
        except (ModelFileError, LookupError, TypeError) as error:
            raise ModelFileError(f"checkpoint file {path} is not used: {error}") from error

    def _sync(self) -> None:
        """Flush the names in the folder to the disk, where the system can do that."""
        with suppress(OSError):
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _own(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, contiguous and the only one in its storage, as safetensors needs it; copied if not so."""
    out = tensor.detach().cpu().contiguous()
    return out if out.untyped_storage().nbytes() == out.numel() * out.itemsize else out.clone()


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
