"""The viewer's document: checked against its documented format by other code, and chemiscope's own where installed."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from click.testing import CliRunner

import kernelfe
from kernelfe.analysis import dihedral_angles
from kernelfe.cli.main import main
from kernelfe.errors import DataError
from kernelfe.report import viewer_input, write_viewer
from kernelfe.report.viewer import backbone_torsions
from kernelfe.units import factor

PHI, PSI = (0, 1, 2, 4), (1, 2, 4, 5)


@pytest.fixture(scope="module")
def frames():
    return kernelfe.datasets.load("alanine-dipeptide")[::700]


@pytest.fixture(scope="module")
def model(frames):
    return kernelfe.FreeEnergyRegressor(solver=kernelfe.Sparse(inducing=30), optimizer=None).fit(frames)


@pytest.fixture(scope="module")
def document(model, frames):
    return viewer_input(model, frames, elements={"CA": "C", "CB": "C"}, name="test")


def check_format(data):
    """The rules of chemiscope's format, as its documentation states them."""
    json.loads(json.dumps(data, allow_nan=False))
    assert isinstance(data["meta"]["name"], str)
    structures = data["structures"]
    for structure in structures:
        for key in ("names", "x", "y", "z"):
            assert len(structure[key]) == structure["size"]
        for i, j, order in structure.get("bonds", []):
            assert 0 <= i < structure["size"] and 0 <= j < structure["size"] and i != j and order == 1
        if "cell" in structure:
            assert len(structure["cell"]) == 9
    beads = sum(structure["size"] for structure in structures)
    if structures:
        assert len(data["environments"]) == beads
    rows = {len(p["values"]) for p in data["properties"].values() if p["target"] == "structure"}
    assert len(rows) == 1 and (not structures or rows == {len(structures)})
    for p in data["properties"].values():
        assert p["target"] in ("structure", "atom")
        assert p["target"] == "structure" or len(p["values"]) == beads
        assert len({type(v) for v in p["values"]}) == 1 and type(p["values"][0]) in (str, float)
        assert set(p) <= {"target", "values", "units", "description"}
    for axis in ("x", "y", "color"):
        assert data["settings"]["map"][axis]["property"] in data["properties"]
    for shape in data.get("shapes", {}).values():
        assert all(len(one["vector"]) == 3 for one in shape["parameters"]["atom"])
        assert len(shape["parameters"]["atom"]) == beads


def test_a_document_in_the_documented_format(document, frames):
    check_format(document)
    assert document["structures"][0]["names"] == ["C", "N", "C", "C", "C", "N"]
    assert document["properties"]["bead"]["values"][:6] == ["C", "N", "CA", "CB", "C", "N"]
    assert np.allclose(document["structures"][3]["y"], frames.positions[3, :, 1], atol=1e-4)


def test_the_numbers_are_those_of_the_model(document, model, frames):
    kj = factor("kJ/mol")
    values = {name: np.array(p["values"]) for name, p in document["properties"].items() if name != "bead"}
    free, std = model.predict(frames, "free_energy", return_std=True)
    assert np.allclose(values["free energy"], free / kj, rtol=1e-6, atol=1e-6)
    assert np.allclose(values["std of free energy"], std / kj, rtol=1e-6)
    _, force_std = model.predict(frames, "mean_force", return_std=True)
    per_bead = np.sqrt((force_std**2).sum(-1)) / kj
    assert np.allclose(values["std of force on bead"], per_bead.reshape(-1), rtol=1e-6)
    assert np.allclose(values["std of force"], np.sqrt((per_bead**2).mean(1)), rtol=1e-6)
    assert np.allclose(values["domain score"], model.domain_score(frames), rtol=1e-6)
    entropy = model.predict(frames, "entropy") / kj * 1e3
    for t in np.unique(frames.temperature):
        here = frames.temperature == t
        assert np.allclose(values["entropy"][here], entropy[here] - entropy[here].mean(), rtol=1e-6, atol=1e-6)
    angles = np.degrees(dihedral_angles(frames.positions, (PHI, PSI)))
    assert np.allclose(values["torsion 0–1–2–4"], angles[:, 0], atol=1e-4)
    assert np.allclose(values["torsion 1–2–4–5"], angles[:, 1], atol=1e-4)


def test_the_backbone_is_found(frames):
    assert backbone_torsions(frames.bonds) == (PHI, PSI)
    assert backbone_torsions(()) == ()
    # butane with a methyl branch at the second carbon: the chain wins over the branch, whatever the numbering
    assert backbone_torsions(((0, 1), (1, 2), (2, 3), (3, 4), (1, 5))) == ((0, 1, 2, 3), (1, 2, 3, 4))
    assert backbone_torsions(((0, 1), (1, 2), (2, 3), (2, 4), (4, 5)))[0] == PHI


def test_chemiscope_accepts_it(document):
    chemiscope = pytest.importorskip("chemiscope", exc_type=ImportError)
    built = chemiscope.create_input(
        structures=document["structures"],
        metadata=document["meta"],
        properties=document["properties"],
        environments=[(e["structure"], e["center"], e["cutoff"]) for e in document["environments"]],
        shapes=document["shapes"],
        settings=document["settings"],
    )
    for key in ("meta", "structures", "properties", "settings", "environments"):
        assert built[key] == document[key], key
    assert built["shapes"]["mean force"]["parameters"]["atom"] == document["shapes"]["mean force"]["parameters"]["atom"]


def test_frames_of_variables_have_no_structures():
    frames = kernelfe.datasets.EliminatedMode().frames(
        np.random.default_rng(0).uniform(-1.0, 1.0, (30, 2)), 300.0, rng=np.random.default_rng(1)
    )
    data = viewer_input(kernelfe.FreeEnergyRegressor(optimizer=None).fit(frames), frames, limit=20)
    check_format(data)
    assert data["structures"] == [] and data["settings"]["map"]["y"]["property"] == "variable 2"
    assert len(data["properties"]["variable 1"]["values"]) == 20


def test_beads_without_bonds_get_principal_components(model, frames):
    data = viewer_input(model, frames.replace(bonds=None))
    check_format(data)
    first = np.array(data["properties"]["distance component 1"]["values"])
    second = np.array(data["properties"]["distance component 2"]["values"])
    assert first.std() > second.std() and abs(np.corrcoef(first, second)[0, 1]) < 1e-6
    assert data["structures"][0]["names"][2] == "X"  # CA is not an element, and not calcium


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 1}, "at least 2 frames"),
        ({"elements": {"CA": "Cx"}}, "no chemical symbol"),
        ({"elements": {"CG": "C"}}, "no bead CG"),
        ({"torsions": [(0, 1, 2, 9)]}, "9"),
        ({"torsions": []}, "at least one"),
    ],
)
def test_what_cannot_be_shown_is_refused(model, frames, options, message):
    with pytest.raises(DataError, match=message):
        viewer_input(model, frames[:5], **options)


def test_files(document, tmp_path):
    write_viewer(document, tmp_path / "a.json")
    write_viewer(document, tmp_path / "a.json.gz")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == document
    assert json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes())) == document
    page = tmp_path / "page.html"
    page.write_text("<!DOCTYPE html><html><title>Chemiscope</title></html>", encoding="utf-8")
    write_viewer(document, tmp_path / "a.html", page)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.startswith(page.read_text(encoding="utf-8"))
    assert json.loads(text.split("</html>")[1]) == document
    page.write_text("<html></html>")
    for path, given, message in (
        ("b.html", None, "offline"),
        ("b.html", page, "not chemiscope's"),
        ("b.html", tmp_path / "none.html", "cannot read"),
        ("b.xyz", None, "use .json"),
    ):
        with pytest.raises(DataError, match=message):
            write_viewer(document, tmp_path / path, given)
    with pytest.raises(DataError, match="not finite"):
        write_viewer({"x": float("nan")}, tmp_path / "b.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.json", "a.json.gz", "page.html"]


def test_command(model, frames, tmp_path):
    model.save(tmp_path / "model.kfe")
    frames.save(tmp_path / "data.npz")

    def call(*more):
        return CliRunner().invoke(main, ["view", str(tmp_path / "model.kfe"), str(tmp_path / "data.npz"), *more])

    out = tmp_path / "v.json.gz"
    ran = call("-o", str(out), "--elements", "CA=C,CB=C", "--torsions", "3,2,4,5;0,1,2,3", "--limit", "10")
    assert ran.exit_code == 0 and "wrote 10 frames" in ran.output, ran.output
    data = json.loads(gzip.decompress(out.read_bytes()))
    check_format(data)
    assert data["settings"]["map"]["x"]["property"] == "torsion 3–2–4–5"
    for options, message in ((("--torsions", "1,2"), "four bead"), (("--elements", "CA"), "name=value")):
        refused = call("-o", str(out), *options)
        assert refused.exit_code == 1 and message in refused.output and "Traceback" not in refused.output
