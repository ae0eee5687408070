"""Covariances of labels as operators, by dense matrices: what the tests of iterative methods compare with."""

from __future__ import annotations

import torch

from kernelfe.gp import starting
from kernelfe.gp.observations import assemble
from kernelfe.gp.observations.levels import NoiseLevels
from kernelfe.gp.observations.molecules import MoleculeSet


def problem(frames, terms, exponent=True):
    """Label sets, prior and noise of a fit, before any optimisation."""
    sets = assemble.label_sets(frames, None, None, None, (1.0,))
    _, prior, start, reference = starting.build_prior(terms, MoleculeSet([frames]), sets)
    return sets, prior, NoiseLevels(start, reference, exponent=exponent)


class DenseOperator:
    """K + noise as a dense matrix that depends on the hyperparameters through autograd."""

    def __init__(self, prior, labels, noise):
        blocks = [label.rows(prior) for label in labels]
        kernel = torch.cat([torch.cat([prior.gram(a, b) for b in blocks], 1) for a in blocks])
        self.noise = torch.cat([label.noise_at(noise).diagonal() for label in labels])
        self.matrix = kernel + torch.diag(self.noise)
        self.kernel, self.rows = kernel.detach(), len(kernel)

    def product(self, x):
        return self.matrix.detach() @ x

    def diagonal(self):
        return self.matrix.diagonal()

    def bilinear(self, u, v):
        return (u * (self.matrix @ v)).sum()

    def trace(self, preconditioner):
        return preconditioner.solve(self.matrix).trace()


class Pivoted:
    """P = L Lᵀ + diag(noise), L a partial pivoted Cholesky factor of K in units of the noise; rank 0: diagonal of A."""

    def __init__(self, operator, rank):
        noise = operator.noise.detach()
        root = noise.sqrt()
        scaled = operator.kernel / root[:, None] / root
        residual, factor = scaled.diagonal().clone(), scaled.new_zeros(len(scaled), 0)
        for _ in range(rank):
            pivot = int(residual.argmax())
            column = (scaled[:, pivot] - factor @ factor[pivot]) / residual[pivot].sqrt()
            factor = torch.cat([factor, column[:, None]], 1)
            residual = (residual - column**2).clamp_min(0.0)
        self.factor, self.noise = root[:, None] * factor, noise if rank else operator.diagonal().detach()
        inner = torch.eye(rank, dtype=torch.float64) + self.factor.T @ (self.factor / self.noise[:, None])
        self.lower = torch.linalg.cholesky(inner)

    def solve(self, x):
        y = x / self.noise[:, None]
        return y - self.factor @ torch.cholesky_solve(self.factor.T @ y, self.lower) / self.noise[:, None]

    def logdet(self):
        return float(self.noise.log().sum() + 2.0 * self.lower.diagonal().log().sum())

    def sample(self, n, generator):
        def draws(k):
            return torch.randn(k, n, generator=generator, dtype=torch.float64)

        return self.factor @ draws(self.factor.shape[1]) + self.noise.sqrt()[:, None] * draws(len(self.noise))


def build(prior, labels, noise, rank=60):
    """Arguments of :func:`kernelfe.gp.solvers.iterative.evidence.fit_lanczos`."""

    def at_present():
        operator = DenseOperator(prior, labels, noise)
        return operator, Pivoted(operator, rank)

    return at_present
