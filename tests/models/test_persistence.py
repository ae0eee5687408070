"""Models on disk: equal after a round trip; files of other kinds, damaged or hostile, are refused."""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import dataclass

import numpy as np
import pytest
import safetensors.torch
import torch

from kernelfe import BoltzmannInversion, Dense, FreeEnergyRegressor, Sparse, Term, load
from kernelfe.descriptors import Distances
from kernelfe.errors import ModelFileError
from kernelfe.kernels import RBF

from .systems import LAMBDA, THERMAL, molecule, one_term, two_terms, variables


def with_pairs(frames):
    return frames.add_pair_labels([0, 1], [2, 3], [0.01, 0.02], 0.05)


def with_blocks(frames):
    block = np.repeat(1e-4 * (np.eye(12) + 0.1)[None], len(frames), 0)
    return frames.replace(noise={"mean_force": block, "mean_energy": 0.01})


TERM = Term(None, RBF(lengthscale=(1.0, 1.2)), THERMAL, (LAMBDA,))
CASES = {
    "dense": lambda: (molecule(8), {"terms": two_terms()}),
    "sparse": lambda: (molecule(12), {"terms": two_terms(), "solver": Sparse(inducing=7, gradients=True)}),
    "sparse values, learned noise": lambda: (
        molecule(12, noise=False),
        {"terms": one_term(), "solver": Sparse(inducing=7)},
    ),
    "evidence": lambda: (molecule(6, noise=False), {"optimizer": "evidence", "terms": one_term()}),
    "parameters": lambda: (variables(), {"terms": TERM}),
    "pairs": lambda: (with_pairs(molecule(8)), {"terms": one_term()}),
    "covariance blocks": lambda: (with_blocks(molecule(6)), {"terms": one_term()}),
    "baseline": lambda: (
        molecule(8),
        {"baseline": BoltzmannInversion(excluded_volume=False), "noise": {"mean_force": 0.02}},
    ),
    "nothing given": lambda: (molecule(6, noise=False), {"labels": ["mean_force"]}),
}


def fit(case):
    frames, options = CASES[case]()
    return FreeEnergyRegressor(**{"optimizer": None, "baseline": None} | options).fit(frames), frames


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.kfe"
    fit("dense")[0].save(path)
    return path


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case, tmp_path):
    model, frames = fit(case)
    model.save(tmp_path / "a.kfe")
    again = load(tmp_path / "a.kfe")
    test = frames[:4]
    for quantity in ("free_energy", "mean_force", "mean_energy", "heat_capacity"):
        (mean, std), (mean2, std2) = (
            m.predict(test, quantity, return_std=True, reference=None) for m in (model, again)
        )
        np.testing.assert_allclose(mean2, mean, rtol=0, atol=1e-12 * np.abs(mean).max())
        np.testing.assert_allclose(std2**2, std**2, rtol=0, atol=1e-12 * (std**2).max())
        covariance = model.covariance(test, quantity)
        np.testing.assert_allclose(
            again.covariance(test, quantity), covariance, rtol=0, atol=1e-12 * np.abs(covariance).max()
        )
    np.testing.assert_array_equal(again.predict(test, "mean_force"), model.predict(test, "mean_force"))
    for name in (
        "log_evidence_",
        "noise_",
        "noise_temperature_",
        "kinds_",
        "coordinate_shape_",
        "parameters_",
        "periodic_",
        "temperatures_",
        "zero_known_",
        "solver_",
        "solver_reason_",
        "composition_",
        "baseline_",
    ):
        assert getattr(again, name) == getattr(model, name), name
    assert [n for n, _ in again.terms_] == [n for n, _ in model.terms_]
    for (_, a), (_, b) in zip(again.fitted_terms(), model.fitted_terms(), strict=True):
        assert a.descriptor == b.descriptor and a.kernel == b.kernel and a.parameters == b.parameters
    again.save(tmp_path / "b.kfe")
    assert load(tmp_path / "b.kfe").log_evidence_ == model.log_evidence_
    if not model.parameters_:
        x = torch.from_numpy(np.array(test.coordinates))
        assert torch.equal(again.frozen().energy_and_forces(x, 350.0)[0], model.frozen().energy_and_forces(x, 350.0)[0])


def test_plain_arrays_and_numpy_parameters(tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 2))
    model = FreeEnergyRegressor(temperature=np.float32(310), random_state=np.int64(3), solver=Dense(evidence_rows=10))
    model.fit(x, np.sin(x[:, 0]))
    model.save(tmp_path / "a.kfe")
    again = load(tmp_path / "a.kfe")
    assert again.n_features_in_ == 2 and again.temperature == 310.0 and again.solver == Dense(evidence_rows=10)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    with pytest.raises(ValueError, match="2 features"):
        again.predict(x[:, :1])


def test_a_loaded_estimator_can_be_fitted_again(file):
    model = load(file)
    model.fit(molecule(6))
    assert model.get_params()["terms"][0][1] == one_term()


def test_a_failing_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.kfe"
    model = fit("dense")[0]
    model.save(path)
    before = path.read_bytes()
    model.random_state = object()
    with pytest.raises(ValueError, match="plain"):
        model.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.kfe"]


# --- files that cannot be trusted ---------------------------------------------------------------------------


def test_truncated_at_any_length(file, tmp_path):
    data, path = file.read_bytes(), tmp_path / "cut.kfe"
    header = struct.unpack("<Q", data[:8])[0]
    for size in [
        0,
        1,
        7,
        8,
        9,
        100,
        header,
        header + 7,
        header + 8,
        header + 9,
        len(data) // 2,
        len(data) - 8,
        len(data) - 1,
    ]:
        path.write_bytes(data[:size])
        with pytest.raises(ModelFileError, match=r"cut\.kfe"):
            load(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ModelFileError):
        load(path)


class Bomb:
    """Unpickling it would be seen."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was executed')",)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Bomb()),
        b"\x80\x04" + b"A" * 64,
        np.random.default_rng(0).bytes(4096),
        struct.pack("<Q", 2**63) + b"{}" * 100,
        struct.pack("<Q", 2**40) + b"{}" * 100,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 0) + b"{}",
        struct.pack("<Q", 12) + b'{"a": [1, 2]}',
        b"PK\x03\x04" + b"\0" * 100,
    ],
)
def test_files_of_another_kind(data, tmp_path):
    path = tmp_path / "other.kfe"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"other\.kfe"):
        load(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match=r"other\.kfe"):
        load(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere.kfe")


def rewritten(file, path, change_header=None, change_tensors=None):
    """The file with its header or tensors changed; the list of tensors follows, as a careful forger would."""
    with safetensors.safe_open(file, framework="pt") as handle:
        header = json.loads(handle.metadata()["kernelfe"])
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    if change_tensors is not None:
        change_tensors(tensors)
        header["tensors"] = {name: list(t.shape) for name, t in tensors.items()}
    if change_header is not None:
        header = change_header(header) or header
    path.write_bytes(safetensors.torch.save(tensors, metadata={"kernelfe": json.dumps(header)}))
    return path


HEADERS = {
    "version": (lambda h: h.update(version=2), "version 2"),
    "format": (lambda h: h.update(format="other"), "'other'"),
    "no version": (lambda h: h.pop("version") and None, "None"),
    "no terms": (lambda h: h.pop("terms") and None, "terms"),
    "a list": (lambda h: [h], "damaged"),
    "unknown class": (lambda h: h["terms"][0][1].update({"class": "Popen"}), "'Popen'"),
    "unknown estimator parameter": (lambda h: h["parameters"].update(shell="ls"), "shell"),
    "negative length scale": (lambda h: h["terms"][0][1]["kernel"].update(lengthscale=-1.0), "lengthscale"),
    "no number": (lambda h: h["terms"][0][1]["thermal"].update(energy="x"), "SecondOrder"),
    "NaN": (lambda h: h.update(log_evidence=float("nan")), "NaN"),
    "fewer tensors than listed": (lambda h: h["tensors"].pop("weights") and None, "lists"),
    "kind of label": (lambda h: h.update(labels=["nonsense", "mean_energy"]), "nonsense"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(name, file, tmp_path):
    change, message = HEADERS[name]
    with pytest.raises(ModelFileError, match=message):
        load(rewritten(file, tmp_path / "x.kfe", change_header=change))


TENSORS = {
    "no weights": (lambda t: t.pop("weights"), "weights"),
    "no labels": (lambda t: t.pop("label0.y"), "label0"),
    "no states": (lambda t: [t.pop(k) for k in list(t) if ".states." in k], "states|incomplete"),
    "NaN": (lambda t: t["weights"].fill_(float("nan")), "non-finite"),
    "infinite": (lambda t: t["label0.states.temperature"].fill_(float("inf")), "non-finite"),
    "length scales of another shape": (lambda t: t.update({"term0.log_lengthscale": torch.zeros(5)}), "shape"),
    "weights of another shape": (lambda t: t.update(weights=torch.zeros(3, dtype=torch.float64)), "inconsistent"),
    "another molecule": (
        lambda t: t.update({"label0.states.coordinates": torch.zeros(8, 4, dtype=torch.float64)}),
        "x.kfe|beads",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit(name, file, tmp_path):
    change, message = TENSORS[name]
    with pytest.raises(ModelFileError, match=message):
        load(rewritten(file, tmp_path / "x.kfe", change_tensors=change))


def test_a_tensor_lost_on_the_way(file, tmp_path):
    """Noise is optional in the format: without the list, a file that lost it would load with a noise of one."""

    def lose(tensors):
        del tensors["label0.noise"]

    kept = {}
    path = rewritten(file, tmp_path / "x.kfe", change_header=lambda h: kept.update(h) or h)
    path = rewritten(path, path, change_tensors=lose, change_header=lambda h: h.update(tensors=kept["tensors"]))
    with pytest.raises(ModelFileError, match="lists"):
        load(path)


def test_deep_nesting_is_refused(tmp_path):
    path = tmp_path / "x.kfe"
    text = "[" * 200_000 + "]" * 200_000
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, metadata={"kernelfe": text}))
    with pytest.raises(ModelFileError, match="damaged"):
        load(path)


@dataclass(frozen=True)
class MyDistances(Distances):
    """A descriptor of the user's own."""


def test_classes_of_the_user_come_in_through_classes_only(tmp_path):
    model = FreeEnergyRegressor(terms=Term(MyDistances(), RBF(1.5), THERMAL), optimizer=None).fit(molecule(6))
    path = tmp_path / "mine.kfe"
    model.save(path)
    with pytest.raises(ModelFileError, match=r"'MyDistances'.*classes=\[MyDistances\]"):
        load(path)
    again = load(path, classes=[MyDistances])
    assert type(again.terms_[0][1].spec.descriptor) is MyDistances
    test = molecule(3, seed=4)
    np.testing.assert_array_equal(again.predict(test, "mean_force"), model.predict(test, "mean_force"))
