"""Products on blocks of pairs against products with all pairs at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kernelfe.kernels import RBF, Matern52, RationalQuadratic
from kernelfe.kernels import products as module
from kernelfe.kernels.products import PairProducts

ENVIRONMENTS, NODES, WIDTH = 23, 30, 7
#: One for moments, one for thin products.
WIDTHS = [3, WIDTH]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ENTRIES", {"cpu": 50, "cuda": 50})
    monkeypatch.setattr(module, "BLOCK_NODES", {"cpu": 7, "cuda": 7})
    monkeypatch.setattr(
        module, "MOMENT_NUMBERS", {"cpu": 2 * 16 * NODES, "cuda": 2 * 16 * NODES}
    )  # of two right-hand sides


@pytest.mark.parametrize("kernel", [RBF(1.0), Matern52(1.0), RationalQuadratic(1.0)], ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("given", ["c", "w", "cw"])
@pytest.mark.parametrize("keep", [1 << 30, 2000, 0], ids=["all", "some", "none"])
def test_blocks_are_all_pairs(small_blocks, kernel, width, given, keep):
    kernel = kernel.ready(width)
    z, nodes = drawn(ENVIRONMENTS, width), drawn(NODES, width, seed=1)
    c = drawn(NODES, 3, seed=2) if "c" in given else None
    w = drawn(NODES, width, 3, seed=3) if "w" in given else None
    value, gradient = kernel.jet_product(z, nodes, torch.zeros(NODES, 3, dtype=z.dtype) if c is None else c, w)
    pairs = PairProducts(kernel, z, nodes, cache_bytes=keep)
    assert pairs.moments == (width < WIDTH)
    for _ in range(2):  # the second time from what was kept
        found, slopes = pairs.product(c, w)
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(slopes, gradient, rtol=1e-12, atol=1e-12)
    kept = sum(part.numel() * 8 for block in pairs._kept.values() for part in block)
    assert kept <= keep and (kept > 0) == (keep > 0)
    assert kept == pairs.bytes if keep > pairs.bytes else kept < pairs.bytes
    assert PairProducts(kernel, z, nodes, slopes=False).product(c, w)[1] is None
    torch.testing.assert_close(PairProducts(kernel, z, nodes, slopes=False).product(c, w)[0], value)
    only, found = PairProducts(kernel, z, nodes, values=False).product(c, w)
    assert only is None
    torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kernel", [RBF(1.0), Matern52(1.0)], ids=str)
def test_single_precision_is_that_precise(small_blocks, kernel, width):
    kernel = kernel.ready(width)
    z, nodes = drawn(ENVIRONMENTS, width), drawn(NODES, width, seed=1)
    c, w = drawn(NODES, 2, seed=2), drawn(NODES, width, 2, seed=3)
    exact = PairProducts(kernel, z, nodes).product(c, w)
    found = PairProducts(kernel, z, nodes, dtype=torch.float32).product(c, w)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.float64 and 0.0 < float((a - b).abs().max()) < 1e-5 * float(b.abs().max())


@pytest.mark.parametrize("width", WIDTHS)
def test_single_precision_far_from_the_centre(width):
    """Where rounding of squared coordinates would show, the differences are taken first."""
    kernel = RBF(1.0).ready(width)
    z = drawn(60, width) + 100.0 * torch.eye(60, width, dtype=torch.float64)[:, :1]
    w = drawn(60, width, 1, seed=3)
    exact = PairProducts(kernel, z, z).product(None, w)[1]
    pairs = PairProducts(kernel, z, z, dtype=torch.float32)
    assert not pairs.moments
    found = pairs.product(None, w)[1]
    assert float((found - exact).abs().max()) < 1e-4 * float(exact.abs().max())


@pytest.mark.parametrize("kernel", [RBF(1.0), Matern52(1.0)], ids=str)
def test_what_vanishes_is_zero(kernel):
    """Numbers below the normal ones, κ at 13.5 length scales, make every product ten times slower."""
    z = torch.linspace(0.0, 40.0, 400, dtype=torch.float64)[:, None]
    pairs = PairProducts(kernel.ready(1), z, z, dtype=torch.float32)
    pairs.product(torch.ones_like(z), None)
    kept = torch.cat([part.flatten() for block in pairs._kept.values() for part in block]).abs()
    assert float(kept[kept > 0].min()) > 1e-21 and float((kept == 0).double().mean()) > 0.3 * (kernel == RBF(1.0))


def test_products_in_several_threads_do_not_meet():
    kernel = RBF(1.0).ready(WIDTH)
    z = drawn(400, WIDTH)
    pairs, given = PairProducts(kernel, z, z), [drawn(400, WIDTH, 1, seed=i) for i in range(16)]
    expected = [pairs.product(None, w) for w in given]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, right in zip(pool.map(lambda w: pairs.product(None, w), given), expected, strict=True):
                assert all(map(torch.equal, found, right))


def test_rows_of_one_process_are_a_part_of_the_product(small_blocks):
    kernel = RBF(1.0).ready(WIDTH)
    z, nodes, w = drawn(ENVIRONMENTS, WIDTH), drawn(NODES, WIDTH, seed=1), drawn(NODES, WIDTH, 1, seed=3)
    value, gradient = PairProducts(kernel, z, nodes).product(None, w)
    step = PairProducts(kernel, z, nodes).step
    own = range(2 * step, min(ENVIRONMENTS, 3 * step))
    found, slopes = PairProducts(kernel, z, nodes, rows=own).product(None, w)
    assert torch.equal(found, value[own.start : own.stop]) and torch.equal(slopes, gradient[own.start : own.stop])
