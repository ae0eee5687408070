"""Generate the water data at 298 K and 1 bar: a run of ``../water/generate.py`` with a barostat. Needs OpenMM.

python generate.py
"""

from __future__ import annotations

import runpy
from pathlib import Path

if __name__ == "__main__":
    script = runpy.run_path(str(Path(__file__).parents[1] / "water" / "generate.py"))
    out = Path(__file__).parents[1] / "water" / "raw" / "water_298_npt.npz"
    script["main"](298.0, 1.0, 298, 150, 0.8, 40.0, str(out))
