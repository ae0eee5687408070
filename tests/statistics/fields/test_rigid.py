"""Rotations of rigid molecules: variates of zero mean, on exact orientations and on a small box of rigid water."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import f as f_distribution

from kernelfe.errors import DataError
from kernelfe.statistics import RigidMolecules, molecules_of, reduce_shared_noise
from kernelfe.statistics.fields.rigid import _generator
from kernelfe.units import BOLTZMANN, factor

T = 350.0
SHAPE = np.array([[0.0, 0.0, 0.0], [0.8, 0.0, 0.6], [-0.8, 0.0, 0.6]])
MASSES = (16.0, 1.0, 1.0)


def hotelling(v):
    """p of the hypothesis that the columns have zero mean; dependent columns count once."""
    left, values, _ = np.linalg.svd(v / np.maximum(v.std(0), 1e-300), full_matrices=False)
    v = (left * values)[:, values > 1e-6 * max(values[0], 1e-6)]
    n, p = v.shape
    if not p:  # a function that does not turn is zero
        return 1.0
    t2 = n * v.mean(0) @ np.linalg.solve(np.atleast_2d(np.cov(v.T)), v.mean(0))
    return float(f_distribution.sf((n - p) / (p * (n - 1)) * t2, p, n - p))


def oriented(n, field, rng):
    """Molecules at random places whose axis has density e^{b E u_z}, otherwise free; forces of −E·(charges)."""
    kt, molecules = BOLTZMANN * T, 4
    b = field / kt
    u = np.log(np.exp(-b) + rng.random((n, molecules)) * 2 * np.sinh(b)) / b  # inverse of the distribution of cos θ
    phi, spin = rng.uniform(0, 2 * np.pi, (2, n, molecules))
    s = np.sqrt(1 - u**2)
    axis = np.stack([s * np.cos(phi), s * np.sin(phi), u], -1)
    first = np.cross(axis, [0.0, 0.0, 1.0])
    first /= np.linalg.norm(first, axis=-1, keepdims=True)
    side = np.cos(spin)[..., None] * first + np.sin(spin)[..., None] * np.cross(axis, first)
    x = SHAPE[:, 0, None] * side[:, :, None] + SHAPE[:, 2, None] * axis[:, :, None]
    x = x + np.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [1, 1, 3]])[:, None]
    # U = −E Σ q_a z_a with charges −1, ½, ½ over the length of the arm: −E u_z
    charge = np.array([-1.0, 0.5, 0.5]) / SHAPE[1, 2]
    f = np.zeros_like(x)
    f[..., 2] = field * charge
    # the bead of the first atom stays in place: only then is the place of the molecule independent of its orientation
    return x.reshape(n, -1, 3), f.reshape(n, -1, 3)


@pytest.mark.parametrize("site", [0, None])
def test_variates_of_exact_orientations_have_zero_mean(site):
    rng = np.random.default_rng(1)
    liquid = RigidMolecules(tuple((3 * k, 3 * k + 1, 3 * k + 2) for k in range(4)), MASSES, site, 6.0, (1.0, 3.0))
    x, f = oriented(400, 0.05, rng)
    if site is None:  # the centre of mass in place: the field is uniform, so the orientation keeps its density
        shift = liquid.beads(x) - np.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [1, 1, 3]])
        x = x - np.repeat(shift, 3, axis=1)
    torques = liquid.torques(x, f)[:, 0, :2]  # the field exerts no torque about z
    assert hotelling(torques) > 1e-3
    vectors, scalars = liquid.variates(x, f, T)
    assert hotelling(vectors[:, 0].reshape(len(x), -1)) > 1e-3
    assert hotelling(scalars) > 1e-3
    wrong, _ = liquid.variates(x, f, 1e-9)  # kT w·∇g left out
    assert min(hotelling(wrong[:, 0, :, k]) for k in range(wrong.shape[-1])) < 1e-5


def test_generator_by_differences():
    """L_c by turning the atoms of one molecule, second differences for L_c L_c."""
    rng = np.random.default_rng(3)
    fixed, x, torque, kt, power = (
        rng.standard_normal(3) + 3.0,
        rng.standard_normal(3),
        rng.standard_normal(3),
        0.03,
        3.0,
    )

    def functions(angle, c):
        axis = np.eye(3)[c]
        turned = x * np.cos(angle) + np.cross(axis, x) * np.sin(angle) + axis * (axis @ x) * (1 - np.cos(angle))
        d = fixed + turned
        psi = (4.0 / (d @ d)) ** (0.5 * power)
        return np.append(psi * d, psi)

    step, expected = 1e-3, np.zeros(4)
    for c in range(3):
        ahead, here, behind = (functions(a, c) for a in (step, 0.0, -step))
        expected += torque[c] * (ahead - behind) / (2 * step) + kt * (ahead - 2 * here + behind) / step**2
    vector, scalar = _generator(fixed + x, x, np.cross(torque, x) - 2 * kt * x, kt, power)
    np.testing.assert_allclose(np.append(vector, scalar), expected, rtol=1e-5)


def test_reduction_with_shared_coefficients():
    rng = np.random.default_rng(2)
    v, mean = rng.standard_normal((200, 5, 3, 4)), rng.standard_normal((200, 5, 3))
    noise = v @ np.array([1.0, -0.5, 0.2, 0.0])
    assert (reduce_shared_noise(mean + noise, v, mean=mean) - mean).std() < 0.01
    assert (reduce_shared_noise(mean + noise, v) - mean).std() < 0.1
    with pytest.raises(DataError, match="one axis more"):
        reduce_shared_noise(mean, v[:, :2])


@pytest.mark.slow
def test_a_box_of_rigid_water():
    """27 TIP3P waters: zero mean (Hotelling, over blocks of time), and the noise of bead forces falls."""
    openmm = pytest.importorskip("openmm")
    x, f, _, cell = water_box(openmm, frames=400)
    waters = tuple((3 * k, 3 * k + 1, 3 * k + 2) for k in range(27))
    liquid = RigidMolecules(waters, (15.999, 1.008, 1.008), cutoff=4.6)
    vectors, scalars = liquid.variates(x, f, 300.0, cell)
    # averaged over molecules: one vector per frame and variate, three components each; blocks of 4 frames
    averaged = (vectors * np.sign(np.arange(27) - 12.9)[:, None, None]).mean(1).reshape(100, 4, -1).mean(1)
    assert hotelling(averaged[:, ::16]) > 1e-3
    assert hotelling(scalars.reshape(100, 4, -1).mean(1)) > 1e-3
    forces = f.reshape(len(f), 27, 3, 3).sum(2)
    quiet = reduce_shared_noise(forces, vectors)
    assert quiet.std() < 0.96 * forces.std()  # of the total spread: ⟨f⟩_R is in both
    gap = (quiet - forces).reshape(20, -1, 81).mean(1)  # blocks of time: 2 ps each
    assert np.mean((gap.mean(0) / (gap.std(0, ddof=1) / np.sqrt(20))) ** 2) < 2.0


def water_box(openmm, frames):
    """Positions, forces, energies of rigid TIP3P in a cube at 300 K, reaction field; molecules whole; eV and Å."""
    from openmm import app, unit

    side, count = 0.94, 3
    topology, chain = app.Topology(), None
    chain = topology.addChain()
    places = []
    for cell in np.ndindex(count, count, count):
        residue = topology.addResidue("HOH", chain)
        o, h1, h2 = (topology.addAtom(n, app.Element.getBySymbol(n[0]), residue) for n in ("O", "H1", "H2"))
        topology.addBond(o, h1)
        topology.addBond(o, h2)
        origin = (np.array(cell) + 0.5) * side / count
        places += list(origin + np.array([[0.0, 0.0, 0.0], [0.0757, 0.0586, 0.0], [-0.0757, 0.0586, 0.0]]))
    topology.setUnitCellDimensions((side, side, side) * unit.nanometer)
    field = app.ForceField("tip3p.xml")
    system = field.createSystem(
        topology, nonbondedMethod=app.CutoffPeriodic, nonbondedCutoff=0.46 * unit.nanometer, rigidWater=True
    )
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 5 / unit.picosecond, 2 * unit.femtosecond)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.array(places))
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, 200)
    context.setVelocitiesToTemperature(300, 1)
    integrator.step(3000)
    x, f, u = [], [], []
    for _ in range(frames):
        integrator.step(50)
        state = context.getState(positions=True, forces=True, energy=True)
        x.append(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
        f.append(state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom))
        u.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
    kj = factor("kJ/mol")
    return np.array(x), np.array(f) * kj, np.array(u) * kj, np.full(3, 10 * side)


def test_rigid_groups_of_constraints():
    water = [(0, 1), (0, 2), (1, 2), (4, 3), (3, 5), (5, 4)]
    assert molecules_of(water, 7) == ((0, 1, 2), (3, 4, 5))
    with pytest.raises(DataError, match="not rigid"):
        molecules_of([(0, 1), (0, 2)], 3)


def test_what_cannot_be_used_is_refused():
    for arguments, message in (
        ((((0, 1, 2), (3, 4)), MASSES), "every molecule needs"),
        ((((0, 1, 2), (2, 3, 4)), MASSES), "share atoms"),
        ((((0, 1, 2),), (1.0, -1.0, 1.0)), "masses must be positive"),
        ((((0, 1, 2),), MASSES, 3), "site=3"),
        ((((0, 1, 2),), MASSES, None, 0.0), "cutoff"),
        ((((0, 1, 2),), MASSES, None, 5.0, ()), "powers"),
        ((((0, 1, 2),), MASSES, None, 5.0, ()), "powers"),
    ):
        with pytest.raises(DataError, match=message):
            RigidMolecules(*arguments)
    one, x = RigidMolecules(((0, 1, 2),), MASSES), np.zeros((2, 3, 3)) + SHAPE
    with pytest.raises(DataError, match="cell must be"):
        one.variates(x, x, T, [6.0, 20.0, 20.0])
    with pytest.raises(DataError, match="positions must be"):
        one.torques(x[:, :2], x)
    with pytest.raises(DataError, match="temperature has shape"):
        one.variates(x, x, [T, T, T])
    two = RigidMolecules(((0, 1), (2, 3)), (1.0, 2.0))
    x = np.random.default_rng(0).uniform(0.0, 3.0, (3, 4, 3))
    for wrong in ({"temperature": -T}, {"temperature": np.nan}, {"cell": [np.nan, 20.0, 20.0]}, {"positions": 0.0 * x}):
        with pytest.raises(DataError, match=r"temperature|cell|coincide"):
            two.variates(**({"positions": x, "forces": x, "temperature": T} | wrong))
    with pytest.raises(DataError, match="negative"):
        RigidMolecules(((-1, 0),), (1.0, 2.0))
    with pytest.raises(DataError, match="site"):
        RigidMolecules(((0, 1),), (1.0, 2.0), site=0.5)
    for pair in ((0, 5), (0, -1), (1, 1)):
        with pytest.raises(DataError, match="is not a pair"):
            molecules_of([pair], 3)
    for ridge in (-1.0, 0.0, np.nan):
        with pytest.raises(DataError, match="ridge"):
            reduce_shared_noise(np.ones(30), np.zeros((30, 2)), ridge=ridge)
