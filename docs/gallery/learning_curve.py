r"""
Learning curves of three label sets
===================================

Jensen–Shannon divergence between the model's Ramachandran distribution at 350 K, not used in training, and the
parallel-tempering reference, against the number of frames per temperature, for three label sets of the same frames:
mapped bead forces; torques; torques and energies. Dots are four disjoint subsets, lines join their medians. The
dashed line is the divergence between two halves of the reference.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfe
from kernelfe.analysis import dihedral_angles, jensen_shannon_divergence
from kernelfe.analysis.style import COLOURS
from kernelfe.units import BOLTZMANN

frames = kernelfe.datasets.load("alanine-dipeptide")
reference = kernelfe.datasets.load_reference("alanine-dipeptide")
at = int(np.flatnonzero(reference.temperatures == 350)[0])
angles = dihedral_angles(frames.positions, [(0, 1, 2, 4), (1, 2, 4, 5)])
torque, energy = frames.labels["generalized_force"], frames.labels["mean_energy"]
projected = np.einsum("nkbx,nbx->nk", frames.displacements, frames.labels["mean_force"])
middle = 0.5 * (reference.edges[1:] + reference.edges[:-1])
grid = np.stack(np.meshgrid(middle, middle, indexing="ij"), axis=-1).reshape(-1, 2)
torsions = kernelfe.descriptors.Variables(periodic=(2 * np.pi, 2 * np.pi))
term = kernelfe.Term(torsions, kernelfe.kernels.RBF(lengthscale=1.0))


def divergence(rows, labels):
    """Fit to some frames, compare the density at 350 K with the reference."""
    chosen = {kind: values[rows] for kind, values in labels.items()}
    data = kernelfe.Frames.from_arrays(variables=angles[rows], temperature=frames.temperature[rows], labels=chosen)
    model = kernelfe.FreeEnergyRegressor(term, solver=kernelfe.Sparse(inducing=100)).fit(data)
    a = model.predict(grid, "free_energy", temperature=350.0)
    p = np.exp(-(a - a.min()) / (BOLTZMANN * 350.0))
    return jensen_shannon_divergence(reference.probability[at], (p / p.sum()).reshape(36, 36))


# %%
sizes, subsets = (75, 150, 300, 600, 1200), 4
sets = {
    "bead forces": ({"mean_force": projected}, "orange", "s"),
    "torques": ({"mean_force": torque}, "sky", "^"),
    "torques + energies": ({"mean_force": torque, "mean_energy": energy}, "blue", "o"),
}
figure, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
for name, (labels, colour, marker) in sets.items():
    found = np.empty((len(sizes), subsets))
    for i, size in enumerate(sizes):
        for k in range(subsets):
            runs = [np.flatnonzero(frames.temperature == t) for t in (300, 400, 500, 600)]
            rows = np.concatenate([run[k * 5000 // size // subsets :: 5000 // size][:size] for run in runs])
            found[i, k] = divergence(rows, labels)
    ax.plot(sizes, np.median(found, axis=1), color=COLOURS[colour], marker=marker, label=name)
    ax.plot(np.repeat(sizes, subsets), found.ravel(), ".", color=COLOURS[colour], alpha=0.5, markersize=4)
ax.axhline(jensen_shannon_divergence(*reference.halves[:, at]), color="black", linestyle="--", linewidth=0.8)
ax.set(xscale="log", yscale="log", xlabel="frames per temperature", ylabel="divergence at 350 K / nat")
ax.set_xticks(sizes, [str(size) for size in sizes])
ax.minorticks_off()
ax.legend(frameon=False, fontsize=8)
plt.show()
