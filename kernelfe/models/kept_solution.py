"""Exact fits that can be interrupted: hyperparameters and the present solution, in the files of a checkpoint.

Two files: the hyperparameters that the evidence has found, and the present x of (K + noise) x = y − prior mean, which
belongs to them. The next attempt reads the first instead of searching again and starts conjugate gradients at the
second. Any x is a start that leads to the same answer: what is lost with it is time alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import DataError, ModelFileError, SolverError
from ..linalg import Checkpoint, Processes, Step
from .evidence import NoiseLevels
from .interrupted import START, hyperparameters
from .prior import Prior

logger = logging.getLogger(__name__)

SOLUTION = "solution"
#: Seconds between two writes of the solution.
INTERVAL = 30.0


class KeptSolution:
    """What an iterative fit has reached, in files that a next attempt goes on from.

    Parameters
    ----------
    checkpoint
        The files of this fit.
    processes
        Who works on it; the first one reads and writes.
    interval
        Seconds between two writes.
    """

    def __init__(self, checkpoint: Checkpoint, processes: Processes, interval: float = INTERVAL):
        self.files, self.processes, self.interval = checkpoint, processes, interval
        self._step: Step | None = None
        self._written = time.perf_counter()

    # ------------------------------------------------------------------ hyperparameters

    def resume(self, prior: Prior, noise: NoiseLevels) -> float | None:
        """Set the hyperparameters of an earlier attempt, in place on the first process, and return its log evidence.

        None, on every process, where there is no earlier attempt.
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
                    logger.warning("going on from %s: hyperparameters are there", self.files.folder)
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
            logger.warning("%s; the fit starts anew", error)
            return {}, ""
        return found, digest

    # ------------------------------------------------------------------ the solution

    def first(self, like: Tensor) -> Tensor | None:
        """The solution that an earlier attempt reached, of the shape and device of ``like``; None without one.

        For the process that leads the solve, as all that follows.
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
            logger.warning("%s; the solve starts anew", error)
            return None
        count, residual = found["state"].tolist()
        logger.warning("going on from a residual of %.1e, reached in %d products", residual, count)
        return found["x"].to(like)

    def keep(self, step: Step) -> None:
        """Called at every iteration: write the solution if the last one written is old."""
        self._step = step
        if time.perf_counter() - self._written > self.interval:
            try:
                self.write()
            except (OSError, DataError) as error:  # a full disk need not end a solve
                self._written = time.perf_counter()
                logger.warning("the solution could not be kept, the solve goes on: %s", error)

    def write(self) -> str:
        """Write the present solution; returns a sentence that says so, empty if there is nothing to write."""
        step = self._step
        if step is None:
            return ""
        if not step.residual < 1.0 or not bool(torch.isfinite(step.value).all()):  # worse than to start from zero
            return ""
        state = torch.tensor([float(step.iteration), step.residual], dtype=torch.float64)
        self.files.write(SOLUTION, {"x": step.value.reshape(-1).double(), "state": state})
        self._written = time.perf_counter()
        said = f"the solution after {step.iteration} products (residual {step.residual:.1e}) is in {self.files.folder}"
        logger.info("%s", said)
        return said

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """A block in which the solution is written when it is left by an error or an interrupt.

        Raises
        ------
        KeyboardInterrupt, SolverError
            Those of the block, with a word on what was kept.
        """
        try:
            yield
        except BaseException as error:
            try:
                said = self.write()
            except (DataError, OSError) as failed:
                logger.error("the checkpoint could not be written: %s", failed)
                said = ""
            if said and isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"interrupted: {said}; the same fit goes on from there") from error
            if said and isinstance(error, SolverError):
                raise SolverError(
                    f"{error}. {said[0].upper()}{said[1:]}: the same fit with another max_iterations goes on from there"
                ) from error
            raise
