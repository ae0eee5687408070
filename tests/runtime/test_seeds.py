"""One rule for seeds: whole numbers from 0 to 2⁶³ − 1 of any integer type, None for fresh numbers, all else refused."""

from __future__ import annotations

import pkgutil
from dataclasses import fields
from importlib import import_module

import numpy as np
import pytest

import kernelfe
from kernelfe import Frames, FreeEnergyRegressor
from kernelfe.analysis import Calibration
from kernelfe.datasets import EliminatedMode
from kernelfe.errors import DataError
from kernelfe.gp.fitted.joint import Query
from kernelfe.runtime.seeds import generator, random_numbers, whole_seed

BAD = (1.5, -1, 2**70, 2**63, "1", True, float("nan"), np.float64(0.5), [1.5])
GOOD = (0, 7, 2**63 - 1, np.int8(7), np.uint64(7), np.int64(7), None)


@pytest.fixture(scope="module")
def model():
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (12, 1))
    frames = Frames.from_arrays(variables=x, temperature=300.0, labels={"mean_force": np.cos(x)})
    return FreeEnergyRegressor(random_state=np.int64(3)).fit(frames), x[:2]


def entries(model):
    """Everything public that takes a seed: a name, and a call with a seed."""
    fitted, x = model
    pit = np.linspace(0.05, 0.95, 8)
    mode = EliminatedMode()
    variables = np.zeros((3, mode.dimension))
    calibration = object.__new__(Calibration)
    object.__setattr__(calibration, "groups", np.arange(8) // 2)
    object.__setattr__(calibration, "pit", pit)
    yield "FreeEnergyRegressor.sample", lambda s: fitted.sample(x, seed=s)
    yield "FreeEnergyRegressor.draws", lambda s: fitted.draws(2, seed=s, features=8)
    yield "Joint.sample", lambda s: fitted.joint(Query(x, "free_energy")).sample(2, s)
    yield "Calibration.uniformity", lambda s: calibration.uniformity(s)
    yield "Calibration.independent", lambda s: calibration.independent(s)
    yield "EliminatedMode.frames", lambda s: mode.frames(variables, 300.0, labels=("mean_force",), rng=s)
    yield "runtime.generator", lambda s: generator(s)
    yield "runtime.whole_seed", whole_seed
    yield "runtime.random_numbers", random_numbers


def specs():
    """Every spec of the package with a field named seed."""
    for module in pkgutil.walk_packages(kernelfe.__path__, "kernelfe."):
        if module.name.rpartition(".")[2] in ("__main__", "models", "io", "topology"):
            continue
        for thing in vars(import_module(module.name)).values():
            own = (
                hasattr(thing, "BOUNDS") and hasattr(thing, "__dataclass_fields__") and thing.__module__ == module.name
            )
            if own and any(field.name == "seed" for field in fields(thing)):
                yield thing


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_what_is_not_a_seed_is_refused(bad, model):
    for _, call in entries(model):
        with pytest.raises(DataError, match=r"(seed|rng|random_state)=.* must be .*whole number"):
            call(bad)
    for spec in specs():
        with pytest.raises(DataError, match=r"seed=.* must be a whole number"):
            spec(seed=bad)


@pytest.mark.parametrize("good", GOOD, ids=str)
def test_seeds_of_any_integer_type_and_none(good, model):
    for _, call in entries(model):
        call(good)
    found = list(specs())
    assert len(found) >= 2
    for spec in found:
        kept = spec(seed=good).seed
        assert kept is None or type(kept) is int


def test_equal_seeds_give_equal_numbers(model):
    fitted, x = model
    first, second = (fitted.sample(x, seed=s)["free_energy"] for s in (7, np.uint8(7)))
    np.testing.assert_array_equal(first, second)
    one, other = (fitted.sample(x, seed=None)["free_energy"] for _ in range(2))
    assert (one != other).any()
    passed = np.random.default_rng(7)
    np.testing.assert_array_equal(fitted.sample(x, seed=passed)["free_energy"], first)
    assert whole_seed(None) != whole_seed(None)


def test_a_model_with_a_numpy_seed_is_saved(model, tmp_path):
    fitted, _ = model
    fitted.save(tmp_path / "m.kfe")
    assert kernelfe.load(tmp_path / "m.kfe").random_state == 3
