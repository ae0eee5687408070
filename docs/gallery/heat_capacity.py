r"""
Heat capacity between the temperatures of the data
==================================================

The calorimetric heat capacity, :math:`C(T) = \langle C(R)\rangle + k b^2\,\mathrm{Var}_R\langle U\rangle(R)`: the
conditional heat capacity averaged over conformations, and the fluctuation of the mean energy between them
(:doc:`/theory/sampling`). The points are energy fluctuations of the all-atom runs. The model was
trained on energies and torques at four of these temperatures.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfe
from kernelfe.analysis import dihedral_angles
from kernelfe.analysis.style import COLOURS, KJ_MOL
from kernelfe.units import BOLTZMANN

frames = kernelfe.datasets.load("alanine-dipeptide")
train = frames[(frames.temperature != 350) & (frames.temperature != 450)][::4]
data = kernelfe.Frames.from_arrays(
    variables=dihedral_angles(train.positions, [(0, 1, 2, 4), (1, 2, 4, 5)]),
    temperature=train.temperature,
    labels={"mean_force": train.labels["generalized_force"], "mean_energy": train.labels["mean_energy"]},
)
torsions = kernelfe.descriptors.Variables(periodic=(2 * np.pi, 2 * np.pi))
term = kernelfe.Term(torsions, kernelfe.kernels.RBF(lengthscale=1.0))
model = kernelfe.FreeEnergyRegressor(term, solver=kernelfe.Sparse(inducing=150)).fit(data)

# %%
middle = np.radians(np.arange(-175, 180, 10.0))
grid = np.stack(np.meshgrid(middle, middle, indexing="ij"), axis=-1).reshape(-1, 2)
temperatures = np.linspace(300.0, 600.0, 13)
conditional, between, error = [], [], []
for t in temperatures:
    b = 1.0 / (BOLTZMANN * t)
    free = model.predict(grid, "free_energy", temperature=t)
    p = np.exp(-b * (free - free.min()))
    p /= p.sum()
    energy = model.predict(grid, "mean_energy", temperature=t)
    conditional.append(p @ model.predict(grid, "heat_capacity", temperature=t))
    between.append(BOLTZMANN * b**2 * (p @ energy**2 - (p @ energy) ** 2))
    error.append(np.sqrt(p @ model.covariance(grid, "heat_capacity", temperature=t) @ p))
conditional, between, error = (np.array(values) / KJ_MOL * 1e3 for values in (conditional, between, error))

figure, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
total = conditional + between
ax.fill_between(temperatures, total - 1.96 * error, total + 1.96 * error, color=COLOURS["blue"], alpha=0.25, lw=0)
ax.plot(temperatures, total, color=COLOURS["blue"], label="model, 95 % band")
ax.plot(temperatures, conditional, "--", color=COLOURS["orange"], label="part within conformations")
for t in np.unique(frames.temperature):
    u = frames.labels["mean_energy"][frames.temperature == t]
    blocks = np.array([part.var() for part in np.array_split(u, 10)]) / (BOLTZMANN * t**2) / KJ_MOL * 1e3
    unseen = t in (350.0, 450.0)
    ax.errorbar(
        t,
        u.var() / (BOLTZMANN * t**2) / KJ_MOL * 1e3,
        1.96 * blocks.std(ddof=1) / np.sqrt(10),
        fmt="s" if unseen else "o",
        color=COLOURS["vermilion"] if unseen else COLOURS["black"],
        markersize=5,
        capsize=2,
        label={300.0: "energy fluctuations, trained on", 350.0: "energy fluctuations, unseen"}.get(t),
    )
ax.set(xlabel="T / K", ylabel="configurational C / J mol⁻¹ K⁻¹", ylim=(175, 230))
ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
plt.show()
