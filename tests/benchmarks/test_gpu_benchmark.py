"""benchmarks/gpu.py runs on a CPU, and its formulas count the operations of torch."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernelfe.kernels import RBF
from kernelfe.kernels.products import PairProducts

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))  # as when a script there is run: its neighbours are importable
VIEWS = (
    "view",
    "expand",
    "t",
    "transpose",
    "slice",
    "select",
    "detach",
    "_unsafe_view",
    "alias",
    "unsqueeze",
    "permute",
)


@pytest.fixture(scope="module")
def script():
    path = FOLDER / "gpu.py"
    spec = importlib.util.spec_from_file_location("benchmark_gpu", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Counter(TorchDispatchMode):
    """Operations of matrix products, and bytes of arrays with at least ``least`` numbers, read and written.

    An array that an operation changes in place is read and written; broadcast ones are not read as large arrays.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __init__(self, least: int):
        super().__init__()
        self.least, self.flops, self.bytes = least, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in VIEWS or name.startswith(("new_", "empty")):
            return out
        given = [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, torch.Tensor)]
        if name in ("mm", "addmm", "addmm_"):
            a, b = given[:2] if name == "mm" else given[1:3]
            self.flops += 2 * a.shape[0] * a.shape[1] * b.shape[1]
            given = [a, b]  # what is broadcast into addmm, and what mm writes into, is not read
        self.bytes += sum(self._size(a) for a in given)
        self.bytes += sum(self._size(a) for a in (out if isinstance(out, tuple) else (out,)))
        return out

    def _size(self, array) -> int:
        if not isinstance(array, torch.Tensor) or 0 in array.stride() or array.numel() < self.least:
            return 0
        return array.numel() * array.element_size()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("columns", [1, 3])
def test_the_product_is_counted(script, dtype, kept, columns):
    environments, nodes, d = 350, 220, 6
    z, u = torch.rand(environments, d, dtype=torch.float64), torch.rand(nodes, d, dtype=torch.float64)
    w = torch.randn(nodes, d, columns, dtype=torch.float64)
    pairs = PairProducts(RBF(1.0).ready(d), z, u, values=False, cache_bytes=1 << 30 if kept else 0, dtype=dtype)
    if kept:
        pairs.product(None, w)
    with Counter(environments * nodes) as found:
        pairs.product(None, w)
    expected = script.product_count(environments * nodes, d, columns, dtype.itemsize, kept)
    assert found.flops == expected.flops
    assert found.bytes == expected.bytes


def test_the_sparse_sums_are_counted(script, monkeypatch):
    """Force rows of 60 configurations in one block."""
    from kernelfe import Sparse
    from kernelfe.gp.observations.molecules import MoleculeSet
    from kernelfe.gp.solvers.sparse import streaming
    from kernelfe.gp.solvers.sparse.basis import SparseBasis

    n, d, m = 60, 3, 40
    frames = script.problem(n, d)
    fitted = script.model(Sparse(inducing=m)).fit(frames)
    labels = MoleculeSet([frames]).labels(None, None, None)
    basis = fitted.posterior_.basis
    rank = basis.ranks[0]
    monkeypatch.setattr(streaming, "reduced", lambda *_: None)
    monkeypatch.setattr(SparseBasis, "cached_entries", 1 << 30)
    with Counter(n * rank) as found:
        streaming.accumulate(basis, labels, 1 << 20)
    expected = script.sparse_count(n, d, m, rank, script.PANEL)
    assert found.flops == expected.flops
    assert found.bytes == pytest.approx(expected.bytes, rel=1e-12)


def test_one_step_of_the_sampler_is_counted(script):
    from kernelfe import Sparse

    d, m, replicas = 4, 30, 64
    fitted = script.model(Sparse(inducing=m)).fit(script.problem(80, d))
    frozen = fitted.frozen()
    x = torch.rand(replicas, d, dtype=torch.float64)
    frozen.energy_and_forces(x, script.TEMPERATURE)
    m = len(fitted.posterior_.expansions[0].nodes)
    with Counter(replicas * m) as found:
        frozen.energy_and_forces(x, script.TEMPERATURE)
    expected = script.step_count(replicas, d, m)
    assert found.flops == expected.flops
    assert found.bytes == expected.bytes


def test_it_runs_on_a_processor(script, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    script.main(["--small", "--device", "cpu", "--json", str(out)])
    result = json.loads(out.read_text())
    assert result["measured"] and result["rates"]["fp64"] > 0 and result["rates"]["copy"] > 0
    names = [row["name"].split(",")[0] for row in result["rows"]]
    assert names == ["product"] * 4 + ["exact fit"] * 2 + ["sparse fit", "forces for one step of 16 replicas"]
    assert all(row["seconds"] > 0 and 0 < row["fraction"] for row in result["rows"])
    exact = result["rows"][4]
    assert exact["residual"] <= script.TOLERANCE and exact["iterations"] >= 1
    assert capsys.readouterr().out.count("\n|") == 2 + len(result["rows"])


def test_predictions_for_a_card(script):
    """The goals for one GPU, from counts alone, as the page on GPUs states."""
    result = script.main(["--predict"])
    rows = {row["name"]: row for row in result["rows"]}
    assert not result["measured"] and all(row["seconds"] is None for row in rows.values())
    product = next(row for name, row in rows.items() if "float64, kernel kept" in name)
    # 2 (D + 1) operations, twice 2 times 32 (columns filled up to a multiple of eight), and 48 bytes per pair
    assert product["flops"] == (2 * 31 + 4 * 32) * 1e10 and product["bytes"] == 48e10
    assert product["predicted_seconds"] == pytest.approx(48e10 / 4.3e12, rel=1e-6)  # memory is what it waits for


def test_without_a_card_it_says_what_to_do(script):
    with pytest.raises(SystemExit, match="--small"):
        script.main(["--device", "cpu"])
