"""Fits, predictions and samplers on the device of their spec: on a simulated GPU, and with another default device.

:mod:`tests.simulated_card` refuses operations that mix CPU and GPU, and counts copies between them; under
``torch.device("meta")`` a tensor that forgot its device has no numbers.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import kernelfe
from kernelfe import Dense, FreeEnergyRegressor, Iterative, Sparse, Term
from kernelfe.descriptors import Variables
from kernelfe.errors import DataError, SolverError
from kernelfe.gp import CorrelatedNoise, Query, condition, enforce_concavity, pathwise_draws
from kernelfe.kernels import DotProduct, Matern52, Periodic
from kernelfe.linalg.conjugate import Search
from kernelfe.simulate import TorsionMoves, run_langevin, run_replica_exchange

from ...simulated_card import CARD, simulated_card
from ..file.saved import CASES
from ..fitted.test_frozen import periodic
from ..systems import THERMAL, molecule, one_term, two_terms, variables

SOLVERS = {
    "dense": Dense(evidence_rows=30),
    "iterative": Iterative(tolerance=1e-10),
    "mixed": Iterative(tolerance=1e-8, precision="mixed"),
    "all rows": Iterative(tolerance=1e-8, evidence_rows=None),
    "sparse": Sparse(inducing=6, evidence_rows=30, evidence_inducing=4, final_iterations=2),
    "leverage": Sparse(inducing=6, gradients=True, selection="leverage"),
    "farthest": Sparse(inducing=6, selection="farthest"),
    "kmeans": Sparse(inducing=6, selection="kmeans"),
}
QUANTITIES = ["free_energy", "mean_force", "mean_energy", "entropy", "heat_capacity", "thermal_response_force"]
#: The simulated GPU runs the same code on the same CPU; only the sizes of blocks differ.
SAME = 1e-9


def fitted(solver, frames, **options):
    return FreeEnergyRegressor(solver=solver, **({"optimizer": None, "baseline": False} | options)).fit(frames)


def everything(model, frames):
    """Every quantity of a model, with error bars, differences, covariances and joint predictions."""
    if isinstance(model.solver_, Iterative):  # every error bar is a solve of its own
        out = {key: (model.predict(frames, key),) for key in QUANTITIES}
        return out | {"one": model.predict(frames[:1], "mean_energy", return_std=True)}
    out = {key: model.predict(frames, key, return_std=True) for key in QUANTITIES}
    out["absolute"] = (model.predict(frames, "free_energy", reference=None),)
    out["difference"] = model.predict_difference(frames[:2], frames[1:3], return_cov=True)
    out["covariance"] = (model.covariance(frames[:2], "mean_force", "entropy"),)
    joint = model.joint(np.ones(2) @ Query(frames[:2], "free_energy") - Query(frames[:1], "entropy"))
    return out | {"joint": (joint.mean, joint.covariance)}


def assert_same(found, expected, same=SAME):
    """Values to ``same`` of the largest; error bars, the root of what rounding leaves of a variance, to its root."""
    for key, values in expected.items():
        for k, (a, b) in enumerate(zip(found[key], values, strict=True)):
            scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
            np.testing.assert_allclose(a, b, atol=(same**0.5 if k else same) * scale, rtol=1e3 * same, err_msg=key)


def compare(name, frames, **options):
    """A fit on the CPU and one on the simulated GPU: the same numbers."""
    expected = everything(fitted(SOLVERS[name], frames, **options), frames)
    with simulated_card():
        model = fitted(replace(SOLVERS[name], device="cuda"), frames, **options)
        assert model.posterior_.weights.device == CARD
        # single precision is refined until the residual passes, along another path
        assert_same(everything(model, frames), expected, 1e-6 if name == "mixed" else SAME)


#: Operations on the simulated GPU take tens of microseconds each: tests of seconds that differ little are slow.
MORE = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        "dense",
        "mixed",
        "leverage",
        *(pytest.param(n, marks=MORE) for n in ("iterative", "sparse", "farthest", "kmeans")),
    ],
)
def test_a_fit_on_a_card_is_that_on_the_processor(name):
    compare(name, molecule(4), terms=two_terms())


@pytest.mark.slow  # a minute: tens of evaluations, hundreds of small operations each
@pytest.mark.parametrize("name", ["dense", "all rows", "sparse"])
def test_hyperparameters_on_a_card(name):
    compare(name, molecule(5), terms=one_term(), optimizer="evidence", random_state=1)


FAST = ("pairs", "covariance blocks", "baseline")


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in FAST else MORE) for c in CASES if c != "evidence"])
def test_every_kind_of_labels(case):
    frames, options = CASES[case]()
    options = {"optimizer": None, "baseline": None} | options
    solver = options.pop("solver", Dense())
    expected = FreeEnergyRegressor(solver=solver, **options).fit(frames)
    with simulated_card():
        model = FreeEnergyRegressor(solver=replace(solver, device="cuda"), **options).fit(frames)
        for key in ("free_energy", "mean_energy"):
            found = model.predict(frames[:4], key, return_std=True)
            assert_same({key: found}, {key: expected.predict(frames[:4], key, return_std=True)})


@pytest.mark.parametrize("name", ["dense", "iterative", "sparse"])
def test_draws_on_a_card(name):
    frames = molecule(9)
    expected = pathwise_draws(fitted(SOLVERS[name], frames, terms=one_term()), 3, features=16).predict(frames)
    with simulated_card():
        model = fitted(replace(SOLVERS[name], device="cuda"), frames, terms=one_term())
        found = pathwise_draws(model, 3, features=16).predict(frames)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "kernel", [Matern52(lengthscale=1.0), Periodic(lengthscale=1.0, period=(6.0, None)), DotProduct(3, 1.0, 1.0)]
)
def test_kernels_on_a_card(kernel):
    frames = variables()
    term = Term(Variables(), kernel, THERMAL, CASES["parameters"]()[1]["terms"].parameters)
    expected = fitted(Dense(), frames, terms=term).predict(frames, "mean_force", return_std=True)
    with simulated_card():
        model = fitted(Dense(device="cuda"), frames, terms=term)
        assert_same({"f": model.predict(frames, "mean_force", return_std=True)}, {"f": expected})


@pytest.mark.parametrize("name", ["dense", pytest.param("iterative", marks=MORE), "sparse"])
def test_more_labels_and_concavity_on_a_card(name):
    frames, found = molecule(8), []

    def changed(device):
        model = fitted(replace(SOLVERS[name], device=device), frames[:5], terms=one_term())
        model = condition(model, frames[5:])
        if name != "iterative":
            model = enforce_concavity(model, frames[:3])
        return model.predict(frames, "heat_capacity", return_std=name != "iterative")

    found.append(changed("cpu"))
    with simulated_card():
        found.append(changed("cuda"))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6, atol=1e-10)


def test_correlated_noise_says_where_it_is_estimated():
    with simulated_card(), pytest.raises(DataError, match="device='cpu'"):
        fitted(Dense(device="cuda"), molecule(5, noise=False), terms=one_term(), noise=CorrelatedNoise())


# ------------------------------------------------------------------ what crosses the bus


def crossings(run) -> dict[str, int]:
    with simulated_card() as card:
        run()
        return dict(card.crossings)


def test_iterations_look_at_one_number_now_and_then():
    """Every fourth product of a solve waits for one number; nothing else is copied."""
    with simulated_card() as card:
        options = {"terms": one_term(), "noise": {"mean_force": 1e-5, "mean_energy": 1e-5}}
        model = fitted(Iterative(tolerance=1e-8, rank=0, device="cuda"), molecule(12, noise=False), **options)
        posterior = model.posterior_
        before = dict(card.crossings)
        found = posterior.solved(posterior.gram.target())
        more = {key: count - before.get(key, 0) for key, count in card.crossings.items()}
    assert found.iterations > 2 * Search.LOOK_EVERY
    assert more["to the card"] == more["to the processor"] == more.get("shape", 0) == 0
    sweeps = math.ceil(math.log(1e-8) / math.log(Search.SINGLE_PRECISION)) + 1  # and the last look
    assert more["scalar"] <= sweeps + found.iterations / Search.LOOK_EVERY


def test_more_labels_do_not_cross_more_often():
    """Labels are copied to the GPU once, whatever the number of blocks that they are streamed in."""
    frames, counted = molecule(12), []
    for rows in (200, 200, 24):  # the first one fills memos
        solver = Sparse(inducing=6, block_rows=rows, device="cuda")
        counted.append(crossings(lambda solver=solver: fitted(solver, frames, terms=one_term())))
    _, few, many = counted
    assert few["to the card"] == many["to the card"] and few["to the processor"] == many["to the processor"]
    # 6 blocks become 12 of forces, 6 become 6 of energies: two yes-or-no questions each
    assert many["scalar"] - few["scalar"] <= 2 * 9


def test_predictions_come_back_once(monkeypatch):
    from kernelfe.gp.fitted import predict as reference

    frames = molecule(12)
    with simulated_card() as card:
        model = fitted(Dense(device="cuda"), frames, terms=one_term())
        counted = []
        for size in (100, 3):
            monkeypatch.setattr(reference, "PREDICT_FRAMES", size)
            before = card.crossings["to the processor"], card.crossings["to the card"]
            model.predict(frames, "mean_force", return_std=True)
            counted.append((card.crossings["to the processor"] - before[0], card.crossings["to the card"] - before[1]))
    assert counted[0] == counted[1] and counted[0][0] <= 3


# ------------------------------------------------------------------ samplers and calculators


BONDS = [(0, 1), (1, 2), (2, 3)]


START = molecule(4).positions


def walk(model, steps, **more):
    frozen = model.frozen()
    return run_langevin(
        frozen,
        START,
        400.0,
        masses=np.full(4, 12.0),
        steps=steps,
        stride=2,
        timestep=1.0,
        friction=5.0,
        progress=False,
        moves=TorsionMoves(BONDS),
        moves_every=5,
        **more,
    )


def test_samplers_run_on_the_device_of_the_model(name="sparse"):
    """The same forces; random numbers on a GPU differ, so trajectories are not compared."""
    frames = molecule(12)
    plain = fitted(SOLVERS[name], frames, terms=one_term(), baseline=None)
    x = torch.from_numpy(frames.positions)
    expected = plain.frozen().energy_and_forces(x, 350.0)
    steady = {}
    with simulated_card() as card:
        model = fitted(replace(SOLVERS[name], device="cuda"), frames, terms=one_term(), baseline=None)
        frozen = model.frozen()
        for a, b in zip(frozen.energy_and_forces(x, 350.0), expected, strict=True):
            assert a.device.type == "cpu"  # input from the CPU is returned on the CPU
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        for a, b in zip(frozen.energy_and_forces(x.to(CARD), 350.0), expected, strict=True):
            assert a.device == CARD
            torch.testing.assert_close(a.cpu(), b, rtol=1e-9, atol=1e-12)
        walk(model, 20, guard=None)  # fills memos
        for steps in (20, 40):
            before = dict(card.crossings)
            run = walk(model, steps, guard=None)
            assert run.state.positions.device == CARD and run.positions.shape == (steps // 2, 4, 4, 3)
            steady[steps] = {key: count - before.get(key, 0) for key, count in card.crossings.items()}
    assert steady[20]["to the card"] == steady[40]["to the card"]
    assert steady[20]["to the processor"] == steady[40]["to the processor"]
    assert steady[40]["scalar"] - steady[20]["scalar"] <= 20 / 20 * 2  # every twentieth step is looked at


def test_exchange_on_a_card():
    with simulated_card() as card:
        frozen = fitted(Dense(device="cuda"), molecule(5), terms=one_term(), baseline=None).frozen()
        counted = []
        for steps in (8, 8, 24):
            before = sum(card.crossings.values())
            found = run_replica_exchange(
                frozen,
                molecule(1).positions[0],
                [300.0, 360.0, 430.0],
                masses=np.full(4, 12.0),
                steps=steps,
                swap_every=2,
                stride=2,
                timestep=1.0,
                progress=False,
                guard=None,
            )
            counted.append(sum(card.crossings.values()) - before)
    assert found.swap_acceptance.shape == (2,) and np.isfinite(found.swap_acceptance).all()
    assert counted[2] - counted[1] <= 4  # a look at step 20


def test_a_calculator_computes_where_its_model_does():
    from ase import Atoms

    frames = molecule(8)
    forces = {}
    for device in ("cpu", "cuda"):
        with simulated_card():
            model = fitted(Dense(device=device), frames, terms=one_term())
            atoms = Atoms("X4", positions=frames.positions[0])
            atoms.calc = model.calculator(temperature=400.0, extras=("entropy",))
            assert atoms.calc.device.type == device
            forces[device] = atoms.get_forces()
    np.testing.assert_allclose(forces["cuda"], forces["cpu"], rtol=1e-9)


def test_a_periodic_model_on_a_card():
    frames = periodic()
    x, cell = torch.from_numpy(frames.positions), torch.from_numpy(np.asarray(frames.cell))
    expected = fitted(Sparse(inducing=5), frames, terms=one_term()).frozen().energy_forces_stress(x, cell, 300.0)
    with simulated_card():
        found = (
            fitted(Sparse(inducing=5, device="cuda"), frames, terms=one_term())
            .frozen()
            .energy_forces_stress(x, cell, 300.0)
        )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("name", ["iterative", "sparse"])
def test_a_model_from_a_card_is_read_where_there_is_none(name, tmp_path, caplog):
    frames, path = molecule(4), tmp_path / "model.kfe"
    with simulated_card():
        model = fitted(replace(SOLVERS[name], device="cuda:0"), frames, terms=one_term())
        expected = everything(model, frames)
        model.save(path)
        again = kernelfe.load(path)
        assert again.posterior_.weights.device == CARD
        assert_same(everything(again, frames), expected)
    with caplog.at_level(logging.WARNING):
        here = kernelfe.load(path)
    assert "computes on the CPU" in caplog.text
    assert here.posterior_.weights.device.type == "cpu" and here.solver_.device == "cuda:0"
    assert_same(everything(here, frames), expected)
    here.save(path)
    with simulated_card():
        assert kernelfe.load(path).posterior_.weights.device == CARD


# ------------------------------------------------------------------ specs


@pytest.mark.parametrize("spec", [Dense, Iterative, Sparse])
def test_devices_are_checked(spec):
    assert spec().device == "cpu" and spec(device="cuda:1").device == "cuda:1"
    assert spec(device=torch.device("cuda")).device == "cuda"
    with pytest.raises(DataError, match="mps has no float64"):
        spec(device="mps")
    for wrong in ("gpu", "cuda:x", "", None, 0):
        with pytest.raises(DataError, match="must be 'cpu', 'cuda'"):
            spec(device=wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a card")
def test_a_fit_without_a_card_says_so():
    with pytest.raises(SolverError, match="device='cpu'"):
        fitted(Dense(device="cuda"), molecule(4), terms=one_term())


def test_a_card_that_is_not_there():
    with simulated_card(), pytest.raises(SolverError, match="the machine has 1 GPU: use"):
        fitted(Dense(device="cuda:3"), molecule(4), terms=one_term())


# ------------------------------------------------------------------ a foreign default device


@pytest.mark.parametrize("name", ["dense", "iterative", "sparse"])
def test_no_tensor_forgets_its_device(name):
    """With a default device that cannot hold numbers, a model on the CPU fits and predicts as usual."""
    frames = molecule(4)
    expected = everything(fitted(SOLVERS[name], frames, terms=two_terms()), frames)
    with torch.device("meta"):
        model = fitted(SOLVERS[name], frames, terms=two_terms())
        assert_same(everything(model, frames), expected)
        assert np.isfinite(walk(model, 10, guard=None).energies).all()
