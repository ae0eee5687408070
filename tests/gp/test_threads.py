"""Numbers do not depend on how many threads share the work, to the last bit; settings of torch stay the user's."""

import numpy as np
import pytest
import torch

from kernelfe import Dense, FreeEnergyRegressor, Sparse
from kernelfe.gp import Iterative
from kernelfe.gp.fitted.frozen import FrozenModel
from kernelfe.gp.solvers import exact
from kernelfe.kernels.products import PairProducts
from kernelfe.runtime.threads import at_most
from kernelfe.simulate import run_langevin, uniform_masses

from .systems import molecule, one_term

SOLVERS = {
    "sparse": Sparse(inducing=12, block_rows=24, evidence_rows=60, evidence_inducing=6, final_iterations=2),
    "iterative": Iterative(tolerance=1e-3),
    "dense": Dense(evidence_rows=30),
}
WORKERS = (1, 2, 3)


@pytest.fixture
def many_blocks(monkeypatch):
    """Blocks so small that there are several of everything."""
    monkeypatch.setattr(PairProducts, "BLOCK_ENTRIES", {"cpu": 72, "cuda": 72})
    monkeypatch.setattr(exact, "BLOCK_ENTRIES", 256)
    monkeypatch.setattr(FrozenModel, "block", 4)
    monkeypatch.setattr(FrozenModel, "frames", 16)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_fit_and_its_predictions_have_the_same_bits(name, many_blocks):
    frames, before = molecule(12), torch.get_num_threads()
    optimizer = None if name == "iterative" else "evidence"  # its many small blocks take long
    found = []
    for workers in WORKERS:
        with at_most(workers):
            model = FreeEnergyRegressor(one_term(), solver=SOLVERS[name], optimizer=optimizer).fit(frames)
            mean, std = model.predict(frames[:2], "mean_force", return_std=True)
        found.append([*(p.detach().numpy() for p in model.posterior_.prior.parameters()), mean, std])
        assert torch.get_num_threads() == before
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("temperature", ["one", "runs", "mixed"])
def test_frozen_models_have_the_same_bits(temperature, many_blocks):
    frames = molecule(70)
    model = FreeEnergyRegressor(one_term(), solver="dense", optimizer=None).fit(frames[:12]).frozen()
    x = torch.from_numpy(np.array(frames.positions))
    kelvin = {
        "one": 350.0,
        "runs": torch.linspace(300, 400, 2).repeat_interleave(35),
        "mixed": torch.linspace(300, 400, 70),
    }
    found = []
    for workers in WORKERS:
        with at_most(workers):
            found.append(model.energy_and_forces(x, kelvin[temperature]))
    for energy, forces in found[1:]:
        assert torch.equal(energy, found[0][0]) and torch.equal(forces, found[0][1])


def test_samplers_leave_the_setting_of_the_user_after_errors(monkeypatch):
    class Breaks:
        def energy_and_forces(self, positions, temperature):
            assert torch.get_num_threads() == 1
            raise ValueError("no")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="no"):
            run_langevin(Breaks(), np.zeros((1, 2, 3)), 300.0, masses=uniform_masses(2), timestep=1.0, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
