r"""
Sampling a free energy
======================

A fitted model is sampled like a potential, with two differences: A itself depends on temperature, and outside the
training data it is not reliable. This tutorial shows Langevin dynamics with torsion moves, replica exchange, ASE, and
the behaviour at the edge of the data.
"""

# %%
# A model
# -------

import tempfile
from pathlib import Path

import ase
import matplotlib.pyplot as plt
import numpy as np
from ase import units
from ase.md.langevin import Langevin

import kernelfe
from kernelfe.analysis import dihedral_angles
from kernelfe.analysis.style import COLOURS
from kernelfe.simulate import (
    DomainGuard,
    SamplingError,
    TorsionMoves,
    load_state,
    run_langevin,
    run_replica_exchange,
    sample,
    uniform_masses,
)

frames = kernelfe.datasets.load("alanine-dipeptide")
train = frames[frames.temperature != 350.0][::20]
model = kernelfe.FreeEnergyRegressor(solver=kernelfe.Sparse(inducing=200)).fit(train)
frozen = model.frozen()  # energies and forces of batches, as samplers use them
start = train.positions[np.random.default_rng(0).integers(len(train), size=200)]
dynamics = {"masses": uniform_masses(6), "timestep": 5.0, "friction": 10.0, "progress": False}

# %%
# With and without torsion moves
# ------------------------------
# All replicas advance in one batch. Rotations about the bonds, accepted by the Metropolis criterion, cross a barrier
# in one step; dynamics alone must wait for a crossing. The autocorrelation of cos ψ, averaged over replicas, shows how
# soon configurations are independent.

psi = [(1, 2, 4, 5)]
figure, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
for name, options, colour in (
    ("dynamics alone", {}, "orange"),
    ("with torsion moves after every step", {"moves": TorsionMoves(train.bonds), "moves_every": 1}, "blue"),
):
    run = run_langevin(frozen, start, 300.0, steps=600, burn_in=100, stride=4, **dynamics, **options)
    series = np.cos(dihedral_angles(run.positions, psi)[..., 0])
    series = series - series.mean()
    correlation = [(series[: len(series) - lag] * series[lag:]).mean() / series.var() for lag in range(60)]
    ax.plot(1e-3 * run.interval * np.arange(60), correlation, color=COLOURS[colour], label=name)
    print(f"{name}: {run.seconds:.1f} s, {100 * run.outside:.1f} % beyond the edge of the data")
ax.axhline(0.0, color="black", linewidth=0.8)
ax.set(xlabel="time of dynamics / ps", ylabel="correlation of cos ψ at 300 K", xlim=(0, None))
ax.legend(frameon=False, fontsize=8)
plt.show()

# %%
# Replica exchange
# ----------------
# Swaps of configurations between temperatures need A of each configuration at *both* temperatures. The textbook
# exponent, with one energy each, is valid for potentials only (:doc:`/theory/sampling`).

ladder = [300.0, 360.0, 430.0, 510.0, 600.0]
exchange = run_replica_exchange(
    frozen, start[:5], ladder, ladders=30, steps=300, burn_in=100, swap_every=10, **dynamics
)
print("accepted swaps:", exchange.swap_acceptance.round(2))
for t, rung in zip(ladder, exchange.trajectories, strict=True):
    print(f"{t:.0f} K: {len(rung.flat())} configurations, A/N = {rung.energies.mean() / 6:.3f} eV per bead")

# %%
# ASE
# ---
# The model is a calculator: ``energy`` is A(R; T); standard deviations, entropy and domain score are further results.
# ASE's own Langevin removes the motion of the centre of mass by default, which heats small systems: use
# ``fixcm=False``.

atoms = ase.Atoms("CNCCCN", positions=start[0], masses=np.full(6, 12.0))
atoms.calc = model.calculator(temperature=350.0)
md = Langevin(
    atoms, 2.0 * units.fs, temperature_K=350.0, friction=0.01 / units.fs, fixcm=False, rng=np.random.default_rng(1)
)
md.run(50)
print(f"A = {atoms.get_potential_energy():.3f} eV, largest force {np.abs(atoms.get_forces()).max():.2f} eV/Å")
print("domain score:", round(float(atoms.calc.get_property("domain_score", atoms)), 2))

# %%
# The edge of the training data
# -----------------------------
# A smooth function has a value everywhere. Every 50 steps the sampler scores the distance of all replicas from the
# training data: 1 is the edge. A replica far outside is set back to the last check. If that happens in more than a
# share of the checks, the run stops with an error that names the beads, and writes a restart file. Here the limit is
# so low that an ordinary run exceeds it, and the share is zero.

folder = Path(tempfile.mkdtemp())
guard = DomainGuard(stop=0.6, share=0.0, restart=folder / "restart.npz")
try:
    inside = start[model.domain_score(start) < 0.4]
    run_langevin(frozen, inside, 600.0, steps=2000, guard=guard, **dynamics)
    print("the run stayed inside")
except SamplingError as error:
    print(str(error)[:300], "…")
    state = load_state(folder / "restart.npz", seed=1)  # other random numbers than in the stopped run
    again = sample(frozen, state, steps=100, progress=False)
    print(f"continued for {len(again)} samples of {again.positions.shape[1]} replicas")

# %%
# Next: :doc:`/theory/domain` defines the score, and :doc:`/generated/gallery/domain_score` has a figure of it.
