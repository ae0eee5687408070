r"""
Entropy surface without entropy labels
======================================

:math:`S = -\partial A/\partial T` at every conformation, from forces and energies at several temperatures: a
map, and a cut with its error band.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfe
from kernelfe.analysis import dihedral_angles
from kernelfe.analysis.style import COLOURS, KJ_MOL, torsion_axis

frames = kernelfe.datasets.load("alanine-dipeptide")
train = frames[frames.temperature != 350][::3]
data = kernelfe.Frames.from_arrays(
    variables=dihedral_angles(train.positions, [(0, 1, 2, 4), (1, 2, 4, 5)]),
    temperature=train.temperature,
    labels={"mean_force": train.labels["generalized_force"], "mean_energy": train.labels["mean_energy"]},
)
torsions = kernelfe.descriptors.Variables(periodic=(2 * np.pi, 2 * np.pi))
term = kernelfe.Term(torsions, kernelfe.kernels.RBF(lengthscale=1.0))
model = kernelfe.FreeEnergyRegressor(term, solver=kernelfe.Sparse(inducing=150)).fit(data)

# %%
# Only differences of entropies mean something: zero is the mean over the plane, or over the cut.
angle = np.linspace(-180.0, 180.0, 61)
grid = np.radians(np.stack(np.meshgrid(angle, angle, indexing="ij"), axis=-1).reshape(-1, 2))
entropy = model.predict(grid, "entropy", temperature=350.0) / KJ_MOL * 1e3
entropy = (entropy - entropy.mean()).reshape(61, 61)
cut = np.radians(np.stack([np.full(61, -75.0), angle], axis=-1))
along = model.predict(cut, "entropy", temperature=350.0) / KJ_MOL * 1e3
centre = np.eye(61) - 1.0 / 61
covariance = centre @ model.covariance(cut, "entropy", temperature=350.0) @ centre
along, error = along - along.mean(), np.sqrt(np.diag(covariance)) / KJ_MOL * 1e3

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
largest = int(np.ceil(np.abs(entropy).max()))
levels = np.arange(-largest, largest + 1)
shown = left.contourf(angle, angle, entropy.T, levels, cmap="PuOr_r")
figure.colorbar(shown, ax=left, label="S / J mol⁻¹ K⁻¹", format="%.0f")
torsion_axis(left, "φ")
torsion_axis(left, "ψ", "y")
left.set(aspect="equal", title="entropy at 350 K")
left.axvline(-75.0, color="black", linewidth=0.8, linestyle="--")
right.plot(angle, along, color=COLOURS["blue"])
right.fill_between(angle, along - 1.96 * error, along + 1.96 * error, color=COLOURS["blue"], alpha=0.25, linewidth=0)
torsion_axis(right, "ψ")
right.set(ylabel="S / J mol⁻¹ K⁻¹", title="along the dashed line, 95 % band")
plt.show()
