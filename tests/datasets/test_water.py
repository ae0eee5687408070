"""The bundled water data agree with each other and with the physics of SPC/E water."""

from __future__ import annotations

import numpy as np
import pytest

from kernelfe import datasets
from kernelfe.analysis.liquids import radial_distribution
from kernelfe.units import BOLTZMANN, factor

KJ, BAR = factor("kJ/mol"), 1.602176634e6


@pytest.fixture(scope="module")
def water():
    return datasets.load("water")


def test_temperatures_cells_and_labels(water):
    temperatures, counts = np.unique(water.temperature, return_counts=True)
    assert temperatures.tolist() == [250.0, 280.0, 310.0, 340.0, 370.0, 400.0] and counts.min() >= 200
    assert np.allclose(water.cell, 18.644 * np.eye(3), atol=1e-5)
    assert set(water.labels) == {"mean_force", "mean_energy", "excess_pressure"} and set(water.kinds) == {"W"}
    forces = {t: int(water.present["mean_force"][water.temperature == t].sum()) for t in temperatures}
    assert forces[310.0] == 300 and min(forces.values()) == 150


def test_forces_sum_to_zero_and_energies_rise(water):
    sound = water[water.present["mean_force"]]
    total = np.abs(sound.labels["mean_force"].sum(1)).max()
    assert total < 5e-3 * sound.labels["mean_force"].std() * 216**0.5
    mean = [water.labels["mean_energy"][water.temperature == t].mean() / 216 / KJ for t in (280.0, 310.0, 340.0, 400.0)]
    assert np.all(np.diff(mean) > 0) and mean[1] == pytest.approx(-46.1, abs=0.3)


def test_pressure_and_structure_at_310_kelvin(water):
    here = water[water.temperature == 310.0]
    kinetic = 216 * BOLTZMANN * 310.0 / 18.644**3
    assert (kinetic + here.labels["excess_pressure"].mean()) * BAR == pytest.approx(150.0, abs=200.0)
    g = radial_distribution(here.positions[::30], here.cell[::30])
    assert g.r[g.g.argmax()] == pytest.approx(2.75, abs=0.06) and 2.6 < g.g.max() < 3.1
    assert g.g[g.r < 2.3].max() == 0.0


def test_one_bar(water):
    npt = datasets.load("water-npt")
    volume = np.abs(np.linalg.det(npt.cell))
    density = 216 * 18.01528 / volume.mean() / 0.602214076
    assert density == pytest.approx(0.998, abs=0.01) and volume.std() > 20.0
    pressure = (216 * BOLTZMANN * 298.0 / volume + npt.labels["excess_pressure"]) * BAR
    assert abs(pressure.mean()) < 4.0 * pressure.std() / (len(pressure) / 5) ** 0.5
