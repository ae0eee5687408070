r"""
The value of each label kind
============================

Forces, energies, responses: which label is worth the effort? An analytic system answers this question, because its free
energy is known to rounding: two coarse variables R and one eliminated coordinate x, softer on one side, so that
A depends on temperature (:class:`kernelfe.datasets.EliminatedMode
<kernelfe.datasets.analytic.EliminatedMode>`). Every frame below is one draw of x, with the full noise of a real
frame.
"""

# %%
# Data and truth
# --------------
# 400 frames at 300, 400 and 500 K. Each frame has a force, an energy, and, from 60 draws of x at the same R, the
# response of the force to temperature, :math:`k b^2\,\mathrm{Cov}(f, U)`, as from restrained runs
# (:doc:`/theory/responses`).

import matplotlib.pyplot as plt
import numpy as np
import torch

import kernelfe
from kernelfe.analysis.style import COLOURS, KJ_MOL
from kernelfe.units import BOLTZMANN

system = kernelfe.datasets.EliminatedMode()
rng = np.random.default_rng(0)
temperature = rng.permutation(np.repeat([300.0, 400.0, 500.0], 134)[:400])
variables = rng.uniform(-1.6, 1.6, (400, 2))


def labelled(variables, temperature, draws=60):
    """Single-frame force and energy; response of the force from several draws at the same configuration."""
    one = system.sample(variables, temperature, 1.0, rng)
    many = [system.sample(variables, temperature, 1.0, rng) for _ in range(draws)]
    force = np.stack([frame["mean_force"] for frame in many])
    energy = np.stack([frame["mean_energy"] for frame in many])[..., None]
    covariance = ((force - force.mean(0)) * (energy - energy.mean(0))).sum(0) / (draws - 1)
    response = covariance / (BOLTZMANN * temperature[:, None] ** 2)
    return {"mean_force": one["mean_force"], "mean_energy": one["mean_energy"], "thermal_response_force": response}


frames = kernelfe.Frames.from_arrays(
    variables=variables, temperature=temperature, labels=labelled(variables, temperature)
)
grid = np.stack(np.meshgrid(np.linspace(-1.5, 1.5, 21), np.linspace(-1.5, 1.5, 21)), axis=-1).reshape(-1, 2)


def truth(quantity, t):
    """Exact values over the grid, relative to their mean."""
    values = system.statistics(torch.from_numpy(grid), t)[quantity].numpy()
    return values - values.mean()


# %%
# Label sets
# ----------
# Six label sets, and the errors of free energy and entropy at 450 K, a temperature without frames. Two sets use only
# the frames at 300 K: then only a response label contains information about the change of A with temperature.

cold = frames[frames.temperature == 300.0]
sets = {
    "forces, 300 K only": (cold, ["mean_force"]),
    "forces + responses, 300 K only": (cold, ["mean_force", "thermal_response_force"]),
    "energies": (frames, ["mean_energy"]),
    "forces": (frames, ["mean_force"]),
    "forces + energies": (frames, ["mean_force", "mean_energy"]),
    "forces + energies + responses": (frames, ["mean_force", "mean_energy", "thermal_response_force"]),
}
term = kernelfe.Term(kernel=kernelfe.kernels.RBF(lengthscale=1.0))
print(f"{'labels':32s} {'A / kJ/mol':>12s} {'stated':>8s} {'S / J/mol/K':>12s} {'stated':>8s}")
errors, stated = {}, {}
for name, (data, labels) in sets.items():
    model = kernelfe.FreeEnergyRegressor(term, labels=labels, solver=kernelfe.Sparse(inducing=100)).fit(data)
    rows = []
    for quantity, unit in (("free_energy", KJ_MOL), ("entropy", KJ_MOL / 1e3)):
        value = model.predict(grid, quantity, temperature=450.0)
        covariance = model.covariance(grid, quantity, temperature=450.0)
        centred = covariance - covariance.mean(0) - covariance.mean(1)[:, None] + covariance.mean()
        error = np.sqrt(np.mean((value - value.mean() - truth(quantity, 450.0)) ** 2)) / unit
        rows += [error, np.sqrt(np.mean(np.diag(centred))) / unit]
    errors[name], stated[name] = rows[::2], rows[1::2]
    print(f"{name:32s} {rows[0]:12.2f} {rows[1]:8.2f} {rows[2]:12.2f} {rows[3]:8.2f}")

# %%
# The table shows each true error and the error that the model states: the root mean square of its standard deviation.
# They agree within a factor of two if the labels are sufficient. If labels leave something open (energies alone leave
# :math:`T\,s(R)` free, forces at one temperature all change with T), the stated error is wide (:doc:`/theory/gauge`).

figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained", sharey=True)
names = list(sets)
for k, (ax, label) in enumerate(zip(axes, ("A / kJ mol⁻¹", "S / J mol⁻¹ K⁻¹"), strict=True)):
    ax.plot([errors[name][k] for name in names], names, "o", color=COLOURS["vermilion"], label="true")
    ax.plot([stated[name][k] for name in names], names, "D", color=COLOURS["blue"], fillstyle="none", label="stated")
    ax.set(xlabel=f"root mean square error of {label}", xscale="log")
    ax.grid(axis="y", linewidth=0.4)
    ax.tick_params(axis="y", length=0)
axes[0].invert_yaxis()
axes[1].legend(frameon=False, fontsize=8)
plt.show()

# %%
# Along all-atom motions
# ----------------------
# A force can be projected on any all-atom motion. Adding a motion of the eliminated atoms changes its noise, not its
# mean. On alanine dipeptide, the torque about a bond is such a label. Its effect is shown in
# :doc:`/generated/gallery/force_noise` and :doc:`/generated/gallery/learning_curve`, and derived in
# :doc:`/theory/fields`.
