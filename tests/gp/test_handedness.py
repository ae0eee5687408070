"""Left and right: data that differ from their mirror image are noticed, default terms see it, others cost nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from kernelfe import Frames, FreeEnergyRegressor, Term, datasets, load
from kernelfe.descriptors import Distances, HandedDistances, InternalCoordinates, PairDistances
from kernelfe.gp.handedness import LEVEL, Handedness, blind, examined, exchangeable
from kernelfe.gp.molecules import Molecule
from kernelfe.units import BOLTZMANN

STAR, CHAIN = ((0, 1), (0, 2), (0, 3)), ((0, 1), (1, 2), (2, 3))
FLIP = np.array([1.0, 1.0, -1.0])
T = 900.0
KT = BOLTZMANN * T


def energy(x, tilt):
    """A tetrahedron of four beads: springs of 1.5 Å, a double well in the signed volume V, tilted by tilt·V, eV."""
    i, j = np.triu_indices(4, 1)
    r = (x[:, i] - x[:, j]).norm(dim=-1)
    a, b, c = x[:, 1] - x[:, 0], x[:, 2] - x[:, 1], x[:, 3] - x[:, 2]
    v = (a * torch.linalg.cross(b, c, dim=-1)).sum(-1) / 2.25
    return 1.0 * (r - 1.5).square().sum(-1) + 0.06 * (v.square() - 0.64).square() + tilt * v


def sampled(n, tilt, seed=0, bonds=STAR, every=20):
    """Frames with exact forces: overdamped dynamics of 40 copies."""
    generator, step, kept = torch.Generator().manual_seed(seed), 0.05, []
    x = 0.8 * torch.randn(40, 4, 3, generator=generator, dtype=torch.float64)
    for k in range(300 + every * (-(-n // 40))):
        y = x.clone().requires_grad_(True)
        (g,) = torch.autograd.grad(energy(y, tilt).sum(), y)
        x = x - step * g + (2.0 * KT * step) ** 0.5 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        flipped = x * torch.tensor(FLIP)  # the other well, by a Metropolis step
        gain = (energy(x, tilt) - energy(flipped, tilt)) / KT
        x = torch.where((gain.exp() > torch.rand(40, generator=generator))[:, None, None], flipped, x)
        if k >= 300 and k % every == 0:
            kept.append(x)
    return frames_of(torch.cat(kept)[:n], tilt, bonds)


def frames_of(x, tilt, bonds=STAR, **more):
    x = torch.tensor(np.asarray(x), requires_grad=True)
    (g,) = torch.autograd.grad(energy(x, tilt).sum(), x)
    return Frames.from_arrays(
        x.detach().numpy(), temperature=T, labels={"mean_force": -g.numpy()}, kinds="ABCD", bonds=bonds, **more
    )


def mirrored(frames):
    return frames.replace(positions=frames.positions * FLIP, labels={"mean_force": frames.labels["mean_force"] * FLIP})


def of(frames, **more):
    return examined(frames, Molecule.of(frames), None, **more)


@pytest.fixture(scope="module")
def chiral():
    return sampled(240, 0.06)


@pytest.fixture(scope="module")
def fitted(chiral):
    return FreeEnergyRegressor(baseline=False, noise={"mean_force": 0.003}).fit(chiral[:60])


def difference(model, frames):
    """A of mirror images minus A, of every frame, eV."""
    both = np.concatenate([frames.positions, frames.positions * FLIP])  # in one call: the zero is the same
    return np.diff(model.predict(both, temperature=T).reshape(2, -1), axis=0)[0]


def exact_difference(frames, tilt=0.06):
    x = torch.tensor(frames.positions)
    return (energy(x * torch.tensor(FLIP), tilt) - energy(x, tilt)).numpy()


def test_default_terms_recover_a_double_well_in_the_signed_volume(chiral, fitted):
    ((name, term),) = fitted.fitted_terms()
    assert name == "distances" and isinstance(term.descriptor, HandedDistances)
    assert "the terms tell them apart" in fitted.handedness_
    exact = exact_difference(chiral)
    assert np.abs(exact).mean() > 0.03
    assert np.sqrt(np.mean((difference(fitted, chiral) - exact) ** 2)) < 0.1 * np.sqrt(np.mean(exact**2))


def test_mirrored_data_give_the_mirrored_model(chiral):
    one, other = (FreeEnergyRegressor(optimizer=None).fit(part[:40]) for part in (chiral, mirrored(chiral)))
    wanted, std = one.predict(chiral, return_std=True)
    found, other_std = other.predict(mirrored(chiral), return_std=True)
    np.testing.assert_allclose(found, wanted, atol=1e-7)
    np.testing.assert_allclose(other_std, std, atol=1e-7)


def test_everything_that_a_model_does_works_with_signed_volumes(chiral, fitted, tmp_path):
    from kernelfe.testing import check_model

    fitted.save(tmp_path / "model.kfe")
    loaded = load(tmp_path / "model.kfe")
    assert loaded.handedness_ == fitted.handedness_ and loaded.fitted_terms() == fitted.fitted_terms()
    np.testing.assert_array_equal(loaded.predict(chiral), fitted.predict(chiral))
    x = torch.tensor(chiral.positions[:5])
    a, f = fitted.frozen().energy_and_forces(x, T)
    np.testing.assert_allclose(a - a[0], (wanted := fitted.predict(chiral[:5])) - wanted[0], atol=1e-9)
    np.testing.assert_allclose(f, fitted.predict(chiral[:5], "mean_force"), atol=1e-8)
    check_model(fitted.frozen(), chiral.positions[:3], T)


def test_achiral_data_pay_nothing():
    frames = sampled(40, 0.0, seed=1)
    both = Frames.concatenate([frames, mirrored(frames)])
    default, stated = (
        FreeEnergyRegressor(terms=terms, optimizer=None).fit(both) for terms in (None, [("distances", Term())])
    )
    assert default.fitted_terms() == stated.fitted_terms() and "alike" in default.handedness_
    np.testing.assert_array_equal(default.predict(both), stated.predict(both))


def test_false_alarms_are_as_rare_as_stated_for_correlated_series():
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(60):
        h = np.zeros(800)
        for k in range(1, 800):  # memory of some 20 frames
            h[k] = 0.95 * h[k - 1] + rng.normal()
        x = np.zeros((800, 4, 3)) + np.array([[0, 0, 0], [1.5, 0, 0], [0, 1.5, 0], [0.2, 0.2, 0]])
        x += 0.02 * rng.normal(size=x.shape)
        x[:, 3, 2] = 0.3 * h
        alarms += of(Frames.from_arrays(x, temperature=T, bonds=STAR)).found
    assert alarms <= 60 * 10 * LEVEL


@pytest.mark.parametrize("bonds", [None, STAR, CHAIN, ()])
def test_handedness_is_seen_in_places_with_and_without_bonds(chiral, bonds):
    found = of(chiral.replace(bonds=bonds))
    assert found.found and found.open and len(found.place) == 4
    assert of(mirrored(chiral).replace(bonds=bonds)).statistic == pytest.approx(found.statistic, rel=1e-9)


def test_handedness_is_seen_in_labels_of_symmetric_places():
    places = sampled(80, 0.0, seed=2).positions
    frames = frames_of(np.concatenate([places, places * FLIP]), 0.06)
    assert of(frames).found
    assert not of(frames.drop_labels()).found


def test_too_little_data_and_flat_molecules_are_not_handed(chiral):
    assert of(chiral[:4]) == Handedness()
    flat = np.random.default_rng(0).normal(size=(50, 4, 3)) * np.array([1.0, 1.0, 0.0])
    assert not of(Frames.from_arrays(flat, temperature=T, bonds=STAR)).found
    assert of(Frames.from_arrays(flat[:, :3], temperature=T)) == Handedness()


def test_own_terms_that_are_blind_get_a_warning(chiral):
    with pytest.warns(UserWarning, match="no term tells a configuration from its mirror image"):
        model = FreeEnergyRegressor(terms=Term(Distances()), baseline=False, optimizer=None).fit(chiral[:60])
    assert "NO TERM TELLS" in model.handedness_
    np.testing.assert_allclose(difference(model, chiral), 0.0, atol=1e-9)
    dihedral = Term(InternalCoordinates(bonds=STAR, dihedrals=((1, 0, 2, 3),)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FreeEnergyRegressor(terms=dihedral, optimizer=None, solver="dense").fit(chiral[:60])


def test_blind_and_exchangeable(chiral):
    molecule = Molecule.of(chiral)
    handed = HandedDistances(quadruples=((0, 1, 2, 3),))
    assert blind([Distances(), PairDistances(9.0)], chiral, molecule)
    assert not blind([Distances(), handed], chiral, molecule)
    like = chiral.replace(kinds="AAAA")
    assert exchangeable([PairDistances(9.0)], like, Molecule.of(like))
    assert not exchangeable([Distances()], like, Molecule.of(like))
    assert not exchangeable([PairDistances(9.0, ("A", "B"))], chiral, molecule)


def test_beads_that_are_alike_have_no_handedness_of_their_own(chiral):
    like = chiral.replace(kinds="ABBB")
    assert of(like).found and not of(like, alike=True).found
    assert of(chiral, alike=True).found
    with warnings.catch_warnings():  # pair terms that take all beads for alike need not tell left from right
        warnings.simplefilter("error")
        model = FreeEnergyRegressor(terms=Term(PairDistances(9.0)), baseline=False, optimizer=None, solver="dense")
        model.fit(chiral[:60].replace(kinds="AAAA", bonds=None))


def test_the_baseline_keeps_mirror_images_of_the_bundled_molecule_out():
    frames = datasets.load("alanine-dipeptide")[:5000:100]
    model = FreeEnergyRegressor(optimizer=None).fit(frames)
    assert "the baseline keeps mirror images out" in model.handedness_
    assert model.fitted_terms()[0][1].descriptor == Distances()
    five = FreeEnergyRegressor(optimizer=None).fit(frames.select_beads([0, 1, 2, 4, 5]))
    assert five.fitted_terms()[0][1].descriptor.quadruples == ((0, 1, 2, 3), (1, 2, 3, 4))


def test_terms_by_kinds_get_impropers_where_left_and_right_differ(chiral):
    rng = np.random.default_rng(0)
    pair = Frames.from_arrays(
        rng.normal(size=(10, 2, 3)),
        temperature=T,
        labels={"mean_force": np.zeros((10, 2, 3))},
        kinds="AB",
        bonds=STAR[:1],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = FreeEnergyRegressor(optimizer=None, baseline=False).fit([chiral[:60], pair])
    assert "the terms tell them apart" in model.handedness_ and "improper A-B-C-D" in dict(model.fitted_terms())
    star = model.model_.for_molecule(chiral)
    assert np.abs(difference(star, chiral)).max() > 0.01
    like = [chiral[:60].replace(kinds="ABBB"), pair]
    other = FreeEnergyRegressor(optimizer=None, baseline=False).fit(like)
    assert "not tested" in other.handedness_ and not any("improper" in name for name, _ in other.fitted_terms())
