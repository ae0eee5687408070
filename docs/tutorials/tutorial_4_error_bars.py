r"""
Error bars, and how to check them
=================================

Error bars can be wrong: the kernel may be too smooth, the noise may differ from the assumed noise, and frames may not
be independent. Three checks follow, from the cheapest to the strictest.
"""

# %%
# 1. Parity and noise
# -------------------
# Compare held-out labels with predictions. Single-frame labels are noisy, so their root mean square difference has a
# lower limit that no model can beat. Two things matter: the part above this limit, and whether the differences have
# the size that model and noise predict together: ``z_rms`` should be 1 and 95 % of labels lie within 1.96 standard
# deviations.

import matplotlib.pyplot as plt
import numpy as np
import torch

import kernelfe
from kernelfe.analysis import parity
from kernelfe.analysis.style import COLOURS, KJ_MOL

frames = kernelfe.datasets.load("alanine-dipeptide")
train = frames[np.isin(frames.temperature, (300.0, 400.0, 500.0, 600.0))][::20]
test = frames[np.isin(frames.temperature, (350.0, 450.0))][::25]
model = kernelfe.FreeEnergyRegressor(solver=kernelfe.Sparse(inducing=250)).fit(train)
checks = [parity(model, test, kind) for kind in ("mean_force", "generalized_force", "mean_energy")]
for check in checks:
    print(
        f"{check.kind:18s} rmse {check.rmse:.4f}, noise {check.noise_floor:.4f} (eV, Å, rad); "
        f"rms z {check.z_rms:.2f}, within 95 % bars: {100 * check.coverage95:.1f} %"
    )

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3.1), layout="constrained")
names = ("force on a bead / kJ mol⁻¹ Å⁻¹", "torque / kJ mol⁻¹ rad⁻¹", "energy / kJ mol⁻¹")
for ax, check, name in zip(axes, checks, names, strict=True):
    x, y = check.prediction.ravel() / KJ_MOL, check.label.ravel() / KJ_MOL
    low, high = np.percentile(np.concatenate([x, y]), (0.2, 99.8))
    line, noise = np.array([low, high]), check.noise_floor / KJ_MOL
    ax.fill_between(line, line - noise, line + noise, color=COLOURS["orange"], alpha=0.3, linewidth=0, label="± noise")
    ax.plot(x, y, ".", color=COLOURS["blue"], markersize=2, alpha=0.4, rasterized=True)
    ax.plot(line, line, color="black", linewidth=0.8)
    ax.set(xlim=(low, high), ylim=(low, high), xlabel="predicted " + name, ylabel="label")
axes[0].legend(frameon=False, fontsize=8)
plt.show()

# %%
# 2. The distribution of the differences
# --------------------------------------
# Standardised, they should be normal with variance one. A wider distribution means error bars that are too small;
# heavy tails mean noise that is not Gaussian. Labels test noise and model together. With noise this large they contain
# little information about the model's own part.

figure, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
bins = np.linspace(-4, 4, 41)
for check, colour in zip(checks, ("orange", "sky", "blue"), strict=True):
    z = (check.label - check.prediction) / np.sqrt(check.std**2 + check.noise**2)
    ax.hist(z.ravel(), bins, density=True, histtype="step", color=COLOURS[colour], linewidth=1.3, label=check.kind)
normal = np.exp(-0.5 * np.linspace(-4, 4, 200) ** 2) / np.sqrt(2 * np.pi)
ax.plot(np.linspace(-4, 4, 200), normal, "--", color="black", linewidth=0.8, label="normal")
ax.set(xlabel="(label − prediction) / standard deviation", ylabel="density")
ax.legend(frameon=False, fontsize=8)
plt.show()

# %%
# 3. Against a known answer
# -------------------------
# Only a known truth tests the model's own error bar. Here: 40 data sets of an analytic system, a fit to each
# with all hyperparameters from the data, and the error of three quantities at points between the training temperatures.

system, rng = kernelfe.datasets.EliminatedMode(), np.random.default_rng(0)
grid = np.stack([np.linspace(-1.4, 1.4, 12), 0.5 * np.sin(np.arange(12.0))], axis=1)
exact = {key: value.numpy() for key, value in system.statistics(torch.from_numpy(grid), 400.0).items()}
term = kernelfe.Term(kernel=kernelfe.kernels.RBF(lengthscale=1.0))
scores = {"free_energy": [], "mean_force": [], "mean_energy": []}
for _ in range(40):
    variables, temperature = rng.uniform(-1.6, 1.6, (120, 2)), rng.choice([300.0, 500.0], 120)
    data = system.frames(variables, temperature, ("mean_force", "mean_energy"), rng=rng).replace(parameters={})
    fitted = kernelfe.FreeEnergyRegressor(term, solver=kernelfe.Sparse(inducing=60)).fit(data)
    for quantity, found in scores.items():
        value, error = fitted.predict(grid, quantity, temperature=400.0, return_std=True)
        wanted = exact[quantity] - (exact[quantity].mean() if quantity == "free_energy" else 0.0)
        found.append((value - wanted) / error)

figure, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
claimed = np.linspace(0.02, 0.98, 49)
limits = torch.distributions.Normal(0.0, 1.0).icdf(torch.from_numpy(0.5 + 0.5 * claimed)).numpy()
for (quantity, found), colour in zip(scores.items(), ("blue", "orange", "green"), strict=True):
    z = np.abs(np.concatenate([np.ravel(one) for one in found]))
    ax.plot(claimed, (z[:, None] < limits).mean(0), color=COLOURS[colour], label=quantity)
    print(f"{quantity:12s} mean z² {np.mean(z**2):.2f}, within 95 % bars {100 * np.mean(z < 1.96):.1f} %")
ax.plot([0, 1], [0, 1], "--", color="black", linewidth=0.8)
ax.set(xlabel="claimed coverage", ylabel="found", xlim=(0, 1), ylim=(0, 1), aspect="equal")
ax.legend(frameon=False, fontsize=8)
plt.show()

# %%
# Curves below the diagonal mean error bars that are too small. Here those of force and free energy are too small: 120
# single frames leave length scales and noise uncertain, and these error bars treat their most probable values as exact.
# More frames help; so does :func:`~kernelfe.gp.hyperparameter_ensemble`, which averages over them
# (:doc:`/theory/error_bars`). For your own data, ``kernelfe report`` makes the first two checks. Hold out a whole
# run, not random frames, which are close in time to training frames.
