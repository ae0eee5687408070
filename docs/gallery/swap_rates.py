r"""
Swap rates of a replica exchange
================================

Accepted swaps between neighbouring temperatures of a replica exchange with a bead model, and the acceptance of the
same pairs by the textbook exponent :math:`(b_1 - b_2)(A(R_2) - A(R_1))`. The textbook formula treats A as a potential
without temperature dependence and is wrong for a free energy (:doc:`/theory/sampling`): both its rates and its samples
would be wrong.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

import kernelfe
from kernelfe.analysis.style import COLOURS
from kernelfe.simulate import TorsionMoves, run_replica_exchange, uniform_masses
from kernelfe.units import BOLTZMANN

frames = kernelfe.datasets.load("alanine-dipeptide")
train = frames[frames.temperature != 350][::25]
model = kernelfe.FreeEnergyRegressor(solver=kernelfe.Sparse(inducing=150)).fit(train)
ladder, ladders = np.array([300.0, 350.0, 410.0, 480.0, 560.0, 650.0]), 40
start = train.positions[np.random.default_rng(0).integers(len(train), size=(ladders, 6))]
run = run_replica_exchange(
    model.frozen(), start, ladder, ladders=ladders, masses=uniform_masses(6), timestep=4.0, friction=10.0, steps=600,
    burn_in=200, swap_every=10, moves=TorsionMoves(train.bonds), seed=0, progress=False,
)  # fmt: skip

# %%
textbook = []
for k in range(len(ladder) - 1):
    b1, b2 = 1.0 / (BOLTZMANN * ladder[k : k + 2])
    exponent = (b1 - b2) * (run[k].energies - run[k + 1].energies)
    textbook.append(np.minimum(1.0, np.exp(exponent)).mean())

figure, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
at = np.arange(len(ladder) - 1)
ax.bar(at - 0.2, run.swap_acceptance, 0.4, color=COLOURS["blue"], label="with A(R; T) at both temperatures, as run")
ax.bar(at + 0.2, textbook, 0.4, color=COLOURS["orange"], label="textbook exponent, same pairs")
ax.set_xticks(at, [f"{low:g}–{high:g}" for low, high in pairwise(ladder)])
ax.set(xlabel="temperatures / K", ylabel="accepted swaps", ylim=(0, 1))
figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=2)
plt.show()
print("round trips per ladder:", run.round_trips.sum(axis=1).mean())
