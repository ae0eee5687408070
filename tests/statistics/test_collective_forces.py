"""Mean forces of nonlinear variables: fields and divergences by finite differences, answers by quadrature."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

import kernelfe
from kernelfe.errors import DataError
from kernelfe.statistics import Angle, Dihedral, Distance, TorsionField, collective_forces, conditional_moments
from kernelfe.statistics.fields.collective_variables import Derivatives
from kernelfe.statistics.fields.dual_fields import gradient_fields, rotation_fields
from kernelfe.units import BOLTZMANN

# a chain 0–1–2–3 with hydrogens 4, 5 on atom 1 and 6 on atom 2; all bonds to hydrogen constrained
BONDS = ((0, 1), (1, 2), (2, 3), (1, 4), (1, 5), (2, 6))
CONSTRAINTS = ((1, 4), (1, 5), (2, 6))
MASSES = np.array([15.0, 12.0, 14.0, 16.0, 1.0, 2.0, 1.5])
SHAPE = np.array(
    [[0.0, 1.2, 0.1], [0, 0, 0], [1.5, 0, 0], [2.0, 1.3, 0.4], [-0.4, -0.6, 0.8], [-0.5, -0.5, -0.9], [2.0, -0.8, -0.6]]
)
T = 400.0


def molecule(seed, frames=2):
    return SHAPE + 0.15 * np.random.default_rng(seed).standard_normal((frames, 7, 3))


def gyration(x):
    """Any torch function will do: two columns, one of all heavy atoms and one of a smooth contact."""
    centred = x[:, :4] - x[:, :4].mean(1, keepdim=True)
    contact = torch.exp(-((x[:, 0] - x[:, 6]) ** 2).sum(-1) / 8.0)
    return torch.stack([(centred**2).sum((1, 2)).sqrt(), contact], 1)


SETS = {
    "distance": [Distance(0, 3)],
    "angle": [Angle(0, 1, 2)],
    "dihedral": [Dihedral(0, 1, 2, 3)],
    "three": [Distance(0, 3), Angle(1, 2, 3), Dihedral(4, 1, 2, 3)],
    "callable": [gyration],
}


def fields(x, variables, constraints=CONSTRAINTS, mobilities=None, rotations=None):
    derivatives = Derivatives(variables, torch.as_tensor(x))
    mass = torch.as_tensor(MASSES)
    if rotations is not None:
        w, d = rotation_fields(derivatives, rotations, mass, constraints)
    else:
        w, d = gradient_fields(
            derivatives, 1.0 / mass if mobilities is None else torch.as_tensor(mobilities), mass, constraints
        )
    return w.numpy(), d.numpy()


def log_root_det_z(x, constraints):
    gradients = np.zeros((len(x), len(constraints), *x.shape[1:]))
    for s, (a, b) in enumerate(constraints):
        u = x[:, a] - x[:, b]
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        gradients[:, s, a], gradients[:, s, b] = u, -u
    return 0.5 * np.linalg.slogdet(np.einsum("nsax,ntax,a->nst", gradients, gradients, 1 / MASSES))[1]


def divergence_by_differences(x, constraints, step=1e-5, **options):
    """Σ_a ∇_a·w_a + w·∇ ln √det Z, column by column."""
    w, _ = fields(x, constraints=constraints, **options)
    n, size = len(x), x[0].size
    moves = step * np.eye(size).reshape(size, *x.shape[1:])
    both = np.stack([x + moves[:, None], x - moves[:, None]])  # (2, size, n, atoms, 3), in one call
    moved = fields(both.reshape(-1, *x.shape[1:]), constraints=constraints, **options)[0]
    moved = moved.reshape(2, size, n, w.shape[1], size)
    out = np.einsum("kndk->nd", moved[0] - moved[1]) / (2 * step)
    if constraints:
        for i in range(w.shape[1]):
            pair = [log_root_det_z(x + s * step * w[:, i], constraints) for s in (1, -1)]
            out[:, i] += (pair[0] - pair[1]) / (2 * step)
    return out


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_gradient_fields_are_dual_and_their_divergences_exact(name, constrained):
    x, variables = molecule(3), SETS[name]
    constraints = CONSTRAINTS if constrained else ()
    w, d = fields(x, variables, constraints)
    gradients = Derivatives(variables, torch.as_tensor(x)).gradients.detach().numpy()
    moved = np.einsum("niax,njax->nij", w, gradients)
    np.testing.assert_allclose(moved, np.broadcast_to(np.eye(w.shape[1]), moved.shape), atol=1e-10)
    for a, b in constraints:
        np.testing.assert_allclose(((w[:, :, a] - w[:, :, b]) * (x[:, a] - x[:, b])[:, None]).sum(-1), 0.0, atol=1e-10)
    np.testing.assert_allclose(d, divergence_by_differences(x, constraints, variables=variables), atol=2e-6)


@settings(max_examples=4)
@given(st.integers(0, 2**32 - 1))
def test_any_weights_of_the_atoms_will_do(seed):
    x, mobilities = molecule(seed), np.random.default_rng(seed).uniform(0.1, 2.0, 7)
    options = {"variables": SETS["three"][:2], "mobilities": mobilities}
    _, d = fields(x, constraints=CONSTRAINTS, **options)
    np.testing.assert_allclose(d, divergence_by_differences(x, CONSTRAINTS, **options), atol=5e-6, rtol=1e-6)


def test_rotations_are_dual_and_their_divergences_exact():
    x, turns = molecule(4), [TorsionField(BONDS, 1, 2), TorsionField(BONDS, 0, 1), TorsionField(BONDS, 2, 1)]
    for variables, rotations in (
        ([Dihedral(0, 1, 2, 3)], turns[:1]),
        ([Distance(0, 3)], turns),
        ([Distance(4, 6)], turns),
    ):
        w, d = fields(x, variables, rotations=rotations)
        gradients = Derivatives(variables, torch.as_tensor(x)).gradients.detach().numpy()
        np.testing.assert_allclose(np.einsum("niax,njax->nij", w, gradients)[0], np.eye(w.shape[1]), atol=1e-9)
        expected = divergence_by_differences(x, CONSTRAINTS, variables=variables, rotations=rotations)
        np.testing.assert_allclose(d, expected, rtol=1e-5, atol=1e-5)
    alone = fields(x, [Dihedral(0, 1, 2, 3)], rotations=turns[:1])[1]
    np.testing.assert_allclose(alone, 0.0, atol=1e-12)  # the rotation itself


def test_rotations_are_those_of_torsion_fields():
    x, f = molecule(5, 20), np.random.default_rng(5).standard_normal((20, 7, 3))
    turn = TorsionField(BONDS, 1, 2)
    found = collective_forces(x, f, [Dihedral(0, 1, 2, 3)], T, rotations=[turn])
    np.testing.assert_allclose(found.forces[:, 0], np.einsum("nax,nax->n", f, turn.displacements(x)), rtol=1e-10)


# ------------------------------------------------------------------ exactly sampled triatomic molecule

WATER = np.array([1.0, 16.0, 3.0])  # ends 0 and 2 about atom 1; unlike ends, so that nothing cancels
R0, STIFF, BEND, ANGLE0, COUPLING = 1.1, 6.0, 0.35, 1.9, -3.0


def potential(r1, r2, theta):
    """Stiffness of the second bond changes with the angle: A(θ; T) is not a potential plus geometry."""
    return (
        0.5 * STIFF * (r1 - R0) ** 2
        + 0.5 * (STIFF + COUPLING * np.cos(theta)) * (r2 - R0) ** 2
        + 0.5 * BEND * (theta - ANGLE0) ** 2
    )


def draw(p, grid, n, rng):
    """n draws from a density on an even grid."""
    return np.interp(rng.random(n), np.cumsum(p) / p.sum(), grid + 0.5 * (grid[1] - grid[0]))


def triatomic(n, t, rng, theta=None, rigid=False):
    """Exact frames: positions, forces and energies, at fixed θ or from its distribution, in random orientation."""
    kt, grid, r = BOLTZMANN * t, np.linspace(0.02, np.pi - 0.02, 3000), np.linspace(0.4, 2.2, 2000)
    if rigid:
        r1 = r2 = np.full(n, R0)
    if theta is None:
        log_p = np.log(np.sin(grid)) - 0.5 * BEND * (grid - ANGLE0) ** 2 / kt
        log_p += 0.5 * np.log(det_z(grid)) if rigid else np.log(radial(grid, kt)[0])
        theta = draw(np.exp(log_p - log_p.max()), grid, n, rng)
    theta = np.broadcast_to(theta, n).astype(float)
    if not rigid:
        r1 = draw(r**2 * np.exp(-0.5 * STIFF * (r - R0) ** 2 / kt), r, n, rng)
        r2, todo = np.empty(n), np.arange(n)
        while len(todo):  # proposals of the softest stiffness; accepted by the rest
            trial = draw(r**2 * np.exp(-0.5 * (STIFF + COUPLING) * (r - R0) ** 2 / kt), r, len(todo), rng)
            excess = 0.5 * COUPLING * (np.cos(theta[todo]) - 1.0) * (trial - R0) ** 2
            keep = rng.random(len(todo)) < np.exp(-excess / kt)
            r2[todo[keep]] = trial[keep]
            todo = todo[~keep]
    x = np.zeros((n, 3, 3))
    x[:, 0, 0] = r1
    x[:, 2, 0], x[:, 2, 1] = r2 * np.cos(theta), r2 * np.sin(theta)
    turn, _ = np.linalg.qr(rng.standard_normal((n, 3, 3)))
    x = np.einsum("nij,naj->nai", turn, x) + rng.standard_normal((n, 1, 3))
    y = torch.as_tensor(x).requires_grad_()
    q1, q2, angle = Distance(0, 1)(y), Distance(1, 2)(y), Angle(0, 1, 2)(y)
    u = 0.5 * STIFF * (q1 - R0) ** 2 + 0.5 * (STIFF + COUPLING * torch.cos(angle)) * (q2 - R0) ** 2
    u = u + 0.5 * BEND * (angle - ANGLE0) ** 2
    (slope,) = torch.autograd.grad(u.sum(), y)
    return x, -slope.numpy(), u.detach().numpy()


def radial(theta, kt):
    """∫ r² e^{−bU} dr of the second bond and its moments ⟨(r − R0)²⟩ and ⟨(r − R0)⁴⟩ at each θ."""
    r = np.linspace(0.4, 2.2, 2000)
    stiff = STIFF + COUPLING * np.cos(np.atleast_1d(theta))[:, None]
    p = r**2 * np.exp(-0.5 * stiff * (r - R0) ** 2 / kt)
    z = p.sum(1)
    return z, (p * (r - R0) ** 2).sum(1) / z, (p * (r - R0) ** 4).sum(1) / z


def det_z(theta):
    m0, m1, m2 = WATER
    return (1 / m0 + 1 / m1) * (1 / m2 + 1 / m1) - (np.cos(theta) / m1) ** 2


def exact_mean_force(theta, t):
    """−A'(θ) = kT cot θ − V' + (COUPLING/2) sin θ ⟨(r2 − R0)²⟩."""
    kt = BOLTZMANN * t
    second = radial(theta, kt)[1]
    return kt / np.tan(theta) - BEND * (theta - ANGLE0) + 0.5 * COUPLING * np.sin(theta) * second


def test_angle_at_fixed_values_z_scores_and_slope():
    """Mean force and its response at fixed θ over 220 repeats: calibrated errors, slope 1 ± 0.05."""
    rng = np.random.default_rng(7)
    angles = rng.uniform(1.0, 2.6, 220)
    frames = 400
    x, f, u = triatomic(len(angles) * frames, T, rng, np.repeat(angles, frames))
    q = collective_forces(x, f, [Angle(0, 1, 2)], T, masses=WATER)
    z, found, exact, without = [], [], [], []
    for k, theta in enumerate(angles):
        rows = slice(k * frames, (k + 1) * frames)
        m = conditional_moments(q.forces[rows], u[rows], T, 1, divergences=q.divergences[rows])
        response = (exact_mean_force(theta, T + 0.5) - exact_mean_force(theta, T - 0.5))[0]
        truth = np.array([exact_mean_force(theta, T)[0], response])
        values = np.array([[float(v[0]) for v in m[key]] for key in ("mean_force", "thermal_response_force")])
        z.append((values[:, 0] - truth) / values[:, 1])
        found.append(values[:, 0])
        exact.append(truth)
        bare = conditional_moments(q.forces[rows] - BOLTZMANN * T * q.divergences[rows], u[rows], T, 1)
        without.append([bare[key][0][0] for key in ("mean_force", "thermal_response_force")])
    z, found, exact, without = map(np.array, (z, found, exact, without))
    p = chi2.cdf((z**2).sum(0), len(z))
    assert ((1e-3 < p) & (p < 1 - 1e-3)).all(), (z**2).mean(0)
    assert (np.abs(z.mean(0)) * np.sqrt(len(z)) < 3.3).all(), z.mean(0)
    for k in range(2):
        assert abs(np.polyfit(exact[:, k], found[:, k], 1)[0] - 1.0) < 0.05
        assert np.abs(without[:, k] - exact[:, k]).mean() > 3.0 * np.abs(found[:, k] - exact[:, k]).mean()


@pytest.mark.parametrize("rigid", [False, True])
def test_binned_mean_forces_integrate_to_the_histogram(rigid):
    """Angle of a molecule, free and with both bonds constrained: the latter has √det Z in its density."""
    rng = np.random.default_rng(8)
    x, f, u = triatomic(40_000, T, rng, rigid=rigid)
    constraints = [(0, 1), (1, 2)] if rigid else []
    q = collective_forces(x, f, [Angle(0, 1, 2)], T, masses=WATER, constraints=constraints)
    edges = np.linspace(1.1, 2.7, 33)
    frames = q.binned(u, [edges], keys=["mean_force"])
    middle, width = 0.5 * (edges[1:] + edges[:-1]), edges[1] - edges[0]
    assert len(frames) == len(middle)

    def gap(forces):
        """χ² per bin of −∫⟨q⟩ against −kT ln p, both with their errors."""
        slope, error = np.interp(middle, frames.variables[:, 0], forces), frames.noise["mean_force"][:, 0]
        counts = np.histogram(q.values[:, 0], edges)[0]
        a = -np.concatenate([[0.0], np.cumsum(0.5 * (slope[1:] + slope[:-1]) * width)])
        h = -BOLTZMANN * T * np.log(counts)
        difference = (a - a[10]) - (h - h[10])
        steps = np.abs(np.cumsum(error**2 * width**2) - np.cumsum(error**2 * width**2)[10])
        return difference / np.sqrt(steps + (BOLTZMANN * T) ** 2 * (1 / counts + 1 / counts[10]))

    z = np.delete(gap(frames.labels["mean_force"][:, 0]), 10)
    assert np.sqrt((z**2).mean()) < 2.0
    q_bare = np.array([q.divergences[np.abs(q.values[:, 0] - v) < width / 2].mean() for v in frames.variables[:, 0]])
    bare = np.delete(gap(frames.labels["mean_force"][:, 0] - BOLTZMANN * T * q_bare), 10)
    assert np.sqrt((bare**2).mean()) > 4.0


def test_two_variables_with_unit_response():
    """(r, θ) of the molecule: exact forces on both; their noise is that of the other bond alone."""
    rng = np.random.default_rng(9)
    x, f, u = triatomic(4000, T, rng, 1.8)
    q = collective_forces(x, f, [Distance(0, 1), Angle(0, 1, 2)], T, masses=WATER)
    r = q.values[:, 0]
    exact = 2 * BOLTZMANN * T / r - STIFF * (r - R0)
    gap = q.forces[:, 0] - exact
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))
    frames = q.frames(u)
    assert frames.labels["mean_force"].shape == (4000, 2) and frames.shape == (4000, 2)
    model = kernelfe.FreeEnergyRegressor(
        terms=kernelfe.Term(kernelfe.descriptors.Variables(periodic=(None, None))), optimizer=None
    )
    assert model.fit(frames[:50]).predict(frames[:3], "mean_force").shape == (3, 2)


def test_periods_of_columns():
    q = collective_forces(molecule(1), molecule(2), [Dihedral(0, 1, 2, 3), gyration], T, masses=MASSES)
    assert q.periods == (2 * np.pi, None, None)


def test_what_cannot_be_used_is_refused():
    x = molecule(6, 4)
    f = np.zeros_like(x)

    def call(variables, message, **options):
        with pytest.raises(DataError, match=message):
            collective_forces(x, f, variables, T, **({"masses": MASSES} | options))

    call([Distance(1, 4)], "depend on one another", constraints=CONSTRAINTS)
    call([Distance(0, 1), Distance(0, 1)], "depend on one another")
    call([Distance(0, 1)], "cannot be moved", mobilities=[0, 0, 1, 1, 1, 1, 1])
    call([Distance(0, 1)], "no atom, or no rotation|depend", rotations=[TorsionField(BONDS, 1, 2)])
    call([Distance(0, 9)], "beyond the 7")
    call([Distance(0, 1)], "masses= of the simulation", masses=None)
    call([lambda y: y[:, 0].detach().sum(-1)], "does not depend")
    call([lambda y: torch.cdist(y[:, :2], y[:, 2:4]).sum((1, 2))], "twice")
    call([lambda y: 1.0], "must return a tensor")
    call([], "no variables")
    call([Distance(0, 1)], "constraint \\(0, 7\\)", constraints=[(0, 7)])
    call([Distance(0, 1)], "masses must be", masses=-MASSES)
    call(
        [Distance(0, 3)],
        "changes the constrained distance",
        rotations=[TorsionField(BONDS, 1, 2)],
        constraints=[(0, 3)],
    )
    f[2, 0, 0] = np.inf
    call([Distance(0, 1)], "forces of frame 2")
    f[2, 0, 0], x[1, 1] = 0.0, x[1, 0]
    call([Distance(0, 1)], "in frame 1")


def test_torsion_forces_of_real_frames_need_the_divergence():
    """(φ, ψ) of alanine dipeptide along M⁻¹∇ξ with 12 constraints: integrate to −kT ln p within 2σ, or 8σ off."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "collective_forces.py"
    script = SourceFileLoader("collective_forces_benchmark", str(path)).load_module()
    atoms = kernelfe.datasets.load_atoms("alanine-dipeptide")
    parts = []
    for t in np.unique(atoms.temperature):
        rows = atoms.temperature == t
        parts.append(
            collective_forces(
                atoms.positions[rows],
                atoms.forces[rows],
                script.VARIABLES,
                t,
                masses=atoms.masses,
                constraints=atoms.constraints,
            )
        )
    (p, z), (p_without, z_without) = script.summary(parts, True), script.summary(parts, False)
    assert p > 1e-3 and abs(z) < 2.0
    assert p_without < 1e-3 and z_without < -4.0
