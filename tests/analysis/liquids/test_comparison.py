from __future__ import annotations

import numpy as np
import pytest

import kernelfe
from kernelfe.analysis import liquids
from kernelfe.errors import DataError
from kernelfe.report import Page, liquid_section
from kernelfe.statistics import Estimate

from .systems import TILTED, ideal_gas

SMALL = liquids.LiquidSettings(shell=3.5, lower=1.0, upper=4.0, width=0.25, bins=20, k_max=2.0)


def samples(seed, **more):
    x, cells = ideal_gas(24, 20, TILTED, seed=seed)
    return liquids.LiquidSamples.from_arrays(x, cells, virials=np.random.default_rng(seed).normal(size=24), **more)


@pytest.fixture(scope="module")
def compared():
    return liquids.compare_liquids(samples(0), samples(1), 300.0, SMALL)


def test_every_row_has_its_floor(compared):
    names = [row.quantity for row in compared.rows]
    assert names[:2] == ["g(r) L1", "angular total variation"]
    assert {"triplets per bead", "neighbours", "tetrahedral order q", "pressure"} <= set(names)
    for row in compared.rows:
        assert 0.0 < row.distance.floor and row.distance.value < 6 * row.distance.floor
    assert compared["pressure"].unit == "bar" and "floor" in str(compared)
    more = compared.with_row("density", "g/cm³", Estimate(1.0, 0.03, 9.0), Estimate(1.1, 0.04, 9.0))
    assert more["density"].distance.floor == pytest.approx(0.05 * np.sqrt(2 / np.pi)) and len(compared.rows) == 6
    with pytest.raises(KeyError, match="pressure"):
        compared["viscosity"]


def test_a_reference_is_measured_once(compared):
    again = liquids.compare_liquids(samples(0), compared.reference, 300.0)
    assert again.reference is compared.reference
    assert again["g(r) L1"].distance.value == compared["g(r) L1"].distance.value
    with pytest.raises(DataError, match="310 K"):
        liquids.compare_liquids(samples(0), compared.reference, 310.0)
    with pytest.raises(DataError, match="other settings"):
        liquids.compare_liquids(samples(0), compared.reference, 300.0, liquids.LiquidSettings())
    with pytest.raises(DataError, match="other kinds"):
        liquids.compare_liquids(samples(0, kinds=["W"] * 20), compared.reference, 300.0)


def test_small_cells_shorten_the_range_and_say_so():
    wide = liquids.LiquidSettings(shell=3.5, lower=1.0, upper=9.0, width=0.25, bins=20, k_max=2.0)
    row = liquids.compare_liquids(samples(0), samples(1), 300.0, wide).rows[0]
    assert row.quantity == "g(r) L1 (up to 4.75 Å)"


def test_frames_and_replicas_become_samples():
    x, cells = ideal_gas(6, 10, TILTED)
    stress = np.random.default_rng(0).normal(size=(6, 6)) * 1e-3
    frames = kernelfe.Frames.from_arrays(
        x, temperature=300.0, cell=cells, kinds=["W"] * 10, labels={"stress": stress}, noise={"stress": 1e-3}
    )
    found = liquids.LiquidSamples.from_frames(frames)
    np.testing.assert_allclose(found.virials, -np.abs(np.linalg.det(cells)) * stress[:, :3].sum(1) / 3.0)
    assert found.frames.kinds.tolist() == ["W"] * 10
    labels = {"excess_pressure": -stress[:, :3].sum(1) / 3.0}
    noise = {"excess_pressure": 1e-3}
    again = kernelfe.Frames.from_arrays(x, temperature=300.0, cell=cells, labels=labels, noise=noise)
    np.testing.assert_allclose(liquids.LiquidSamples.from_frames(again).virials, found.virials)
    runs = liquids.LiquidSamples.from_arrays(x.reshape(3, 2, 10, 3), TILTED, stress=stress.reshape(3, 2, 6))
    assert runs.frames.series.tolist() == [0, 1, 0, 1, 0, 1] and len(runs) == 6
    np.testing.assert_allclose(runs.virials, found.virials)
    both = kernelfe.Frames.from_arrays(x, temperature=np.arange(6) + 300.0, cell=cells)
    with pytest.raises(DataError, match="several temperatures"):
        liquids.LiquidSamples.from_frames(both)
    with pytest.raises(DataError, match="cell is missing"):
        liquids.LiquidSamples.from_frames(kernelfe.Frames.from_arrays(x, temperature=300.0))
    for wrong in ({"virials": np.zeros(5)}, {"stress": np.zeros((6, 4))}, {"virials": np.zeros(6), "stress": stress}):
        with pytest.raises(DataError):
            liquids.LiquidSamples.from_arrays(x, TILTED, **wrong)


def dense(frames, seed):
    """Beads about the sites of a simple cubic lattice of 4 Å, as in a liquid of this distance."""
    sites = np.stack(np.meshgrid(*3 * [np.arange(4)]), -1).reshape(-1, 3) * 4.0
    return sites + np.random.default_rng(seed).normal(scale=0.45, size=(frames, 64, 3)), 16.0 * np.eye(3)


def test_the_first_shell_is_found_from_the_reference():
    one, two = (liquids.LiquidSamples.from_arrays(*dense(20, seed)) for seed in (1, 2))
    found = liquids.compare_liquids(one, two, 300.0, liquids.LiquidSettings(shell=None, upper=8.0, k_max=1.0))
    shell = found.reference.settings.shell
    # neighbours of a simple cubic lattice at 4 and at 5.66 Å, broadened by 0.64 Å
    assert 4.4 < shell < 5.2 and found.model.settings.shell == shell
    assert found.reference.angular.cutoff == shell and found["neighbours"].reference.value == pytest.approx(
        6.0, abs=1.5
    )
    with pytest.raises(DataError, match="a minimum after it"):
        liquids.first_shell(liquids.radial_distribution(*dense(3, 1), r_max=4.2))


def test_replicas_in_turns_are_recognised(caplog):
    """Three walks whose frames alternate; one walk; independent frames."""
    x, _ = ideal_gas(3, 20, TILTED)
    walks = x + np.cumsum(np.random.default_rng(0).normal(scale=0.3, size=(40, 3, 20, 3)), axis=0)
    found = liquids.LiquidSamples.from_arrays(walks.reshape(120, 20, 3), TILTED)
    assert found.frames.series.tolist() == [0, 1, 2] * 40 and "3 replicas" in caplog.text
    caplog.clear()
    for single in (walks[:, 0], *ideal_gas(40, 20, TILTED)[:1]):
        assert not liquids.LiquidSamples.from_arrays(single, TILTED).frames.series.any()
    assert not caplog.records


def test_figures_show_the_reference_and_the_floor(compared):
    model, reference = compared.model, compared.reference
    figures = {
        "g(r)": liquids.radial_figure(model.radial[None], reference.radial[None]),
        "p(θ) / rad⁻¹": liquids.angular_figure(model.angular, reference.angular),
        "p(q)": liquids.tetrahedral_figure(model.tetrahedral, reference.tetrahedral),
        "S(k)": liquids.structure_factor_figure(model.structure, reference.structure),
    }
    for label, figure in figures.items():
        top, bottom = figure.axes
        assert top.get_ylabel() == label and bottom.get_ylabel() == "model − all-atom"
        assert [t.get_text() for t in top.get_legend().get_texts()] == ["all-atom", "model"]
        assert "two exact samples" in bottom.get_legend().get_texts()[0].get_text()
    assert len(liquids.radial_figure(model.radial[None]).axes) == 1


def test_section_of_a_report(compared):
    page = Page("Water")
    lines = liquid_section(page, compared)
    text = page.render()
    assert text.count("<figure>") == 4 and "Structure of the liquid at 300 K" in text
    assert any("g(r) L1" in line for line in lines) and "floor" in text
    assert 'class="warning"' not in text
