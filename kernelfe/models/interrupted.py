"""Sparse fits that can be interrupted: what identifies one, and where a second attempt starts.

The sums over the labels are kept by :func:`kernelfe.linalg.sum_chunks`. They mean something only together with the
hyperparameters, inducing environments and whitening they were taken with, which are therefore kept, too, and read
rather than found again: another number of threads would find them with other last digits.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelFileError
from ..linalg import Checkpoint, Processes
from ..specs import _plain
from .evidence import NoiseLevels
from .labels import LabelSet
from .prior import Prior
from .solvers import Iterative, Sparse
from .sparse import SparseBasis
from .states import States

logger = logging.getLogger(__name__)

#: Counts changes of what the files of a checkpoint mean.
FORMAT = 1
START = "start"
#: Largest deviation from whiteness of a stored whitening: it is of the kernel as it was, which may be a user's class.
WHITE = 1e-6


def fingerprint(
    solver: Sparse | Iterative,
    prior: Prior,
    labels: list[LabelSet],
    noise: NoiseLevels,
    rng: np.random.Generator,
    evidence: bool,
) -> str:
    """Digest of everything a fit is made from: labels, states, specs, settings and seed.

    Numbers that are derived from the labels (starting scales) are not in it.
    """
    digest = hashlib.blake2b(digest_size=32)
    mean = prior.mean
    header: dict[str, Any] = {
        "format": FORMAT,
        "solver": _settings(solver, evidence),
        "terms": [[term.spec, term.dimension] for term in prior.terms],
        "mean": None if mean is None else [mean.thermal, list(mean.parameters), len(mean.offset)],
        "noise": [noise.kinds, noise.reference, noise.exponent.requires_grad],
        "seed": rng.bit_generator.state,
        "evidence": evidence,
    }
    digest.update(json.dumps(header, default=_plainest, sort_keys=True).encode())
    for label in labels:
        digest.update(repr((label.noise_kind, label.kind)).encode())
        for tensor in (label.y, label.noise, label.relative, label.weight):
            _add(digest, tensor)
        for states in (label.states, label.minus):
            digest.update(b"-" if states is None else b"+")
            if states is not None:
                _add_states(digest, states)
    return digest.hexdigest()


def _settings(solver: Sparse | Iterative, evidence: bool) -> dict[str, Any]:
    """The settings that what is kept depends on.

    A solution of conjugate gradients is a start for any other tolerance or limit; how it is computed says nothing of
    what it is.
    """
    out = solver.to_dict()
    if isinstance(solver, Iterative):
        free = ["max_iterations", "cache_gigabytes", "precision", "device"]
        if not evidence or solver.evidence_rows is not None:  # with Lanczos, hyperparameters depend on these
            free += ["tolerance", "rank"]
        out = {name: value for name, value in out.items() if name not in free}
    return out


def _plainest(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, Tensor)) else _plain(value)


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
    """A few numbers by which processes notice that they were given other labels, shape (6 × kinds,)."""
    out = []
    for label in labels:
        x, y = label.states.coordinates, label.y
        order = torch.arange(1, len(y) + 1, dtype=y.dtype, device=y.device) / len(y)
        out += [float(len(y)), float(y.shape[1]), float((y * y).sum()), float(order @ (y * y).sum(1))]
        out += [float((x * x).sum()), float(order @ (x * x).flatten(1).sum(1))]
    return torch.tensor(out, dtype=torch.float64, device="cpu")


def hyperparameters(prior: Prior, noise: NoiseLevels) -> dict[str, Tensor]:
    """All numbers of a fit that the evidence may have changed, by name."""
    out = {f"prior.{name}": p.detach() for name, p in prior.named_parameters()}
    return out | {f"noise.{name}": p.detach() for name, p in noise.named_parameters()}


def share_hyperparameters(prior: Prior, noise: NoiseLevels, processes: Processes) -> None:
    """All processes go on with those of process 0: on unequal machines theirs differ in the last digits."""
    processes.broadcast(hyperparameters(prior, noise).values())


def start(basis: SparseBasis, noise: NoiseLevels) -> dict[str, Tensor]:
    """What the sums over the labels depend on, by name."""
    out = hyperparameters(basis.prior, noise)
    for t, z in enumerate(basis.inducing):
        out |= {f"inducing.{t}": z, f"whitening.{t}": basis.whitenings[t].matrix}
    return {name: tensor.double() for name, tensor in out.items()}


def started(
    found: dict[str, Tensor], prior: Prior, noise: NoiseLevels, gradients: bool, own: bool = False
) -> SparseBasis:
    """The basis of a :func:`start`; hyperparameters are set in place.

    Parameters
    ----------
    own
        Whether it was just made, and needs no test.

    Raises
    ------
    ModelFileError
        If it does not fit the model.
    """
    wanted = hyperparameters(prior, noise)
    terms = range(len(prior.terms))
    names = {*wanted, *(f"{what}.{t}" for what in ("inducing", "whitening") for t in terms)}
    if set(found) != names or any(found[name].shape != tensor.shape for name, tensor in wanted.items()):
        raise ModelFileError("it holds other hyperparameters than the model has")
    found = {name: tensor.to(prior.device) for name, tensor in found.items()}
    before = {name: tensor.clone() for name, tensor in wanted.items()}
    for name, tensor in wanted.items():
        tensor.copy_(found[name])
    whitening = [found[f"whitening.{t}"] for t in terms]
    with torch.no_grad():
        basis = SparseBasis(prior, [found[f"inducing.{t}"] for t in terms], gradients, whitening)
        for t in () if own else terms:
            jets, matrix = basis.jets[t], whitening[t]
            gram = prior.terms[t].kernel.gram(jets, jets).flatten(2).flatten(0, 1)
            fits = len(gram) == len(matrix)
            error = (
                (matrix.T @ gram @ matrix - torch.eye(matrix.shape[1]).to(gram)).abs().max()
                if fits and len(gram)
                else 0.0
            )
            if not fits or not float(error) < WHITE:
                for name, tensor in wanted.items():
                    tensor.copy_(before[name])
                raise ModelFileError(f"the kernel of term {t} is another one than it was")
    return basis


def resumed_basis(
    checkpoint: Checkpoint | None, prior: Prior, noise: NoiseLevels, gradients: bool, processes: Processes
) -> tuple[SparseBasis, str] | None:
    """Basis and digest of the start in a checkpoint, on every process; None where there is none that can be used."""
    if checkpoint is None:
        return None
    found: dict[str, Tensor] = {}
    digest = ""
    with processes.section("reading the checkpoint"):
        if processes.first and checkpoint.path(START).exists():
            try:
                found, digest = checkpoint.read(START)
                started(found, prior, noise, gradients)
            except ModelFileError as error:
                logger.warning("%s; the fit starts anew", error)
                found, digest = {}, ""
    digest = processes.gather_bytes(digest.encode())[0].decode()
    if not digest:
        return None
    if processes.first:
        logger.warning("going on from %s: hyperparameters and inducing environments are there", checkpoint.folder)
    return started(processes.give(found), prior, noise, gradients, own=True), digest
