"""Frames with everything that Frames can hold."""

from __future__ import annotations

import numpy as np

N, BEADS = 6, 4


def arrays(seed=0, n=N):
    rng = np.random.default_rng(seed)
    return {
        "positions": rng.normal(size=(n, BEADS, 3)),
        "temperature": np.linspace(300.0, 500.0, n),
        "labels": {
            "mean_force": rng.normal(size=(n, BEADS, 3)),
            "mean_energy": rng.normal(size=n),
            "generalized_force": rng.normal(size=(n, 2)),
            "parameter_derivative:charge": rng.normal(size=n),
            "stress": rng.normal(size=(n, 6)),
        },
        "noise": {
            "mean_energy": 0.2,
            "mean_force": rng.uniform(1, 2, size=(n, BEADS, 3)),
            "generalized_force": np.array([[2.0, 1.0], [1.0, 3.0]]) * np.arange(1, n + 1)[:, None, None],
        },
        "displacements": rng.normal(size=(n, 2, BEADS, 3)),
        "parameters": {"charge": rng.uniform(size=n), "pressure": 1.0},
        "kinds": ["C", "CA", "N", "O"],
        "masses": [12.0, 13.0, 14.0, 16.0],
        "cell": 10 * np.eye(3),
        "bonds": [(0, 1), (1, 2)],
        "present": {"mean_energy": np.arange(n) % 2 == 0},
    }


def assert_same(a, b):
    assert a.kinds == b.kinds and a.bonds == b.bonds and list(a.labels) == list(b.labels)
    for name in ("positions", "variables", "temperature", "displacements", "masses", "cell"):
        np.testing.assert_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ("parameters", "labels", "present", "noise"):
        np.testing.assert_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ("i", "j", "value", "std"):
        np.testing.assert_array_equal(getattr(a.pairs, name), getattr(b.pairs, name))
