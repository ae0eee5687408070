"""One fit: from training data to the fitted free energy."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from ..frames.virial import warn_of_forces
from ..runtime.devices import device_of
from ..runtime.processes import Processes, launched
from ..runtime.seeds import generator
from ..runtime.threads import one_thread
from ..specs import Real, checked
from . import handedness as hands
from .conditioning import condition_in_turn, natural_levels
from .default_terms import default_terms, same_beads
from .degrees import warn_of_degrees
from .fitted.domain import Domain
from .fitted.model import FreeEnergy, Noise, Provenance
from .fitted.residuals import warn_of_structure
from .liquids import is_liquid, liquid_terms
from .observations.labels import LabelSet
from .observations.levels import NoiseLevels
from .observations.molecules import MoleculeSet
from .observations.noise import CorrelatedNoise
from .prior.prior import Prior
from .shared_baseline import fit_baseline
from .solvers.base import Run
from .solvers.specs import choose_solver
from .solvers.weights import linear
from .starting import build_prior, named_terms, sums_of_splines

logger = logging.getLogger(__name__)


@one_thread()
def fitted_model(estimator, data: MoleculeSet) -> FreeEnergy:
    """Fit the free energy that an estimator describes.

    In this order: baseline, labels without it, solver, terms with their starting numbers, hyperparameters by the
    evidence, posterior.

    Parameters
    ----------
    estimator
        The :class:`~kernelfe.FreeEnergyRegressor`; its parameters are read, it is not changed.
    data
        The training data.
    """
    if estimator.optimizer not in ("evidence", None):
        raise DataError(f"optimizer={estimator.optimizer!r}: use 'evidence' or None")
    temperature = checked("temperature", estimator.temperature, Real(above=0.0), type(estimator).__name__)
    for part in data.sound:
        warn_of_forces(part)
    given = liquid_terms(data.parts) if estimator.terms is None and is_liquid(data) else estimator.terms
    baseline = fit_baseline(estimator.baseline, data, core=sums_of_splines(given))
    labels = data.labels(estimator.labels, estimator.noise, baseline)
    # copies, since specs can be changed by set_params after the fit
    terms, handedness = _terms(given, data, baseline, own=estimator.terms is not None)
    names, prior, noise_start, reference = build_prior(terms, data, labels)
    rows = sum(len(label) for label in labels)
    solver, reason = choose_solver(
        deepcopy(estimator.solver), rows, linear(prior), lambda: _environment_rows(prior, labels)
    )
    logger.info("%s solver: %s", type(solver).__name__, reason)
    for part in data.parts:
        warn_of_degrees([(name, term.spec) for name, term in zip(names, prior.terms, strict=True)], part.coordinates)
    temperatures = np.unique(data.temperature)
    noise = NoiseLevels(noise_start, reference, exponent=len(temperatures) > 1)
    # check the GPU before joining the process group, so that a missing one fails at once
    spec = estimator.noise if isinstance(estimator.noise, CorrelatedNoise) else None
    if device_of(solver).type != "cpu" and spec is not None:
        raise DataError(
            "CorrelatedNoise is estimated on the CPU: use device='cpu', or give noise= by label kind or None"
        )
    evidence = estimator.optimizer == "evidence"
    automatic = isinstance(estimator.solver, str) and estimator.solver == "auto"
    # under torchrun, processes share the work of a large fit; a dense one each does for itself
    with launched(device=solver.device) if solver.shared else nullcontext(Processes()) as processes:
        device = device_of(solver)
        prior, noise, labels = prior.to(device), noise.to(device), [label.to(device) for label in labels]
        rng = generator(estimator.random_state, solver, processes)
        run = Run(rng, evidence, bool(estimator.progress), automatic)
        found = condition_in_turn(spec, solver, prior, labels, noise, run)
    posterior = found.posterior
    model = FreeEnergy(
        posterior=posterior,
        names=tuple(names),
        molecules=data.fitted(labels),
        baseline=baseline,
        noise=Noise(natural_levels(found), noise.reference, found.levels.values(), found.noise),
        provenance=Provenance(
            solver.settled(posterior),
            reason + posterior.remark(),
            tuple(float(t) for t in temperatures),
            handedness=handedness,
        ),
        parameters=tuple(sorted(data.parameters)),
        # sums over a box tell little of single pairs, and scatter beyond the extremes of few frames
        domain=Domain.of(list(prior.terms), data.sound[0]) if data.single and not linear(prior) else None,
        temperature=float(temperature),
    )
    if evidence and data.single and "mean_force" in model.noise.levels and processes.size == 1:
        warn_of_structure(model, data.sound[0])
    return model


def _terms(given, data: MoleculeSet, baseline, own: bool) -> tuple[Any, str]:
    """The terms of a fit, those given or the default ones, and a sentence on the handedness of the data."""
    alike = not own and (given is not None or not same_beads(data))  # terms by kinds
    found = [
        hands.examined(part, molecule, baseline, alike)
        for part, molecule in zip(data.sound, data.molecules, strict=True)
    ]
    terms = default_terms(data, found) if given is None else deepcopy(given)
    text = hands.statement(found, data, named_terms(terms), own=own)
    logger.info("handedness: %s", text)
    return terms, text


def _environment_rows(prior: Prior, labels: list[LabelSet]) -> int:
    """Rows of the environments that all labels read, counted in the first frame of each set of labels."""
    total = 0
    for label in labels:
        read = label.subset(torch.tensor([0])).rows(prior).terms
        total += len(label.y) * sum(len(x.jets) * x.jets.rows for term in read for x in term)
    return total
