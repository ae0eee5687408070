"""Training: analytic systems, held-out blocks, resuming, failures, noise, mean functions, files, scikit-learn."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from sklearn.base import clone

import kernelfe
from kernelfe import Frames, NeuralFreeEnergyRegressor
from kernelfe.datasets.analytic import EliminatedMode
from kernelfe.errors import DataError, ModelFileError, SolverError
from kernelfe.neural import MLP, MessagePassing, TemperatureInput, Training
from kernelfe.neural.likelihood import held_out
from kernelfe.neural.training import Trainer

SYSTEM = EliminatedMode()
QUICK = Training(epochs=4, batch=30, held_out=0.2, blocks=5)


def analytic_frames(n, labels=("mean_force", "mean_energy"), seed=0, noise=None, keep=()):
    rng = np.random.default_rng(seed)
    r = np.stack([rng.uniform(-1.4, 1.4, n), rng.uniform(-1.2, 1.2, n)], 1)
    t = rng.choice([300.0, 400.0, 500.0, 600.0], n)
    found = SYSTEM.frames(r, t, labels, rng=noise)
    return found if keep else found.replace(parameters={})


def errors(model, quantity, temperature=450.0, n=200):
    """Root mean square error and spread of a quantity at an unseen temperature, inside the data; gauges removed."""
    rng = np.random.default_rng(9)
    q = np.stack([rng.uniform(-1.3, 1.3, n), rng.uniform(-1.1, 1.1, n)], 1)
    truth = SYSTEM.statistics(torch.from_numpy(q), temperature)[quantity].numpy()
    found = model.predict(Frames.from_arrays(variables=q, temperature=temperature), quantity)
    if quantity in ("free_energy", "entropy"):
        truth, found = truth - truth.mean(), found - found.mean()
    return float(np.sqrt(np.mean((found - truth) ** 2))), float(truth.std())


@pytest.fixture(scope="module")
def quick():
    """A short fit with parameters λ, learned noise and an ensemble, on variables."""
    frames = analytic_frames(60, ("mean_force", "mean_energy", "parameter_derivative"), keep=("lambda",))
    return NeuralFreeEnergyRegressor(MLP(hidden=(8,)), members=2, training=QUICK).fit(frames), frames


@pytest.mark.slow
@pytest.mark.parametrize("thermal", [None, TemperatureInput()])
def test_recovers_a_free_energy_from_forces_and_energies(thermal):
    """Within 2 % of its spread at an unseen temperature, entropy 8 %, heat capacity 35 % (its change with T is left out
    by the second order, and of these labels none reads it)."""
    model = NeuralFreeEnergyRegressor(
        MLP(hidden=(24, 24)), thermal, training=Training(epochs=120, batch=40, rate=1e-2)
    ).fit(analytic_frames(300))
    # with temperature as an input, energies at four temperatures leave the curvature in T open
    curved = () if thermal else (("heat_capacity", 0.35),)
    for quantity, share in (("free_energy", 0.02), ("mean_force", 0.04), ("entropy", 0.08), *curved):
        error, spread = errors(model, quantity)
        assert error < share * spread, (quantity, error, spread)


@pytest.mark.slow
def test_noise_levels_are_learned():
    """Single frames: the noise of forces and energies is that of the eliminated mode."""
    frames = analytic_frames(800, noise=3)
    exact = SYSTEM.statistics(torch.tensor(frames.variables), torch.tensor(frames.temperature))
    model = NeuralFreeEnergyRegressor(MLP(hidden=(24, 24)), training=Training(epochs=100, batch=80, rate=1e-2)).fit(
        frames
    )
    for kind in ("mean_force", "mean_energy"):
        true = np.sqrt(np.mean((frames.labels[kind] - exact[kind].numpy()) ** 2))
        level, power = model.noise_[kind]
        predicted = level * np.sqrt(np.mean((frames.temperature / model.noise_temperature_) ** (2 * power)))
        assert predicted == pytest.approx(true, rel=0.12), kind
        assert 0.2 < power < 1.8  # √(kT) and kT, for a stiff and a soft mode


def test_large_constants_belong_to_mean_functions():
    """−500 eV and 2 meV/K of eliminated degrees of freedom change nothing but the mean functions."""
    frames = analytic_frames(80)
    shifted = dict(frames.labels)
    shifted["mean_energy"] = shifted["mean_energy"] - 500.0 + 2e-3 * (frames.temperature - 450.0)
    base, moved = (
        NeuralFreeEnergyRegressor(MLP(hidden=(8,)), thermal=kernelfe.kernels.SecondOrder(450.0), training=QUICK).fit(f)
        for f in (frames, frames.replace(labels=shifted))
    )
    change = moved.predict(frames, "mean_energy") - base.predict(frames, "mean_energy")
    assert np.allclose(change, -500.0 + 2e-3 * (frames.temperature - 450.0), rtol=0, atol=1e-6)
    assert np.allclose(moved.predict(frames, "mean_force"), base.predict(frames, "mean_force"), rtol=0, atol=1e-6)


def test_given_noise_weights_labels():
    """Labels of a large stated noise do not count; blocks of covariance are whitened."""
    frames = analytic_frames(60)
    wrong = frames.replace(labels={**frames.labels, "mean_energy": -frames.labels["mean_energy"]})
    options = {"training": QUICK, "labels": ["mean_force", "mean_energy"]}
    model = NeuralFreeEnergyRegressor(MLP(hidden=(8,)), noise={"mean_energy": 1e6, "mean_force": 0.01}, **options)
    forces = NeuralFreeEnergyRegressor(
        MLP(hidden=(8,)), noise={"mean_force": 0.01}, training=QUICK, labels=["mean_force"]
    )
    a, b = model.fit(wrong).predict(frames, "mean_force"), forces.fit(frames).predict(frames, "mean_force")
    assert model.noise_ == {}
    assert np.allclose(a, b, rtol=0, atol=5e-3 * np.abs(b).max())
    blocks = np.broadcast_to(np.diag([0.01**2, 0.01**2]), (60, 2, 2))
    given = frames.replace(noise={"mean_force": blocks})
    c = NeuralFreeEnergyRegressor(MLP(hidden=(8,)), training=QUICK, labels=["mean_force"]).fit(given)
    assert np.allclose(c.predict(frames, "mean_force"), b, rtol=0, atol=1e-10)


def test_differences_of_free_energies_are_labels():
    frames = analytic_frames(60, ("free_energy",))
    a = frames.labels["free_energy"]
    bare = Frames.from_arrays(variables=frames.variables, temperature=frames.temperature, labels={"mean_energy": 0 * a})
    first, second = np.arange(30), np.arange(30, 60)
    pairs = bare.add_pair_labels(first, second, a[second] - a[first], np.full(30, 1e-3))
    spec = Training(epochs=100, rate=2e-2, held_out=0.0)
    model = NeuralFreeEnergyRegressor(MLP(hidden=(8,)), training=spec, labels=["free_energy_difference"]).fit(pairs)
    found = model.predict_difference(bare[:30], bare[30:])
    assert np.corrcoef(found, a[second] - a[first])[0, 1] > 0.8


# ---------------------------------------------------------------------- the loop


def test_blocks_of_time_are_held_out():
    temperature = np.repeat([300.0, 400.0], 200)
    mask = held_out(temperature, 0.1, 20, np.random.default_rng(0))
    assert mask.sum() == 40 and mask[:200].sum() == 20
    assert np.abs(np.diff(mask.astype(int))).sum() <= 8  # four blocks of ten
    assert not held_out(temperature, 0.0, 20, np.random.default_rng(0)).any()


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("schedule", ["cosine", pytest.param("plateau", marks=pytest.mark.slow)])
def test_a_killed_training_resumes_bit_equal(tmp_path, monkeypatch, schedule):
    frames = analytic_frames(60)
    spec = Training(epochs=6, batch=30, held_out=0.2, blocks=5, schedule=schedule, patience=3)
    whole = NeuralFreeEnergyRegressor(MLP(hidden=(6,)), training=spec, members=2).fit(frames)
    saved = Training(**spec.get_params() | {"checkpoint": str(tmp_path), "checkpoint_seconds": 0.0})
    inner, calls = Trainer._epoch, []

    def killed(self):
        calls.append(self.name)
        if len(calls) in (4, 7):  # in the first and, resumed, in a later epoch
            raise Killed
        return inner(self)

    monkeypatch.setattr(Trainer, "_epoch", killed)
    model = NeuralFreeEnergyRegressor(MLP(hidden=(6,)), training=saved, members=2)
    for _ in range(2):
        with pytest.raises(Killed):
            model.fit(frames)
        assert not hasattr(model, "model_")
    model.fit(frames)
    assert len(calls) < 18  # nothing that was done is done again
    for a, b in zip(whole.model_.members, model.model_.members, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert [r.held_out for r in whole.records_] == [r.held_out for r in model.records_]
    # another training does not take these files
    other = NeuralFreeEnergyRegressor(MLP(hidden=(6,)), training=saved, members=2, random_state=1).fit(frames)
    assert len(other.records_[0].held_out) > 0 and other.records_[0].held_out != model.records_[0].held_out


def test_early_stopping_keeps_the_best(monkeypatch):
    """Held-out densities are made up: the parameters of the best epoch are returned."""
    frames, seen, inner = analytic_frames(60), [], Trainer._judge

    def judged(self):
        inner(self)
        seen.append([p.detach().clone() for _, p in self.named])

    monkeypatch.setattr(Trainer, "_judge", judged)
    spec = Training(epochs=40, batch=10, rate=0.3, held_out=0.2, blocks=5, patience=4)
    model = NeuralFreeEnergyRegressor(MLP(hidden=(6,)), training=spec).fit(frames)
    record = model.records_[0]
    assert record.best == int(np.argmin(record.held_out))
    if record.stopped == "patience":
        assert len(record.held_out) == record.best + 1 + 4
    kept = [*model.model_.members[0].parameters(), *model.model_.noise[0].parameters()]
    assert all(torch.equal(p, q) for p, q in zip(kept, seen[record.best], strict=True))


def test_gradients_that_are_not_finite_stop_cleanly(monkeypatch, caplog):
    frames, inner, calls = analytic_frames(60), Trainer._epoch, []

    def poisoned(self):
        calls.append(1)
        if len(calls) == 3:
            with torch.no_grad():
                next(self.model.network.parameters())[0, 0] = torch.nan
        return inner(self)

    monkeypatch.setattr(Trainer, "_epoch", poisoned)
    with caplog.at_level(logging.WARNING):
        model = NeuralFreeEnergyRegressor(MLP(hidden=(6,)), training=QUICK).fit(frames)
    assert model.records_[0].stopped == "non-finite" and "epoch 3" in caplog.text
    assert np.isfinite(model.predict(frames, "mean_force")).all()
    calls[:] = [1, 1]
    fitted = model.model_
    with pytest.raises(SolverError, match="rate"):
        model.fit(frames)
    assert model.model_ is fitted  # the former fit stays


def test_seeds(quick):
    model, frames = quick
    same = clone(model).fit(frames)
    assert np.array_equal(same.predict(frames, "mean_force"), model.predict(frames, "mean_force"))
    state = torch.random.get_rng_state()
    other = clone(model).set_params(random_state=7).fit(frames)
    assert torch.equal(torch.random.get_rng_state(), state)  # torch's own generator is left alone
    assert not np.array_equal(other.predict(frames, "mean_force"), model.predict(frames, "mean_force"))


# ---------------------------------------------------------------------- files and tools


def test_files(quick, tmp_path):
    model, frames = quick
    path = tmp_path / "model.kfe"
    model.save(path)
    found = kernelfe.load(path)
    assert isinstance(found, NeuralFreeEnergyRegressor) and found.get_params() == model.get_params()
    for quantity in ("free_energy", "mean_force", "parameter_derivative", "heat_capacity"):
        for a, b in zip(
            found.predict(frames, quantity, return_std=True),
            model.predict(frames, quantity, return_std=True),
            strict=True,
        ):
            assert np.array_equal(a, b)
    assert found.noise_ == model.noise_ and found.held_out_log_density_ == model.held_out_log_density_
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"12345678" + content[-1:])
    with pytest.raises(ModelFileError, match="damaged"):
        kernelfe.load(path)
    path.write_bytes(content[:50])
    with pytest.raises(ModelFileError):
        kernelfe.load(path)
    with pytest.raises(ModelFileError, match="neural"):
        path.write_bytes(content)
        kernelfe.gp.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("members", 1),
        ("members", 10**9),
        ("network", {"class": "MLP", "hidden": [4096, 4096, 4096]}),
        ("thermal", {"class": "SecondOrder"}),
        ("concave", "yes"),
        ("density", []),
        ("parameter_names", []),
        ("baseline", {"class": "MLP"}),
    ],
)
def test_inconsistent_files_are_refused(quick, tmp_path, field, value):
    from kernelfe.files import tensors as container
    from kernelfe.neural.file import CONTENT

    path, other = tmp_path / "a.kfe", tmp_path / "b.kfe"
    quick[0].save(path)
    header, tensors = container.read(path, CONTENT)
    header = {k: v for k, v in header.items() if k != "checksum"} | {field: value}
    container.write(other, header, {k: v.clone() for k, v in tensors.items()}, CONTENT)
    with pytest.raises(ModelFileError, match=r"b\.kfe"):
        kernelfe.load(other)


def test_molecules_are_sampled_saved_and_used_in_ase(tmp_path):
    """Message passing with a baseline: file, sampler, calculator, domain."""
    from ase import Atoms

    from kernelfe.simulate import run_langevin, uniform_masses

    rng = np.random.default_rng(0)
    x = np.array([[0.0, 0, 0], [1.5, 0, 0], [2.1, 1.3, 0]]) + 0.05 * rng.normal(size=(60, 3, 3))
    frames = Frames.from_arrays(
        x,
        temperature=300.0,
        labels={"mean_force": 0.1 * rng.normal(size=x.shape)},
        kinds=("C", "C", "O"),
        masses=(12.0, 12.0, 16.0),
    )
    spec = MessagePassing(cutoff=4.0, channels=3, basis=4, hidden=6)
    model = NeuralFreeEnergyRegressor(spec, training=QUICK, members=2).fit(frames)
    model.save(tmp_path / "m.kfe")
    found = kernelfe.load(tmp_path / "m.kfe")
    a, b = (m.frozen().energy_and_forces(torch.tensor(x[:4]), 310.0) for m in (model, found))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert len(found.frozen().stiff_bonds) == 2 and found.kinds_ == ("C", "C", "O")
    run = run_langevin(
        found.frozen(), x[:5], 300.0, masses=uniform_masses(3), steps=4, stride=2, burn_in=0, progress=False
    )
    assert np.isfinite(run.positions).all()
    assert (found.domain_score(frames) <= 1.0).all() and found.domain_score(3.0 * x[:1])[0] > 1.0
    atoms = Atoms("CCO", positions=x[0], calculator=found.calculator(temperature=310.0))
    assert atoms.get_potential_energy() == pytest.approx(float(a[0][0]), abs=1e-9)
    assert np.allclose(atoms.get_forces(), a[1][0], atol=1e-9)
    one = NeuralFreeEnergyRegressor(spec, training=QUICK).fit(frames)
    with pytest.raises(DataError, match="members"):
        one.predict(frames, "mean_force", return_std=True)


def test_arrays_and_scores():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 2))
    y = x[:, 0] ** 2 + 0.5 * x[:, 1]
    model = NeuralFreeEnergyRegressor(MLP(hidden=(16,)), training=Training(epochs=60, batch=20, rate=2e-2)).fit(x, y)
    assert model.score(x, y) > 0.9
    with pytest.raises(ValueError, match="features"):
        model.predict(x[:, :1])
    frames = analytic_frames(20)
    assert NeuralFreeEnergyRegressor(MLP(hidden=(4,)), training=QUICK).fit(frames).score(frames) < 1.0
