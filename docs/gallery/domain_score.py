r"""
The edge of the training data
=============================

The domain score over the (φ, ψ) plane, for a model trained at 300 K only. Up to 1 a configuration resembles the
training data, above 1 a prediction is not reliable (:doc:`/theory/domain`). At 300 K the molecule never crosses most of
the plane. Frames at 600 K do, and most of those outside the domain are flagged.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfe
from kernelfe.analysis import dihedral_angles
from kernelfe.analysis.style import COLOURS, torsion_axis

frames = kernelfe.datasets.load("alanine-dipeptide")
cold, hot = (frames[frames.temperature == t][::10] for t in (300, 600))
angles = {t: dihedral_angles(part.positions, [(0, 1, 2, 4), (1, 2, 4, 5)]) for t, part in ((300, cold), (600, hot))}
data = kernelfe.Frames.from_arrays(
    variables=angles[300], temperature=300.0, labels={"mean_force": cold.labels["generalized_force"]}
)
torsions = kernelfe.descriptors.Variables(periodic=(2 * np.pi, 2 * np.pi))
term = kernelfe.Term(torsions, kernelfe.kernels.RBF(lengthscale=1.0))
model = kernelfe.FreeEnergyRegressor(term, solver=kernelfe.Sparse(inducing=150)).fit(data)

# %%
angle = np.linspace(-180.0, 180.0, 91)
grid = np.radians(np.stack(np.meshgrid(angle, angle, indexing="ij"), axis=-1).reshape(-1, 2))
score = model.domain_score(grid).reshape(91, 91).T

figure, ax = plt.subplots(figsize=(5.0, 3.8), layout="constrained")
levels = 10.0 ** np.arange(-1.5, 3.1, 0.5)
shown = ax.contourf(angle, angle, score, levels, norm="log", cmap="cividis_r", extend="both")
figure.colorbar(shown, ax=ax, label="domain score", ticks=[0.1, 1, 10, 100, 1000])
ax.contour(angle, angle, score, [1.0], colors="black", linewidths=1.2)
ax.plot(*np.degrees(angles[300]).T, ".", color="black", markersize=2, label="300 K, trained on")
ax.plot(*np.degrees(angles[600]).T, "+", color=COLOURS["sky"], markersize=3, label="600 K, not used")
torsion_axis(ax, "φ")
torsion_axis(ax, "ψ", "y")
ax.set_aspect("equal")
figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8, markerscale=3)
plt.show()
