r"""
Structure and heat capacity of a liquid
=======================================

SPC/E water between 250 and 400 K at one density, each molecule one bead at its centre of mass: radial distribution,
angles within the first shell, tetrahedral order, pressure and heat capacity, with :mod:`kernelfe.analysis.liquids`.
Standard errors count the correlation between frames. Heat capacities come from differences of mean energies, which
are better known than fluctuations.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernelfe
from kernelfe.analysis import liquids
from kernelfe.analysis.style import KJ_MOL

frames = kernelfe.datasets.load("water")
temperatures = np.unique(frames.temperature)
molecules = frames.shape[1]
found = {}
for t in temperatures:
    samples = liquids.LiquidSamples.from_frames(frames[frames.temperature == t])
    found[t] = liquids.liquid_properties(samples, t, liquids.LiquidSettings(k_max=3.0))
    one = found[t]
    print(f"{t:g} K: q = {one.tetrahedral.mean}, triplets per molecule {one.angular.triplets}, P = {one.pressure} bar")

# %%
# Bands are ± 2 standard errors.
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained")
for t, colour in zip(temperatures, plt.cm.viridis(np.linspace(0.0, 0.9, len(temperatures))), strict=True):
    (g,), p = found[t].radial.values(), found[t].angular
    for ax, x, y, error in (
        (axes[0], g.r, g.g, g.error),
        (axes[1], np.degrees(p.theta), p.density, p.error),
    ):
        ax.plot(x, y, color=colour, lw=1, label=f"{t:g} K")
        ax.fill_between(x, y - 2 * error, y + 2 * error, color=colour, alpha=0.3, lw=0)
axes[0].set(xlabel="r / Å", ylabel="g(r)", xlim=(2.2, 9.3))
axes[1].set(xlabel="θ / °", ylabel="p(θ) / rad⁻¹", title="neighbours within 3.3 Å")
axes[0].legend(frameon=False, fontsize=8)

energies = {t: frames.labels["mean_energy"][frames.temperature == t] for t in temperatures}
unit = 1e3 / KJ_MOL / molecules  # J/mol/K per molecule
by_differences = liquids.heat_capacity_by_differences(energies)
by_fluctuations = liquids.heat_capacity_by_fluctuations(energies)
for capacity, marker, label in ((by_differences, "o", "differences"), (by_fluctuations, "s", "fluctuations")):
    value, error = capacity.value * unit, capacity.error * unit
    axes[2].errorbar(capacity.temperature, value, 2 * error, fmt=marker, ms=4, capsize=2, label=label)
axes[2].set(xlabel="T / K", ylabel="C / J mol⁻¹ K⁻¹", title="configurational heat capacity")
axes[2].legend(frameon=False, fontsize=8)

# %%
# How far apart are two temperatures, and what would two exact samples of one temperature show? The first is the
# distance, the second its floor; halves of one run are as far apart as their floor says. A model is compared with
# all-atom frames in the same way, by :func:`~kernelfe.analysis.liquids.compare_liquids`.
low, high = temperatures[1], temperatures[-1]
(cold,), (hot,) = found[low].radial.values(), found[high].radial.values()
print(f"g(r), {low:g} and {high:g} K: {liquids.l1_distance(hot, cold)}")
same = frames[frames.temperature == low]
halves = [liquids.radial_distribution(part.positions, part.cell) for part in (same[:150], same[150:])]
print(f"g(r), halves of {low:g} K: {liquids.l1_distance(*halves)}")
figure = liquids.radial_figure(hot, cold, names=(f"{high:g} K", f"{low:g} K"))
plt.show()
