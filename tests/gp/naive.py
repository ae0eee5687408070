"""An independent oracle: Gaussian-process conditioning from the scalar covariance k((R,T,λ), (R',T',λ')) alone.

Nothing here comes from kernelfe. The covariance of two labels is the scalar kernel, differentiated by torch.func on
both sides, term by term; conditioning is numpy. The kernel of a term is a product of a function of the states, one of
the parameter, and Σ κ over all pairs of environments, so the three are differentiated apart and multiplied
(``test_the_oracle_is_the_derivative_of_the_whole_kernel`` checks that against nested derivatives of the whole).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np
import torch
from torch.func import jacfwd, vmap

K_BOLTZMANN = 8.617330337217213e-05  # eV/K, as ase.units (CODATA 2014)
PAIRS = ((0, 1), (0, 2), (1, 2))
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))

#: quantity → (where it reads, Σ c T^p ∂ⁿ/∂Tⁿ as (c, p, n), derivatives by λ)
TABLE = {
    "free_energy": ("value", [(1, 0, 0)], 0),
    "mean_force": ("gradient", [(-1, 0, 0)], 0),
    "generalized_force": ("along", [(-1, 0, 0)], 0),
    "mean_energy": ("value", [(1, 0, 0), (-1, 1, 1)], 0),
    "entropy": ("value", [(-1, 0, 1)], 0),
    "heat_capacity": ("value", [(-1, 1, 2)], 0),
    "energy_variance": ("value", [(-K_BOLTZMANN, 3, 2)], 0),
    "thermal_response_force": ("gradient", [(-1, 0, 1)], 0),
    "generalized_thermal_response": ("along", [(-1, 0, 1)], 0),
    "second_thermal_response_force": ("gradient", [(-1, 0, 2)], 0),
    "parameter_derivative": ("value", [(1, 0, 0)], 1),
    "parameter_response_force": ("gradient", [(-1, 0, 0)], 1),
    "stress": ("strain", [(1, 0, 0)], 0),
    "excess_pressure": ("volume", [(-1, 0, 0)], 0),
}

_NUMBERS = count()


@dataclass
class Points:
    """n frames of three beads: R (n, 3, 3), cells (n, 3, 3), T and λ (n,), fields (n, k, 3, 3)."""

    r: torch.Tensor
    cell: torch.Tensor
    t: torch.Tensor
    lam: torch.Tensor
    fields: torch.Tensor
    images: torch.Tensor = field(init=False)
    number: int = field(init=False)

    def __post_init__(self):
        self.number = next(_NUMBERS)
        v = torch.stack([self.r[:, j] - self.r[:, i] for i, j in PAIRS], 1)
        self.images = torch.round(v @ torch.linalg.inv(self.cell))  # cells of the nearest image, constants

    def __getitem__(self, index):
        return Points(self.r[index], self.cell[index], self.t[index], self.lam[index], self.fields[index])


def distances(r, strain, cell, images):
    """Nearest-image distances of three beads in a deformed cell, (3,)."""
    deformation = torch.eye(3, dtype=torch.float64)
    for k, (i, j) in enumerate(VOIGT):
        unit = torch.zeros(3, 3, dtype=torch.float64)
        unit[i, j] += 0.5
        unit[j, i] += 0.5
        deformation = deformation + strain[k] * unit
    r, cell = r @ deformation, cell @ deformation
    v = torch.stack([r[j] - r[i] for i, j in PAIRS]) - images @ cell
    return (v * v).sum(1).sqrt()


def rbf(s):
    return torch.exp(-s)


def matern52(s):
    near = s < 1e-15
    r = (2.0 * torch.where(near, 1.0, s)).sqrt()
    far = (1.0 + math.sqrt(5.0) * r + 5.0 * r * r / 3.0) * torch.exp(-math.sqrt(5.0) * r)
    return torch.where(near, 1.0 - 5.0 * s / 3.0 + 25.0 * s * s / 6.0, far)


def tau(t, t0):
    return t - t0 - t * torch.log(t / t0)


#: What the squares of the three scales of a term multiply in its covariance of two temperatures.
HEAT_PARTS = (
    lambda t, t2, t0: torch.ones_like(t * t2),
    lambda t, t2, t0: (t - t0) * (t2 - t0),
    lambda t, t2, t0: tau(t, t0) * tau(t2, t0),
)
#: Derivatives that terms share: the means of two models differ in their scales alone.
SHARED: dict[tuple, torch.Tensor] = {}


@dataclass
class NaiveTerm:
    """A term on distances: all three as one environment (``together``), or one environment each."""

    kappa: Callable
    lengthscale: tuple[float, ...]
    scales: tuple[float, float, float]  # prior standard deviations of A(T0), s, c
    t0: float
    expansion: tuple[float, float, int]  # λ0, scale, order
    together: bool = True
    cache: dict = field(default_factory=dict, repr=False)

    def space(self, r, strain, r2, strain2, cell, images, cell2, images2):
        """Σ κ over all pairs of environments."""
        z, z2 = distances(r, strain, cell, images), distances(r2, strain2, cell2, images2)
        ell = torch.tensor(self.lengthscale, dtype=torch.float64)
        if self.together:
            return self.kappa(0.5 * (((z - z2) / ell) ** 2).sum())
        return self.kappa(0.5 * ((z[:, None] - z2[None, :]) / ell) ** 2).sum()

    def heat(self, t, t2):
        """a_0² + (T − T0)(T' − T0) a_s² + τ τ' a_c²."""
        return sum(a**2 * part(t, t2, self.t0) for a, part in zip(self.scales, HEAT_PARTS, strict=True))

    def parameter(self, lam, lam2):
        """Σ_j (λ − λ0)^j (λ' − λ0)^j scale^2j / j!²."""
        origin, scale, order = self.expansion
        x, x2 = lam - origin, lam2 - origin
        return sum((scale**2 * x * x2) ** j / math.factorial(j) ** 2 for j in range(order + 1))

    def kernel(self, r, strain, t, lam, r2, strain2, t2, lam2, *cells):
        """The scalar kernel itself."""
        return self.space(r, strain, r2, strain2, *cells) * self.heat(t, t2) * self.parameter(lam, lam2)


@dataclass
class NaiveMean(NaiveTerm):
    """e + c τ(T), one for the whole frame: a term whose kernel in space is one."""

    offset: float = 0.0


@dataclass(frozen=True)
class Axis:
    """exp(−(x − x')²/2ℓ²) of T, of ln T or of λ."""

    lengthscale: float
    logarithmic: bool = False

    def __call__(self, a, b):
        x, y = (torch.log(a), torch.log(b)) if self.logarithmic else (a, b)
        return torch.exp(-0.5 * ((x - y) / self.lengthscale) ** 2)

    def integrated_twice(self, t, t2, t0):
        """∬ (T − x)(T' − y) k(x, y)/(x y) dx dy from T0: the covariance of what C adds to A."""
        nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(13))
        nodes, weights = 0.5 * (nodes + 1), 0.25 * (1 - nodes) * weights  # on [0, 1], times the distance to its end
        x, y = t0 + (t - t0) * nodes, t0 + (t2 - t0) * nodes
        weight = weights[:, None] * weights / (x[:, None] * y)
        return (t - t0) ** 2 * (t2 - t0) ** 2 * (weight * self(x[:, None], y)).sum()


@dataclass
class NaiveStationaryTerm(NaiveTerm):
    """A term whose heat capacity (or, without u and s, whose free energy) and λ have stationary kernels."""

    temperature: Axis = Axis(100.0)
    field: Axis = Axis(1.0)

    def heat(self, t, t2):
        """a_0² + (T − T0)(T' − T0) a_s² + a_c² ∬ k, or a_0² (1 + Cov(g(T) − g(T0), g(T') − g(T0)))."""
        a, s, c = self.scales
        if s == c == 0.0:
            k, t0 = self.temperature, torch.as_tensor(self.t0, dtype=torch.float64)
            return a**2 * (1.0 + k(t, t2) - k(t, t0) - k(t0, t2) + k(t0, t0))
        return a**2 + s**2 * (t - self.t0) * (t2 - self.t0) + c**2 * self.temperature.integrated_twice(t, t2, self.t0)

    def parameter(self, lam, lam2):
        """k(λ, λ')."""
        return self.field(lam, lam2)


@dataclass
class NaiveStationaryMean(NaiveMean):
    """e + c τ(T) and a change of c by about a thirtieth of its broad prior."""

    temperature: Axis = Axis(100.0)

    def heat(self, t, t2):
        """a_e² + a_c² (τ τ' + ∬ k/30²)."""
        change = self.scales[2] / 30.0
        return super().heat(t, t2) + change**2 * self.temperature.integrated_twice(t, t2, self.t0)


def grid(function, a, b):
    """``function`` of all pairs of rows of two tuples of tensors."""
    over_b = vmap(function, in_dims=((None,) * len(a), (0,) * len(b)))
    return vmap(over_b, in_dims=((0,) * len(a), (None,) * len(b)))(a, b)


class NaiveGP:
    """A sum of terms; the last one may be a :class:`NaiveMean`."""

    def __init__(self, terms):
        self.terms = terms

    def gram(self, key, a: Points, key2, b: Points) -> np.ndarray:
        """Covariances of two kinds of labels, rows frame by frame, (n·m, n'·m')."""
        where, thermal, order = TABLE[key]
        where2, thermal2, order2 = TABLE[key2]
        out = None
        for index in range(len(self.terms)):
            state = sum(
                c * c2 * a.t[:, None] ** p * b.t[None] ** p2 * self._state(index, "heat", n, n2, a, b)
                for c, p, n in thermal
                for c2, p2, n2 in thermal2
            )
            state = state * self._state(index, "parameter", order, order2, a, b)
            space = self._space(index, where, where2, a, b)
            block = space * state[:, None, :, None]
            out = block if out is None else out + block
        n, m, n2, m2 = out.shape
        return out.reshape(n * m, n2 * m2).numpy()

    def prior_mean(self, key, a: Points, m: int) -> np.ndarray:
        """The prior mean: the offset of a NaiveMean is a constant energy, which ∂/∂T, ∂/∂λ and ∇ do not see."""
        where, thermal, order = TABLE[key]
        offset = sum(term.offset for term in self.terms if isinstance(term, NaiveMean))
        seen = sum(c for c, p, n in thermal if n == 0) if where == "value" and not order else 0.0
        return np.full(len(a.t) * m, offset * seen)

    def _state(self, index, name, n, n2, a, b):
        term, pair = self.terms[index], (n, n2, a.number, b.number)
        if name == "parameter":
            own = type(term).parameter is not NaiveTerm.parameter
            cache, key = (term.cache, name) if own else (SHARED, term.expansion)
            return _once(cache, (key, *pair), lambda: differentiated(term.parameter, n, n2, a.lam, b.lam))
        if type(term).heat is not NaiveTerm.heat:
            return _once(term.cache, (name, *pair), lambda: differentiated(term.heat, n, n2, a.t, b.t))
        out = torch.zeros(len(a.t), len(b.t), dtype=torch.float64)
        for number, (scale, part) in enumerate(zip(term.scales, HEAT_PARTS, strict=True)):
            if scale:  # linear in the squares of the scales
                key, heat = ("part", number, term.t0, *pair), partial(part, t0=term.t0)
                out = out + scale**2 * _once(SHARED, key, partial(differentiated, heat, n, n2, a.t, b.t))
        return out

    def _space(self, index, where, where2, a, b):
        sizes = {"value": 1, "gradient": 9, "strain": 6, "volume": 1, "along": a.fields.shape[1]}
        if isinstance(self.terms[index], NaiveMean):  # constant in space
            shape = (len(a.t), sizes[where], len(b.t), sizes[where2])
            return (torch.ones if where == where2 == "value" else torch.zeros)(shape, dtype=torch.float64)
        if where == "along":
            full = self._space(index, "gradient", where2, a, b)
            return torch.einsum("nkq,nqxy->nkxy", a.fields.flatten(2), full)
        if where == "volume":  # dV/V is the trace of the strain
            return self._space(index, "strain", where2, a, b)[:, :3].sum(1, keepdim=True) / 3.0
        if where2 == "volume":
            return self._space(index, where, "strain", a, b)[..., :3].sum(3, keepdim=True) / 3.0
        if where2 == "along":
            full = self._space(index, where, "gradient", a, b)
            return torch.einsum("xkq,nmxq->nmxk", b.fields.flatten(2), full)

        def compute():
            argument = {"gradient": 0, "strain": 1}
            function = self.terms[index].space
            if where != "value":
                function = jacfwd(function, argument[where])
            if where2 != "value":
                function = jacfwd(function, 2 + argument[where2])
            zero = torch.zeros(6, dtype=torch.float64)

            def pair(p, q):
                out = function(p[0], zero, q[0], zero, p[1], p[2], q[1], q[2])
                out = out / (torch.linalg.det(p[1]).abs() if where == "strain" else 1.0)
                out = out / (torch.linalg.det(q[1]).abs() if where2 == "strain" else 1.0)
                return out.reshape(sizes[where], sizes[where2])

            return grid(pair, (a.r, a.cell, a.images), (b.r, b.cell, b.images)).transpose(1, 2)

        return _once(self.terms[index].cache, (where, where2, a.number, b.number), compute)


def differentiated(function, n, n2, x, y):
    """∂ⁿ/∂xⁿ ∂ⁿ'/∂yⁿ' of a function of two numbers, at all pairs."""
    for _ in range(n):
        function = jacfwd(function, 0)
    for _ in range(n2):
        function = jacfwd(function, 1)
    return grid(lambda p, q: function(*p, *q), (x,), (y,))


def _once(cache, key, compute):
    if key not in cache:
        cache[key] = compute()
    return cache[key]


def condition(k, y, mean, kx, kxx, mean_x):
    """Posterior mean and covariance, and the log evidence, by scaled dense algebra; ``k`` includes the noise."""
    d = np.sqrt(np.diag(k))
    scaled = k / np.outer(d, d)
    residual = (y - mean) / d
    solved = np.linalg.solve(scaled, np.column_stack([residual, (kx / d).T]))
    _, logdet = np.linalg.slogdet(scaled)
    evidence = -0.5 * (residual @ solved[:, 0] + logdet + 2 * np.log(d).sum() + len(y) * math.log(2 * math.pi))
    return mean_x + (kx / d) @ solved[:, 0], kxx - (kx / d) @ solved[:, 1:], evidence
