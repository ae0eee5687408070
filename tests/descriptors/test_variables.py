"""Variables: identity, selection, periodic variables."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd.functional import jacobian

from kernelfe.descriptors import Variables

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_plain_variables_are_themselves():
    environments = Variables().environments(X)
    torch.testing.assert_close(environments.z, X, rtol=0.0, atol=0.0)
    assert environments.jacobian is None and environments.columns is None and environments.frame is None
    assert environments.z.data_ptr() != X.data_ptr()  # samplers change coordinates in place
    g = torch.ones_like(X)
    torch.testing.assert_close(Variables().values_and_pullback(X)[2](g), g)
    torch.testing.assert_close(environments.pull(g, X), g)


def test_periodic_columns():
    z = Variables((2, 0), (360.0, None)).environments(X).z
    wanted = torch.stack((torch.sin(X[:, 2] * math.pi / 180), torch.cos(X[:, 2] * math.pi / 180), X[:, 0]), 1)
    torch.testing.assert_close(z, wanted, rtol=0.0, atol=1e-14)
    assert Variables((2, 0), (360.0, None)).dimension((3,)) == 3
    shifted = X + torch.tensor([0.0, 0.0, 360.0], dtype=torch.float64)
    torch.testing.assert_close(Variables((2, 0), (360.0, None)).environments(shifted).z, z, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(
    "descriptor",
    [Variables((1,)), Variables((2, 0)), Variables(periodic=(2.0, None, 5.0)), Variables((1, 2), (None, 3.0))],
)
def test_jacobian_and_pullback(descriptor):
    environments = descriptor.environments(X)
    full = jacobian(lambda y: descriptor.environments(y).z, X)
    reference = torch.stack([full[k, :, k] for k in range(4)])
    torch.testing.assert_close(environments.jacobian, reference, rtol=0.0, atol=1e-12)
    z, frame, pullback = descriptor.values_and_pullback(X)
    g = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert frame is None
    torch.testing.assert_close(pullback(g), torch.einsum("nad,na->nd", reference, g), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(environments.pull(g, X), pullback(g), rtol=0.0, atol=1e-12)
