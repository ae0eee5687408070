"""Models and frames saved by release 0.2 load and predict what they predicted then.

The files in ``release_0_2`` were written by kernelfe 0.2.0 (commit 5151bb0) by a script that is not part of the
repository, with ``OMP_NUM_THREADS=1 python write.py release_0_2``: it fitted every kind of model that can be saved (the
cases of :mod:`gp.file.saved`, "sparse" and "stationary, sparse" with fewer inducing environments, and those named
below), called ``model.save`` and stored what the fitted model predicted at the frames of ``frames_*.npz``
(``Frames.save``). ``models.zip`` holds the model files as they were written, and ``attributes.json`` with attributes of
the models. They are never written again.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import kernelfe
from kernelfe.errors import DataError
from kernelfe.files.npz import load_npz

FILES = Path(__file__).parent / "release_0_2"
#: Name of each model, and of the frames at which it predicts.
MODELS = {
    "dense": "beads",
    "sparse": "beads",
    "sparse_values_learned_noise": "beads",
    "evidence": "beads",
    "parameters": "variables",
    "stationary": "beads",
    "stationary_sparse": "variables",
    "pairs": "beads",
    "covariance_blocks": "beads",
    "baseline": "beads",
    "pure_forces": "beads",
    "nothing_given": "beads",
    "iterative": "beads",
    "iterative_Lanczos_evidence": "two_variables",
    "iterative_learned_noise_double": "beads",
    "iterative_condition": "beads",
    "dense_condition": "beads",
    "sparse_condition": "beads",
    "several_molecules": "chain",
    "several_molecules_other": "other_chain",
    "several_molecules_sparse": "other_chain",
    "several_molecules_iterative": "chain",
    "several_molecules_baseline": "chain",
    "correlated_noise": "three_beads",
    "correlated_noise_time_evidence": "three_beads",
    "concave_mode": "one_variable",
    "concave_mean": "one_variable",
    "concave_sparse_mode": "one_variable",
    "concave_sparse_mean": "one_variable",
    "density": "dimers",
    "cell": "beads_in_a_cell",
    "cell_sparse": "beads_in_a_cell",
    "cell_stress": "beads_in_a_cell",
    "plain_arrays": "two_variables",
    "all_labels": "variables",
    "relative_noise": "beads",
    "missing_labels": "beads",
    "fixed_term": "beads",
    "symmetrized": "star",
    "symmetrized_sparse": "star",
    "symmetrized_iterative": "star",
    "inverse_distances": "star",
    "baseline_of_bonds": "star",
    "sum": "two_variables",
    "product": "two_variables",
    "parameters_iterative": "variables",
    "ensemble_member": "two_variables",
}
#: Quantities in the order in which their predictions are stored, with the zero of free energies.
QUANTITIES = (
    ("free_energy", "auto"),
    ("free_energy", None),
    ("mean_force", "auto"),
    ("mean_energy", "auto"),
    ("heat_capacity", "auto"),
)
#: Where they were written, the package predicted the same to the last bit (means) and to 1e-11 (standard deviations).
#: Another CPU sums in another order: without vector instructions, means changed by up to 4e-12 of the largest, and
#: standard deviations, roots of differences of variances, by up to 4e-10, but where labels are almost exact by 2e-8.
MEAN, STD = 1e-9, 1e-8
CANCELLING = {"plain_arrays": 1e-6, "all_labels": 1e-6}


@pytest.fixture(scope="module")
def then():
    return load_npz(FILES / "predictions.npz")


@pytest.fixture(scope="module")
def attributes():
    with zipfile.ZipFile(FILES / "models.zip") as archive:
        return json.loads(archive.read("attributes.json"))


def loaded(name, folder):
    with zipfile.ZipFile(FILES / "models.zip") as archive:
        return kernelfe.load(archive.extract(f"{name}.kfe", folder))


def frames_for(name):
    return kernelfe.Frames.load(FILES / f"frames_{MODELS[name]}.npz")


@pytest.mark.parametrize("name", MODELS)
def test_predictions(name, then, tmp_path):
    model, frames = loaded(name, tmp_path), frames_for(name)
    stored, at = then[name], 0
    for quantity, reference in QUANTITIES:
        mean, std = model.predict(frames, quantity, return_std=True, reference=reference)
        mean_then, std_then = stored[:, at : at + mean.size]
        at += mean.size
        assert np.abs(mean.ravel() - mean_then).max() <= MEAN * np.abs(mean_then).max(), quantity
        assert np.abs(std.ravel() - std_then).max() <= CANCELLING.get(name, STD) * std_then.max(), quantity
    assert at == stored.shape[1]


@pytest.mark.parametrize("name", MODELS)
def test_attributes(name, attributes, tmp_path):
    model, found = loaded(name, tmp_path), dict(attributes[name])
    log_evidence = np.nan if found["log_evidence_"] is None else found["log_evidence_"]
    np.testing.assert_allclose(model.log_evidence_, log_evidence, rtol=MEAN)
    assert {kind: list(level) for kind, level in model.noise_.items()} == found["noise_"]
    assert {str(t): n for t, n in (model.density_ or {}).items()} == (found["density_"] or {})
    assert type(model.solver_).__name__ == found["solver_"]
    assert [term for term, _ in model.fitted_terms()] == found["terms_"]
    for key in ("noise_temperature_", "temperatures_", "concave_", "solver_reason_"):
        assert getattr(model, key) == found[key], key


@pytest.mark.parametrize("name", MODELS)
def test_domain(name, then, tmp_path):
    model, frames = loaded(name, tmp_path), frames_for(name)
    if f"{name}:domain" in then:
        np.testing.assert_allclose(model.domain_score(frames), then[f"{name}:domain"], rtol=MEAN)
    else:  # of several molecules, and of members of an ensemble
        with pytest.raises(DataError, match="fit"):
            model.domain_score(frames)


def test_every_file_is_tested(then):
    with zipfile.ZipFile(FILES / "models.zip") as archive:
        assert set(archive.namelist()) == {"attributes.json", *(f"{name}.kfe" for name in MODELS)}
    assert {key.partition(":")[0] for key in then} == set(MODELS)
    assert {path.stem.removeprefix("frames_") for path in FILES.glob("frames_*.npz")} == set(MODELS.values())
