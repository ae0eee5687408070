"""Commands end to end, and errors as one line."""

from __future__ import annotations

import re
from functools import partial

import ase.io
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.base import clone

import kernelfe
from kernelfe.cli.files import Start, parse_units, start_frames
from kernelfe.cli.fit import say_fitted
from kernelfe.cli.main import main
from kernelfe.errors import DataError, UnitsError
from kernelfe.simulate import SamplingError
from kernelfe.training import RelativeEntropyFit, Round


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def frames():
    data = kernelfe.datasets.load("alanine-dipeptide")
    return data[data.temperature != 350.0][::1500]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, frames):
    path = tmp_path_factory.mktemp("cli")
    frames.save(path / "data.npz")
    assert (
        call("fit", path / "data.npz", "-o", path / "model.kfe", "--labels", "mean_force,generalized_force").exit_code
        == 0
    )
    return path


def test_fit_prints_the_check_of_the_forces(capsys):
    frames = kernelfe.datasets.load("alanine-dipeptide").with_labels("mean_force")[::625]
    turned = frames.replace(labels={"mean_force": -frames.labels["mean_force"]}, noise={}, present={})
    model = kernelfe.FreeEnergyRegressor(optimizer=None).fit(frames[::10])
    for part, found in ((frames, "are right"), (turned, "wrong sign")):
        say_fitted(model, part, "model.kfe", None)
        assert re.search(f"forces: .*{found}", capsys.readouterr().out)


def test_fit_conditions_on_the_labels_asked_for(folder):
    model = kernelfe.load(folder / "model.kfe")
    assert set(model.noise_) == {"mean_force", "generalized_force"}


@pytest.mark.slow  # quick: the command with a density step that is stubbed (below), and the step itself (training)
def test_fit_conditions_on_density(folder, tmp_path, monkeypatch):
    short = partial(kernelfe.training.minimize_relative_entropy, rounds=2, replicas=80, steps=60, burn_in=20)
    monkeypatch.setattr(kernelfe.training, "minimize_relative_entropy", short)
    out = tmp_path / "m.kfe"
    ran = call("fit", folder / "data.npz", "--density", "--labels", "mean_force", "-o", out)
    assert ran.exit_code == 0, ran.output
    assert re.search(r"density: \d+ rounds, (NOT )?converged", ran.output)
    plain = tmp_path / "plain.kfe"
    assert call("fit", folder / "data.npz", "--solver", "sparse", "--labels", "mean_force", "-o", plain).exit_code == 0
    with_density, without = kernelfe.load(out), kernelfe.load(plain)
    assert not np.array_equal(with_density.posterior_.weights, without.posterior_.weights)
    refused = call("fit", folder / "data.npz", "--density", "--solver", "dense", "-o", out)
    assert refused.exit_code == 2 and "needs the sparse solver" in refused.output


def test_fit_needs_units_and_takes_them(folder, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(scale=0.1, size=(12, 3, 3)) + np.array([[0, 0, 0], [1.5, 0, 0], [3, 0.5, 0]])
    lines = []
    for frame in x:
        lines += ["3", 'Properties=species:S:1:pos:R:3:REF_mean_force:R:3 pbc="F F F"']
        lines += ["C " + " ".join(f"{v:.6f}" for v in bead) + " 1.0 0.0 0.0" for bead in frame]
    (tmp_path / "x.extxyz").write_text("\n".join(lines) + "\n")
    refused = call("fit", tmp_path / "x.extxyz", "-T", 300, "-o", tmp_path / "m.kfe")
    assert refused.exit_code == 1 and "does not state its units" in refused.output
    taken = call("fit", tmp_path / "x.extxyz", "-T", 300, "--units", "mdanalysis", "-o", tmp_path / "m.kfe")
    assert taken.exit_code == 0, taken.output
    assert kernelfe.load(tmp_path / "m.kfe").temperatures_ == [300.0]


def test_fit_takes_traj_files_and_layouts_of_other_programs(tmp_path, frames):
    frames.with_labels("mean_force").write(tmp_path / "x.traj")
    ran = call("fit", tmp_path / "x.traj", "-o", tmp_path / "m.kfe")
    assert ran.exit_code == 0, ran.output
    one = frames[frames.temperature == 300.0].with_labels("mean_force")
    one.write_npz(tmp_path / "c.npz", "cgnet", units="charmm")
    refused = call("fit", tmp_path / "c.npz", "--layout", "cgnet", "-T", 300, "-o", tmp_path / "n.kfe")
    assert refused.exit_code == 1 and "does not state its units" in refused.output
    ran = call("fit", tmp_path / "c.npz", "--layout", "cgnet", "--units", "charmm", "-T", 300, "-o", tmp_path / "n.kfe")
    assert ran.exit_code == 0, ran.output
    one.save(tmp_path / "o.npz")
    assert call("fit", tmp_path / "o.npz", "-o", tmp_path / "o.kfe").exit_code == 0
    read = kernelfe.Frames.read(tmp_path / "c.npz", layout="cgnet", units="charmm", temperature=300.0)
    np.testing.assert_allclose(read.labels["mean_force"], one.labels["mean_force"], rtol=1e-12)
    assert kernelfe.load(tmp_path / "n.kfe").temperatures_ == kernelfe.load(tmp_path / "o.kfe").temperatures_


def test_traj_files_to_start_from(tmp_path, frames):
    frames.write(tmp_path / "x.traj")
    start = start_frames(str(tmp_path / "x.traj"), Start(), 300.0)
    np.testing.assert_array_equal(start.positions, frames.positions)
    images = frames[:1].drop_labels().replace(displacements=None).to_atoms()
    for atoms in images:
        del atoms.info["temperature"]
    ase.io.write(tmp_path / "y.traj", images)
    assert start_frames(str(tmp_path / "y.traj"), Start(), 325.0).temperature.tolist() == [325.0]


def test_sample_at_one_temperature(folder, tmp_path):
    out = tmp_path / "t.npz"
    ran = call(
        "sample",
        folder / "model.kfe",
        "--start",
        folder / "data.npz",
        "-T",
        350,
        "-o",
        out,
        "--replicas",
        6,
        "--steps",
        40,
        "--burn-in",
        10,
        "--stride",
        10,
    )
    assert ran.exit_code == 0, ran.output
    assert "accepted moves: torsion" in ran.output
    samples = kernelfe.Frames.load(out)
    assert len(samples) == 6 * 4 and set(samples.temperature) == {350.0}
    assert samples.bonds == ((0, 1), (1, 2), (2, 3), (2, 4), (4, 5))
    assert np.ptp(samples.positions, axis=0).min() > 0.0


def test_sample_stops_outside_the_data_and_restarts(folder, tmp_path, frames):
    out = tmp_path / "t.npz"
    common = ("-T", 350, "--replicas", 6, "--steps", 200, "--burn-in", 0, "--stride", 10, "-o", out)
    start = ("sample", folder / "model.kfe", "--start", folder / "data.npz")
    ran = call(*start, *common, "--timestep", 5, "--stop", 0.9)  # within the edge: soon met
    assert ran.exit_code == 1 and "far outside the model's training data" in ran.output
    state = tmp_path / "t.restart.npz"
    assert str(state) in ran.output and not out.exists()
    again = call(*start, *common, "--restart", state, "--seed", 1)
    assert again.exit_code == 0, again.output
    assert len(kernelfe.Frames.load(out)) == 6 * 20
    other = call(*start, "-T", 400, "-o", out, "--restart", state)
    assert other.exit_code == 1 and "350 K, not at 400 K" in other.output

    far = np.array(frames.positions[:1])
    far[0, 0] *= 2.0
    frames[:1].drop_labels().replace(positions=far).write(tmp_path / "far.npz")
    refused = call("sample", folder / "model.kfe", "--start", tmp_path / "far.npz", *common)
    assert refused.exit_code == 1 and "beads 0 and" in refused.output and "Start from" in refused.output


def test_an_interrupted_run_says_what_it_left(folder, tmp_path, monkeypatch):
    from kernelfe.simulate import langevin

    step, done = langevin.langevin_step, []

    def interrupted(model, state):
        done.append(1)
        if len(done) > 30:
            raise KeyboardInterrupt
        return step(model, state)

    monkeypatch.setattr(langevin, "langevin_step", interrupted)
    start = ("sample", folder / "model.kfe", "--start", folder / "data.npz", "-T", 350, "-o", tmp_path / "t.npz")
    ran = call(*start, "--replicas", 6, "--steps", 100, "--burn-in", 0, "--stride", 10)
    assert ran.exit_code == 1 and "Aborted" in ran.output
    assert str(tmp_path / "t.restart.npz") in ran.output
    assert str(tmp_path / "t.partial.npz") in ran.output
    assert len(kernelfe.Frames.load(tmp_path / "t.partial.npz")) == 3 * 6


def test_messages_of_the_library_are_put_in_words_of_the_command(tmp_path):
    (tmp_path / "x.extxyz").write_text("1\nProperties=species:S:1:pos:R:3\nC 0.0 0.0 0.0\n")
    bare = call("fit", tmp_path / "x.extxyz", "-o", tmp_path / "m.kfe")
    assert bare.exit_code == 1 and "--units energy=kJ/mol,length=nm" in bare.output
    cold = call("fit", tmp_path / "x.extxyz", "--units", "ase", "-o", tmp_path / "m.kfe")
    assert cold.exit_code == 1 and "--temperature KELVIN" in cold.output


def test_sample_by_replica_exchange_warns_outside_the_data(folder, tmp_path):
    out = tmp_path / "t.extxyz"
    ran = call(
        "sample",
        folder / "model.kfe",
        "--start",
        folder / "data.npz",
        "--exchange",
        "350,450,700",
        "-o",
        out,
        "--replicas",
        2,
        "--steps",
        40,
        "--burn-in",
        0,
        "--stride",
        20,
    )
    assert ran.exit_code == 0, ran.output
    assert "700 K lies outside the training temperatures (300 to 600 K)" in ran.output
    assert "accepted swaps" in ran.output
    samples = kernelfe.Frames.read(out)
    assert [int((samples.temperature == t).sum()) for t in (350, 450, 700)] == [4, 4, 4]


def test_report(folder, tmp_path, frames):
    ran = call("report", folder / "model.kfe", folder / "data.npz", "-o", tmp_path / "r.html")
    assert ran.exit_code == 0, ran.output
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "model.kfe" in page and f"{len(frames)} frames" in page and "fragment torque" in page


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("fit", "{}/data.npz", "--labels", "nonsense", "-o", "{}/x.kfe"), "nonsense"),
        (("fit", "{}/data.npz", "-o", "{}/missing/x.kfe"), "make it first"),
        (("fit", "{}/model.kfe", "-o", "{}/x.kfe"), "cannot read"),
        (("fit", "{}/data.npz", "--labels", "mean_force,mean_force", "-o", "{}/x.kfe"), "'mean_force' is asked for tw"),
        (("report", "{}/model.kfe", "{}/data.npz", "-o", "{}/missing/r.html"), "make it first"),
        (("report", "{}/data.npz", "{}/data.npz"), "data.npz"),
        (("report", "{}/model.kfe", "{}/data.npz", "--samples", "{}/data.npz"), "drawn from the model"),
        (("sample", "{}/model.kfe", "--start", "{}/data.npz", "-T", "350", "-o", "{}/x.pdb"), "use .npz"),
        (("quickstart", "--frames", "4000", "--no-progress", "-o", "{}/q", "--workers", "1"), "use fewer subsets"),
    ],
)
def test_errors_are_one_line_without_a_traceback(folder, arguments, message):
    ran = call(*(a.format(folder) for a in arguments))
    assert ran.exit_code == 1
    assert ran.output.startswith("Error: ") and message in ran.output
    assert "Traceback" not in ran.output and ran.output.count("\n") == 1
    assert not (folder / "x.kfe").exists()


def start(folder, path, name="model.kfe", **options):
    arguments = {"-T": 350, "-o": folder / "never.npz", "--steps": 1000} | options
    return call("sample", folder / name, "--start", path, *(part for pair in arguments.items() for part in pair))


def test_sample_refuses_what_it_cannot_start_from(folder, tmp_path, frames):
    files = {name: tmp_path / name for name in ("empty.npz", "empty.xyz", "bad.xyz", "other.npz", "kinds.npz")}
    frames[:0].save(files["empty.npz"])
    files["empty.xyz"].write_text("")
    files["bad.xyz"].write_text("1\nProperties=species:S:1:pos:R:3\nC 0.0 zero 0.0\n")
    kernelfe.Frames.from_arrays(frames.positions[:, :5], temperature=300.0).save(files["other.npz"])
    frames.replace(kinds=frames.kinds[::-1]).save(files["kinds.npz"])
    wanted = ("holds no frames", "holds no frames", "not readable", "(6, 3), these have (5, 3)", "another molecule")
    for path, message in zip(files.values(), wanted, strict=True):
        ran = start(folder, path, **({"--units": "ase"} if path.suffix == ".xyz" else {}))
        assert ran.exit_code == 1 and isinstance(ran.exception, SystemExit), (path, ran.exception)
        assert message in ran.output and ran.output.startswith("Error: ") and ran.output.count("\n") == 1, ran.output
    assert not (folder / "never.npz").exists()


def test_the_folder_of_the_output_is_looked_for_before_the_work(folder, tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("the work began")

    monkeypatch.setattr(kernelfe, "load", never)
    runs = [
        start(folder, folder / "data.npz", **{"-o": tmp_path / "missing" / "x.npz"}),
        call("report", folder / "model.kfe", folder / "data.npz", "-o", tmp_path / "missing" / "r.html"),
    ]
    for ran in runs:
        assert ran.exit_code == 1 and "make it first" in ran.output


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999"])
def test_seeds_out_of_range_are_wrong_usage(folder, seed):
    for arguments in (
        ("fit", folder / "data.npz", "-o", folder / "x.kfe"),
        ("sample", folder / "model.kfe", "--start", folder / "data.npz", "-T", "350", "-o", folder / "x.npz"),
        ("quickstart", "-o", folder / "q"),
    ):
        ran = call(*arguments, "--seed", seed)
        assert ran.exit_code == 2 and "--seed" in ran.output


@pytest.fixture
def density(monkeypatch):
    """Stands in for the density step: the arguments it was given, and what it returns or raises."""
    given = {"result": None}

    def step(model, frames, **options):
        given["options"] = options
        if isinstance(given["result"], BaseException):
            raise given["result"]
        rounds = (Round(0.1, 0.3, 1.0, 5.0),) * 3
        return RelativeEntropyFit(clone(model).set_params(random_state=9).fit(frames), rounds, given["result"], {})

    monkeypatch.setattr(kernelfe.training, "minimize_relative_entropy", step)
    return given


def fit_with_density(folder, out, *arguments):
    return call("fit", folder / "few.npz", "--density", "--labels", "mean_force", "-o", out, *arguments)


def test_density_takes_a_timestep_and_says_whether_it_has_converged(folder, tmp_path, frames, density):
    frames[::4].save(folder / "few.npz")
    out = tmp_path / "m.kfe"
    density["result"] = True
    ran = fit_with_density(folder, out)
    assert ran.exit_code == 0 and density["options"]["timestep"] is None  # chosen from the stiffest bond
    assert "3 rounds, converged" in ran.stdout and "NOT converged" not in ran.stderr
    density["result"] = False
    ran = fit_with_density(folder, out, "--timestep", "2.5", "--seed", "4")
    assert ran.exit_code == 0 and density["options"]["timestep"] == 2.5 and density["options"]["seed"] == 4
    assert "NOT converged after 3 rounds" in ran.stderr and "more rounds" in " ".join(ran.stderr.split())
    assert kernelfe.load(out).random_state == 9  # the model of the density step
    assert fit_with_density(folder, out, "--timestep", "0").exit_code == 2


@pytest.mark.parametrize("error", [SamplingError("kinetic temperatures", [0], 1), KeyboardInterrupt()])
def test_a_failing_density_step_leaves_the_model_of_the_labels(folder, tmp_path, frames, density, error):
    frames[::4].save(folder / "few.npz")
    out = tmp_path / "m.kfe"
    density["result"] = error
    ran = fit_with_density(folder, out)
    assert ran.exit_code == 1 and "holds the model of the labels alone" in ran.stderr
    assert kernelfe.load(out).random_state == 0


def test_debug_shows_where_an_error_came_from(folder):
    ran = call("--debug", "fit", folder / "data.npz", "--labels", "nonsense", "-o", folder / "x.kfe")
    assert isinstance(ran.exception, DataError)


def test_wrong_usage_has_exit_code_2(folder):
    for arguments in (
        ("sample", folder / "model.kfe", "--start", folder / "data.npz", "-o", "x.npz"),
        ("quickstart", "--frames", "a,b"),
        ("fit", folder / "none.npz"),
    ):
        assert call(*arguments).exit_code == 2


def test_units_of_the_command_line():
    assert parse_units("gromacs") == "gromacs"
    assert parse_units("energy=kJ/mol, length=nm") == {"energy": "kJ/mol", "length": "nm"}
    with pytest.raises(UnitsError, match="name=unit"):
        parse_units("energy=")


def test_help_names_all_commands():
    text = call("--help").output
    assert all(name in text for name in ("quickstart", "fit", "sample", "report", "view"))
