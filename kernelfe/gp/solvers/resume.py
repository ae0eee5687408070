"""Checkpoints of interrupted fits: the fingerprint of a fit, and the solution of an iterative one.

Sums of a sparse fit over the labels are kept by :func:`kernelfe.runtime.sums.sum_chunks`. They are valid only with the
hyperparameters, inducing environments and whitening that they were computed with. These are therefore stored as well,
and read rather than computed again: another number of threads would give other last digits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, ModelFileError, SolverError
from ...linalg import Step
from ...runtime.checkpoint import Checkpoint
from ...runtime.processes import Processes
from ...specs import to_plain
from ..observations.labels import LabelSet
from ..observations.levels import NoiseLevels, hyperparameters
from ..observations.noise_models import TENSORS
from ..prior.prior import Prior
from ..states import States

logger = logging.getLogger(__name__)

#: Version of the files of a checkpoint: raised when what they mean changes.
FORMAT = 1
START = "start"


def fingerprint(
    settings: dict[str, Any],
    prior: Prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    rng: np.random.Generator,
    evidence: bool,
) -> str:
    """Digest of everything a fit is made from: labels, states, specs, settings and seed.

    Numbers that are derived from the labels (starting scales) are not in it.

    Parameters
    ----------
    settings
        The settings of the solver that the content of the checkpoint depends on.
    """
    digest = hashlib.blake2b(digest_size=32)
    mean = prior.mean
    header: dict[str, Any] = {
        "format": FORMAT,
        "solver": settings,
        "terms": [[term.spec, term.dimension] for term in prior.terms],
        "mean": None if mean is None else [mean.thermal, list(mean.parameters), len(mean.offset)],
        "noise": [noise.kinds, noise.reference, noise.exponent.requires_grad],
        "seed": rng.bit_generator.state,
        "evidence": evidence,
    }
    digest.update(json.dumps(header, default=_plainest, sort_keys=True).encode())
    for label in labels:
        digest.update(repr((label.noise_kind, label.kind)).encode())
        described = label.noise.tensors()
        for tensor in (label.y, *(described.get(name) for name in TENSORS)):
            _add(digest, tensor)
        for states in (label.states, None if label.minus is None else label.minus.states):
            digest.update(b"-" if states is None else b"+")
            if states is not None:
                _add_states(digest, states)
    return digest.hexdigest()


def _plainest(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, Tensor)) else to_plain(value)


def _add(digest, tensor: Tensor | None) -> None:
    if tensor is None:
        digest.update(b"none")
        return
    digest.update(repr((str(tensor.dtype), tuple(tensor.shape))).encode())
    digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))


def _add_states(digest, states: States) -> None:
    digest.update(repr((sorted(states.parameters), states.molecule)).encode())
    for tensor in (states.coordinates, states.temperature, states.counts, states.fields, states.cell):
        _add(digest, tensor)
    for name in sorted(states.parameters):
        _add(digest, states.parameters[name])


def sketch(labels: list[LabelSet]) -> Tensor:
    """A few numbers that differ between processes with different labels, shape (6 × kinds,)."""
    out = []
    for label in labels:
        x, y = label.states.coordinates, label.y
        order = torch.arange(1, len(y) + 1, dtype=y.dtype, device=y.device) / len(y)
        out += [float(len(y)), float(y.shape[1]), float((y * y).sum()), float(order @ (y * y).sum(1))]
        out += [float((x * x).sum()), float(order @ (x * x).flatten(1).sum(1))]
    return torch.tensor(out, dtype=torch.float64, device="cpu")


SOLUTION = "solution"


class KeptSolution:
    """Hyperparameters and solution of an iterative fit, in a checkpoint from which a later run resumes.

    Parameters
    ----------
    checkpoint
        The files of this fit.
    processes
        The processes of the fit; process 0 reads and writes.
    interval
        Seconds between two writes.
    """

    def __init__(self, checkpoint: Checkpoint, processes: Processes, interval: float = 30.0):
        self.files, self.processes, self.interval = checkpoint, processes, interval
        self._step: Step | None = None
        self._written = time.perf_counter()

    # ------------------------------------------------------------------ hyperparameters

    def resume(self, prior: Prior, noise: NoiseLevels) -> float | None:
        """Set the hyperparameters of an earlier attempt, in place on the first process, and return its log evidence.

        Returns None on every process without an earlier attempt.
        """
        value = b""
        with self.processes.section("reading the checkpoint"):
            if self.processes.first:
                wanted = hyperparameters(prior, noise)
                found, digest = self._start(wanted)
                if found:
                    with torch.no_grad():
                        for name, tensor in wanted.items():
                            tensor.copy_(found[name])
                    self.files = self.files.belonging(digest)
                    value = repr(float(found["log_evidence"])).encode()
                    logger.warning("resuming from %s (hyperparameters found)", self.files.folder)
        value = self.processes.gather_bytes(value)[0]
        return float(value) if value else None

    def begin(self, prior: Prior, noise: NoiseLevels, log_evidence: float) -> None:
        """Keep the hyperparameters with which the labels are to be conditioned on."""
        with self.processes.section("writing the checkpoint"):
            if self.processes.first:
                numbers = {name: tensor.double() for name, tensor in hyperparameters(prior, noise).items()}
                numbers["log_evidence"] = torch.tensor(log_evidence, dtype=torch.float64)
                self.files = self.files.belonging(self.files.write(START, numbers))

    def _start(self, wanted: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        if not self.files.path(START).exists():
            others = {path.name.split("-")[1] for path in self.files.folder.glob("kernelfe-*-*.ckpt")}
            if others:
                logger.warning(
                    "the checkpoint folder %s holds %d other fit(s), of other labels, settings or seeds: not used",
                    self.files.folder,
                    len(others),
                )
            return {}, ""
        try:
            found, digest = self.files.read(START)
            shapes = {name: tensor.shape for name, tensor in wanted.items()} | {"log_evidence": torch.Size()}
            if {name: tensor.shape for name, tensor in found.items()} != shapes:
                raise ModelFileError(f"{self.files.path(START)} holds other hyperparameters than the model has")
            if not all(bool(torch.isfinite(found[name]).all()) for name in wanted):
                raise ModelFileError(f"{self.files.path(START)} holds hyperparameters that are not finite")
        except ModelFileError as error:
            logger.warning("%s; the fit starts from the beginning", error)
            return {}, ""
        return found, digest

    # ------------------------------------------------------------------ the solution

    def first(self, like: Tensor) -> Tensor | None:
        """The solution of an earlier attempt, with the shape and device of ``like``; None without one.

        For the process that leads the solve, like all methods below.
        """
        if not self.files.path(SOLUTION).exists():
            return None
        try:
            found, _ = self.files.read(SOLUTION)
            if set(found) != {"x", "state"} or found["x"].shape != like.shape or found["state"].shape != (2,):
                raise ModelFileError(f"{self.files.path(SOLUTION)} is of another number of labels")
            if not bool(torch.isfinite(found["x"]).all()):
                raise ModelFileError(f"{self.files.path(SOLUTION)} holds a solution that is not finite")
        except ModelFileError as error:
            logger.warning("%s; the solve starts from the beginning", error)
            return None
        count, residual = found["state"].tolist()
        logger.warning("resuming from a residual of %.1e, reached in %d products", residual, count)
        return found["x"].to(like)

    def keep(self, step: Step) -> None:
        """Called at every iteration: write the solution if the last one written is old."""
        self._step = step
        if time.perf_counter() - self._written > self.interval:
            try:
                self.write()
            except (OSError, DataError) as error:  # a full disk does not end a solve
                self._written = time.perf_counter()
                logger.warning("the solution could not be written, the solve continues: %s", error)

    def write(self) -> str:
        """Write the present solution; returns a sentence for the log, empty if there is nothing to write."""
        step = self._step
        if step is None:
            return ""
        if not step.residual < 1.0 or not bool(torch.isfinite(step.value).all()):  # worse than to start from zero
            return ""
        state = torch.tensor([float(step.iteration), step.residual], dtype=torch.float64)
        self.files.write(SOLUTION, {"x": step.value.reshape(-1).double(), "state": state})
        self._written = time.perf_counter()
        note = f"the solution after {step.iteration} products (residual {step.residual:.1e}) is in {self.files.folder}"
        logger.info("%s", note)
        return note

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """A block in which the solution is written when it is left by an error or an interrupt.

        Raises
        ------
        KeyboardInterrupt, SolverError
            Those of the block, with a note on the files that were written.
        """
        try:
            yield
        except BaseException as error:
            try:
                note = self.write()
            except (DataError, OSError) as failed:
                logger.error("the checkpoint could not be written: %s", failed)
                note = ""
            if note and isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"interrupted: {note}; the same fit resumes from there") from error
            if note and isinstance(error, SolverError):
                raise SolverError(
                    f"{error}. {note[0].upper()}{note[1:]}: the same fit with another max_iterations resumes from there"
                ) from error
            raise
