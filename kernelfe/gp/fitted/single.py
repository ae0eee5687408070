"""A(R; T) and ∇A of a single configuration: the path of dynamics with one molecule.

An evaluation takes some thousand multiplications, less than a call of torch. What does not change is prepared once, and
the rest is a few dozen calls of NumPy, and two of torch for the products with the nodes, which stay in one thread.
What has no faster form (terms with several environments, kernels that are not radial, gradient coefficients) is
computed as in batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...descriptors.base import Single, single_of
from ...geometry.single import TINY, Gradient, SingleDistances, angle, distance, torsion
from ...kernels import RBF, Kernel, RadialKernel
from ..baseline import FittedBaseline

FloatArray = NDArray[np.float64]


def _plain(kernel: Kernel) -> bool:
    """True for radial kernels whose embedding is a division by length scales."""
    return isinstance(kernel, RadialKernel) and type(kernel).embedding is Kernel.embedding


class Memo(dict):
    """What is made when first needed: left out of pickles and deep copies, since it holds local functions."""

    def __reduce__(self) -> tuple[type[Memo], tuple[()]]:
        return Memo, ()


class Nearness:
    """A radial kernel between one environment and nodes.

    Parameters
    ----------
    kernel
        The kernel.
    nodes, centre
        Embedded nodes about their mean, (m, D), and their mean.
    """

    def __init__(self, kernel: RadialKernel, nodes: Tensor, centre: Tensor):
        self.kernel, self.nodes = kernel, nodes
        self.scale = kernel.embedding(torch.ones(1, nodes.shape[1], dtype=torch.float64)).z[0].numpy()
        self.centre, self._minus_squares = centre.numpy(), -0.5 * (nodes * nodes).sum(1)

    def __call__(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Embedded environment about the mean of the nodes, shape (D,), and −s of all nodes, shape (m,)."""
        u = z * self.scale - self.centre
        minus_s = torch.addmv(self._minus_squares, self.nodes, torch.from_numpy(u)).numpy()  # z_j·u − z_j²/2
        minus_s -= 0.5 * u.dot(u)
        return u, np.minimum(minus_s, 0.0, out=minus_s)

    def values(self, minus_s: FloatArray) -> Tensor:
        """κ(s) of all nodes; may overwrite −s."""
        if type(self.kernel) is RBF:
            return torch.from_numpy(np.exp(minus_s, out=minus_s))
        return self.kernel.value_(torch.from_numpy(minus_s).neg_())


class SingleTerm:
    """One term with one environment, a radial kernel and value coefficients.

    Parameters
    ----------
    read
        The :meth:`~kernelfe.descriptors.base.Descriptor.single` of its descriptor.
    nearness
        Its kernel with the nodes.
    """

    def __init__(self, read: Single, nearness: Nearness):
        self.read, self.nearness = read, nearness

    def __call__(self, x: FloatArray, moments: Tensor) -> tuple[float, FloatArray]:
        """Value and gradient of the term.

        Parameters
        ----------
        x
            The configuration.
        moments
            Coefficients c_j, and c_j z_j, as rows, shape (1 + D, m).
        """
        z, pull = self.read(x)
        near = self.nearness
        u, minus_s = near(z)
        if near.kernel.SLOPE is not None:  # κ' is a multiple of κ
            total = torch.mv(moments, near.values(minus_s)).numpy()
            value, slope = total[0], near.kernel.SLOPE * (u * total[0] - total[1:])
        else:
            k0, k1, _ = near.kernel.functions(torch.from_numpy(minus_s).neg_())
            total = torch.mv(moments, k1).numpy()
            value, slope = moments[0] @ k0, u * total[0] - total[1:]
        return float(value), pull(slope * near.scale)


class SingleBaseline:
    """A fitted baseline, for one configuration, in plain numbers.

    Parameters
    ----------
    baseline
        The baseline.
    """

    def __init__(self, baseline: FittedBaseline):
        b = self.baseline = baseline
        self.bonds = [(*beads, *numbers) for beads, numbers in zip(b.bonds, b.bond_parameters, strict=True)]
        self.walls = [(*beads, radius) for beads, radius in zip(b.walls, b.wall_radii, strict=True)]
        self.angles = list(zip(b.angles, b.angle_parameters, strict=True))
        self.impropers = list(zip(b.impropers, b.improper_parameters, strict=True))

    @property
    def work(self) -> int:
        """Operations, in the unit of a bond."""
        return len(self.bonds) + len(self.walls) + 4 * len(self.angles) + 8 * len(self.impropers)

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        """V and ∇V."""
        beads, out, energy = x.tolist(), Gradient(self.baseline.beads), 0.0
        for i, j, stiffness, rest in self.bonds:
            r, *slope = distance(beads, i, j)
            g = stiffness * (r - rest)
            energy += 0.5 * g * (r - rest)
            out.add_distance(g, i, j, slope)
        for i, j, radius in self.walls:
            r, *slope = distance(beads, i, j)
            squared = (radius / r) * (radius / r)
            wall = squared * squared * squared
            wall *= self.baseline.wall_energy * wall
            energy += wall
            out.add_distance(-12.0 * wall / r, i, j, slope)
        for bent, (stiffness, rest) in self.angles:
            theta, slopes = angle(beads, *bent)
            g = stiffness * (theta - rest)
            energy += 0.5 * g * (theta - rest)
            out.add_angle(g, *bent, slopes)
        for turned, (stiffness, rest) in self.impropers:
            chi, slopes = torsion(beads, *turned)
            delta = math.remainder(chi - rest, 2.0 * math.pi)
            energy += 0.5 * stiffness * delta * delta
            out.add_torsion(stiffness * delta, *turned, slopes)
        return energy, out.array()


class SingleConfiguration:
    """A frozen model for one configuration at a time.

    Parameters
    ----------
    frozen
        The :class:`~kernelfe.gp.fitted.frozen.FrozenModel`.
    shape
        (beads, 3) or (d,).
    """

    #: Work of a baseline up to which plain numbers are faster than a batch of one.
    PLAIN: ClassVar[int] = 300

    def __init__(self, frozen: Any, shape: tuple[int, ...]):
        self.frozen, self.shape = frozen, shape
        self.baseline: SingleBaseline | None = None
        if type(frozen.baseline) is FittedBaseline and shape == (frozen.baseline.beads, 3):
            own = SingleBaseline(frozen.baseline)
            self.baseline = own if own.work <= self.PLAIN else None
        self.terms = [self._term(t) for t in range(len(frozen._terms))]
        self._numbers: dict[float, tuple[float, list[Tensor]]] = {}

    def _term(self, t: int) -> SingleTerm | None:
        kernel, frozen = self.frozen._kernels[t], self.frozen
        descriptor = frozen._terms[t].spec.descriptor
        if not _plain(kernel) or frozen._w[t] is not None:
            return None
        read = single_of(descriptor, self.shape)
        return None if read is None else SingleTerm(read, Nearness(kernel, frozen._nodes[t], frozen._centre[t]))

    def __call__(self, positions: Tensor, temperature: float) -> tuple[float, FloatArray]:
        """A(R; T), and ∇A of the shape of the configuration.

        Parameters
        ----------
        positions
            Shape (1, beads, 3) or (1, d), float64, on the CPU.
        temperature
            K.
        """
        frozen, x, threads = self.frozen, positions.numpy()[0], torch.get_num_threads()
        if threads > 1:  # as one_thread, which would take a tenth of the time of everything here
            torch.set_num_threads(1)
        try:
            energy, moments = self._at(temperature)
            gradient = None
            if frozen.baseline is not None:
                found = self.baseline(x) if self.baseline else _one(frozen.baseline.energy_and_gradient, positions)
                energy, gradient = energy + found[0], found[1]
            for t, term in enumerate(self.terms):
                found = term(x, moments[t]) if term else _one(frozen._read, t, positions, temperature)
                energy, gradient = energy + found[0], found[1] if gradient is None else gradient + found[1]
        finally:
            if threads > 1:
                torch.set_num_threads(threads)
        return energy, np.zeros(self.shape) if gradient is None else gradient

    def _at(self, temperature: float) -> tuple[float, list[Tensor]]:
        """The mean functions and the moments of all terms, made once per temperature."""
        out = self._numbers.get(temperature)
        if out is None:
            every = [self.frozen._coefficients(t, temperature)[3] for t in range(len(self.terms))]
            constant = self.frozen._constant(temperature)
            out = float(constant), [moments.T.contiguous() for moments in every]
            if len(self._numbers) > 64:
                self._numbers.clear()
            self._numbers[temperature] = out
        return out


@torch.no_grad()
def _one(function: Callable[..., tuple[Tensor, Tensor]], *arguments: Any) -> tuple[float, FloatArray]:
    """Value and gradient of a batch of one."""
    value, gradient = function(*arguments)
    return float(value[0]), gradient[0].numpy()


class SingleScore:
    """The score of a :class:`~kernelfe.gp.fitted.domain.Domain`, for one configuration without a cell.

    Parameters
    ----------
    domain
        The domain.
    shape
        (beads, 3) or (d,).
    """

    def __init__(self, domain: Any, shape: tuple[int, ...]):
        self.domain = domain
        readers = [single_of(term.spec.descriptor, shape) for term in domain.terms]
        plain = all(_plain(kernel) for kernel in domain._kernels) and None not in readers
        pairs = [] if domain.pairs is None else domain.pairs.tolist()
        self.useful = plain and SingleDistances.suits(len(pairs), shape[0])
        if not self.useful:
            return
        low, self.middle, high = (part.numpy() for part in (domain.low, domain.middle, domain.high))
        self.distances = SingleDistances(pairs, shape[0])
        self.above = 1.0 / (domain.margin * (high - self.middle))
        self.below = 1.0 / (domain.margin * (1.0 / low - 1.0 / self.middle))
        self.terms: list[tuple[Any, Nearness, Tensor, float]] = []
        for t, (read, kernel) in enumerate(zip(readers, domain._kernels, strict=True)):
            anchors = domain.anchors[t]
            nearness = Nearness(kernel, anchors - anchors.mean(0), anchors.mean(0))
            self.terms.append((read, nearness, domain._whitenings[t].matrix.T.contiguous(), domain.novelty[t]))

    def __call__(self, coordinates: Tensor) -> Tensor:
        """The score, shape (1,), of coordinates (1, beads, 3); infinite where they are not finite."""
        if not self.useful:
            return self.domain._score(coordinates.double(), None)
        x = coordinates.detach().double().numpy()[0]
        if not np.isfinite(x).all():
            return torch.full((1,), math.inf, dtype=torch.float64)
        r, _ = self.distances(x)
        if r.min() <= TINY:
            return torch.full((1,), math.inf, dtype=torch.float64)
        score = max(((r - self.middle) * self.above).max(), ((1.0 / r - 1.0 / self.middle) * self.below).max())
        for read, nearness, whitening, novelty in self.terms:
            features = torch.mv(whitening, nearness.values(nearness(read(x)[0])[1]))
            score = max(score, math.sqrt(max(0.0, 1.0 - float(features.dot(features))) / novelty))
        return torch.tensor([score if score == score else math.inf], dtype=torch.float64)
