"""Several molecules in one fit: what they share, what transfers, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy import stats

import kernelfe
from kernelfe import Frames, FreeEnergyRegressor, Sparse, Term
from kernelfe.datasets import ChainFamily
from kernelfe.descriptors import Bonded, Distances, PairDistances
from kernelfe.errors import DataError, ModelFileError
from kernelfe.files import tensors as modelfile
from kernelfe.functionals import get
from kernelfe.gp import BoltzmannInversion, local_terms
from kernelfe.gp.shared_baseline import fit_shared
from kernelfe.kernels import RBF, SecondOrder

FAMILY = ChainFamily()
T0 = 400.0
NOISE = {"mean_force": 0.02, "mean_energy": 0.02}


def chain(kinds, n=20, seed=0, noise=None):
    rng = np.random.default_rng(seed)
    return FAMILY.frames(kinds, np.resize([300.0, 400.0, 500.0], n), rng, NOISE if noise is None else noise)


def numbers(lengthscale, energy):
    return RBF(lengthscale=lengthscale), SecondOrder(T0, energy, entropy=3e-4, heat_capacity=1e-4)


def with_numbers(terms):
    """Numbers for terms by kinds, near those the evidence finds on these chains."""
    usual = {"bond": (0.6, 2.0), "angle": (1.2, 0.6), "dihedral": (1.0, 0.01), "pair": (1.0, 0.15)}
    return [(name, Term(term.descriptor, *numbers(*usual[name.split()[0]]))) for name, term in terms]


def fitted(parts, solver="dense", optimizer=None, terms=None, baseline=False):
    spec = with_numbers(local_terms(parts)) if terms is None else terms
    return FreeEnergyRegressor(spec, solver=solver, optimizer=optimizer, baseline=baseline).fit(parts)


def rms(a):
    return float(np.sqrt(np.mean(np.square(a))))


SMALL, LARGE = chain("ABA"), chain("ABBAB", seed=1)
#: A molecule of the same kinds that is in no fit; exact labels.
OTHER = chain("BABA", n=30, seed=2, noise={})


@pytest.fixture(scope="module", params=["dense", Sparse(inducing=30)], ids=["dense", "sparse"])
def model(request):
    return fitted([SMALL, LARGE], request.param)


# --- one molecule as a list ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["dense", Sparse(inducing=15)], ids=["dense", "sparse"])
@pytest.mark.parametrize(("optimizer", "tolerance"), [(None, 1e-8), ("evidence", 1e-5)])
def test_halves_of_one_molecule_are_the_whole(solver, optimizer, tolerance):
    """One half names bonds, which nothing needs here: two molecules, by the path of several."""
    frames = SMALL[:10].replace(kinds=("A",) * 3)
    terms = [("pairs", Term(PairDistances(9.0), *numbers(0.8, 0.5)))]
    whole = fitted(frames, solver, optimizer, terms)
    both = fitted([frames[:4], frames[4:].replace(bonds=None)], solver, optimizer, terms)
    assert whole.molecules_ is None and len(both.molecules_) == 2
    assert both.log_evidence_ == pytest.approx(whole.log_evidence_, abs=1e2 * tolerance)
    for quantity in ("mean_force", "mean_energy", "entropy"):
        one, two = (m.predict(frames, quantity, return_std=True) for m in (whole, both))
        np.testing.assert_allclose(one[0], two[0], rtol=0.0, atol=tolerance, err_msg=quantity)
        np.testing.assert_allclose(one[1] ** 2, two[1] ** 2, rtol=0.0, atol=tolerance, err_msg=quantity)


def test_joined_halves_are_bitwise_the_whole():
    halves, whole = fitted([LARGE[:8], LARGE[8:]]), fitted(LARGE)
    np.testing.assert_array_equal(halves.predict(LARGE, "mean_force"), whole.predict(LARGE, "mean_force"))


# --- what is shared ---------------------------------------------------------------------------------------------


def test_a_molecule_outside_the_fit_is_predicted(model):
    force = model.predict(OTHER, "mean_force")
    assert rms(force - OTHER.labels["mean_force"]) < 0.1 * rms(OTHER.labels["mean_force"])
    std = model.predict(OTHER, "mean_force", return_std=True)[1]
    assert 0.5 < rms((force - OTHER.labels["mean_force"]) / std) < 1.5
    # differences of energies are known, the energy itself of another composition hardly is
    truth, n = OTHER.labels["mean_energy"], len(OTHER)
    error, covariance = model.predict(OTHER, "mean_energy") - truth, model.covariance(OTHER, "mean_energy")
    centre = np.eye(n) - 1.0 / n
    std = np.sqrt(np.diag(centre @ covariance @ centre))
    assert rms(error - error.mean()) < 0.25 * rms(truth - truth.mean())
    assert 0.5 < rms((error - error.mean()) / std) < 1.5 and np.sqrt(np.diag(covariance)).min() > 5.0 * std.max()


def test_shared_is_better_than_each_alone():
    """Eight frames of each: errors of forces and of energy differences of both molecules, three data sets."""
    alone, joint = np.zeros((2, 2)), np.zeros((2, 2))
    tests = [chain(kinds, n=60, seed=7, noise={}) for kinds in ("ABAB", "ABABA")]
    for seed in (10, 20, 30):
        parts = [chain("ABAB", 8, seed), chain("ABABA", 8, seed + 1)]
        both = fitted(parts)
        for k, (part, test) in enumerate(zip(parts, tests, strict=True)):
            for found, model in ((alone, fitted(part)), (joint, both)):
                found[k, 0] += rms(model.predict(test, "mean_force") - test.labels["mean_force"])
                found[k, 1] += np.std(model.predict(test, "mean_energy") - test.labels["mean_energy"])
    assert (joint < np.array([0.7, 0.95]) * alone).all(), joint / alone


def test_errors_are_those_of_the_posterior():
    """Labels drawn from the prior over both molecules and a third: χ² of the third's errors, 500 data sets."""
    first = fitted([SMALL[:4], LARGE[:4]])
    posterior, states = first.posterior_, first.for_molecule(OTHER).model_.states(OTHER[:3])
    prior, rng = posterior.prior, np.random.default_rng(3)
    with torch.no_grad():
        wanted = prior.rows(get("mean_energy"), states)
        blocks = [*posterior.blocks, wanted]
        gram = torch.cat([torch.cat([prior.gram(a, b) for b in blocks], 1) for a in blocks])
        values, vectors = torch.linalg.eigh(gram)  # forces of one frame are dependent: the Gram is singular
        draws = vectors @ (values.clamp_min(0.0).sqrt()[:, None] * torch.from_numpy(rng.normal(size=(len(gram), 500))))
        known = len(gram) - len(wanted)
        noisy = draws[:known] + 0.02 * torch.from_numpy(rng.normal(size=(known, 500)))
        error = draws[known:] - posterior.cross(wanted) @ posterior.factor.solve(noisy)
        total = float((error * torch.linalg.solve(posterior.covariance(wanted, wanted), error)).sum())
    assert 1e-3 < stats.chi2(error.numel()).cdf(total) < 1.0 - 1e-3


def test_mean_functions_count_beads(model):
    mean = model.posterior_.prior.mean
    assert model.composition_.kinds == ("A", "B") and len(mean.offset) == 2
    states = model.for_molecule(OTHER).model_.states(OTHER[:2])
    assert states.counts.tolist() == [[2.0, 2.0]] * 2
    assert model.for_molecule(LARGE).composition_.counts == (2.0, 3.0)


def test_the_evidence_improves_and_is_shared():
    start = fitted([SMALL[:8], LARGE[:5]], terms=[("bonds", Term(Bonded(("A", "B")), *numbers(0.5, 1.0)))])
    found = fitted([SMALL[:8], LARGE[:5]], optimizer="evidence", terms=start.terms)
    assert found.log_evidence_ > start.log_evidence_ + 10.0 and np.isfinite(found.log_evidence_)
    unset = FreeEnergyRegressor(baseline=False, optimizer=None).fit([SMALL, LARGE])  # all starting values from the data
    assert [name for name, _ in unset.terms_] == [name for name, _ in local_terms([SMALL, LARGE])]
    assert unset.score([SMALL, LARGE]) > 0.5


# --- one baseline by kinds -------------------------------------------------------------------------------------


def test_the_baseline_is_one_for_all_bonds_of_a_kind():
    model = fitted([SMALL, LARGE], baseline=None)
    small, large, other = (model.for_molecule(part).baseline_ for part in (SMALL, LARGE, OTHER))
    by_kind = dict(zip(model.baseline_.bonds, model.baseline_.bond_parameters, strict=True))
    assert set(by_kind) == {("A", "B"), ("B", "B")}
    assert {*small.bond_parameters, *other.bond_parameters} == {by_kind["A", "B"]}
    assert large.bond_parameters == tuple(by_kind[k] for k in (("A", "B"), ("B", "B"), ("A", "B"), ("A", "B")))
    assert small.walls == () and len(large.walls) == 3 and len(other.walls) == 1
    # pooled over all like bonds: r₀ is their mean, less the shift of the volume element 2 kT/(k r)
    r = np.concatenate(
        [
            np.linalg.norm(p.positions[:, i + 1] - p.positions[:, i], axis=1)
            for p, i in ((SMALL, 0), (SMALL, 1), (LARGE, 0), (LARGE, 2), (LARGE, 3))
        ]
    )
    k, rest = by_kind["A", "B"]
    assert rest == pytest.approx(r.mean() - 2.0 * 0.0345 / (k * r.mean()), abs=2e-3)
    force = model.predict(OTHER, "mean_force")
    assert rms(force - OTHER.labels["mean_force"]) < 0.15 * rms(OTHER.labels["mean_force"])
    same = [
        FreeEnergyRegressor(baseline=b, optimizer=None).fit([SMALL, LARGE]).baseline_
        for b in (None, BoltzmannInversion())
    ]
    assert same[0] == same[1] == model.baseline_


def test_a_baseline_by_kinds_does_not_depend_on_the_numbering():
    """Impropers of flat centres with three and four neighbours, some alike: energies of renumbered molecules."""
    rng = np.random.default_rng(1)
    flat = np.array([[0, 0, 0], [1.2, 0, 0], [-0.6, 1.0, 0], [-0.6, -1.0, 0], [0.5, 1.5, 0.1]])
    for kinds, beads in (("ABBC", 4), ("ABBB", 4), ("ABBBC", 5), ("ABBCC", 5)):
        x = (flat + 0.03 * rng.normal(size=(30, 5, 3)))[:, :beads]
        bonds = tuple((0, k) for k in range(1, beads))
        labels = {"mean_energy": np.zeros(30)}
        frames = Frames.from_arrays(x, temperature=300.0, kinds=tuple(kinds), bonds=bonds, labels=labels)
        shared = fit_shared(BoltzmannInversion(), [frames])
        order = rng.permutation(beads)
        place = np.argsort(order)
        renamed = tuple((int(place[i]), int(place[j])) for i, j in bonds)
        one = shared.for_molecule(tuple(kinds), bonds)
        two = shared.for_molecule(tuple(kinds[i] for i in order), renamed)
        assert len(one.impropers) >= 2 or kinds == "ABBC"
        energies = [b.energy(torch.tensor(y)).numpy() for b, y in ((one, x), (two, x[:, order]))]
        np.testing.assert_allclose(*energies, rtol=0.0, atol=1e-10)


def test_impropers_of_like_neighbours_have_no_handedness():
    """A pyramid whose like corners are numbered either way round: no harmonic may prefer one of the two."""
    rng = np.random.default_rng(0)
    centre = np.array([[0.0, 0.0, 0.3], [1.0, 0, 0], [-0.5, 0.87, 0], [-0.5, -0.87, 0]])
    x = centre + 0.02 * rng.normal(size=(40, 4, 3))
    common = {"temperature": 300.0, "bonds": [(0, 1), (0, 2), (0, 3)], "labels": {"mean_energy": rng.normal(size=40)}}
    for kinds, wanted in (("ABBB", 0.0), ("ABCD", None)):
        frames = Frames.from_arrays(x, kinds=tuple(kinds), **common)
        swapped = Frames.from_arrays(x[:, [0, 2, 1, 3]], kinds=(kinds[0], kinds[2], kinds[1], kinds[3]), **common)
        shared = fit_shared(BoltzmannInversion(), [frames, swapped.replace(bonds=[(0, 1), (0, 2), (0, 3)])])
        if wanted is None:
            assert abs(shared.improper_parameters[0][1]) > 0.3  # by kinds the corners have an order
        else:
            assert all(abs(x0) < 1e-6 for _, x0 in shared.improper_parameters)


# --- the fitted model in use -----------------------------------------------------------------------------------


def test_saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "m.kfe")
    again = kernelfe.load(tmp_path / "m.kfe")
    assert again.molecules_ == model.molecules_ and again.composition_ == model.composition_
    for part in (SMALL, LARGE, OTHER):
        for a, b in zip(
            model.predict(part, "mean_force", return_std=True),
            again.predict(part, "mean_force", return_std=True),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=0.0, atol=1e-9)
    with pytest.raises(DataError, match="save the whole"):
        model.for_molecule(SMALL).save(tmp_path / "n.kfe")
    based = fitted([SMALL[:5], LARGE[:5]], baseline=None)
    based.save(tmp_path / "b.kfe")
    assert kernelfe.load(tmp_path / "b.kfe").baseline_ == based.baseline_


def test_frozen_and_calculator(model):
    for part in (SMALL, OTHER):
        one = model.for_molecule(part)
        energy, force = one.frozen().energy_and_forces(torch.tensor(part.positions), torch.tensor(part.temperature))
        np.testing.assert_allclose(force, model.predict(part, "mean_force"), rtol=0.0, atol=1e-9)
        np.testing.assert_allclose(energy, model.predict(part, reference=None), rtol=0.0, atol=1e-9)
    atoms = Atoms("X4", OTHER.positions[0])
    atoms.calc = model.for_molecule(OTHER).calculator(temperature=350.0)
    np.testing.assert_allclose(
        atoms.get_forces(), model.predict(OTHER[:1], "mean_force", temperature=350.0)[0], rtol=0.0, atol=1e-9
    )


def test_lists_differences_and_covariances(model):
    parts = [SMALL[:3], OTHER[:2]]
    means, stds = model.predict(parts, "mean_force", return_std=True, temperature=350.0)
    assert [m.shape for m in means] == [s.shape for s in stds] == [(3, 3, 3), (2, 4, 3)]
    np.testing.assert_array_equal(means[1], model.predict(OTHER[:2], "mean_force", temperature=350.0))
    covariance = model.covariance(OTHER[:2], "mean_force")
    std = model.predict(OTHER[:2], "mean_force", return_std=True)[1]
    np.testing.assert_allclose(np.diag(covariance), std.ravel() ** 2, rtol=0.0, atol=1e-10)
    value, cov = model.predict_difference(SMALL[:2], OTHER[:2], 300.0, 300.0, return_cov=True)
    absolute = [model.predict(part, temperature=300.0, reference=None) for part in (SMALL[:2], OTHER[:2])]
    np.testing.assert_allclose(value, absolute[1] - absolute[0], rtol=0.0, atol=1e-9)
    assert cov.shape == (2, 2) and (np.diag(cov) > 0).all()
    np.testing.assert_array_equal(
        model.predict(SMALL.positions[:2], "mean_force"), model.predict(SMALL[:2], "mean_force", temperature=300.0)
    )


def test_periodic_boxes_of_different_sizes():
    """Liquids of 6 and 9 beads: one pair term, forces, stress and a box of another size."""
    rng = np.random.default_rng(4)

    def box(kinds, n=6):
        side = 5.0 * (len(kinds) / 6) ** (1 / 3)
        grid = np.stack(np.meshgrid(*3 * [np.arange(3)], indexing="ij"), -1).reshape(-1, 3)[
            rng.permutation(27)[: len(kinds)]
        ]
        x = (grid + 0.5 + 0.15 * rng.normal(size=(n, len(kinds), 3))) * side / 3
        d = x[:, :, None] - x[:, None]
        d -= side * np.round(d / side)
        r = np.linalg.norm(d + 1e9 * np.eye(len(kinds))[:, :, None], axis=-1)
        slope = np.where(r < 0.499 * side, -0.3 * np.exp(-((r - 1.0) ** 2)), 0.0)
        return Frames.from_arrays(
            x, temperature=300.0, kinds=tuple(kinds), cell=side * np.eye(3),
            labels={"mean_force": -((slope / r)[..., None] * d).sum(2)}, noise={"mean_force": 0.02},
        )  # fmt: skip

    parts, test = [box("AAAAAA"), box("AAAAAAAAA")], box("AAAAAAA", 4)
    model = fitted(parts, terms=[("pairs", Term(PairDistances(2.4), *numbers(0.8, 0.5)))])
    joint = rms(model.predict(test, "mean_force") - test.labels["mean_force"])
    alone = fitted(parts[0], terms=model.terms)
    assert joint < 0.3 * rms(test.labels["mean_force"])
    assert model.predict(test, "stress").shape == (4, 6)
    _, force, stress = (
        model.for_molecule(test)
        .frozen()
        .energy_forces_stress(torch.tensor(test.positions), torch.tensor(test.cell), 300.0)
    )
    np.testing.assert_allclose(force, model.predict(test, "mean_force"), rtol=0.0, atol=1e-9)
    np.testing.assert_allclose(stress, model.predict(test, "stress"), rtol=0.0, atol=1e-10)
    with pytest.raises(DataError):
        alone.predict(test, "mean_force")


def test_pair_labels_within_a_molecule():
    frames = SMALL[:6].drop_labels("mean_energy")
    x = torch.tensor(frames.positions)
    a = FAMILY.free_energy(x, "ABA", torch.tensor(frames.temperature)).numpy()
    with_pair = frames[:].add_pair_labels(0, 3, a[3] - a[0], 1e-4)
    model = fitted([with_pair, LARGE])
    found = model.predict_difference(frames[[0]], frames[[3]], *frames.temperature[[0, 3]])
    assert found[0] == pytest.approx(a[3] - a[0], abs=5e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.predict(chain("ABC", 2, noise={}), "mean_force"), r"not \['C'\]"),
        (lambda m: m.predict(np.zeros((2, 7, 3))), "0 of the fitted molecules .A2B, A2B3. have 7 beads"),
        (lambda m: m.frozen(), "for_molecule"),
        (lambda m: m.calculator(300.0), "for_molecule"),
        (lambda m: m.predict([SMALL, LARGE], "mean_force", temperature=np.full(20, 300.0)), "one temperature"),
        (
            lambda m: fitted([SMALL.replace(kinds=None), LARGE], terms=m.terms),
            "part 0 of the list lacks kinds|lack kinds",
        ),
        (lambda m: m.fit([SMALL, LARGE], [1.0]), "without y"),
        (lambda m: fitted([SMALL, LARGE], terms=[("all", Term(Distances()))]), r"\[3, 10\] columns"),
        (lambda m: fitted([SMALL, LARGE], terms=[("x", Term(PairDistances(5.0, ("A", "C"))))]), "no molecule has"),
        (lambda m: fitted([SMALL, LARGE], terms=[("x", Term(Bonded(("C", "A"))))]), "no molecule has"),
        (lambda m: fitted([SMALL.replace(bonds=None), LARGE], baseline=None, terms=m.terms), "bonds of molecule A2B:"),
        (lambda m: fitted([SMALL.replace(bonds=None), LARGE], terms=m.terms), "lacks the bonds"),
        (lambda m: fitted([SMALL, LARGE], baseline=BoltzmannInversion(bonds=((0, 1),))), "one molecule"),
        (lambda m: fitted([SMALL, LARGE.drop_labels()]), "A2B3 hold none"),
        (lambda m: FreeEnergyRegressor(labels=["stress"]).fit([SMALL, LARGE]), "asked for"),
        (lambda m: FreeEnergyRegressor(noise={"mean_force": np.ones(20)}).fit([SMALL, LARGE]), "one number"),
        (lambda m: fitted([SMALL, LARGE], baseline=None).predict(chain("AAB", 2, noise={})), "no bond A–A"),
        (
            lambda m: fitted([SMALL, chain("BBB", 5)], baseline=None).predict(chain("ABB", 2, noise={})),
            "no angle A–B–B",
        ),
        (lambda m: local_terms(SMALL.replace(kinds=None)), "lacks kinds|lack kinds"),
    ],
)
def test_errors_name_the_culprit(call, words):
    model = fitted([SMALL[:4], LARGE[:4]])
    with pytest.raises(DataError, match=words):
        call(model)


def _without(fields, name):
    return {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h | {"label_molecules": [0, 1, 2, 1]}, "label_molecules"),
        (lambda h: _without(h, "label_molecules"), "label_molecules"),
        (lambda h: h | {"label_molecules": [1, 1, 1, 1]}, "label"),
        (lambda h: h | {"molecules": h["molecules"][:1]}, "molecules"),
        (lambda h: h | {"molecules": [h["molecules"][0] | {"bonds": [[0, 9]]}, h["molecules"][1]]}, "molecules"),
        (lambda h: h | {"molecules": [h["molecules"][0] | {"kinds": []}, h["molecules"][1]]}, "molecules"),
        (lambda h: h | {"molecules": [h["molecules"][0] | {"kinds": ["Z"] * 3}, h["molecules"][1]]}, "kinds"),
        (lambda h: h | {"coordinate_shape": [3, 3]}, "coordinate_shape"),
        (lambda h: h | {"molecules": None}, "coordinate_shape"),
        (lambda h: h | {"baseline": {"class": "FittedBaseline", "beads": 3}}, "FittedBaseline"),
        (lambda h: h | {"baseline": h["baseline"] | {"bond_parameters": []}}, "inconsistent"),
    ],
)
def test_files_made_wrong_are_refused(change, words, tmp_path_factory):
    path = tmp_path_factory.mktemp("wrong") / "m.kfe"
    fitted([SMALL[:3], LARGE[:3]], terms=[("bonds", Term(Bonded(("A", "B")), *numbers(0.5, 1.0)))], baseline=None).save(
        path
    )
    header, tensors = modelfile.read(path)
    modelfile.write(path, change(header), tensors)
    with pytest.raises(ModelFileError, match=words):
        kernelfe.load(path)
