"""Contract check of solvers: one call for a solver of your own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from ..frames import Frames
from ..gp import Dense, FreeEnergyRegressor, Query, condition, enforce_concavity, load, pathwise_draws
from ..gp.prior.term import Term
from ..gp.solvers.base import Solver
from ..kernels import RBF, SecondOrder
from ._common import check_spec, close

#: Quantities that are compared.
_QUANTITIES = ("free_energy", "mean_energy", "mean_force", "heat_capacity")
_MIDDLE = 350.0
#: Draws of the check, features of a draw, and the largest error of a standard deviation from that many.
_DRAWS, _FEATURES, _SPREAD = 1000, 1000, 0.2


def check_solver(solver: Any, configurations: int = 10, tolerance: float = 1e-6) -> None:
    """Check everything that a fitted model uses of a solver and its posterior, against :class:`~kernelfe.Dense`.

    Spec and parameters, means and error bars, joint predictions, hyperparameters, more labels, C ≥ 0, draws, and model
    files. The labels are values at a few configurations, at which an approximation by inducing values is exact.

    Parameters
    ----------
    solver
        An instance of a :class:`~kernelfe.gp.solvers.base.Solver`.
    configurations
        Different configurations of the labels.
    tolerance
        Largest deviation from the exact answer, in units of the largest number compared.

    Raises
    ------
    AssertionError
        If a part of the contract is broken.
    """
    name = type(solver).__name__
    check_spec(solver, ())
    assert isinstance(solver, Solver), f"{name} must derive from kernelfe.gp.solvers.base.Solver"
    assert clone(solver, safe=False) == solver, f"{name}: scikit-learn's clone gives another {name}"
    frames = _frames(configurations)
    model, exact = (_model(s).fit(frames) for s in (solver, Dense()))
    kind = type(model.posterior_)
    assert type(model.solver_) is type(solver), f"{name}: the fit used another solver, {model.solver_!r}"

    def same(found: Any, wanted: Any, what: str) -> None:
        assert type(found.posterior_) is kind, f"{name}: {what} gives a {type(found.posterior_).__name__}"
        _compare(found, wanted, tolerance, f"{name}: {what}")

    same(model, exact, "the fit")
    query = [Query(_test(), "free_energy"), 2.0 * Query(_test(), "entropy", 310.0)]
    _close(model.joint(*query).covariance, exact.joint(*query).covariance, tolerance, f"{name}: joint covariance")
    _check_hyperparameters(solver, frames, name)
    later = frames.replace(temperature=np.full(len(frames), 420.0))
    same(condition(model, later), condition(exact, later), "conditioning on more labels")
    concave = None
    for estimate in ("mode", "mean"):
        concave, wanted = (enforce_concavity(m, _points(configurations), estimate=estimate) for m in (model, exact))
        same(concave, wanted, f"enforce_concavity with estimate={estimate!r}")
        lowest = concave.predict(_points(configurations), "heat_capacity").min()
        assert lowest >= -1e-9, f"{name}: enforce_concavity leaves C = {lowest:.1e}"
        assert concave.log_evidence_ == model.log_evidence_ or np.isnan(model.log_evidence_), f"{name}: log evidence"
    _check_draws(model, exact, name)
    for what, one in (("model", model), ("concave model", concave)):
        _check_file(one, solver, f"{name}: the {what} of a file", same)


def _frames(configurations: int) -> Frames:
    """Energies at two temperatures; the heat capacity that they show is negative at a part of the configurations."""
    x = np.repeat(_places(configurations), 2, 0)
    t = np.tile([300.0, 400.0], configurations)
    energy = 0.2 * np.sin(1.3 * x[:, 0]) + 0.1 * x[:, 1] + 2e-4 * np.sin(2.0 * x[:, 0] - 0.3) * (t - _MIDDLE)
    labels = {"mean_energy": energy + 1e-3 * np.random.default_rng(1).normal(size=len(x))}
    return Frames.from_arrays(variables=x, temperature=t, labels=labels, noise={"mean_energy": 3e-3})


def _places(configurations: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1.5, 1.5, (configurations, 2))


def _points(configurations: int) -> Frames:
    return Frames.from_arrays(variables=_places(configurations), temperature=_MIDDLE)


def _test() -> Frames:
    return Frames.from_arrays(variables=np.random.default_rng(2).uniform(-1.4, 1.4, (6, 2)), temperature=340.0)


def _model(solver: Any, **options: Any) -> FreeEnergyRegressor:
    thermal = SecondOrder(_MIDDLE, energy=0.2, entropy=6e-4, heat_capacity=3e-4)
    options = {"optimizer": None, "baseline": False} | options
    return FreeEnergyRegressor(Term(kernel=RBF(0.9), thermal=thermal), solver, **options)


def _close(found: np.ndarray, wanted: np.ndarray, tolerance: float, message: str) -> None:
    close(torch.as_tensor(found), torch.as_tensor(wanted), tolerance, message)


def _compare(found: Any, wanted: Any, tolerance: float, message: str) -> None:
    for quantity in _QUANTITIES:
        pairs = zip(*(m.predict(_test(), quantity, return_std=True) for m in (found, wanted)), strict=True)
        for what, (a, b) in zip(("mean", "standard deviation"), pairs, strict=True):
            _close(a, b, tolerance, f"{message}, {what} of {quantity}")


def _check_hyperparameters(solver: Any, frames: Frames, name: str) -> None:
    learned = frames.replace(noise={})
    one, two = (_model(solver, optimizer="evidence", random_state=3).fit(learned) for _ in range(2))
    start, found = (m.fitted_terms()[0][1] for m in (_model(solver).fit(frames), one))
    assert found != start, f"{name}: the evidence changed no hyperparameter"
    moving = [p for p in one.posterior_.prior.parameters() if p.requires_grad]
    assert not moving, f"{name}: hyperparameters must not require gradients after the fit"
    for a, b in zip(*(m.predict(_test(), return_std=True) for m in (one, two)), strict=True):
        assert np.isfinite(a).all() and (a == b).all(), f"{name}: two fits with one random_state differ"


def _check_draws(model: Any, exact: Any, name: str) -> None:
    draws = pathwise_draws(model, _DRAWS, 0, _FEATURES).predict(_test(), "mean_energy")
    mean, std = exact.predict(_test(), "mean_energy", return_std=True)
    off = np.abs(draws.std(0) / std - 1.0).max()
    assert off < _SPREAD, f"{name}: standard deviations of draws are off by {off:.0%}"
    off = np.abs((draws.mean(0) - mean) / std).max()
    assert off < _SPREAD, f"{name}: means of draws are off by {off:.2f} standard deviations"


def _check_file(model: Any, solver: Any, what: str, same: Callable) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.kfe"
        model.save(path)
        again = load(path, classes=[type(solver)])
    assert again.solver_ == model.solver_ and again.concave_ == model.concave_, f"{what} has other settings"
    same(again, model, what)
