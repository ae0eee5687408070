"""The molecule benchmarks run with kernelfe alone at a tiny size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from kernelfe.descriptors import automorphisms
from kernelfe.descriptors.like_beads import is_group

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NUMBERS = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
BONDS = np.array([(0, 1), (0, 6), (0, 7), (0, 8), (1, 2), (1, 4), (1, 5), (2, 3)])


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(FOLDER))
    import gap
    import molecule

    return {"molecule": molecule, "gap": gap}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file like that of ethanol.py: a network of springs about ASE's ethanol, exactly a sum of pair functions."""
    from ase.build import molecule

    start = molecule("CH3CH2OH").get_positions()
    assert list(molecule("CH3CH2OH").numbers) == list(NUMBERS)
    rng, arrays = np.random.default_rng(0), {}
    i, j = np.triu_indices(9, 1)
    rest = np.linalg.norm(start[i] - start[j], axis=-1)
    for part, size in (("train", 40), ("validation", 10), ("test", 10)):
        x = start + 0.05 * rng.standard_normal((size, 9, 3))
        v = x[:, j] - x[:, i]
        r = np.linalg.norm(v, axis=-1)
        pull = 3.0 * (r - rest)[..., None] * v / r[..., None]
        forces = np.zeros_like(x)
        np.add.at(forces, (slice(None), i), pull)
        np.add.at(forces, (slice(None), j), -pull)
        arrays |= {f"{part}_positions": x, f"{part}_forces": forces}
        arrays[f"{part}_energies"] = 1.5 * ((r - rest) ** 2).sum(1) - 300.0
    path = tmp_path_factory.mktemp("ethanol") / "ethanol.npz"
    np.savez(path, numbers=NUMBERS, bonds=BONDS, temperature=500.0, **arrays)
    return path


def test_the_six_permutations_are_a_group_of_automorphisms(scripts):
    group = scripts["molecule"].group()
    assert len(group) == 6 and is_group(group)
    everything = automorphisms([tuple(map(int, pair)) for pair in BONDS], [str(z) for z in NUMBERS])
    # the other six of the twelve exchange the hydrogens of one group only: bonds would have to break
    assert set(group) < set(everything) and len(everything) == 12


def report_of(script, peer, spec, tmp_path):
    """Report of a child process of a script, made in this process."""
    out = tmp_path / "out.npz"
    assert script.main(["--child", peer, "--spec", json.dumps(spec), "--out", str(out)]) is None
    with np.load(out, allow_pickle=False) as file:
        return json.loads(str(file["report"]))


def test_a_run_of_the_molecule_benchmark(scripts, data, tmp_path):
    spec = {"data": str(data), "frames": 12, "seed": 0, "threads": 1, "lengthscale": 5.0, "noise": 1e-3}
    report = report_of(scripts["molecule"], "dense", spec, tmp_path)
    assert report["status"] == "ok" and report["seconds"] > 0
    with np.load(data) as file:
        spread = file["test_forces"].std()
    assert 0 < report["test_mae"] < report["test_rmse"] < 0.5 * spread  # it learns


def test_a_run_of_the_gap_benchmark(scripts, data, tmp_path):
    spec = {"data": str(data), "frames": 20, "seed": 0, "inducing": 10, "lengthscale": 0.3, "scale": 5.0}
    report = report_of(scripts["gap"], "sparse", {**spec, "force_noise": 0.1, "energy_noise": 0.1}, tmp_path)
    assert report["status"] == "ok" and 0 < report["test_rmse"] < 1.0 and 0 < report["energy_rmse"] < 0.2


@pytest.mark.slow
def test_the_molecule_benchmark_with_kernelfe_alone(scripts, data, tmp_path, capsys):
    path = tmp_path / "figures.json"
    options = ["--frames", "12", "--only", "dense", "--repeats", "1", "--threads", "1", "--lengthscale", "5"]
    result = scripts["molecule"].main([str(data), *options, "--json", str(path)])
    assert json.loads(path.read_text()) == result
    assert result["peers"]["dense"]["status"] == "ok" and result["peers"]["dense"]["repeats"] == 1
    assert "| peer | time" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gap_benchmark_with_kernelfe_alone(scripts, data, capsys):
    options = ["--sizes", "10", "20", "--repeats", "1", "--threads", "1", "--inducing", "10"]
    result = scripts["gap"].main([str(data), *options])
    assert [row["sparse"]["status"] for row in result["growth"]] == ["ok", "ok"]
    assert all(0 < row["sparse"]["test_rmse"] < 1.0 for row in result["growth"])
    assert "exponents" in capsys.readouterr().out


def test_gap_fit_is_told_the_same_model(scripts):
    spec = {"inducing": 7, "lengthscale": 0.25, "scale": 2.0, "energy_noise": 0.1, "force_noise": 0.3}
    command = scripts["gap"].gap_command(spec, "gap_fit", Path("a.xyz"), Path("a.xml"))
    model = next(part for part in command if part.startswith("gap={"))
    assert model.count("distance_2b") == 5 and model.count("n_sparse=7") == 5 and model.count(" : ") == 4
    assert "theta_uniform=0.25 delta=2.0" in model and "default_sigma={0.1 0.3 0 0}" in command


def test_the_length_scales_are_fitted_with_the_covariance_of_kernelfe(scripts, data):
    """One step of molecule_shape.py: its error on validation frames is that of kernelfe with the same numbers."""
    import molecule_shape as shape
    import torch

    molecule = scripts["molecule"]
    frames = molecule.Data(data, 8)
    scales = torch.tensor([molecule.SHAPE[kind] for kind in molecule.kinds_of_pairs()], dtype=torch.float64)
    images = shape.copies(frames.train[0])
    z, jacobian = shape.inverse_distances(frames.validation[0])
    sides = [torch.as_tensor(part[1]).reshape(-1, 1) for part in (frames.train, frames.validation)]
    found = shape.error((sides[0], images), (sides[1], (z, jacobian.flatten(2))), scales, 0.02)
    gram = shape.covariance(images[0], images, scales)
    # the same ratio of noise to prior, with kernelfe's own scale of the prior
    noise = 0.02 * molecule.ENERGY * float(gram.diagonal().mean()) ** 0.5
    model = molecule.kernelfe_model(frames, "dense", 1.0, noise).fit(molecule.kernelfe_frames(frames, *frames.train))
    apart = model.predict(molecule.kernelfe_frames(frames, *frames.validation), "mean_force") - frames.validation[1]
    np.testing.assert_allclose(float(found), (apart**2).mean(), rtol=1e-6)
