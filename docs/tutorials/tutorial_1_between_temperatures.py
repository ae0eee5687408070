r"""
From two short trajectories to every temperature in between
===========================================================

Two all-atom runs, at 300 and 600 K, become a free energy :math:`A(R; T)` at every temperature in between: surface,
error bars, entropy and a sampler. No other temperature is used. At the end the prediction at 350 K is compared with
long parallel tempering, which was not used for training.
"""

# %%
# The data
# --------
# The package contains alanine dipeptide, mapped to six beads. Each frame has the standard output of an engine: the
# forces mapped to the beads, the potential energy, and the torques about φ and ψ, computed from the all-atom
# forces. To prepare your own trajectories, see :doc:`/howto/own_data`, with recipes for OpenMM, GROMACS and
# LAMMPS.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import kernelfe
from kernelfe.analysis import dihedral_angles, jensen_shannon_divergence, periodic_histogram
from kernelfe.analysis.style import COLOURS, KJ_MOL, torsion_axis
from kernelfe.simulate import TorsionMoves, run_langevin, uniform_masses
from kernelfe.units import BOLTZMANN

frames = kernelfe.datasets.load("alanine-dipeptide")
train = frames[np.isin(frames.temperature, (300.0, 600.0))][::8]
print(train)

# %%
# A fit
# -----
# Every label is a linear functional of A: the force is a gradient, the energy a derivative with respect to
# temperature. One Gaussian process therefore takes all of them, at both temperatures. Length scales, prior scales and
# the noise of each label kind are determined from the data, by maximum evidence.

model = kernelfe.FreeEnergyRegressor(solver=kernelfe.Sparse(inducing=250)).fit(train)
for kind, (level, power) in model.noise_.items():
    print(f"noise of {kind}: {level:.3g} (eV, Å, rad) at {model.noise_temperature_:.0f} K, growing as T^{power:.2f}")

# %%
# Any quantity, any temperature
# -----------------------------
# A(R; T), its derivatives and their error bars at 350 K, for ten configurations of the trajectory:

some = train[:: len(train) // 10]
free, free_std = model.predict(some, "free_energy", temperature=350.0, return_std=True)
force, force_std = model.predict(some, "mean_force", temperature=350.0, return_std=True)
entropy, entropy_std = model.predict(some, "entropy", temperature=350.0, return_std=True)
print("A / kJ/mol, relative to their mean:", (free / KJ_MOL).round(1))
print("                             error:", (free_std / KJ_MOL).round(1))
print(f"force on a bead: {np.abs(force).mean():.2f} eV/Å on average, error {force_std.mean():.2f}")

# %%
# A sampler
# ---------
# Sample :math:`e^{-A/kT}` at 350 K by Langevin dynamics of 300 replicas in one batch. Rotations about the bonds are
# Monte Carlo moves, so that barriers cost nothing. The run checks that no replica leaves the training data.

run = run_langevin(
    model.frozen(),
    train.positions[np.random.default_rng(0).integers(len(train), size=300)],
    350.0,
    masses=uniform_masses(6),
    timestep=5.0,
    friction=10.0,
    steps=500,
    burn_in=100,
    stride=5,
    moves=TorsionMoves(train.bonds),
    moves_every=1,
    progress=False,
)
torsions = [(0, 1, 2, 4), (1, 2, 4, 5)]  # φ and ψ
sampled = periodic_histogram(dihedral_angles(run.flat(), torsions))
print(f"{len(run.flat())} configurations in {run.seconds:.1f} s")
print(f"{100 * run.outside:.2f} % beyond the edge of the training data")

# %%
# The surface at 350 K
# --------------------
# Compare the model with the reference. The divergence between the two halves of the reference is the smallest value
# that a comparison can reach.

reference = kernelfe.datasets.load_reference("alanine-dipeptide")
at = int(np.flatnonzero(reference.temperatures == 350)[0])
found = jensen_shannon_divergence(reference.probability[at], sampled)
halves = jensen_shannon_divergence(*reference.halves[:, at])
print(f"Jensen–Shannon divergence {found:.4f}; of the halves of the reference {halves:.4f}")

edges = np.degrees(reference.edges)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.3), layout="constrained")
for ax, p, title in zip(
    axes, (sampled, reference.probability[at]), ("model, sampled", "parallel tempering"), strict=True
):
    with np.errstate(divide="ignore"):
        surface = -BOLTZMANN * 350.0 * np.log(p) / KJ_MOL
    shown = ax.pcolormesh(edges, edges, (surface - surface.min()).T, cmap="viridis", vmin=0, vmax=20, rasterized=True)
    torsion_axis(ax, "φ")
    torsion_axis(ax, "ψ", "y")
    ax.set(title=title, aspect="equal")
figure.colorbar(shown, ax=axes, label="free energy at 350 K / kJ mol⁻¹")
plt.show()

# %%
# Surface and entropy without sampling
# ------------------------------------
# A model of the torsions alone gives surface and error bars directly: the torque about φ is :math:`-\partial
# A(\varphi, \psi; T)/\partial\varphi` plus noise. Its entropy is :math:`-\partial A/\partial T`. No label was an
# entropy, and its zero is a convention (:doc:`/theory/gauge`), so the mean over the visited region is subtracted.
# Labels with little noise are cheap to use: this fit takes half of all frames.

long = frames[np.isin(frames.temperature, (300.0, 600.0))][::2]
plane = kernelfe.Frames.from_arrays(
    variables=dihedral_angles(long.positions, torsions),
    temperature=long.temperature,
    labels={"mean_force": long.labels["generalized_force"], "mean_energy": long.labels["mean_energy"]},
)
periodic = kernelfe.descriptors.Variables(periodic=(2 * np.pi, 2 * np.pi))
term = kernelfe.Term(periodic, kernelfe.kernels.RBF(lengthscale=1.0))
planar = kernelfe.FreeEnergyRegressor(term, solver=kernelfe.Sparse(inducing=150)).fit(plane)

psi = np.linspace(-180, 180, 91)
cut = np.radians(np.stack([np.full_like(psi, -75.0), psi], axis=1))
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.3), layout="constrained")
for t, colour, line in ((300.0, "blue", "-"), (450.0, "orange", "--"), (600.0, "vermilion", "-")):
    a, error = planar.predict(cut, "free_energy", temperature=t, return_std=True)
    a, error = a / KJ_MOL, error / KJ_MOL
    legend = f"{t:g} K" + ("" if t == 450.0 else " (data)")
    left.plot(psi, a, line, color=COLOURS[colour], label=legend)
    left.fill_between(psi, a - 1.96 * error, a + 1.96 * error, color=COLOURS[colour], alpha=0.2, linewidth=0)
torsion_axis(left, "ψ")
left.set(ylabel="A / kJ mol⁻¹, relative to its mean", title="free energy at φ = −75°, 95 % bands")
left.legend(frameon=False, fontsize=8)

angle = np.linspace(-180, 180, 61)
grid = np.radians(np.stack(np.meshgrid(angle, angle, indexing="ij"), axis=-1).reshape(-1, 2))
entropy = planar.predict(grid, "entropy", temperature=450.0) / KJ_MOL * 1e3
inside = planar.domain_score(grid) < 1.0
entropy = np.where(inside, entropy - entropy[inside].mean(), np.nan).reshape(61, 61)
largest = int(np.ceil(np.nanmax(np.abs(entropy))))
shown = right.contourf(angle, angle, entropy.T, np.arange(-largest, largest + 1), cmap="PuOr_r")
figure.colorbar(shown, ax=right, label="S / J mol⁻¹ K⁻¹")
torsion_axis(right, "φ")
torsion_axis(right, "ψ", "y")
right.set(title="entropy at 450 K; white: beyond the data", aspect="equal")
plt.show()

# %%
# Save the model
# --------------
# Models are files of plain numbers. On the command line ``kernelfe sample`` and ``kernelfe report`` read them;
# in ASE the model is a calculator.

path = Path(tempfile.mkdtemp()) / "ala2.kfe"
model.save(path)
again = kernelfe.load(path)
assert np.allclose(again.predict(some, "mean_force"), model.predict(some, "mean_force"))
print(f"{path.stat().st_size / 1e6:.1f} MB")
