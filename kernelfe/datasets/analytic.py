"""An all-atom model small enough to be known exactly.

The coarse variables R ∈ ℝᵈ keep their place; one more coordinate x is eliminated:

    U(R, x; λ) = V(R) + ½ κ(R) x² − λ m(R) x + ¼ g x⁴,
    V = a (R₁² − 1)² + ½ c Σᵢ₌₂ Rᵢ² + s R₁ + v Σᵢ Rᵢ Rᵢ₊₁,   κ = κ₀ exp(α R₁ + ½ α sin R_d),   m = m₀ cos(R₁ − ½ R_d).

A(R; T, λ) = −kT ln ∫ e^{−U/kT} dx/(1 Å) is one integral, done here by the trapezoidal rule with fixed nodes
(exponentially convergent), so that autodiff in R, T and λ gives every derivative to rounding. For g = 0 it is
closed form: A = V − λ²m²/2κ − ½ kT ln(2π kT/κ).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..arrays import real_array
from ..errors import require
from ..frames import Frames
from ..runtime.seeds import random_numbers
from ..specs import Real, Whole, checked
from ..units import BOLTZMANN


@dataclass(frozen=True)
class EliminatedMode:
    """The model above; all energies in eV, coordinates in Å (or dimensionless variables for R).

    Parameters
    ----------
    dimension
        d, the number of coarse variables, at least 1. With 3, :meth:`frames` can also give one bead in space.
    barrier, confinement, slope, coupling
        a, c, s, v of V.
    stiffness, stiffness_change
        κ₀ (eV/Å²) and α: the eliminated mode is softer on one side, which is what makes dF/dT ≠ 0.
    shift
        m₀ (eV/Å per unit of λ).
    quartic
        g ≥ 0 (eV/Å⁴): makes U non-Gaussian, so higher cumulants and C(T) are not trivial.
    """

    dimension: int = 2
    barrier: float = 0.05
    confinement: float = 0.06
    slope: float = 0.01
    coupling: float = 0.015
    stiffness: float = 0.3
    stiffness_change: float = 1.2
    shift: float = 0.1
    quartic: float = 0.4

    def __post_init__(self) -> None:
        checked("dimension", self.dimension, Whole(least=1), "EliminatedMode")
        checked("stiffness", self.stiffness, Real(above=0.0), "EliminatedMode")
        checked("quartic", self.quartic, Real(least=0.0), "EliminatedMode")

    # ------------------------------------------------------------------ the all-atom model

    def energy(self, variables: Tensor, x: Tensor, parameter: Tensor | float = 1.0) -> Tensor:
        """U(R, x; λ) in eV; R (..., d), x and λ broadcast to (...)."""
        first, last = variables[..., 0], variables[..., -1]
        v = self.barrier * (first**2 - 1) ** 2 + self.slope * first
        v = v + 0.5 * self.confinement * (variables[..., 1:] ** 2).sum(-1)
        v = v + self.coupling * (variables[..., 1:] * variables[..., :-1]).sum(-1)
        k, m = self.stiffness_at(variables), self.shift * torch.cos(first - 0.5 * last)
        return v + 0.5 * k * x**2 - parameter * m * x + 0.25 * self.quartic * x**4

    def stiffness_at(self, variables: Tensor) -> Tensor:
        """κ(R), eV/Å²."""
        exponent = variables[..., 0] + 0.5 * torch.sin(variables[..., -1])
        return self.stiffness * torch.exp(self.stiffness_change * exponent)

    # ------------------------------------------------------------------ exact answers

    def free_energy(
        self, variables: Tensor, temperature: Tensor | float, parameter: Tensor | float = 1.0, nodes: int = 400
    ) -> Tensor:
        """A(R; T, λ) in eV by quadrature over x, differentiable by every argument.

        Parameters
        ----------
        variables
            (n, d) float64.
        temperature, parameter
            Numbers or (n,): T in K, and λ.
        nodes
            Number of quadrature nodes; the default reaches rounding for the default model from 100 to 1500 K.
        """
        x, log_weight = self._nodes(nodes)
        t = torch.as_tensor(temperature, dtype=torch.float64)
        lam = torch.as_tensor(parameter, dtype=torch.float64)
        u = self.energy(variables[:, None, :], x, lam[..., None])
        kt = (BOLTZMANN * t)[..., None]
        return -(BOLTZMANN * t) * torch.logsumexp(log_weight - u / kt, dim=1)

    def statistics(
        self, variables: Tensor, temperature: Tensor | float, parameter: Tensor | float = 1.0, nodes: int = 400
    ) -> dict[str, Tensor]:
        """Conditional averages over x at fixed R, by quadrature: what infinitely many all-atom frames would give.

        Parameters
        ----------
        variables, temperature, parameter, nodes
            As in :meth:`free_energy`.

        Returns
        -------
        dict
            By quantity key: ``mean_force`` ⟨f⟩, ``mean_energy`` ⟨U⟩, ``entropy`` (⟨U⟩ − A)/T, ``heat_capacity``,
            ``energy_variance``, ``thermal_response_force``, ``second_thermal_response_force``,
            ``parameter_derivative``, ``parameter_response_force``; and the moments they come from:
            ``force_energy_covariance`` Cov(f, U), ``force_energy_cumulant`` κ(f,U,U),
            ``energy_cumulant`` κ₃(U), ``parameter_curvature`` ⟨∂²U/∂λ²⟩ − b Var(∂U/∂λ) = ∂²A/∂λ²,
            ``force_covariance`` Cov(f, f), (n, d, d).
        """
        x, log_weight = self._nodes(nodes)
        r = variables.detach()[:, None, :].expand(-1, len(x), -1).contiguous().requires_grad_()
        t = torch.as_tensor(temperature, dtype=torch.float64).expand(len(variables))
        lam = torch.as_tensor(parameter, dtype=torch.float64).expand(len(variables))
        lam = lam[:, None].expand(-1, len(x)).contiguous().requires_grad_()
        u = self.energy(r, x, lam)
        g_r, g_lam = torch.autograd.grad(u.sum(), (r, lam), create_graph=True)
        (mixed,) = torch.autograd.grad(g_lam.sum(), r)  # ∂²U/∂R∂λ; ∂²U/∂λ² = 0, as U is linear in λ
        u, f, h, df = u.detach(), -g_r.detach(), g_lam.detach(), -mixed
        b = (1.0 / (BOLTZMANN * t))[:, None]
        p = torch.softmax(log_weight - b * u, dim=1)

        def mean(q: Tensor) -> Tensor:
            return torch.einsum("nx,nx...->n...", p, q)

        mean_u, mean_f, mean_h = mean(u), mean(f), mean(h)
        du, dh = u - mean_u[:, None], h - mean_h[:, None]
        fc = f - mean_f[:, None]
        variance, fu, fuu = mean(du**2), mean(fc * du[..., None]), mean(fc * (du**2)[..., None])
        log_z = torch.logsumexp(log_weight - b * u, dim=1)
        t1 = t[:, None]
        return {
            "free_energy": -BOLTZMANN * t * log_z,
            "mean_force": mean_f,
            "mean_energy": mean_u,
            "entropy": mean_u / t + BOLTZMANN * log_z,
            "heat_capacity": variance / (BOLTZMANN * t**2),
            "energy_variance": variance,
            "thermal_response_force": fu / (BOLTZMANN * t1**2),
            # chain rule: ∂²F/∂T² = (∂b/∂T)² κ(f,U,U) − (∂²b/∂T²) Cov(f,U)
            "second_thermal_response_force": BOLTZMANN**2 * (b**4 * fuu - 2 * b**3 * fu),
            "parameter_derivative": mean_h,
            "parameter_response_force": mean(df) - b * mean(fc * dh[..., None]),
            "force_energy_covariance": fu,
            "force_energy_cumulant": fuu,
            "energy_cumulant": mean(du**3),
            "parameter_curvature": -b[:, 0] * mean(dh**2),
            "force_covariance": torch.einsum("nx,nxi,nxj->nij", p, fc, fc),
        }

    def generalized_force(
        self,
        variables: Tensor,
        fields: Tensor,
        temperature: Tensor | float,
        parameter: Tensor | float = 1.0,
        swirl: float = 0.0,
        nodes: int = 400,
    ) -> Tensor:
        """⟨f·t + f_x w_x + kT ∂w_x/∂x⟩ with w_x = swirl·sin x: −t·∇A whatever the swirl.

        Only the divergence over the *eliminated* coordinate enters, at fixed R. A field t(R) that changes along
        itself adds div_R t to the all-atom divergence, which has to be left out (or subtracted as kT div_R t).

        Parameters
        ----------
        variables, temperature, parameter, nodes
            As in :meth:`free_energy`.
        fields
            (n, k, d): displacement fields of R.
        swirl
            Size of the motion of x that goes with every field, a zero-mean variate. Å.
        """
        x, log_weight = self._nodes(nodes)
        r = variables.detach()[:, None, :].expand(-1, len(x), -1).contiguous().requires_grad_()
        y = x.expand(len(variables), -1).contiguous().requires_grad_()
        t = torch.as_tensor(temperature, dtype=torch.float64).expand(len(variables))[:, None]
        lam = torch.as_tensor(parameter, dtype=torch.float64)[..., None]
        u = self.energy(r, y, lam)
        g_r, g_x = torch.autograd.grad(u.sum(), (r, y))
        p = torch.softmax(log_weight - u.detach() / (BOLTZMANN * t), dim=1)
        variate = swirl * (-g_x * torch.sin(x) + BOLTZMANN * t * torch.cos(x))
        return torch.einsum("nx,nxd,nkd->nk", p, -g_r, fields) + (p * variate).sum(1, keepdim=True)

    def _nodes(self, count: int) -> tuple[Tensor, Tensor]:
        """Equidistant nodes on [−L, L] and log weights; fixed, so that derivatives are those of a finite sum.

        The trapezoidal rule converges exponentially for analytic integrands that vanish at both ends
        (Trefethen & Weideman, SIAM Review 56, 385, 2014).
        """
        # the ends: where U has increased by 4 eV (31 kT at 1500 K) even for the softest mode in use, κ = κ₀/10
        soft = 0.05 * self.stiffness
        square = 4.0 / soft if self.quartic == 0 else 2 * (math.sqrt(soft**2 + 4 * self.quartic) - soft) / self.quartic
        half = math.sqrt(square)
        x = torch.linspace(-half, half, count, dtype=torch.float64)
        return x, torch.full_like(x, math.log(2 * half / (count - 1)))

    # ------------------------------------------------------------------ data

    def sample(
        self,
        variables: np.ndarray,
        temperature: np.ndarray | float,
        parameter: np.ndarray | float,
        rng: np.random.Generator | int | None,
    ) -> dict[str, np.ndarray]:
        """One all-atom frame per row, drawn exactly from p(x|R) by rejection, with its single-frame labels.

        Parameters
        ----------
        variables
            (n, d).
        temperature, parameter
            Numbers or (n,).
        rng
            numpy Generator.

        Returns
        -------
        dict
            ``x`` (n,), ``mean_force`` f (n, d), ``mean_energy`` U (n,), ``parameter_derivative`` ∂U/∂λ (n,).
        """
        r = torch.as_tensor(real_array(variables, "variables"))
        kt = BOLTZMANN * np.broadcast_to(real_array(temperature, "temperature", "K"), len(r))
        lam = np.array(np.broadcast_to(real_array(parameter, "parameter"), len(r)))
        rng = random_numbers(rng, "rng")
        k = self.stiffness_at(r).numpy()
        m = lam * self.shift * torch.cos(r[:, 0] - 0.5 * r[:, -1]).numpy()
        x, todo = np.empty(len(r)), np.arange(len(r))
        while len(todo):  # Gaussian proposals for the harmonic part, accepted by the quartic one
            trial = m[todo] / k[todo] + np.sqrt(kt[todo] / k[todo]) * rng.standard_normal(len(todo))
            accepted = rng.random(len(todo)) < np.exp(-0.25 * self.quartic * trial**4 / kt[todo])
            x[todo[accepted]] = trial[accepted]
            todo = todo[~accepted]
        r = r.clone().requires_grad_()
        lam_t = torch.from_numpy(lam).requires_grad_()
        u = self.energy(r, torch.from_numpy(x), lam_t)
        g_r, g_lam = torch.autograd.grad(u.sum(), (r, lam_t))
        return {
            "x": x,
            "mean_force": -g_r.numpy(),
            "mean_energy": u.detach().numpy(),
            "parameter_derivative": g_lam.numpy(),
        }

    def frames(
        self,
        variables: np.ndarray,
        temperature: np.ndarray | float,
        labels: tuple[str, ...] = ("mean_force",),
        parameter: np.ndarray | float = 1.0,
        rng: np.random.Generator | int | None = None,
        as_bead: bool = False,
    ) -> Frames:
        """Frames with labels: exact conditional averages, or with ``rng`` the labels of single all-atom frames.

        Parameters
        ----------
        variables, temperature, parameter
            As in :meth:`sample`; λ is stored as the parameter ``"lambda"``.
        labels
            Quantity keys of :meth:`statistics`; of :meth:`sample` when ``rng`` is given.
        rng
            None for exact averages.
        as_bead
            Give R (d = 3) as the position of one bead.

        Raises
        ------
        DataError
            If a label is not available, or ``as_bead`` with d ≠ 3.
        """
        variables = real_array(variables, "variables")
        require(
            variables.ndim == 2 and variables.shape[1] == self.dimension,
            f"variables has shape {variables.shape}, expected (n, {self.dimension})",
        )
        require(not as_bead or self.dimension == 3, f"as_bead needs dimension=3, this model has {self.dimension}")
        n = len(variables)
        t = np.array(np.broadcast_to(real_array(temperature, "temperature", "K"), n))
        lam = np.array(np.broadcast_to(real_array(parameter, "parameter"), n))
        if rng is None:
            exact = self.statistics(torch.from_numpy(variables.copy()), torch.from_numpy(t), torch.from_numpy(lam))
            values = {key: value.numpy() for key, value in exact.items()}
        else:
            values = self.sample(variables, t, lam, rng)
        for key in labels:
            of = " of single frames" if rng is not None else ""
            require(key in values, f"there is no label {key!r}{of}; available: {', '.join(values)}")
        chosen = {key: values[key] for key in labels}
        if not as_bead:
            return Frames.from_arrays(variables=variables, temperature=t, labels=chosen, parameters={"lambda": lam})
        chosen = {key: v[:, None, :] if v.ndim == 2 else v for key, v in chosen.items()}
        return Frames.from_arrays(variables[:, None, :], temperature=t, labels=chosen, parameters={"lambda": lam})
