"""A run of a small chain, written as a ForceReporter writes it, without OpenMM."""

from __future__ import annotations

import numpy as np

CHAIN = np.array([[0.0, 0, 0], [1.45, 0, 0], [2.0, 1.34, 0], [-0.4, 1.0, 0], [3.0, 1.34, 0.3]])  # Å
BONDS = [(0, 1), (1, 2), (0, 3), (2, 4)]
CONSTRAINTS = [(0, 3), (2, 4)]
NAMES = ["MOL:C0", "MOL:N1", "MOL:C2", "MOL:H3", "MOL:H4"]


def write_chain_run(folder, temperature, n=40):
    """Frames in springs between all pairs but the constrained ones, at a temperature (K)."""
    from kernelfe.allatom.reporter import _write

    rng = np.random.default_rng(int(temperature))
    spring = 40.0  # kJ/mol/Å²
    rows = []
    rest = np.linalg.norm(CHAIN[:, None] - CHAIN[None], axis=2)
    for k in range(n):
        x = CHAIN + rng.normal(0.0, np.sqrt(8.314e-3 * temperature / spring), CHAIN.shape) * 0.5
        for heavy, light in CONSTRAINTS:
            d = x[light] - x[heavy]
            x[light] = x[heavy] + d * rest[heavy, light] / np.linalg.norm(d)
        u, f = 0.0, np.zeros_like(x)
        for i in range(5):
            for j in range(i + 1, 5):
                if (i, j) not in CONSTRAINTS:
                    d = x[j] - x[i]
                    r = np.linalg.norm(d)
                    u += 0.5 * spring * (r - rest[i, j]) ** 2
                    f[i] += spring * (r - rest[i, j]) * d / r
                    f[j] -= spring * (r - rest[i, j]) * d / r
        row = {"energies": u, "times": float(k), "steps": 100 * k, "boxes": None}
        rows.append(row | {"positions": (0.1 * x).astype("f4"), "forces": (10.0 * f).astype("f4")})
    fixed = {"masses": np.array([12.0, 14.0, 12.0, 1.0, 1.0]), "names": np.array([n.encode() for n in NAMES])}
    fixed |= {"bonds": np.array(BONDS), "constraints": np.array(CONSTRAINTS)}
    folder.mkdir()
    _write(folder / "part-000000.h5md", rows, fixed)
    return folder
