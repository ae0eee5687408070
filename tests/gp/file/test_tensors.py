"""Model files that cannot be trusted: of other kinds, damaged, or made wrong with a right checksum."""

from __future__ import annotations

import copy
import json
import pickle
import struct

import numpy as np
import pytest
import safetensors.torch
import torch

from kernelfe import Dense, Frames, FreeEnergyRegressor, Iterative, Sparse, load
from kernelfe.errors import DataError, ModelFileError
from kernelfe.files import tensors as modelfile

from .saved import fit


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.kfe"
    fit("dense")[0].save(path)
    return path


@pytest.fixture(scope="module")
def fitted_file(tmp_path_factory):
    """The file of a case, fitted once."""
    folder = tmp_path_factory.mktemp("cases")

    def of(case):
        path = folder / f"{case}.kfe"
        if not path.exists():
            fit(case)[0].save(path)
        return path

    return of


# --- files that cannot be trusted ---------------------------------------------------------------------------


def test_truncated_at_any_length(file, tmp_path):
    data, path = file.read_bytes(), tmp_path / "cut.kfe"
    header = struct.unpack("<Q", data[:8])[0]
    within = (header, header + 7, header + 8, header + 9)
    for size in (0, 1, 7, 8, 9, 100, *within, len(data) // 2, len(data) - 8, len(data) - 1):
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


def test_a_label_of_one_frame_whose_noise_is_a_number(tmp_path):
    """Its tensor is an expanded number, which torch calls contiguous with a stride of zero."""
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (8, 2))
    frames = Frames.from_arrays(
        variables=x,
        temperature=300.0,
        labels={"mean_force": np.sin(x), "free_energy": np.zeros(8)},
        present={"free_energy": np.arange(8) == 0},
        noise={"mean_force": 0.02, "free_energy": 0.01},
    )
    for solver in (Dense(), Iterative(), Sparse(inducing=5)):
        model = FreeEnergyRegressor(solver=solver, optimizer=None).fit(frames)
        model.save(tmp_path / "model.kfe")
        assert np.array_equal(load(tmp_path / "model.kfe").predict(x, "mean_force"), model.predict(x, "mean_force"))


def test_paths_that_cannot_be_opened(tmp_path):
    (tmp_path / "file").write_text("text")
    for path, message in (
        (tmp_path / "nowhere.kfe", "does not exist"),
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "a.kfe", "cannot be read"),
        (tmp_path / "null\0.kfe", "cannot be read"),
    ):
        with pytest.raises(ModelFileError, match=message):
            load(path)
    with pytest.raises(DataError, match="is a folder"):
        fit("dense")[0].save(tmp_path)


# --- damage: the checksum -----------------------------------------------------------------------------------


def test_flipped_bits(file, tmp_path):
    """Every flipped bit is refused, or is one that JSON does not read (an e of a number in capitals)."""
    path, data, rng = tmp_path / "x.kfe", file.read_bytes(), np.random.default_rng(0)
    header, tensors = modelfile.read(file)
    refused = 0
    start = 8 + struct.unpack("<Q", data[:8])[0]
    for bit in [*rng.integers(8 * start, size=400), *rng.integers(8 * start, 8 * len(data), size=200)]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.unlink(missing_ok=True)  # some file systems wait for the disk when an old file is cut and written anew
        path.write_bytes(flipped)
        try:
            header2, tensors2 = modelfile.read(path)
        except ModelFileError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert header2 == header and all(torch.equal(tensors2[name], t) for name, t in tensors.items())
    assert refused >= 595


def stale(file, path, change):
    """The file with a change and an unchanged checksum."""
    with safetensors.safe_open(file, framework="pt") as handle:
        header = json.loads(handle.metadata()["kernelfe"])
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    change(header, tensors)
    path.write_bytes(safetensors.torch.save(tensors, metadata={"kernelfe": json.dumps(header)}))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda h, t: t["weights"].add_(1e-12),
        lambda h, t: t.pop("label0.noise"),  # optional: nothing else would miss it
        lambda h, t: t.update(more=torch.zeros(1)),
        lambda h, t: t.update(weights=t["weights"].view(torch.int64)),
        lambda h, t: t.update({f"term{k}.log_lengthscale": t[f"term{1 - k}.log_lengthscale"].clone() for k in (0, 1)}),
        lambda h, t: t.update({"label0.noise": t["label0.noise"].reshape(-1)}),
        lambda h, t: h.update(log_evidence=0.0),
        lambda h, t: h.update(zero_known=1),
        lambda h, t: h.pop("checksum"),
        lambda h, t: h.update(checksum=None),
    ],
)
def test_changes_that_the_checksum_finds(change, file, tmp_path):
    with pytest.raises(ModelFileError, match=r"x\.kfe is truncated or damaged.*checksum"):
        load(stale(file, tmp_path / "x.kfe", change))


def test_order_and_spacing_of_the_header_do_not_matter(file, tmp_path):
    path = tmp_path / "x.kfe"

    def reorder(header, tensors):
        items = list(reversed(header.items()))
        header.clear()
        header.update(items)

    assert load(stale(file, path, reorder)).log_evidence_ == load(file).log_evidence_


# --- files made wrong: their checksum is right ----------------------------------------------------------------


def rewritten(file, path, change_header=None, change_tensors=None):
    """The file with its header or tensors changed and the checksum of what it holds, as a careful forger would."""
    header, tensors = modelfile.read(file)
    if change_tensors is not None:
        change_tensors(tensors)
    if change_header is not None:
        change_header(header)
    path.write_bytes(modelfile.pack(header, {name: tensor.contiguous() for name, tensor in tensors.items()}))
    return path


def at(*keys, value):
    """A change of one entry of the header."""

    def change(header):
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return change


HEADERS = {
    "version": (lambda h: h.update(version=2), "version 2"),
    "format": (lambda h: h.update(format="other"), "'other'"),
    "no version": (lambda h: h.pop("version"), "None"),
    "no terms": (lambda h: h.pop("terms"), "terms"),
    "unknown class": (lambda h: h["terms"][0][1].update({"class": "Popen"}), "'Popen'"),
    "unknown estimator parameter": (lambda h: h["parameters"].update(shell="ls"), "shell"),
    "negative length scale": (lambda h: h["terms"][0][1]["kernel"].update(lengthscale=-1.0), "lengthscale"),
    "no number": (lambda h: h["terms"][0][1]["thermal"].update(energy="x"), "SecondOrder"),
    "NaN": (lambda h: h.update(log_evidence=float("nan")), "NaN"),
    "kind of label": (lambda h: h.update(labels=["nonsense", "mean_energy"]), "nonsense"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(name, file, tmp_path):
    change, message = HEADERS[name]
    with pytest.raises(ModelFileError, match=message):
        load(rewritten(file, tmp_path / "x.kfe", change_header=change))


#: Any JSON that is not what a field holds; 10**400 leaves the range of float64.
WRONG = [None, True, -1, 0, 10**400, 0.5, "x", [], [[]], {}, [None], ["x", "x"], [-1], [300.0, 300.0], {"class": "RBF"}]


LONG = [pytest.param(case, marks=pytest.mark.slow) for case in ("baseline", "parameters")]  # most fields are the same


@pytest.mark.parametrize("case", ["dense", "sparse", *LONG])
def test_no_field_takes_anything(case, tmp_path):
    """Whatever is written into a field, a file is refused with a typed error or its model predicts."""
    model, frames = fit(case)
    model.save(tmp_path / "a.kfe")
    header, tensors = modelfile.read(tmp_path / "a.kfe")

    def places(value, path=()):
        yield path
        if isinstance(value, (dict, list)):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from places(inner, (*path, key))

    refused = total = 0
    rng = np.random.default_rng(0)
    for place in [p for p in places(header) if p and p[0] not in ("format", "version", "checksum")]:
        for k in rng.permutation(len(WRONG))[: len(WRONG) if len(place) == 1 else 1]:
            changed = copy.deepcopy(header)
            at(*place, value=WRONG[k])(changed)
            (tmp_path / "x.kfe").unlink(missing_ok=True)
            (tmp_path / "x.kfe").write_bytes(modelfile.pack(changed, tensors))
            total += 1
            try:
                again = load(tmp_path / "x.kfe")
            except ModelFileError as error:
                refused += 1
                assert "x.kfe" in str(error)
            else:
                test = frames[:3].replace(kinds=again.kinds_, cell=20.0 * np.eye(3) if again.periodic_ else None)
                for quantity in ("free_energy", "mean_force"):
                    again.predict(test, quantity, return_std=True)
    assert refused > 0.6 * total


CASE_HEADERS = {
    "term without kernel": ("dense", at("terms", 0, 1, "kernel", value=None), "kernel of term 'molecule'"),
    "term without thermal": ("dense", at("terms", 0, 1, "thermal", value=None), "thermal of term"),
    "term without parameters": ("dense", at("terms", 0, 1, "parameters", value=None), "parameters of term"),
    "term without descriptor": ("dense", at("terms", 0, 1, "descriptor", value=None), "descriptor of term"),
    "term without number": ("dense", at("terms", 0, 1, "thermal", "energy", value=None), "thermal.energy"),
    "term without length scale": ("dense", at("terms", 0, 1, "kernel", "lengthscale", value=None), "lengthscale"),
    "term of another class": ("dense", at("terms", 0, 1, value={"class": "RBF", "lengthscale": 1.0}), "a Term"),
    "no terms": ("dense", at("terms", value=[]), "'terms'"),
    "terms of one name": ("dense", at("terms", 1, 0, value="molecule"), "'terms'"),
    "pairs of beads that are not there": (
        "dense",
        at("terms", 0, 1, "descriptor", "pairs", value=[[0, 9], [0, 1], [0, 2], [0, 3], [1, 2], [1, 3]]),
        "bead 9",
    ),
    "columns": ("dense", at("terms", 0, 2, value=5), "columns"),
    "solver": ("sparse", at("solver", value=None), "'solver'"),
    "solver of the other kind": ("sparse", at("solver", value={"class": "Dense"}), "'solver'"),
    "gradients": ("sparse", at("solver", "gradients", value=1), "gradients"),
    "gradients of values": ("sparse", at("solver", "gradients", value=False), "whitening"),
    "temperatures": ("sparse", at("temperatures", value=None), "'temperatures'"),
    "no temperature": ("sparse", at("temperatures", value=[]), "'temperatures'"),
    "temperature below zero": ("sparse", at("temperatures", value=[-300.0]), "'temperatures'"),
    "composition": ("dense", at("composition", value=[["a", "b"], [1.0, 1.0]]), "mean function"),
    "composition of two lengths": ("dense", at("composition", value=[["a"], [1.0, 1.0]]), "'composition'"),
    "counts": ("pure forces", at("composition", value=[["a", "b"], [1.0, 1.0]]), "counts"),
    "offset": ("dense", at("mean", "offset", value=[]), "offset"),
    "mean": ("dense", at("mean", "thermal", value=None), "mean function"),
    "baseline beads": ("baseline", at("baseline", "beads", value=5), "beads of the baseline"),
    "baseline bonds": ("baseline", at("baseline", "bonds", value=None), "bonds"),
    "baseline of other bonds": ("baseline", at("baseline", "bonds", 0, value=[0, 7]), "beyond"),
    "baseline of fewer numbers": ("baseline", at("baseline", "bond_parameters", value=[]), "bond_parameters"),
    "baseline of text": ("baseline", at("baseline", "bond_parameters", 0, value=["x", "y"]), "bond_parameters"),
    "wall energy": ("baseline", at("baseline", "wall_energy", value="x"), "FittedBaseline"),
    "estimator baseline": ("dense", at("parameters", "baseline", value=-1), "'baseline'"),
    "estimator temperature": ("dense", at("parameters", "temperature", value="x"), "'temperature'"),
    "estimator terms": ("dense", at("parameters", "terms", value=[]), "terms"),
    "estimator kernel": ("dense", at("parameters", "terms", 0, 1, "kernel", value=3), "kernel"),
    "estimator solver": ("dense", at("parameters", "solver", value="fast"), "'solver'"),
    "estimator optimizer": ("dense", at("parameters", "optimizer", value="adam"), "'optimizer'"),
    "estimator noise": ("dense", at("parameters", "noise", value={"mean_force": -1}), "'noise'"),
    "many beads": ("dense", at("coordinate_shape", value=[60_000_000, 3]), "'coordinate_shape'"),
    "coordinate shape": ("dense", at("coordinate_shape", value=[4, 2]), "'coordinate_shape'"),
    "other beads": ("dense", at("coordinate_shape", value=[5, 3]), "kinds"),
    "kinds": ("dense", at("kinds", value=["A"]), "'kinds'"),
    "masses": ("dense", at("masses", value=[1.0]), "'masses'"),
    "periodic": ("dense", at("periodic", value=True), "cell"),
    "columns of arrays": ("dense", at("n_features_in", value=4), "'n_features_in'"),
    "label without noise": ("evidence", at("noise", value={}), "no noise"),
    "order": ("parameters", at("terms", 0, 1, "parameters", 0, "order", value=10**9), "expansion"),
    "another parameter": ("parameters", at("parameter_names", value=["mu"]), "'lambda'"),
    "density": ("sparse", at("density", value={"300": 1.0}), "'density'"),
    "density of a negative temperature": ("sparse", at("density", value=[[-1.0, 1.0]]), "'density'"),
    "density of one temperature twice": ("sparse", at("density", value=[[300, 1.0], [300.0, 2.0]]), "'density'"),
}


@pytest.mark.parametrize("name", CASE_HEADERS)
def test_fields_that_would_fail_on_use(name, fitted_file, tmp_path):
    case, change, message = CASE_HEADERS[name]
    with pytest.raises(ModelFileError, match=rf"x\.kfe: the file is inconsistent.*{message}"):
        load(rewritten(fitted_file(case), tmp_path / "x.kfe", change_header=change))


def put(name, change):
    """A change of one tensor."""
    return lambda tensors: tensors.update({name: change(tensors[name])})


TENSORS = {
    "no weights": ("dense", lambda t: t.pop("weights"), "weights"),
    "no labels": ("dense", lambda t: t.pop("label0.y"), "label0"),
    "no states": ("dense", lambda t: [t.pop(k) for k in list(t) if ".states." in k], "states"),
    "NaN": ("dense", lambda t: t["weights"].fill_(float("nan")), "non-finite"),
    "infinite": ("dense", lambda t: t["label0.states.temperature"].fill_(float("inf")), "non-finite"),
    "cold": ("dense", lambda t: t["label0.states.temperature"].fill_(-1.0), "positive"),
    "length scales": ("dense", put("term0.log_lengthscale", lambda a: torch.zeros(5, dtype=a.dtype)), "shape"),
    "weights": ("dense", put("weights", lambda a: a[:3]), "'weights'"),
    "another molecule": ("dense", put("label0.states.coordinates", lambda a: a[:, :, :1]), "coordinates"),
    "fewer rows": ("dense", put("label0.states.counts", lambda a: a[1:]), "counts"),
    "single precision": ("dense", put("weights", lambda a: a.float()), "float64"),
    "noise": ("dense", put("label0.noise", lambda a: a[:, :3]), "noise"),
    "blocks": ("covariance blocks", put("label0.noise", lambda a: a[:, :3]), "noise"),
    "first ends": ("pairs", lambda t: [t.pop(k) for k in list(t) if ".minus." in k], "minus"),
    "lower of integers": ("sparse", put("lower", lambda a: a.long()), "'lower'"),
    "lower not square": ("sparse", put("lower", lambda a: a[:, 1:]), "'lower'"),
    "no lower": ("sparse", lambda t: t.pop("lower"), "'lower'"),
    "sparse weights": ("sparse", put("weights", lambda a: a[1:]), "'weights'"),
    "whitening": ("sparse", put("term0.whitening", lambda a: a[1:]), "whitening"),
    "inducing": ("sparse", put("term0.inducing", lambda a: a[:, 1:]), "inducing"),
    "parameter": ("parameters", lambda t: t.pop("label0.states.parameter.lambda"), "lambda"),
    "frames of fewer rows": ("dense", put("label0.frame", lambda a: a[1:]), "frame"),
    "frames out of order": ("dense", put("label0.frame", lambda a: a.flip(0)), "frames in ascending order"),
    "frames counted twice": ("dense", put("label0.frame", torch.zeros_like), "frames in ascending order"),
    "halves of frames": ("dense", put("label0.frame", lambda a: 0.5 * a), "frames in ascending order"),
    "frames beyond all": ("dense", put("label0.frame", lambda a: a + 1e300), "frames in ascending order"),
    "frames below zero": ("dense", put("label0.frame", lambda a: a - 1.0), "frames in ascending order"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit(name, fitted_file, tmp_path):
    case, change, message = TENSORS[name]
    with pytest.raises(ModelFileError, match=rf"x\.kfe.*{message}"):
        load(rewritten(fitted_file(case), tmp_path / "x.kfe", change_tensors=change))


def test_not_an_object(tmp_path):
    path = tmp_path / "x.kfe"
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, metadata={"kernelfe": "[1]"}))
    with pytest.raises(ModelFileError, match="damaged"):
        load(path)


def test_deep_nesting_is_refused(tmp_path):
    path = tmp_path / "x.kfe"
    text = "[" * 200_000 + "]" * 200_000
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, metadata={"kernelfe": text}))
    with pytest.raises(ModelFileError, match="damaged"):
        load(path)
