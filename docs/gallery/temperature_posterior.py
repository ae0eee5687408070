r"""
Posterior between the temperatures of the data
==============================================

The free-energy difference between the α and the β basin of alanine dipeptide (minima of the model, not
integrals over the basins) against temperature, from torques at 300 and 600 K only (dotted lines), and from
torques and energies. Each band is the posterior of a whole function of T. It widens away from the data.
Energies are the slope of A/T and narrow it.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfe
from kernelfe.analysis import dihedral_angles
from kernelfe.analysis.style import COLOURS, KJ_MOL

frames = kernelfe.datasets.load("alanine-dipeptide")
train = frames[np.isin(frames.temperature, (300, 600))][::5]
torsions = kernelfe.descriptors.Variables(periodic=(2 * np.pi, 2 * np.pi))
term = kernelfe.Term(torsions, kernelfe.kernels.RBF(lengthscale=1.0))
temperatures = np.linspace(250.0, 700.0, 46)
labels = {"mean_force": train.labels["generalized_force"], "mean_energy": train.labels["mean_energy"]}
data = kernelfe.Frames.from_arrays(
    variables=dihedral_angles(train.positions, [(0, 1, 2, 4), (1, 2, 4, 5)]),
    temperature=train.temperature,
    labels=labels,
)

# %%
beta, alpha = np.radians([[-75.0, 150.0]]), np.radians([[-75.0, -15.0]])
figure, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
for name, kinds, colour, hatch in (
    ("torques", ["mean_force"], "orange", "///"),
    ("torques + energies", ["mean_force", "mean_energy"], "blue", None),
):
    model = kernelfe.FreeEnergyRegressor(term, solver=kernelfe.Sparse(inducing=150), labels=kinds).fit(data)
    first, second = np.repeat(beta, 46, axis=0), np.repeat(alpha, 46, axis=0)
    value, covariance = model.predict_difference(first, second, temperatures, temperatures, return_cov=True)
    value, error = value / KJ_MOL, np.sqrt(np.diag(covariance)) / KJ_MOL
    band = (value - 1.96 * error, value + 1.96 * error)
    ax.fill_between(temperatures, *band, facecolor=COLOURS[colour], alpha=0.25, hatch=hatch, linewidth=0)
    ax.plot(temperatures, value, color=COLOURS[colour], label=name)
for t in (300.0, 600.0):
    ax.axvline(t, color="black", linewidth=0.8, linestyle=":")

# The reference at two temperatures without training data: densities of bins around the two points in parallel
# tempering.
reference = kernelfe.datasets.load_reference("alanine-dipeptide")
middle = np.degrees(0.5 * (reference.edges[1:] + reference.edges[:-1]))
near = [np.ix_(np.abs(middle + 75) < 6, np.abs(middle - psi) < 6) for psi in (150.0, -15.0)]
for k, t in enumerate(reference.temperatures):
    tables = (reference.probability[k], reference.probability_std[k])
    p, std = (np.array([table[box].mean() for box in near]) for table in tables)
    difference = -8.314463e-3 * t * np.log(p[1] / p[0])
    error = 8.314463e-3 * t * np.sqrt(((std / p) ** 2).sum())
    name = None if k else "parallel tempering"
    ax.errorbar(t, difference, 1.96 * error, fmt="o", color="black", markersize=4, capsize=2, label=name)
ax.set(xlabel="T / K", ylabel="A(α) − A(β) / kJ mol⁻¹, 95 % bands")
figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=3)
plt.show()
