r"""
Inducing environments on the plane
==================================

A sparse model represents the free energy by a few inducing environments. Each new one is chosen where the previous ones
explain the variance of the kernel least (:doc:`/theory/sparse`). They cover the whole visited region
instead of crowding where frames are dense. Numbers give the order of selection.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfe
from kernelfe.analysis import dihedral_angles
from kernelfe.analysis.style import COLOURS, torsion_axis

frames = kernelfe.datasets.load("alanine-dipeptide")[::10]
angles = dihedral_angles(frames.positions, [(0, 1, 2, 4), (1, 2, 4, 5)])
data = kernelfe.Frames.from_arrays(
    variables=angles, temperature=frames.temperature, labels={"mean_force": frames.labels["generalized_force"]}
)
torsions = kernelfe.descriptors.Variables(periodic=(2 * np.pi, 2 * np.pi))
term = kernelfe.Term(torsions, kernelfe.kernels.RBF(lengthscale=1.0))
model = kernelfe.FreeEnergyRegressor(term, solver=kernelfe.Sparse(inducing=80)).fit(data)

# %%
# An environment is (sin φ, cos φ, sin ψ, cos ψ).
sine_phi, cosine_phi, sine_psi, cosine_psi = model.posterior_.basis.inducing[0].numpy().T
chosen = np.degrees([np.arctan2(sine_phi, cosine_phi), np.arctan2(sine_psi, cosine_psi)])

figure, ax = plt.subplots(figsize=(4.6, 3.8), layout="constrained")
ax.plot(*np.degrees(angles).T, ".", color=COLOURS["grey"], alpha=0.4, markersize=2, label="frames")
order = np.arange(len(sine_phi))
shown = ax.scatter(*chosen, c=order, cmap="cividis_r", s=28, edgecolors="black", linewidths=0.5, label="inducing")
for number in range(8):
    ax.annotate(str(number + 1), chosen[:, number], xytext=(4, 4), textcoords="offset points", fontsize=8)
figure.colorbar(shown, ax=ax, label="order of choice")
torsion_axis(ax, "φ")
torsion_axis(ax, "ψ", "y")
ax.set_aspect("equal")
plt.show()
