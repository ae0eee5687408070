from __future__ import annotations

import numpy as np
import pytest

from kernelfe.analysis import Conditional, Decomposition, Parity, plots
from kernelfe.analysis.style import KJ_MOL
from kernelfe.report import png


def histogram(seed):
    return (
        np.random.default_rng(seed)
        .multinomial(5000, np.random.default_rng(0).dirichlet(np.full(1296, 0.1)))
        .reshape(36, 36)
        / 5000
    )


def parts(size):
    rng = np.random.default_rng(0)
    values = [rng.normal(scale=0.05, size=size) for _ in range(4)]
    values[0][3] = np.nan
    return Decomposition(350.0, rng.integers(1, 99, size), *values, *(np.full(size, 0.01) for _ in range(4)))


def labels(figure):
    return " ".join(t for ax in figure.axes for t in (ax.get_xlabel(), ax.get_ylabel()))


def test_figures_are_drawn_with_units_and_no_window():
    rng = np.random.default_rng(1)
    y = rng.normal(size=(200, 3))
    parity = Parity("mean_force", y, y + 0.1, None, np.full_like(y, 0.3))
    energy = Conditional(np.full(36, 30), rng.normal(size=36), np.full(36, 0.01))
    curves = {"plain": {75: [0.3, 0.2], 300: [0.1, 0.09]}, "all": {75: [0.03, 0.02], 300: [0.01, 0.012]}}
    figures = {
        "kJ mol": plots.surface_figure(histogram(1), histogram(2), 350.0),
        "u(r) / kJ mol⁻¹": plots.pair_potential_figure([2.0, 3.0], [0.1, 0.0], [0.01, 0.02]),
        "frames per temperature": plots.learning_curve_figure(curves, 0.004, {"alone": (300, 0.2)}),
        "kJ/mol/Å": plots.parity_figure([parity]),
        "ψ / °": plots.decomposition_figure(parts(36), "ψ", (rng.normal(size=36), np.full(36, 0.01)), energy),
        "φ / °": plots.maps_figure(parts(324), 18),
        "nat": plots.summary_figure(histogram(1), histogram(2), 350.0, curves, 0.004),
    }
    for unit, figure in figures.items():
        assert png(figure).startswith(b"\x89PNG")
        assert unit in labels(figure), unit


def test_parity_is_shown_in_chemists_units():
    y = np.array([[0.0], [KJ_MOL], [2 * KJ_MOL]])
    figure = plots.parity_figure([Parity("mean_energy", y, y, None, np.full_like(y, 5 * KJ_MOL))])
    assert "noise 5;" in figure.axes[0].get_title()


def test_learning_curve_shows_mean_and_range():
    figure = plots.learning_curve_figure({"all": {75: [0.02, 0.04, 0.09]}}, 0.0)
    line = figure.axes[0].containers[0]
    assert line.lines[0].get_ydata()[0] == pytest.approx(0.05)
    segment = line.lines[2][0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 1], [0.02, 0.09])
