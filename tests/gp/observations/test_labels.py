"""Label sets of a fit: what kinds share, and baselines taken off block by block."""

from __future__ import annotations

import numpy as np

from kernelfe import FreeEnergyRegressor
from kernelfe.gp.observations import assemble, labels

from ..systems import molecule


def fitted():
    frames = molecule(30, bonds=[(0, 1), (1, 2), (2, 3)])
    return frames, FreeEnergyRegressor(optimizer=None).fit(frames)


def test_kinds_that_all_frames_carry_share_them():
    frames, model = fitted()
    own = (model.baseline_, model.composition_.counts)
    forces, energies = assemble.label_sets(frames, None, None, *own)
    assert forces.states is energies.states
    there = np.arange(30) != 3
    some = frames.replace(present={"mean_force": np.ones(30, dtype=bool), "mean_energy": there})
    forces, energies = assemble.label_sets(some, None, None, *own)
    assert len(forces.states) == 30 and len(energies.states) == 29 and 3 not in energies.frame.tolist()


def test_baseline_block_by_block_is_the_same(monkeypatch):
    frames, model = fitted()
    whole = assemble.label_sets(frames, None, None, model.baseline_, model.composition_.counts)
    monkeypatch.setattr(labels, "FRAMES_AT_ONCE", 7)
    for a, b in zip(
        whole, assemble.label_sets(frames, None, None, model.baseline_, model.composition_.counts), strict=True
    ):
        np.testing.assert_allclose(a.y, b.y, rtol=1e-13, atol=1e-15)
        assert not np.allclose(a.y.reshape(-1), frames.labels[a.kind].reshape(-1))  # there is a baseline
