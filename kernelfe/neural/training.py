"""Training of one network: Adam on mini-batches, early stopping on the held-out log density, checkpoints.

The permutation of every epoch comes from (seed, epoch), and everything else from tensors in the checkpoint: a run that
was killed resumes to the same numbers, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import ModelFileError, SolverError
from ..runtime.checkpoint import Checkpoint
from .adam import Adam
from .likelihood import Group, NoiseModel
from .potential import Potential
from .specs import Training

logger = logging.getLogger(__name__)

#: States per evaluation of the held-out log density: memory only.
_AT_ONCE = 512
#: Noise levels move this much faster than weights: they are logarithms of scales, and start from crude guesses.
_NOISE_RATE = 3.0


@dataclass
class Record:
    """Course of a training.

    Attributes
    ----------
    held_out
        −log density per held-out label row, after every epoch (of the training rows if nothing is held out).
    best
        Epoch whose parameters were kept.
    stopped
        Reason for the end: "epochs", "patience" or "non-finite".
    seconds
        Time, of this process.
    """

    held_out: list[float] = field(default_factory=list)
    best: int = -1
    stopped: str = "epochs"
    seconds: float = 0.0


class Trainer:
    """One training.

    Parameters
    ----------
    model, noise
        What is trained, in place.
    groups
        The labels.
    masks
        For every group, which of its states are held out, (n,).
    spec
        Settings.
    seed
        Of this member.
    progress
        Whether to show a bar.
    name
        Of the bar and of the checkpoint.
    """

    def __init__(
        self,
        model: Potential,
        noise: NoiseModel,
        groups: list[Group],
        masks: list[np.ndarray],
        spec: Training,
        seed: int,
        progress: bool = False,
        name: str = "member0",
    ):
        self.model, self.noise, self.groups, self.spec, self.seed = model, noise, groups, spec, seed
        self.progress, self.name = progress, name
        self.train = [np.flatnonzero(~mask) for mask in masks]
        self.test = [torch.from_numpy(np.flatnonzero(mask)) for mask in masks]
        if not sum(map(len, self.test)):
            self.test = [torch.from_numpy(index) for index in self.train]
        self.batches = max(1, math.ceil(max(map(len, self.train)) / spec.batch))
        self.rows = sum(g.rows(torch.from_numpy(index)) for g, index in zip(groups, self.train, strict=True))
        self.weights = list(model.network.parameters())
        self.named = [*model.named_parameters(prefix="model"), *noise.named_parameters(prefix="noise")]
        factors = [_NOISE_RATE if name.startswith("noise.") else 1.0 for name, _ in self.named]
        self.optimizer = Adam([p for _, p in self.named], factors)
        self.best = {name: p.detach().clone() for name, p in self.named}
        self.record, self.epoch, self.rate, self.waited = Record(), 0, spec.rate, 0

    # ------------------------------------------------------------------ the loop

    def run(self) -> Record:
        """Train; afterwards the model holds the parameters of the best epoch.

        Raises
        ------
        SolverError
            If the loss is not finite before any epoch was completed.
        """
        begin, checkpoint = time.perf_counter(), self._checkpoint()
        written = begin
        with tqdm(
            total=self.spec.epochs, initial=self.epoch, desc=self.name, unit="epoch", disable=not self.progress
        ) as bar:
            while self.epoch < self.spec.epochs and self.record.stopped == "epochs":
                if not self._epoch():
                    self.record.stopped = "non-finite"
                    break
                self.epoch += 1
                self._judge()
                bar.update()
                bar.set_postfix_str(f"held out {self.record.held_out[-1]:.4f}", refresh=False)
                last = self.epoch == self.spec.epochs or self.record.stopped != "epochs"
                if checkpoint and (last or time.perf_counter() - written >= self.spec.checkpoint_seconds):
                    checkpoint.write(self.name, self._state())
                    written = time.perf_counter()
        if self.record.best < 0:
            raise SolverError(
                f"training {self.name}: the loss or its gradient is not finite in the first epoch. Check the labels "
                f"for outliers and coinciding beads, or lower the learning rate {self.spec.rate:g} (Training(rate=…))"
            )
        if self.record.stopped == "non-finite":
            logger.warning(
                "training %s: the loss or its gradient is not finite in epoch %d; the parameters of epoch %d are kept",
                self.name,
                self.epoch + 1,
                self.record.best + 1,
            )
        self._restore(self.best)
        self.record.seconds = time.perf_counter() - begin
        return self.record

    def _epoch(self) -> bool:
        """One pass through the data; False if a loss or gradient is not finite, before it changes any parameter."""
        rng = np.random.default_rng([self.seed, self.epoch])
        parts = [np.array_split(rng.permutation(index), self.batches) for index in self.train]
        for b in range(self.batches):
            loss = torch.zeros((), dtype=torch.float64)
            for group, part in zip(self.groups, parts, strict=True):
                if len(part[b]):
                    loss = loss + group.loss(self.model, self.noise, torch.from_numpy(part[b]))
            prior = 0.5 * self.spec.weight_decay * sum(w.square().sum() for w in self.weights)
            loss = (loss * self.batches + prior) / self.rows
            gradient = self.optimizer.gradient(loss)
            if not bool(torch.isfinite(loss)) or not bool(torch.isfinite(gradient).all()):
                return False
            self.optimizer.step(gradient, self._rate(self.epoch + b / self.batches))
        return True

    def _rate(self, epoch: float) -> float:
        if self.spec.schedule == "plateau":
            return self.rate
        half = 0.5 * (1.0 + math.cos(math.pi * min(1.0, epoch / self.spec.epochs)))
        return self.spec.rate * (self.spec.final + (1.0 - self.spec.final) * half)

    def _judge(self) -> None:
        """Held-out log density; keep the best parameters, and decide whether to stop."""
        total, rows = 0.0, 0
        for group, index in zip(self.groups, self.test, strict=True):
            for part in index.split(_AT_ONCE):
                total += float(group.loss(self.model, self.noise, part, graph=False).detach())
                rows += group.rows(part)
        value, record = total / max(rows, 1), self.record
        record.held_out.append(value)
        if math.isfinite(value) and (record.best < 0 or value < record.held_out[record.best]):
            record.best, self.waited = len(record.held_out) - 1, 0
            self.best = {name: p.detach().clone() for name, p in self.named}
            return
        self.waited += 1
        step = max(1, self.spec.patience // 3)
        if self.spec.schedule == "plateau" and self.waited % step == 0:
            self.rate = max(0.5 * self.rate, self.spec.final * self.spec.rate)
        if self.waited >= self.spec.patience:
            record.stopped = "patience"

    def _restore(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self.named:
                p.copy_(values[name])

    # ------------------------------------------------------------------ checkpoints

    def _checkpoint(self) -> Checkpoint | None:
        """The folder of checkpoints, with the state of an earlier run of the same training taken up."""
        if self.spec.checkpoint is None:
            return None
        folder = Checkpoint(self.spec.checkpoint, self._fingerprint())
        if self.name in folder.names():
            self._resume(folder.read(self.name)[0])
            logger.info("training %s resumes after epoch %d", self.name, self.epoch)
        return folder

    def _fingerprint(self) -> str:
        """Names the problem: data, settings that matter, starting parameters."""
        settings = self.spec.to_dict() | {"checkpoint": None, "checkpoint_seconds": None, "seed": self.seed}
        digest = hashlib.sha256(json.dumps([settings, self.name], sort_keys=True).encode())
        tensors = [*self.model.state_dict().values(), *self.noise.state_dict().values()]
        for group, index in zip(self.groups, self.train, strict=True):
            tensors += [torch.from_numpy(index), group.labels[0].states.coordinates, group.labels[0].states.temperature]
            for label in group.labels:
                digest.update(repr(label.functional).encode())
                tensors += [label.y, *label.noise.tensors().values()]
        for tensor in tensors:
            digest.update(np.ascontiguousarray(tensor.detach().numpy()).tobytes())
        return digest.hexdigest()

    def _state(self) -> dict[str, Tensor]:
        """Everything that the next epoch depends on, as float64 tensors."""
        out = {f"now.{name}": p.detach() for name, p in self.named}
        out |= {f"best.{name}": value for name, value in self.best.items()}
        out |= {"adam.first": self.optimizer.first, "adam.second": self.optimizer.second}
        stopped = float(["epochs", "patience"].index(self.record.stopped))
        counts = (self.epoch, self.optimizer.steps, self.waited, self.record.best)
        numbers = [*map(float, counts), self.rate, stopped]
        out["numbers"] = torch.tensor(numbers, dtype=torch.float64)
        out["held_out"] = torch.tensor(self.record.held_out, dtype=torch.float64)
        return out

    def _resume(self, state: dict[str, Tensor]) -> None:
        try:
            self._restore({name: state[f"now.{name}"] for name, _ in self.named})
            self.best = {name: state[f"best.{name}"] for name, _ in self.named}
            self.optimizer.first, self.optimizer.second = state["adam.first"], state["adam.second"]
            epoch, steps, waited, best, self.rate, stopped = state["numbers"].tolist()
            self.record.held_out = state["held_out"].tolist()
        except (LookupError, ValueError, RuntimeError) as error:
            raise ModelFileError(f"the checkpoint of {self.name} is inconsistent ({error}): remove it") from error
        self.epoch, self.waited, self.record.best = int(epoch), int(waited), int(best)
        self.optimizer.steps, self.record.stopped = int(steps), ["epochs", "patience"][int(stopped)]
