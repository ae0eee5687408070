"""Settings of all tests: one thread per worker, no display, reproducible property-based tests."""

from __future__ import annotations

import os

# Before torch and matplotlib are imported: the workers of pytest-xdist must not compete for cores, and no test opens a
# window. A value that the caller has set wins.
for _name, _value in {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}.items():
    os.environ.setdefault(_name, _value)

from hypothesis import HealthCheck, settings  # noqa: E402

# The machines that run the tests are slow and shared: a deadline would fail good code. Derandomised, so that a green
# run stays green; `HYPOTHESIS_PROFILE=explore` looks for new counterexamples instead.
settings.register_profile("fixed", max_examples=25, deadline=None, derandomize=True)
settings.register_profile(
    "explore", max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
