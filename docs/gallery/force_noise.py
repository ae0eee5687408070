r"""
Noise of a force, with and without torques
==========================================

Single-frame estimates of :math:`-\partial A/\partial\psi` from the forces mapped to beads, and from the torque on
a whole fragment rotated rigidly about the ψ bond. Both have the same mean at every conformation. The torque
does not stretch stiff bonds, so its noise is several times smaller. The number of frames needed falls by the square of
this ratio.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfe
from kernelfe.analysis import dihedral_angles
from kernelfe.analysis.style import COLOURS, KJ_MOL

frames = kernelfe.datasets.load("alanine-dipeptide")
train = frames[frames.temperature == 300]
angles = dihedral_angles(train.positions, [(0, 1, 2, 4), (1, 2, 4, 5)])
torque = train.labels["generalized_force"]
projected = np.einsum("nkbx,nbx->nk", train.displacements, train.labels["mean_force"])

# %%
# The mean force, to subtract: a model of the torques of every second frame, evaluated at the others.
torsions = kernelfe.descriptors.Variables(periodic=(2 * np.pi, 2 * np.pi))
term = kernelfe.Term(torsions, kernelfe.kernels.RBF(lengthscale=1.0))
half = kernelfe.Frames.from_arrays(variables=angles[::2], temperature=300.0, labels={"mean_force": torque[::2]})
model = kernelfe.FreeEnergyRegressor(term, solver=kernelfe.Sparse(inducing=150)).fit(half)
mean = model.predict(angles[1::2], "mean_force", temperature=300.0)

figure, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
bins = np.linspace(-100, 100, 101)
for name, label, colour in (("bead forces", projected, "orange"), ("torque", torque, "blue")):
    noise = (label[1::2] - mean)[:, 1] / KJ_MOL
    legend = f"{name}: standard deviation {noise.std():.0f}"
    ax.hist(noise, bins, density=True, histtype="stepfilled", alpha=0.35, color=COLOURS[colour])
    ax.hist(noise, bins, density=True, histtype="step", color=COLOURS[colour], label=legend)
ax.set(xlabel="label − mean force about ψ / kJ mol⁻¹ rad⁻¹", ylabel="density / mol rad kJ⁻¹", xlim=(-100, 100))
figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=2)
plt.show()
