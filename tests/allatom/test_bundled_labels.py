"""The bundled restrained labels, without OpenMM runs: identities that hold between them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kernelfe.datasets import load, load_restrained
from kernelfe.errors import DataError

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "response.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_response", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_responses_agree_with_finite_differences(script, capsys):
    for numbers in script.main([]).values():
        assert numbers["p"] > 1e-3
        assert abs(numbers["slope"] - 1.0) < 4.0 * numbers["slope_std"]
        # forces do change by more than their noise, and the responses at the lower temperature predict this change
        assert numbers["chi2 of F(500 K) - F(350 K)"] > 1.2
        assert 0.8 < numbers["chi2 less 150 K times the response"] < 1.1
    assert capsys.readouterr().out.startswith("| quantity |")


def test_a_wrong_response_is_found_out(script):
    """Half the torque response, or its opposite sign, does not agree with the finite differences."""
    found = script.finite_differences(
        load_restrained("alanine-dipeptide", "response"), "generalized_force", script.RESPONSES[1]
    )
    for wrong in (-1.0, 4.0):
        changed = found | {"response": wrong * found["response"], "response_std": abs(wrong) * found["response_std"]}
        assert script.agreement(changed)["p"] < script.agreement(found)["p"]


def test_torques_are_projected_bead_forces():
    """Two estimates of −t·∇A from the same runs, one ten times noisier: equal within the noise of the noisier."""
    for which in ("surface", "response"):
        frames = load_restrained("alanine-dipeptide", which)
        t = frames.displacements
        projected = np.einsum("nkbx,nbx->nk", t, frames.labels["mean_force"])
        # noise of the projection if components were independent; those of one frame are not, hence the factor
        noise = np.sqrt(np.einsum("nkbx,nbx->nk", t**2, frames.noise["mean_force"] ** 2))
        z = (projected - frames.labels["generalized_force"]) / noise
        assert np.abs(np.mean(z)) < 0.3 and np.mean(z**2) < 3.0
        assert np.std(projected) > 3.0 * np.sqrt(np.mean(noise**2))


def test_heat_capacities_agree_with_differences_of_energies():
    """k b² Var U at 350 K against (⟨U⟩ at 375 K − ⟨U⟩ at 325 K)/50 K, summed over configurations."""
    frames = load_restrained("alanine-dipeptide", "response")
    low, middle, high = (frames[frames.temperature == t] for t in (325.0, 350.0, 375.0))
    quotient = (high.labels["mean_energy"] - low.labels["mean_energy"]) / 50.0
    error = np.hypot(high.noise["mean_energy"], low.noise["mean_energy"]) / 50.0
    total = np.hypot(error, middle.noise["heat_capacity"])
    z = (middle.labels["heat_capacity"] - quotient) / total
    assert stats.chi2.sf((z**2).sum(), len(z)) > 1e-3
    assert abs(z.sum()) / np.sqrt(len(z)) < 4.0
    assert middle.labels["heat_capacity"].mean() > 10.0 * total.mean() / np.sqrt(len(z))


def test_configurations_come_from_the_bundled_frames():
    hot = load("alanine-dipeptide")
    hot = hot[hot.temperature == 600.0].positions
    for which in ("surface", "response"):
        x = load_restrained("alanine-dipeptide", which).positions
        assert np.abs(x[0] - hot[0]).max() < 1e-5
        assert max(np.abs(hot - r).max((1, 2)).min() for r in x[::37]) < 1e-5
    with pytest.raises(DataError, match="'surface' or 'response'"):
        load_restrained("alanine-dipeptide", "other")
