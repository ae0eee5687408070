"""Turned and dropped rows leave every sum over rows as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernelfe import FreeEnergyRegressor, Sparse
from kernelfe.gp.observations import assemble
from kernelfe.gp.solvers.sparse import streaming as sparse
from kernelfe.gp.solvers.sparse.row_reduction import _spanning, reduced
from kernelfe.gp.solvers.sparse.streaming import accumulate
from kernelfe.kernels import RBF, Jets, Matern52, RationalQuadratic
from kernelfe.linalg import NormalEquations
from kernelfe.linalg.normal import PANEL

from ...systems import molecule, one_term, two_terms

#: Sums of the same numbers in another order, relative to their norm.
ROUNDING = 1e-11


def basis_and_labels(frames, terms, inducing=7, gradients=False):
    solver = Sparse(inducing=inducing, gradients=gradients)
    model = FreeEnergyRegressor(terms=terms, solver=solver, optimizer=None, baseline=False).fit(frames)
    labels = assemble.label_sets(frames, None, None, model.baseline_, model.composition_.counts)
    return model.posterior_.basis, labels


def close(a, b):
    assert float((a - b).norm()) <= ROUNDING * float(a.norm())


def block_noise(frames):
    rng = np.random.default_rng(3)
    size = frames.labels["mean_force"][0].size
    root = 0.01 * (np.eye(size) + 0.2 * rng.normal(size=(len(frames), size, size)))
    return frames.replace(noise={"mean_force": root @ root.transpose(0, 2, 1), "mean_energy": 0.01})


@pytest.mark.parametrize("noise", ["given", "learned", "blocks"])
@pytest.mark.parametrize("gradients", [False, True])
def test_normal_equations_are_those_of_all_rows(monkeypatch, noise, gradients):
    frames = molecule(noise=noise == "given")
    if noise == "blocks":
        frames = block_noise(frames)
    basis, labels = basis_and_labels(frames, one_term(), gradients=gradients)
    fewer = accumulate(basis, labels, 64)
    monkeypatch.setattr(sparse, "reduced", lambda *_: None)
    all_rows = accumulate(basis, labels, 8192)
    for name in ("gram", "rhs", "square", "count"):
        close(getattr(all_rows, name), getattr(fewer, name))
    if noise != "blocks":  # for correlated rows only the rotated ones give the missed variance exactly
        close(all_rows.missing, fewer.missing)
    assert fewer.log_weight == pytest.approx(all_rows.log_weight, rel=ROUNDING)


def test_what_correlated_rows_miss_is_exact(monkeypatch):
    """The trace of noise⁻¹ (K − Q), which is approximated where rows are not turned."""
    frames = block_noise(molecule(6))
    basis, labels = basis_and_labels(frames, one_term(), inducing=3)
    forces = next(label for label in labels if label.kind == "mean_force")
    with torch.no_grad():
        rows = forces.rows(basis.prior)
        factor = float(rows.terms[0][0].factors[0, 0])
        features = basis.term_features(rows, 0, 0)
        variances = torch.zeros(basis.prior.terms[0].size, dtype=torch.float64)
        variances[0] = 1.0  # the energy's function alone
        gram = _gram_of_first(basis, rows) - factor**2 * features @ features.T
        wanted = sum(
            float(torch.trace(torch.linalg.solve(n, gram[k * 12 : (k + 1) * 12, k * 12 : (k + 1) * 12])))
            for k, n in enumerate(forces.noise.covariance)
        )
        found = accumulate(basis, [forces], 8192)
    total = sum(float(found.factors[0][g, 0] ** 2 * found.missing[g, 0]) for g in range(len(found.kinds)))
    assert total == pytest.approx(wanted, rel=1e-9)


def _gram_of_first(basis, rows):
    jets, read = rows.terms[0][0].jets, rows.terms[0][0]
    block = basis.prior.terms[0].kernel.gram(jets, jets, read.factors[:, :1] @ read.factors[:, :1].T)
    return block.flatten(2).flatten(0, 1)


def test_forces_read_internal_motions_only():
    basis, labels = basis_and_labels(molecule(), one_term())
    forces = next(label for label in labels if label.kind == "mean_force")
    with torch.no_grad():
        rows = forces.rows(basis.prior)
        fewer, y, outside = reduced(rows, forces.y.reshape(-1), lambda a: a)
    assert rows.components == 12 and fewer.components == 6  # four beads: 3·4 − 6
    assert float(y.square().sum()) + outside == pytest.approx(float(forces.y.square().sum()), rel=1e-12)


def test_rows_of_several_environments_stay(monkeypatch):
    basis, labels = basis_and_labels(molecule(), two_terms())
    forces = next(label for label in labels if label.kind == "mean_force")
    with torch.no_grad():
        assert reduced(forces.rows(basis.prior), forces.y.reshape(-1), lambda a: a) is None


def test_a_frame_of_higher_rank_than_those_counted_is_not_cut():
    generator = torch.Generator().manual_seed(1)
    w = torch.zeros(40, 6, 4, dtype=torch.float64)
    w[:, :2, :2] = torch.randn(40, 2, 2, generator=generator, dtype=torch.float64)
    w[7] = torch.randn(6, 4, generator=generator, dtype=torch.float64)  # every second frame is counted
    turn = _spanning(w)
    assert turn.shape == (40, 6, 4)
    assert torch.allclose(turn @ (turn.mT @ w), w, atol=1e-13)


@pytest.mark.parametrize("kernel", [RBF(), Matern52(), RationalQuadratic(alpha=0.7)])
@pytest.mark.parametrize("nodes", [Jets.values, Jets.full])
@pytest.mark.parametrize("rows", [Jets.values, Jets.full, "slopes"])
def test_columns_are_the_gram(kernel, nodes, rows):
    generator = torch.Generator().manual_seed(0)
    z, other, w = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5, 3), (4, 3), (5, 2, 3))
    )
    a, b = Jets(z, None, w) if rows == "slopes" else rows(z), nodes(other)
    out = torch.full((5 * a.rows, 4 * b.rows), torch.nan, dtype=torch.float64)
    kernel.fill_gram(a, b, out)
    assert torch.allclose(out, kernel.gram(a, b).reshape(out.shape), atol=1e-13)


def test_more_features_than_a_panel_holds():
    generator = torch.Generator().manual_seed(0)
    psi, y = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((50, 2 * PANEL + 3), (50,)))
    equations = NormalEquations([psi.shape[1]], [1])
    equations.add(("k", 300.0, 0), [torch.ones(1)], psi, y, torch.zeros(1, dtype=torch.float64), 0.0)
    equations.add_wide("k", 300.0, psi, y, torch.zeros(1, dtype=torch.float64), 0.0)
    stacked = equations.stacked()
    for gram in (stacked.gram[0], stacked.wide[0].gram):
        assert torch.allclose(gram, psi.T @ psi, rtol=1e-12, atol=1e-12)
