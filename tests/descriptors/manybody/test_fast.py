"""Compiled sums give the numbers of those in torch, and leave to torch what only it can do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe.descriptors import PairSplines, TripletSplines
from kernelfe.descriptors.manybody import fast

KINDS = ("A", "B", "A", "B", "B", "A")
DESCRIPTORS = [
    PairSplines(3.2, start=0.5, spacing=0.45),
    PairSplines(3.2, ("A", "B"), KINDS, apart=2, bonds=((0, 1), (2, 3)), start=0.5, spacing=0.45),
    TripletSplines(cutoff=2.9, start=1.5, spacing=0.7, degree=2),
    TripletSplines(2.9, 1.5, 0.7, 2, ("A", "B", "B"), KINDS),
    TripletSplines(2.9, 1.5, 0.7, 1, ("B", "A", "B"), KINDS),
    TripletSplines(2.9, 1.5, 0.7, 0, ("B", "B", "A"), KINDS),
]
CELL = torch.tensor([[4.0, 0.0, 0.0], [1.5, 4.5, 0.0], [-1.0, 0.8, 5.0]], dtype=torch.float64)


def everything(descriptor, x, cell):
    found = descriptor.environments(x, cell)
    z, _, pullback = descriptor.values_and_pullback(x, cell)
    g = torch.linspace(-1.0, 1.0, z.numel(), dtype=x.dtype).view(z.shape)
    return [found.z, found.jacobian, found.strain, z, pullback(g)]


@pytest.mark.parametrize("descriptor", DESCRIPTORS, ids=repr)
@pytest.mark.parametrize("periodic", [True, False])
def test_same_numbers(descriptor, periodic, monkeypatch):
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.uniform(-1.0, 2.0, (3, 6, 3)) @ CELL.numpy())
    cell = CELL.expand(3, 3, 3) if periodic else None
    x = x if periodic else 0.4 * x
    assert fast.compiled_for(x, cell)
    compiled = everything(descriptor, x, cell)
    monkeypatch.setattr(fast, "compiled_for", lambda x, cell: False)
    for found, wanted in zip(compiled, everything(descriptor, x, cell), strict=True):
        if wanted is None:
            assert found is None
            continue
        assert wanted.abs().max() > 0.0
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))


def test_torch_keeps_what_only_it_can_do():
    x = torch.zeros(1, 4, 3, dtype=torch.float64)
    assert not fast.compiled_for(x.float(), None)
    assert not fast.compiled_for(x.clone().requires_grad_(), None)
    assert not fast.compiled_for(x, CELL.clone().requires_grad_())
    assert not fast.compiled_for(x * torch.nan, None)


def test_no_frames():
    assert DESCRIPTORS[0].environments(torch.zeros(0, 6, 3, dtype=torch.float64), CELL).z.shape == (0, 3)
