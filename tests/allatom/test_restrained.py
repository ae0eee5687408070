"""The driver against closed forms: two beads, held or restrained, atoms or centres of atoms, and one particle more.

U = ½ kb (r − r0)² + ½ κ(r) |x − (A + B)/2|², κ = κ0 e^{α(r − r0)}, r = |A − B|: three harmonic modes whose stiffness
depends on r, so along r  F = −kb (r − r0) − (3/2) kT α,  dF/dT = −(3/2) k α,  ⟨U⟩ = V + (3/2) kT,  C = (3/2) k.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kernelfe import Frames
from kernelfe.allatom import RestrainedEnsemble, RestrainedProtocol, nearest_starts, superpose
from kernelfe.allatom.measure import HeldMeasure
from kernelfe.errors import DataError
from kernelfe.statistics import TorsionField, block_standard_error, slice_map
from kernelfe.units import BOLTZMANN, factor

openmm = pytest.importorskip("openmm")

KJ = factor("kJ/mol")
R0, KB, KAPPA, ALPHA = 3.0, 5.0, 0.4, 2.0  # Å, eV/Å², eV/Å², 1/Å
#: Beads of the analytic system are atoms 0 and 1, or pairs of atoms (0, 1) and (2, 3); the last atom is eliminated.
COUPLING = (
    "0.5*kb*(r-r0)^2 + 0.5*kappa*exp(alpha*(r-r0))*((x3-(x1+x2)/2)^2+(y3-(y1+y2)/2)^2+(z3-(z1+z2)/2)^2); "
    "r=sqrt((x1-x2)^2+(y1-y2)^2+(z1-z2)^2)"
)


def analytic_system(atoms_per_bead=1):
    system = openmm.System()
    for _ in range(2 * atoms_per_bead + 1):
        system.addParticle(12.0)
    force = openmm.CustomCentroidBondForce(3, COUPLING)
    for name, value in (
        ("r0", 0.1 * R0),
        ("kb", 100 * KB / KJ),
        ("kappa", 100 * KAPPA / KJ),
        ("alpha", 10 * ALPHA),
    ):
        force.addGlobalParameter(name, value)
    n = atoms_per_bead
    groups = [list(range(n)), list(range(n, 2 * n)), [2 * n]]
    force.addBond([force.addGroup(group, [1.0 / len(group)] * len(group)) for group in groups], [])
    system.addForce(force)
    if n == 2:  # inside a bead: one harmonic bond each, whose energy adds kT/2 per mode that it has
        bond = openmm.HarmonicBondForce()
        for a, b in ((0, 1), (2, 3)):
            bond.addBond(a, b, 0.15, 100 * KB / KJ)
        system.addForce(bond)
    system.addForce(openmm.CMMotionRemover())
    return system


def exact(frames):
    """Labels of the constrained ensemble, single-atom beads."""
    x, t = frames.positions, frames.temperature
    bond = x[:, 0] - x[:, 1]
    r = np.linalg.norm(bond, axis=1)
    along = np.stack([bond, -bond], 1) / r[:, None, None]
    kt = BOLTZMANN * t
    return {
        "mean_force": (-KB * (r - R0) - 1.5 * kt * ALPHA)[:, None, None] * along,
        "thermal_response_force": -1.5 * BOLTZMANN * ALPHA * along,
        "mean_energy": 0.5 * KB * (r - R0) ** 2 + 1.5 * kt,
        "heat_capacity": np.full(len(t), 1.5 * BOLTZMANN),
    }


def configurations(n=8):
    rng = np.random.default_rng(5)
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    half = 0.5 * (R0 + rng.uniform(-0.2, 0.2, n))[:, None] * direction
    return Frames.from_arrays(np.stack([half, -half], 1), temperature=rng.uniform(250.0, 450.0, n), kinds="AB")


#: With half the force of the eliminated particle the force on a bead is along the bond in every frame.
ALONG = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
START = np.array([[0.0, 0.0, 1.6], [0.0, 0.0, -1.5], [0.2, 0.1, 0.0]])
FAST = {"timestep": 5.0, "friction": 25.0, "equilibration": 1.0, "stride": 6}


def along_bond(force, frames):
    """Component of forces (n, 2, 3) on the first bead along the bond of the frames."""
    bond = frames.positions[:, 0] - frames.positions[:, 1]
    return (force[:, 0] * bond).sum(-1) / np.linalg.norm(bond, axis=1)


def label_and_error(labels, key, frames):
    """A label, of forces the component along the bond, and its standard error: forces have no other component."""
    value, error = labels.labels[key], labels.noise[key]
    return (along_bond(value, frames), np.linalg.norm(error[:, 0], axis=-1)) if value.ndim == 3 else (value, error)


def chi_square(z):
    return stats.chi2.sf((np.asarray(z) ** 2).sum(), np.size(z))


def test_held_beads_give_the_exact_conditional_averages():
    frames = configurations()
    ensemble = RestrainedEnsemble(analytic_system(), slice_map(3, [0, 1]), ALONG, protocol=RestrainedProtocol(**FAST))
    labels = ensemble.sample(frames, START, 15.0, seed=1, progress=False)
    assert labels.kinds == ("A", "B") and ensemble.simulated > 8 * 15.0
    np.testing.assert_array_equal(labels.positions, frames.positions)
    z = {}
    for key, truth in exact(frames).items():
        value, error = label_and_error(labels, key, frames)
        z[key] = (value - (along_bond(truth, frames) if truth.ndim == 3 else truth)) / error
        if key == "thermal_response_force":  # the test could fail: there is a response to be seen
            assert np.mean((value / error) ** 2) > 3.0
    assert chi_square(list(z.values())) > 1e-3, z


def test_same_seed_same_numbers_whatever_else_runs():
    frames = configurations(3)
    ensemble = RestrainedEnsemble(analytic_system(), slice_map(3, [0, 1]), protocol=RestrainedProtocol(**FAST))
    all_rows = ensemble.sample(frames, START, 4.0, seed=7, progress=False)
    first = ensemble.sample(frames[:1], START, 4.0, seed=7, progress=False)
    other = ensemble.sample(frames[:1], START, 4.0, seed=8, progress=False)
    assert (all_rows.labels["mean_force"][0] == first.labels["mean_force"][0]).all()
    assert (all_rows.labels["mean_force"][0] != other.labels["mean_force"][0]).any()


def restrained_averages(target, temperature, stiffness):
    """⟨f_A·ê⟩, ⟨U⟩ and Var U of the ensemble with both beads restrained; ê is the wanted direction of A − B.

    With ρ = A − B the restraints are K/4 |ρ − ρ0|² and one on the centre: a quadrature over r and the angle to ρ0.
    """
    kt = BOLTZMANN * temperature
    r = np.linspace(target - 1.0, target + 1.0, 1201)[:, None]
    width = np.sqrt(2.0 * kt / stiffness) / target
    angle = np.linspace(0.0, min(np.pi, 12.0 * width), 600)
    v, slope = 0.5 * KB * (r - R0) ** 2, KB * (r - R0) + 1.5 * kt * ALPHA
    restraint = 0.25 * stiffness * (r**2 + target**2 - 2.0 * r * target * np.cos(angle))
    weight = np.exp(-(v + 1.5 * kt * ALPHA * (r - R0) + restraint) / kt) * r**2 * np.sin(angle)
    weight /= weight.sum()
    u = v + 1.5 * kt
    mean = (weight * u).sum()
    return (-weight * slope * np.cos(angle)).sum(), mean, (weight * u**2).sum() - mean**2 + 1.5 * kt**2


@pytest.mark.parametrize("atoms_per_bead", [1, 2])
def test_restrained_beads_are_in_their_own_ensemble(atoms_per_bead):
    """⟨f⟩, its exact response, ⟨U⟩ and C of the restrained ensemble; beads that are atoms, and centres of two."""
    frames, stiffness, n = configurations(6), 60.0, atoms_per_bead
    position_map = np.kron(np.eye(2), np.full((1, n), 1.0 / n))
    position_map = np.concatenate([position_map, np.zeros((2, 1))], axis=1)
    start = np.concatenate([np.repeat(START[:2], n, axis=0), START[2:]])
    if n == 2:
        start[[1, 3]] += [1.5, 0.0, 0.0]
    protocol = RestrainedProtocol(**(FAST | {"stiffness": stiffness, "timestep": 2.0, "stride": 15}))
    force_map = np.concatenate([np.kron(np.eye(2), np.ones((1, n))), np.full((2, 1), 0.5)], axis=1)
    ensemble = RestrainedEnsemble(analytic_system(n), position_map, force_map, protocol=protocol)
    labels = ensemble.sample(frames, start, 25.0, seed=2, progress=False)
    distance = np.linalg.norm(frames.positions[:, 0] - frames.positions[:, 1], axis=1)
    at = [
        [restrained_averages(r, t + d, stiffness) for d in (-1.0, 0.0, 1.0)]
        for r, t in zip(distance, frames.temperature, strict=True)
    ]
    below, middle, above = (np.array(x) for x in zip(*at, strict=True))
    expected = {"mean_force": middle[:, 0], "thermal_response_force": 0.5 * (above - below)[:, 0]}
    if n == 1:  # the bonds inside beads of two atoms add energy
        expected |= {"mean_energy": middle[:, 1], "heat_capacity": middle[:, 2] / (BOLTZMANN * frames.temperature**2)}
    for key, value in expected.items():
        found, error = label_and_error(labels, key, frames)
        z = (found - value) / error
        assert chi_square(z) > 1e-3, (key, z)
    # the mean position is where the force belongs: nearer to the constrained answer there than at the target
    radial = [along_bond(labels.labels["mean_force"] - exact(f)["mean_force"], frames) for f in (labels, frames)]
    assert np.std(radial[0]) < 0.3 * np.std(radial[1])


def test_measure_of_rigid_bonds_at_a_held_atom():
    """Two rigid bonds on a light held atom: only free dynamics weights the angle by √(1 − s₁s₂cos²)."""
    system = openmm.System()
    masses = [2.0, 8.0, 5.0]
    for mass in masses:
        system.addParticle(mass)
    system.addConstraint(0, 1, 0.1)
    system.addConstraint(0, 2, 0.12)
    share = 0.5 / (0.5 + 1.0 / np.array(masses[1:]))
    c = np.linspace(-1.0, 1.0, 20001)
    weight = np.sqrt(1.0 - share.prod() * c**2)
    free, held = (weight @ c**2) / weight.sum(), 1.0 / 3.0
    assert held - free > 0.02
    protocol = RestrainedProtocol(timestep=4.0, friction=10.0, equilibration=1.0, stride=10)
    ensemble = RestrainedEnsemble(system, slice_map(3, [0]), protocol=protocol)
    start = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.2, 0.0]])
    run = ensemble.run(np.zeros((1, 3)), start, 300.0, 150.0, seed=3)
    assert np.abs(run.positions[:, 0]).max() < 1e-6
    u = run.positions[:, 1:] / np.linalg.norm(run.positions[:, 1:], axis=-1, keepdims=True)
    cosine = (u[:, 0] * u[:, 1]).sum(-1)
    error = block_standard_error(cosine**2, 20)
    assert error < 0.2 * (held - free) * 2
    assert abs(np.mean(cosine**2) - free) < 4.0 * error
    p = ensemble._measure.acceptance(run.positions)
    np.testing.assert_allclose(p, np.sqrt(1.0 - share.prod() * cosine**2), atol=1e-6)


def test_what_cannot_be_held():
    m = np.ones(4)
    with pytest.raises(DataError, match="both held"):
        HeldMeasure([(0, 1)], m, [0, 1])
    with pytest.raises(DataError, match="flexible cluster"):
        HeldMeasure([(0, 1), (1, 2)], m, [0])
    assert not HeldMeasure([(0, 1), (1, 2), (0, 2)], m, [0]).stars  # rigid water
    assert not HeldMeasure([(0, 1)], m, [0]).stars
    system = analytic_system(2)
    both = np.array([[0.5, 0.5, 0.0, 0.0, 0.0]])
    with pytest.raises(DataError, match="several atoms cannot be held"):
        RestrainedEnsemble(system, both)
    with pytest.raises(DataError, match="rows that sum to 1"):
        RestrainedEnsemble(system, 2 * both)
    with pytest.raises(DataError, match="ω·dt"):
        RestrainedEnsemble(system, both, protocol=RestrainedProtocol(stiffness=1e4))
    with pytest.raises(DataError, match="need beads that are atoms"):
        field = TorsionField([(0, 1), (1, 2), (2, 3)], 1, 2)
        RestrainedEnsemble(system, both, fields=[field], protocol=RestrainedProtocol(stiffness=10.0))
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    with pytest.raises(DataError, match="barostat"):
        RestrainedEnsemble(system, slice_map(5, [0, 2]))


def test_unusable_arguments_of_runs():
    ensemble = RestrainedEnsemble(analytic_system(), slice_map(3, [0, 1]))
    beads = START[:2]
    with pytest.raises(DataError, match="shorter than one stride"):
        ensemble.run(beads, START, 300.0, 0.001)
    with pytest.raises(DataError, match="must be"):
        ensemble.run(beads[:1], START, 300.0)
    with pytest.raises(DataError, match="finite"):
        ensemble.run(beads, START, -300.0)
    with pytest.raises(DataError, match=r"frame 0: .* fewer than"):
        ensemble.sample(configurations(1), START, 0.3, progress=False)
    with pytest.raises(DataError, match="no platform"):
        RestrainedEnsemble(analytic_system(), slice_map(3, [0]), protocol=RestrainedProtocol(platform="none")).run(
            beads[:1], START, 300.0
        )
    with pytest.raises(DataError, match="stride"):
        RestrainedProtocol(stride=0)
    with pytest.raises(DataError, match="bead positions"):
        ensemble.sample(Frames.from_arrays(variables=[[1.0]], temperature=300.0), START)


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_runs_that_explode_say_so(platform):
    """On some platforms energies are not finite then, on others OpenMM itself stops."""
    protocol = RestrainedProtocol(timestep=500.0, stride=1, equilibration=1.0, friction=1e-3, platform=platform)
    with pytest.raises(DataError, match="unstable"):
        RestrainedEnsemble(analytic_system(), slice_map(3, [0, 1]), protocol=protocol).run(
            START[:2] + 0.1, START, 300.0, 500.0
        )


def test_what_interrupts_the_runs_leaves_with_what_was_labelled(monkeypatch):
    frames = configurations(4)
    ensemble = RestrainedEnsemble(analytic_system(), slice_map(3, [0, 1]), protocol=RestrainedProtocol(**FAST))
    run, count = ensemble.run, []

    def interrupted(*args, **options):
        count.append(0)
        if len(count) == 3:
            raise KeyboardInterrupt
        return run(*args, **options)

    whole = ensemble.sample(frames[:2], START, 4.0, seed=7, progress=False)
    monkeypatch.setattr(ensemble, "run", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        ensemble.sample(frames, START, 4.0, seed=7, progress=False)
    np.testing.assert_array_equal(caught.value.labelled.labels["mean_force"], whole.labels["mean_force"])
    np.testing.assert_array_equal(caught.value.labelled.temperature, frames.temperature[:2])
    count.clear()
    with pytest.raises(DataError, match="'mean_froce' is not one of"):  # before hours of runs, not after
        ensemble.sample(frames, START, 4.0, labels=["mean_froce"], progress=False)
    assert not count
    for wrong in ({"picoseconds": np.nan}, {"picoseconds": np.inf}, {"seed": -1}, {"seed": 0.5}):
        with pytest.raises(DataError, match=r"(picoseconds|seed)=.* must be a"):
            run(START[:2], START, 300.0, **wrong)


def test_superposition_is_a_proper_rotation_and_finds_the_start():
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(5, 7, 3))
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    m = slice_map(7, [0, 2, 3, 6])
    turned = atoms @ q + [1.0, 2.0, 3.0]
    starts, chosen, rmsd = nearest_starts(m @ turned[[3, 1]], atoms, m)
    assert chosen.tolist() == [3, 1] and rmsd.max() < 1e-12
    np.testing.assert_allclose(starts, turned[[3, 1]], atol=1e-12)
    mirrored = (m @ atoms[0]) * [1.0, 1.0, -1.0]
    rotation, _, distance = superpose(m @ atoms[0], mirrored)
    assert np.linalg.det(rotation) == pytest.approx(1.0) and distance > 0.1
    with pytest.raises(DataError, match="start structures"):
        nearest_starts(m @ atoms, atoms[:, :5], m)
