r"""
Free-energy surface with its error map
======================================

:math:`A(\varphi, \psi; T)` of alanine dipeptide at 350 K, a temperature without training frames, and the
standard deviation of the surface relative to its mean.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfe
from kernelfe.analysis import dihedral_angles
from kernelfe.analysis.style import KJ_MOL, torsion_axis

# %%
# Torques and energies of single frames at 300, 400, 450, 500 and 600 K.
frames = kernelfe.datasets.load("alanine-dipeptide")
train = frames[frames.temperature != 350][::5]
data = kernelfe.Frames.from_arrays(
    variables=dihedral_angles(train.positions, [(0, 1, 2, 4), (1, 2, 4, 5)]),
    temperature=train.temperature,
    labels={"mean_force": train.labels["generalized_force"], "mean_energy": train.labels["mean_energy"]},
)
torsions = kernelfe.descriptors.Variables(periodic=(2 * np.pi, 2 * np.pi))
term = kernelfe.Term(torsions, kernelfe.kernels.RBF(lengthscale=1.0))
model = kernelfe.FreeEnergyRegressor(term, solver=kernelfe.Sparse(inducing=150)).fit(data)

# %%
angle = np.linspace(-180.0, 180.0, 61)
grid = np.radians(np.stack(np.meshgrid(angle, angle, indexing="ij"), axis=-1).reshape(-1, 2))
surface, error = model.predict(grid, "free_energy", temperature=350.0, return_std=True)
surface = (surface - surface.min()).reshape(61, 61).T / KJ_MOL

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
levels = np.arange(0, 61, 4)
shown = left.contourf(angle, angle, surface, levels, cmap="viridis", extend="max")
figure.colorbar(shown, ax=left, label="A / kJ mol⁻¹")
shown = right.contourf(angle, angle, error.reshape(61, 61).T / KJ_MOL, 14, cmap="cividis")
figure.colorbar(shown, ax=right, label="standard deviation of A / kJ mol⁻¹")
seen = np.degrees(data.variables[::20])
right.plot(*seen.T, ".", color="white", markersize=1.5)
for ax, title in ((left, "free energy at 350 K"), (right, "its error; dots: frames")):
    torsion_axis(ax, "φ")
    torsion_axis(ax, "ψ", "y")
    ax.set_title(title)
    ax.set_aspect("equal")
plt.show()
