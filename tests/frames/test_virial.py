"""A wrong sign or unit of forces is named; frames that are not from equilibrium raise no alarm."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernelfe
from kernelfe.datasets import ChainFamily, load
from kernelfe.errors import DataError
from kernelfe.statistics import virial_check
from kernelfe.units import BOLTZMANN, factor

#: Forces in the first unit taken for the second.
MISTAKES = [
    ("kcal/mol/Å", "eV/Å"),
    ("kJ/mol/Å", "eV/Å"),
    ("kJ/mol/nm", "eV/Å"),
    ("Hartree/bohr", "eV/Å"),
    ("Hartree/bohr", "eV/nm"),
    ("kJ/mol/Å", "kJ/mol/nm"),
    ("kcal/mol/Å", "kJ/mol/Å"),
    ("eV/Å", "kJ/mol/Å"),
]


@pytest.fixture(scope="module")
def alanine():
    return load("alanine-dipeptide")


def with_forces(frames, c):
    """The frames with c times their forces, and no other label."""
    return frames.replace(labels={"mean_force": c * frames.labels["mean_force"]}, noise={}, present={})


def tethered(kelvin, k, rest, rng, count=400):
    """Equilibrium frames of two beads with energy ½k(r − r0)², drawn with the volume element."""
    kt = BOLTZMANN * kelvin
    draws = rest + rng.normal(size=(50 * count,)) * np.sqrt(kt / k)
    draws = draws[(draws > 0.0) & (rng.uniform(size=len(draws)) < (draws / (2.0 * rest)) ** 2)][:count]
    edge = rng.normal(size=(len(draws), 3))
    edge /= np.linalg.norm(edge, axis=1, keepdims=True)
    force = -k * (draws - rest)[:, None] * edge
    x = np.stack([0.5 * draws[:, None] * edge, -0.5 * draws[:, None] * edge], 1)
    return kernelfe.Frames.from_arrays(x, temperature=kelvin, labels={"mean_force": np.stack([force, -force], 1)})


@pytest.mark.parametrize("count", [150, 2500])
def test_forces_of_the_bundled_frames_are_right(alanine, count):
    found = virial_check(alanine[:: len(alanine) // count])
    assert found.factor == 1.0 and not found.suspect and "right" in found.verdict
    assert np.all(np.abs(found.ratio - 1.0) < 4.0 * found.standard_error)
    assert np.all(np.abs(found.virial + 15.0) < 4.0 * found.virial_error)


@settings(max_examples=12)
@given(st.sampled_from(MISTAKES), st.sampled_from([1.0, -1.0]), st.integers(0, 20))
def test_every_mistaken_unit_and_sign_is_named(alanine, mistake, sign, start):
    true, read = mistake
    c = sign * factor(read) / factor(true)
    found = virial_check(with_forces(alanine[start::100], c))
    assert found.suspect and found.factor == pytest.approx(c, rel=0.03)
    assert ("wrong sign" in found.verdict) == (sign < 0.0)


@pytest.mark.parametrize("count", [250, 1250])
def test_a_unit_is_named_only_if_its_factor_fits(alanine, count):
    """Scales at random: most fit no unit, and the fewer frames, the more do; those named fit within three errors."""
    some = alanine[:: len(alanine) // count]
    named = []
    for c in np.exp(np.random.default_rng(1).uniform(-6.0, 6.0, 16)):
        found = virial_check(with_forces(some, c))
        if found.factor not in (None, 1.0):
            scale = max(1.0, found.factor / found.common_ratio)
            named.append(abs(found.common_ratio - found.factor) / (scale * found.common_error))
    assert max(named, default=0.0) <= 3.0 and len(named) <= (6 if count == 250 else 3)


def test_forces_of_a_somewhat_wrong_size_are_not_called_right_without_a_remark(alanine):
    some = with_forces(alanine[::5], 1.0)
    assert "off (" not in virial_check(with_forces(alanine[::10], 1.0)).verdict
    warmer = virial_check(some.replace(temperature=1.08 * some.temperature))
    assert warmer.factor == 1.0 and not warmer.suspect
    assert "-6 % off" in warmer.verdict and "wrong temperature" in warmer.verdict


def test_a_turned_sign_is_named(alanine):
    found = virial_check(with_forces(alanine[::200], -1.0))
    assert found.factor == -1.0 and "turn its sign" in found.verdict


@settings(max_examples=15)
@given(st.floats(0.5, 100.0), st.floats(1.0, 5.0), st.floats(100.0, 900.0), st.integers(0, 1000))
def test_equilibrium_frames_of_any_spring_have_the_ratio_one(k, rest, kelvin, seed):
    frames = tethered(kelvin, k, rest, np.random.default_rng(seed))
    found = virial_check(frames)
    assert abs(found.common_ratio - 1.0) < 4.5 * found.common_error
    assert not found.suspect


@settings(max_examples=25)
@given(st.text("ABC", min_size=2, max_size=6), st.integers(0, 10_000))
def test_frames_that_are_not_from_equilibrium_raise_no_alarm(kinds, seed):
    rng = np.random.default_rng(seed)
    kelvin = rng.choice([300.0, 450.0, 600.0], 150) if seed % 2 else np.full(60, 300.0)
    assert not virial_check(ChainFamily().frames(kinds, kelvin, rng)).suspect


def test_every_frame_may_have_its_own_temperature():
    rng = np.random.default_rng(3)
    parts = [tethered(t, 5.0, 2.0, rng, 1) for t in np.linspace(250.0, 600.0, 300)]
    found = virial_check(kernelfe.Frames.concatenate(parts))
    assert len(found.temperature) == 1 and found.factor == 1.0


def test_a_fit_warns_of_a_wrong_sign(alanine, caplog):
    frames = alanine[::625].with_labels("mean_force")
    model = kernelfe.FreeEnergyRegressor(optimizer=None)
    with caplog.at_level(logging.WARNING, "kernelfe"):
        model.fit(frames)
    assert not [r for r in caplog.records if "⟨w·F⟩" in r.message]
    with caplog.at_level(logging.WARNING, "kernelfe"):
        model.fit(with_forces(frames, -1.0))
    assert any("wrong sign" in r.message for r in caplog.records)


def test_what_it_does_not_apply_to_is_refused(alanine):
    some = alanine[::1000]
    for frames in (some[:10], some.drop_labels("mean_force"), some.replace(cell=20.0 * np.eye(3))):
        with pytest.raises(DataError, match="virial check needs"):
            virial_check(frames)
