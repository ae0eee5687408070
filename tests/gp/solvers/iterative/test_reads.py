"""Copies of an environment that only reorder its columns are recognised, and read once to the same effect."""

from __future__ import annotations

import pytest
import torch

from kernelfe.descriptors import Distances, Symmetrized
from kernelfe.gp.solvers.iterative.operator import JetGram
from kernelfe.gp.solvers.iterative.reads import NodeRead, column_orders
from kernelfe.kernels import RBF

from ...systems import THERMAL, Term, molecule
from .test_iterative import iterative

SWAP = ((0, 1, 2, 3), (3, 2, 1, 0))


@pytest.fixture(scope="module")
def gram():
    term = Term(Symmetrized(Distances(), SWAP), RBF(lengthscale=1.5), THERMAL)
    posterior = iterative(molecule(6), terms=term).posterior_
    with torch.no_grad():
        return JetGram(posterior.prior, posterior.labels, posterior.noise)


def test_reading_the_first_copy_is_reading_all(gram):
    (nodes,) = gram.terms
    seen = 0
    for read in nodes.reads:
        plain = NodeRead(read.block, read.rows, read.jets, read.index, read.factors)
        assert read.columns is not None and len(read.distinct.z) == len(plain.distinct.z) / 2
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(gram.rows, 2, generator=generator, dtype=torch.float64)
        count, width = nodes.nodes.shape
        for a, b in zip(read.coefficients(x, count, width), plain.coefficients(x, count, width), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                seen += 1
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        p = nodes.columns
        value = torch.randn(count, p, 2, generator=generator, dtype=torch.float64)
        slope = torch.randn(count, width, p, 2, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(read.labels(value, slope), plain.labels(value, slope), rtol=1e-12, atol=1e-12)
    assert seen >= 2


def test_other_copies_are_not_taken_for_reordered_ones(gram):
    jets = gram.terms[0].reads[0].jets
    assert column_orders(jets, 2) is not None
    moved = jets.z.clone()
    moved[3, 0] += 1e-6
    assert column_orders(type(jets)(moved, jets.c, jets.w, jets.frame, jets.label), 2) is None
    assert column_orders(jets, 5) is None or len(jets.z) % 5 == 0
