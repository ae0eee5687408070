"""Exact fits of several processes: the same weights, means and variances as of one, and no one left waiting."""

from __future__ import annotations

import hashlib

import pytest
import torch

from kernelfe import FreeEnergyRegressor, Iterative
from kernelfe.gp.solvers.iterative.operator import JetGram, SharedProducts
from kernelfe.kernels.products import PairProducts
from kernelfe.runtime.processes import Processes

from ....runtime.workers import ROOT, run
from ...systems import molecule, one_term, two_terms

#: Several blocks of environments, in a test that is small.
ENTRIES = 1 << 8
CASES = {
    "given hyperparameters": {"optimizer": None},
    "double precision": {"optimizer": None, "solver": Iterative(precision="double")},
    "mixed precision, nothing kept": {"optimizer": None, "solver": Iterative(precision="mixed", cache_gigabytes=0.0)},
    "two terms": {"optimizer": None, "terms": two_terms()},
}
SLOW = {
    "evidence of some rows": {"solver": Iterative(evidence_rows=60)},
    "evidence of all rows": {"solver": Iterative(evidence_rows=None)},
}


def fit(case: str) -> FreeEnergyRegressor:
    options = {"solver": Iterative(), "terms": one_term()} | (CASES | SLOW)[case]
    return FreeEnergyRegressor(baseline=False, random_state=0, **options).fit(molecule(20))


def results(model: FreeEnergyRegressor) -> dict:
    """Bits of what was fitted and predicted."""
    mean, std = model.predict(molecule(1, seed=9), "free_energy", return_std=True)
    fitted = hashlib.blake2b(digest_size=16)
    posterior = model.posterior_
    for tensor in (posterior.weights, *posterior.prior.parameters(), *posterior.noise.parameters()):
        fitted.update(tensor.detach().contiguous().numpy().tobytes())
    solution = posterior.solution
    out = {"fitted": fitted.hexdigest(), "mean": mean.tolist(), "std": std.tolist()}
    return out | {"iterations": solution.iterations, "evidence": repr(model.log_evidence_)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [2, 3, 40])
def test_shares_make_up_the_product(monkeypatch, size, dtype):
    """Every process' part, put together without any process, has the bits of the whole."""
    monkeypatch.setattr(PairProducts, "BLOCK_ENTRIES", dict.fromkeys(PairProducts.BLOCK_ENTRIES, ENTRIES))
    monkeypatch.setattr(PairProducts, "GENERAL_ENTRIES", ENTRIES)
    posterior = FreeEnergyRegressor(baseline=False, optimizer=None, solver=Iterative(), terms=two_terms())
    posterior = posterior.fit(molecule(20)).posterior_
    gram = JetGram(posterior.prior, posterior.labels, posterior.noise, dtype=dtype)
    x = torch.randn(gram.rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts: dict[int, list] = {}
    everyone = [SharedProducts(gram, Processes(rank, size), 1 << 30, dtype) for rank in range(size)]
    for t, nodes in enumerate(gram.terms):
        found = [one.pairs[t].product(*nodes.coefficients(x)) for one in everyone]
        assert all(len(value) < len(nodes.targets) for value, _ in found)  # nobody does it all
        parts[id(nodes)] = [torch.cat(part) for part in zip(*found, strict=True)]
    own = everyone[0]
    together = gram.product(x, own.pairs, lambda nodes, *_: tuple(parts[id(nodes)]))
    assert torch.equal(together, gram.product(x))


SCRIPT = """
import json, sys, torch
sys.path.insert(0, {root!r})
from kernelfe.kernels.products import PairProducts
from kernelfe.errors import ProcessError, SolverError
from kernelfe import FreeEnergyRegressor, Iterative
from kernelfe.gp.solvers.iterative import posterior as iterative
from tests.gp.solvers.iterative.test_shared_products import ENTRIES, fit, molecule, one_term, results

PairProducts.BLOCK_ENTRIES = dict.fromkeys(PairProducts.BLOCK_ENTRIES, ENTRIES)
found = {{}}
for case in {cases!r}:
    model = fit(case)
    assert not torch.distributed.is_initialized()
    found[case] = results(model)  # each by itself

rank = int(__import__("os").environ["RANK"])
failing = iterative.SharedProducts.product


def breaks(self, x):
    if rank == 1:
        raise MemoryError("no room")
    return failing(self, x)


for name, patch, solver in (("diverged", failing, Iterative(tolerance=1e-12, max_iterations=1)),
                            ("broken", breaks, Iterative())):
    iterative.SharedProducts.product = patch
    try:
        FreeEnergyRegressor(baseline=False, solver=solver, optimizer=None, terms=one_term()).fit(molecule(20))
    except Exception as error:
        found[name] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("size", "cases"),
    [
        (2, list(CASES)),
        pytest.param(2, list(SLOW), marks=pytest.mark.slow),
        pytest.param(3, list(CASES), marks=pytest.mark.slow),
    ],
)
def test_a_fit_of_several_processes_is_that_of_one(monkeypatch, size, cases):
    monkeypatch.setattr(PairProducts, "BLOCK_ENTRIES", dict.fromkeys(PairProducts.BLOCK_ENTRIES, ENTRIES))
    ended = [one.value() for one in run(size, SCRIPT.format(root=str(ROOT), cases=cases))]
    for case in cases:
        alone = results(fit(case))
        for found in ended:
            assert found[case] == alone, case
    first, second = ended[:2]
    assert first["diverged"][0] == "SolverError" and "max_iterations" in first["diverged"][1]
    assert second["diverged"][0] == "ProcessError" and "max_iterations=1" in second["diverged"][1]
    assert first["broken"][0] == "ProcessError" and second["broken"] == ["MemoryError", "no room"]
