"""Requirements, constraints, the commands of the README and the files that are shipped agree with each other."""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.resources
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement  # comes with pytest

import kernelfe

ROOT = Path(__file__).resolve().parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(?P<extras>\[[^]]*\])?(?P<specifier>.*)$")
EXTRAS = ["openmm", "mbar", "mdanalysis", "test", "docs", "dev"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def pins() -> dict[str, str]:
    return {
        normal(name): pin
        for name, _, pin in (line.partition("==") for line in lines((ROOT / "constraints.txt").read_text()))
    }


def requirements() -> list[tuple[str, str]]:
    """(name, specifier) of every runtime and optional requirement of others."""
    texts = [SETUP["options"]["install_requires"], *(SETUP["options.extras_require"][extra] for extra in EXTRAS)]
    matches = [REQUIREMENT.match(line) for text in texts for line in lines(text)]
    return [(m["name"], m["specifier"]) for m in matches if m and m["name"] != "kernelfe"]


def test_version_is_the_same_everywhere():
    assert kernelfe.__version__ == SETUP["metadata"]["version"] == importlib.metadata.version("kernelfe")
    assert f"## [{kernelfe.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "specifier"), requirements())
def test_every_requirement_is_pinned_above_its_lower_bound(name, specifier):
    assert specifier.startswith(">=")
    assert version(pins()[normal(name)]) >= version(specifier)


def test_constraints_are_exact_public_versions():
    """Exact, without a local suffix such as ``+cpu`` (another index has another) and without an address."""
    for line in lines((ROOT / "constraints.txt").read_text()):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line), line


def test_constraints_cover_what_is_installed():
    """Every package below kernelfe in this environment, transitively, is pinned."""
    seen, todo = set(), ["kernelfe"]
    while todo:
        name = normal(todo.pop())
        if name in seen:
            continue
        seen.add(name)
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                todo.append(needed.name)
    # CUDA and Triton wheels of the public torch are pinned exactly by torch itself.
    missing = sorted(n for n in seen - set(pins()) - {"kernelfe"} if not re.match(r"nvidia-|cuda-|triton", n))
    assert not missing, f"add to constraints.txt: {missing}"


def test_bundled_data_is_found():
    """``kernelfe_data`` holds, for each data set, the arrays, the generator and the provenance page."""
    folders = [f for f in importlib.resources.files("kernelfe_data").iterdir() if f.is_dir() and f.name[0] not in "._"]
    assert folders
    for folder in folders:
        kinds = {Path(entry.name).suffix for entry in folder.iterdir()}
        assert {".npz", ".py", ".md"} <= kinds, f"{folder.name}: {kinds}"


def test_readme_commands_use_the_constraints():
    """Both commands of the README install with the constraints file, and the one for tests is marked for .ci/run."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if "pip install" in line and "venv" in line]
    assert len(commands) == 2
    assert all("-c constraints.txt" in command for command in commands)
    found = subprocess.run(
        [sys.executable, ROOT / ".ci" / "readme_command.py", "test-command"], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() in commands
    assert "pytest" in found.stdout


def test_no_machine_paths_and_no_host_names():
    """Files that an installation reads name no index, no host and no folder of somebody's machine."""
    for name in ["setup.cfg", "setup.py", "pyproject.toml", "constraints.txt", ".ci/run"]:
        text = (ROOT / name).read_text(encoding="utf-8")
        found = re.findall(r"https?://\S+|--(?:extra-)?index-url|--find-links|/(?:home|root|Users|tmp|opt)/", text)
        assert not found, f"{name}: {found}"
