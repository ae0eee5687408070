"""Broken frames are named when Frames are built, and move no baseline, no domain and no starting value."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernelfe
from kernelfe.datasets import load
from kernelfe.errors import DataError
from kernelfe.geometry import broken_frames
from kernelfe.gp.baseline import BoltzmannInversion
from kernelfe.gp.observations.molecules import MoleculeSet
from kernelfe.gp.shared_baseline import fit_baseline


@pytest.fixture(scope="module")
def whole():
    """300 frames at 300 K with their forces."""
    frames = load("alanine-dipeptide").with_labels("mean_force")
    return frames[np.flatnonzero(frames.temperature == 300.0)[::10][:300]]


def torn(frames, rows, size=20.0):
    """The frames, some of them with a bond of this length."""
    x = np.array(frames.positions)
    x[rows, 3:] += [size, 0.0, 0.0]
    return frames.replace(positions=x)


@settings(max_examples=10)
@given(st.lists(st.integers(0, 299), min_size=1, max_size=20, unique=True), st.floats(8.0, 1e3), st.booleans())
def test_a_baseline_is_that_of_the_whole_frames(whole, rows, size, shared):
    bad = torn(whole, rows, size)
    good = whole[~np.isin(np.arange(300), rows)]
    if shared:
        spec = BoltzmannInversion(by_kinds=True)
        fitted = [fit_baseline(spec, MoleculeSet([part])) for part in (bad, good)]
    else:
        fitted = [BoltzmannInversion().fit(part.positions, part.temperature) for part in (bad, good)]
    assert fitted[0] == fitted[1]


def test_a_spring_survives_one_frame_in_300(whole):
    before, after = (BoltzmannInversion().fit(f.positions, f.temperature) for f in (whole, torn(whole, [17])))
    np.testing.assert_allclose(after.bond_parameters, before.bond_parameters, rtol=0.02)


def test_frames_with_torn_molecules_are_named(whole, caplog):
    with caplog.at_level(logging.WARNING, "kernelfe"):
        bad = torn(whole, [17, 203])
        assert "frames 17, 203" in caplog.text and "beads 2 and 3" in caplog.text and "nwrap" in caplog.text
        caplog.clear()
        bad.replace(temperature=310.0)  # the positions are the same: once is enough
        mended = bad[~broken_frames(bad.positions, bad.bonds)]
        mended.replace(positions=np.array(mended.positions))
    assert len(mended) == 298 and not caplog.records


def test_domain_and_starting_values_are_those_of_the_whole_frames(whole):
    some = whole[::6]
    model, other = (kernelfe.FreeEnergyRegressor(optimizer=None).fit(f) for f in (some, torn(some, [20])))
    assert other.domain_score(torn(some, [20]).positions[20:21])[0] > 2.0
    scales = [m.model_.posterior.prior.terms[0].spec.kernel.lengthscale for m in (model, other)]
    np.testing.assert_allclose(scales[1], scales[0], rtol=0.1)


def test_a_fit_is_that_of_the_whole_frames(whole):
    """Labels, noise that is given per frame and differences between frames: nothing of a broken frame is learned."""
    some = whole[::10].add_pair_labels([0, 20, 5], [20, 3, 7], [0.1, 0.2, 0.3], 0.05)
    bad, good = torn(some, [20]), some[np.arange(30) != 20]
    level = np.linspace(1.0, 2.0, 30)
    models = []
    for frames, noise in ((bad, level), (good, np.delete(level, 20))):
        estimator = kernelfe.FreeEnergyRegressor(optimizer=None, noise={"mean_force": noise[:, None, None]})
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            models.append(estimator.fit(frames))
        said = [str(w.message) for w in seen if "broken molecule" in str(w.message)]
        assert len(said) == (frames is bad) and all("1 of 30 frames" in text and "frames 20" in text for text in said)
    first, second = (model.predict(good, "mean_force") for model in models)
    np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-9)
    with pytest.warns(UserWarning, match="1 of 30 frames"):
        more = models[1].condition(bad.with_labels("mean_force"), noise={"mean_force": 1.0})
    same = models[1].condition(good.with_labels("mean_force"), noise={"mean_force": 1.0})
    np.testing.assert_allclose(more.predict(good, "mean_force"), same.predict(good, "mean_force"), rtol=1e-9)


def test_beads_that_are_not_bonded_may_be_far_apart(whole):
    some = whole[::10]
    bad = torn(some, [20]).replace(bonds=[(0, 1), (1, 2), (3, 4), (4, 5)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (forces,) = MoleculeSet([bad]).labels(None, None, None)
    assert len(forces.frame) == 30


def test_no_error_about_positions_advises_to_do_without_a_baseline(whole):
    """Positions in nm, or half of the frames torn: the remedy is in the data."""
    x = np.array(whole.positions)
    x[::2, 3:] += [30.0, 0.0, 0.0]
    with pytest.raises(DataError) as error:
        BoltzmannInversion(bonds=whole.bonds).fit(x, 300.0)
    assert "baseline=False" not in str(error.value) and "unwrap" in str(error.value)
