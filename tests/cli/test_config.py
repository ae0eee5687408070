"""The command ``run``, and what it makes of a file."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import kernelfe
from kernelfe.cli.config import EXAMPLE, command_lines
from kernelfe.cli.main import main
from kernelfe.errors import DataError

_spec = importlib.util.spec_from_file_location(
    "allatom_chain", Path(__file__).parents[1] / "allatom" / "chain.py"
)  # importlib mode puts no folder of tests on the path
chain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chain)


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def written(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_example_is_a_config(tmp_path):
    ran = call("run", "--example")
    assert ran.exit_code == 0 and ran.output == EXAMPLE
    lines = command_lines(written(tmp_path, EXAMPLE))
    assert [name for name, _ in lines] == ["label", "fit", "sample", "report"]
    by_name = dict(lines)
    assert by_name["label"][:2] == ["run-300", "run-400"] and "300,400" in by_name["label"]
    assert by_name["fit"][0] == "frames.npz" and "--density" in by_name["fit"]
    assert by_name["sample"][0] == "model.kfe" and "--start" in by_name["sample"]
    assert by_name["report"][:2] == ["model.kfe", "frames.npz"] and "samples.npz" in by_name["report"]
    # every option that the example mentions, with its comment sign removed, exists
    more = "\n".join(line.removeprefix("# ") if " = " in line else line for line in EXAMPLE.splitlines())
    assert len(command_lines(written(tmp_path, more))) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fit]\ndensty = true\n", "unknown key of .fit., 'densty'; did you mean density"),
        ("[fits]\n", "unknown table, 'fits'; did you mean fit"),
        ("fit = 3\n", r"write fit as a table"),
        ("[fit]\ndensity = 1\n", "must be true or false"),
        ("[fit\n", "not readable as TOML"),
        ("", "holds no table"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        command_lines(written(tmp_path, text))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("[report]\nsampels = 's.npz'", "unknown key of .report., 'sampels'"),
        ("[report]\nsamples = 'none.npz'", r"\[report\]: .*'none.npz' does not exist"),
        ("[report]\noutput = 'none/r.html'", r"\[report\]: the folder of none/r.html does not exist"),
        ("[report]\nsamples = 'frames.npz'", r"\[report\]: --samples are configurations drawn from the model"),
        ("[report]\nunits = 'kJ'", r"\[report\]: unknown unit system 'kJ'"),
        ("[report]\noutput = 'frames.html'", r"\[label\] and \[report\] both write frames.html"),
        ("[sample]\ntemperature = 'warm'", r"\[sample\]: .*'warm' is not a valid float"),
        ("[sample]\nsteps = 10", r"\[sample\]: give either --temperature or --exchange"),
        ("[sample]\ntemperature = 300\noutput = 's.dcd'", r"\[sample\]: cannot write s.dcd"),
        ("[fit]\nsolver = 'dens'", r"\[fit\]: .*'dens' is not one of"),
        ("[fit]\ntimestep = 2", r"\[fit\]: --timestep belongs to"),
        ("[fit]\nlabels = ['mean_forces']", r"\[fit\]: unknown quantity 'mean_forces'"),
    ],
)
def test_later_tables_are_checked_before_the_first_one_runs(tmp_path, monkeypatch, tables, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run-300").mkdir()
    head = "[label]\nruns = 'run-300'\ntemperature = 300\nbeads = 'ca'\n"
    fit = "" if tables.startswith("[fit]") else "[fit]\n"
    ran = call("run", written(tmp_path, f"{head}{fit}{tables}\n"))
    assert ran.exit_code in (1, 2) and re.search(message, " ".join(ran.output.split())), ran.output
    assert "$ kernelfe" not in ran.output


def test_paths_that_begin_with_a_dash_are_not_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-run").mkdir()
    config = written(tmp_path, "[label]\nruns = '-run'\ntemperature = 300\nbeads = 'ca'\noutput = '-f.npz'\n[fit]\n")
    (_, label), (_, fit) = command_lines(config)
    assert label[0] == "./-run" and fit[0] == "./-f.npz"
    ran = call("run", config)
    assert ran.exit_code == 1 and "no trajectory by its suffix" in ran.output


def test_a_config_runs_its_commands(tmp_path, monkeypatch):
    """All four steps, each with the outputs of those before it."""
    monkeypatch.chdir(tmp_path)
    runs = [str(chain.write_chain_run(tmp_path / f"run-{t}", t).name) for t in (300, 400)]
    text = f"""
    [label]
    runs = {runs}
    temperature = [300, 400]
    beads = "heavy"
    [fit]
    labels = ["mean_force", "mean_energy"]
    [sample]
    temperature = 350
    replicas = 4
    steps = 20
    burn-in = 0
    stride = 5
    moves = false
    [report]
    """
    ran = call("run", written(tmp_path, text))
    assert ran.exit_code == 0, ran.output
    assert "$ kernelfe sample model.kfe --start frames.npz" in ran.output and "--no-moves" in ran.output
    assert len(kernelfe.Frames.load("samples.npz")) == 16
    assert "Free energy of the samples" in (tmp_path / "report.html").read_text(encoding="utf-8")
    ran = call("run", written(tmp_path, "[report]\nmodel = 'none.kfe'\ndata = 'frames.npz'\n"))
    assert ran.exit_code == 2


def test_bonds_and_layouts_on_the_command_line(tmp_path):
    data = kernelfe.datasets.load("alanine-dipeptide")
    part = data[data.temperature == 300.0][::300].with_labels("mean_force")
    part.write_npz(tmp_path / "c.npz", "cgnet", units="charmm")
    common = ("--layout", "cgnet", "--units", "charmm", "--bonds", "0-1,1-2,2-3,2-4,4-5")
    ran = call("fit", tmp_path / "c.npz", *common, "-T", 300, "-o", tmp_path / "m.kfe")
    assert ran.exit_code == 0, ran.output
    out = tmp_path / "s.npz"
    run = ("--replicas", 3, "--steps", 10, "--stride", 5, "--burn-in", 0, "-T", 300, "-o", out)
    ran = call("sample", tmp_path / "m.kfe", "--start", tmp_path / "c.npz", *common, *run)
    assert ran.exit_code == 0, ran.output
    assert kernelfe.Frames.load(out).bonds == ((0, 1), (1, 2), (2, 3), (2, 4), (4, 5))
    assert np.isfinite(kernelfe.Frames.load(out).positions).all()
    ran = call("sample", tmp_path / "m.kfe", "--start", tmp_path / "c.npz", *common[:4], "--bonds", "0:1", *run)
    assert ran.exit_code == 1 and "such as 0-1,1-2" in ran.output
