"""One configuration through a frozen model and its domain: the numbers of batches, with a few operators only."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernelfe import Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.descriptors import InternalCoordinates, InverseDistances, PairDistances
from kernelfe.errors import DataError
from kernelfe.kernels import RBF, Matern52, RationalQuadratic

from ..systems import THERMAL, molecule, two_terms

#: Torch operators of an evaluation of the default model: each takes as long as a thousand multiplications.
OPERATORS = 12
INTERNAL = InternalCoordinates(((0, 1), (1, 2), (2, 3)), ((0, 1, 2), (1, 2, 3)), ((0, 1, 2, 3),))


def terms(kind):
    made = {
        "default": None,
        "inverse": Term(InverseDistances(), Matern52(lengthscale=(0.5, 0.6, 0.7, 0.8, 0.9, 1.0)), THERMAL),
        "internal": Term(INTERNAL, RationalQuadratic(lengthscale=1.5, alpha=0.7), THERMAL),
        "product": Term(INTERNAL, RBF(lengthscale=1.5) * RBF(lengthscale=3.0), THERMAL),
        "pairs": Term(PairDistances(6.0), RBF(lengthscale=1.5), THERMAL),
        "two": two_terms(),
    }
    return made[kind]


def star(n):
    """Frames of four beads with an improper in the baseline, and walls."""
    frames = molecule(n)
    return Frames.from_arrays(
        frames.positions,
        temperature=frames.temperature,
        labels=dict(frames.labels),
        bonds=((0, 1), (1, 2), (1, 3)),
        noise={"mean_force": 0.01, "mean_energy": 0.01},
    )


@pytest.mark.parametrize("baseline", [None, False])
@pytest.mark.parametrize("kind", ["default", "inverse", "internal", "product", "pairs", "two"])
def test_energy_forces_and_score_are_those_of_a_batch(kind, baseline):
    frames = star(40)
    solver = Sparse(inducing=8, gradients=kind == "inverse")
    fitted = FreeEnergyRegressor(terms(kind), solver=solver, optimizer=None, baseline=baseline).fit(frames[:36])
    frozen, domain = fitted.frozen(), fitted.domain_
    x = torch.from_numpy(np.array(frames.positions))
    x[-1, 2] = 2.0 * x[-1, 1] - x[-1, 0]  # a straight angle
    x[-2] *= 3.0  # far away
    for temperature in (350.0, torch.tensor(425.0)):
        energy, forces = frozen.energy_and_forces(x, temperature)
        scores = domain.score(x)
        for k in range(0, 40, 3):
            one, force = frozen.energy_and_forces(x[k : k + 1], temperature)
            assert one.shape == (1,) and force.shape == (1, 4, 3) and one.dtype == force.dtype == torch.float64
            np.testing.assert_allclose(one[0], energy[k], rtol=1e-9, atol=1e-9 * energy.abs().max())
            np.testing.assert_allclose(force[0], forces[k], rtol=1e-7, atol=1e-9 * forces[:-2].abs().max())
            np.testing.assert_allclose(domain.score(x[k : k + 1])[0], scores[k], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def default():
    return FreeEnergyRegressor(solver=Sparse(inducing=8), optimizer=None).fit(star(30))


class Counted(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_few_operators(default):
    frozen, x = default.frozen(), torch.from_numpy(np.array(star(1).positions))
    frozen.energy_and_forces(x, 350.0), default.domain_.score(x)
    with Counted() as counted:
        frozen.energy_and_forces(x, 350.0)
    assert counted.count <= OPERATORS
    with Counted() as counted:
        default.domain_.score(x)
    assert counted.count <= OPERATORS


def test_what_comes_in_is_not_changed_and_what_goes_out_is_new(default):
    frozen, x = default.frozen(), torch.from_numpy(np.array(star(1).positions))
    before = x.clone()
    one, again = frozen.energy_and_forces(x, 350.0), frozen.energy_and_forces(x, 350.0)
    one[1].zero_()
    assert torch.equal(x, before) and again[1].abs().max() > 0
    single = frozen.energy_and_forces(x.float(), 350.0)[1]
    np.testing.assert_allclose(single, again[1], rtol=1e-3, atol=1e-3)
    again = frozen.energy_and_forces(x.clone().requires_grad_(), 350.0)
    assert not again[0].requires_grad and not again[1].requires_grad
    assert not torch.isfinite(frozen.energy_and_forces(torch.full_like(x, torch.nan), 350.0)[0]).any()
    with pytest.raises(DataError, match="4 beads"):
        frozen.energy_and_forces(x[:, :3], 350.0)


def test_models_that_were_asked_about_one_configuration_are_copied_and_pickled(default):
    """What was prepared for one configuration holds local functions, and belongs to the object that made it."""
    frozen, x = default.frozen(), torch.from_numpy(np.array(star(1).positions))
    energy, score = frozen.energy_and_forces(x, 350.0)[0], default.domain_.score(x)
    for through in (lambda thing: pickle.loads(pickle.dumps(thing)), copy.deepcopy):
        assert torch.equal(through(frozen).energy_and_forces(x, 350.0)[0], energy)
        assert torch.equal(through(default).domain_.score(x), score)
        changed = through(default.domain_)
        changed.high = changed.high + 1.0
        assert changed.score(x) <= default.domain_.score(x)
