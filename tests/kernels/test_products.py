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
    monkeypatch.setattr(PairProducts, "BLOCK_ENTRIES", {"cpu": 50, "cuda": 50})
    monkeypatch.setattr(PairProducts, "BLOCK_NODES", {"cpu": 7, "cuda": 7})
    monkeypatch.setattr(PairProducts, "VALUES_NUMBERS", 2 * 8 * 7)  # of two right-hand sides
    monkeypatch.setattr(
        PairProducts, "MOMENT_NUMBERS", {"cpu": 2 * 16 * NODES, "cuda": 2 * 16 * NODES}
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


@pytest.mark.parametrize("kernel", [RBF(1.0), Matern52(1.0)], ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_values_alone_keep_the_kernel_alone(small_blocks, kernel, width):
    kernel = kernel.ready(width)
    z, nodes = drawn(ENVIRONMENTS, width), drawn(NODES, width, seed=1)
    c, w = drawn(NODES, 3, seed=2), drawn(NODES, width, 3, seed=3)
    pairs = PairProducts(kernel, z, nodes, slopes=False)
    for given in (None, w):  # the first asks for less than the second
        for _ in range(2):
            value, _ = kernel.jet_product(z, nodes, c, given)
            torch.testing.assert_close(pairs.product(c, given)[0], value, rtol=1e-12, atol=1e-12)
        if given is None:
            kept = sum(part.numel() for block in pairs._kept.values() for part in block)
            assert kept == ENVIRONMENTS * NODES


@pytest.mark.parametrize("kernel", [RBF(1.0), Matern52(1.0)], ids=str)
def test_many_right_hand_sides_leave_moments(kernel, monkeypatch):
    """Their factors would take (D + 1)² numbers for every node and right-hand side."""
    z, nodes = drawn(ENVIRONMENTS, 3), drawn(NODES, 3, seed=1)
    c, w = drawn(NODES, 5, seed=2), drawn(NODES, 3, 5, seed=3)
    expected = PairProducts(kernel.ready(3), z, nodes).product(c, w)
    for count in (4, 5):
        pairs = PairProducts(kernel.ready(3), z, nodes)
        rows = max(pairs.step, NODES)
        monkeypatch.setattr(PairProducts, "MOMENT_NUMBERS", {"cpu": count * 16 * rows})
        if count == 4:
            monkeypatch.setattr(module, "read_moments", None)  # not to be called
        pairs = PairProducts(kernel.ready(3), z, nodes)
        for found, right in zip(pairs.product(c, w), expected, strict=True):
            torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
        monkeypatch.undo()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_to_multiply(width):
    z, none = drawn(4, width), drawn(0, width)
    kernel = RBF(1.0).ready(width)
    value, gradient = PairProducts(kernel, z, z).product(torch.zeros(4, 0, dtype=z.dtype), None)
    assert value.shape == (4, 0) and gradient.shape == (4, width, 0)
    value, gradient = PairProducts(kernel, none, none).product(None, none[:, :, None])
    assert value.shape == (0, 1) and gradient.shape == (0, width, 1)


@pytest.mark.parametrize("kernel", [RBF(1.0), Matern52(1.0)], ids=str)
def test_single_precision_is_that_precise(small_blocks, kernel):
    kernel = kernel.ready(WIDTH)
    z, nodes = drawn(ENVIRONMENTS, WIDTH), drawn(NODES, WIDTH, seed=1)
    c, w = drawn(NODES, 2, seed=2), drawn(NODES, WIDTH, 2, seed=3)
    exact = PairProducts(kernel, z, nodes).product(c, w)
    found = PairProducts(kernel, z, nodes, dtype=torch.float32).product(c, w)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.float64 and 0.0 < float((a - b).abs().max()) < 1e-5 * float(b.abs().max())


def test_moments_are_in_double_precision():
    """Two clusters a hundred length scales apart: squares of coordinates are a thousand times their differences."""
    kernel = RBF(1.0).ready(3)
    z = drawn(60, 3) + 50.0 * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(30)[:, None]
    w = drawn(60, 3, 1, seed=3)
    pairs = PairProducts(kernel, z, z, dtype=torch.float32)
    assert pairs.moments and pairs.dtype == torch.float64
    expected = kernel.jet_product(z, z, torch.zeros(60, 1, dtype=z.dtype), w)
    for found, right in zip(pairs.product(None, w), expected, strict=True):
        assert float((found - right).abs().max()) < 1e-11 * float(right.abs().max())


@pytest.mark.parametrize("kernel", [RBF(1.0), Matern52(1.0)], ids=str)
def test_what_vanishes_is_zero(kernel):
    """Numbers below the normal ones, κ at 13.5 length scales, make every product ten times slower."""
    z = torch.linspace(0.0, 40.0, 400, dtype=torch.float64)[:, None] * torch.eye(1, WIDTH, dtype=torch.float64)
    pairs = PairProducts(kernel.ready(WIDTH), z, z, dtype=torch.float32)
    pairs.product(torch.ones_like(z[:, :1]), None)
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


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_of_one_process_are_a_part_of_the_product(small_blocks, width):
    kernel = RBF(1.0).ready(width)
    z, nodes, w = drawn(ENVIRONMENTS, width), drawn(NODES, width, seed=1), drawn(NODES, width, 1, seed=3)
    value, gradient = PairProducts(kernel, z, nodes).product(None, w)
    step = PairProducts(kernel, z, nodes).step
    own = range(2 * step, min(ENVIRONMENTS, 3 * step))
    found, slopes = PairProducts(kernel, z, nodes, rows=own).product(None, w)
    assert torch.equal(found, value[own.start : own.stop]) and torch.equal(slopes, gradient[own.start : own.stop])
