"""Imports between layers, read from the source: the layers of the design import downwards only."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kernelfe"

#: Layer → the layers it may import. A layer is a folder of the package or a module at its root. A new one needs a line
#: here: that is the moment to think about where it belongs. Every import counts: those inside functions and those for
#: type checkers as well.
COMMON = {"errors", "units", "arrays", "specs", "files", "runtime"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "units": {"errors"},
    "arrays": {"errors", "units"},
    "specs": {"errors"},
    "files": {"errors", "units", "specs"},
    "runtime": {"errors", "specs", "files"},
    "compiled": {"errors"},
    "geometry": {"errors", "arrays", "compiled"},
    "functionals": {*COMMON},
    "linalg": {"errors", "runtime"},
    "protocol": {"errors"},
    "frames": {*COMMON, "functionals", "geometry"},
    "kernels": {*COMMON, "functionals"},
    "descriptors": {*COMMON, "compiled", "geometry"},
    "calculators": {"errors", "protocol"},
    "deploy": {"errors", "files", "specs", "units"},
    "simulate": {*COMMON, "protocol", "geometry"},
    "gp": {
        *COMMON,
        *("calculators", "compiled", "deploy", "descriptors", "frames", "functionals", "geometry", "kernels"),
        *("linalg", "protocol"),
    },
    "neural": {
        *COMMON,
        *("calculators", "descriptors", "frames", "functionals", "geometry", "gp", "kernels"),
    },
    "statistics": {*COMMON, "frames", "functionals", "geometry", "linalg"},
    "allatom": {*COMMON, "frames", "geometry", "statistics"},
    "training": {
        *COMMON,
        *("descriptors", "frames", "functionals", "geometry", "gp", "protocol", "simulate", "statistics"),
    },
    "datasets": {*COMMON, "frames"},
    "analysis": {*COMMON, "descriptors", "frames", "functionals", "geometry", "gp", "protocol", "statistics"},
}

#: The outermost layer: may import everything, is imported by nothing in the library.
OUTERMOST = {"cli", "report", "testing", "quickstart", "__main__"}

#: Deprecated modules of 0.2, which forward to where things are now.
FORWARDING = {"io", "models", "topology"}


@dataclass(frozen=True)
class Import:
    """One import statement of ours: ``source`` imports ``target`` (dotted, without ``kernelfe.``)."""

    source: str
    target: str
    line: int


def module_name(path: Path) -> str:
    """Dotted name below the package: ``models.protocol``, ``frames``, and "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(name: str) -> ast.Module:
    """The source of one module, parsed."""
    return ast.parse(SOURCES[name].read_text(encoding="utf-8"), str(SOURCES[name]))


def resolve(source: str, node: ast.Import | ast.ImportFrom) -> list[str]:
    """Modules of ours that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        if node.level:
            package = ["kernelfe", *source.split(".")] if source else ["kernelfe"]
            if SOURCES[source].name != "__init__.py":
                package = package[:-1]
            base = ".".join(package[: len(package) - node.level + 1] + ([node.module] if node.module else []))
        else:
            base = node.module or ""
        # `from ..models import protocol` names a module, `from ..models.protocol import X` a thing inside one.
        names = [f"{base}.{a.name}" if f"{base}.{a.name}"[len("kernelfe.") :] in SOURCES else base for a in node.names]
    return [name.removeprefix("kernelfe").removeprefix(".") for name in names if (name + ".").startswith("kernelfe.")]


def imports_of(source: str) -> list[Import]:
    """Every import of ours in one module: at its top, inside functions, for type checkers."""
    return [
        Import(source, target, node.lineno)
        for node in ast.walk(tree(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for target in resolve(source, node)
    ]


@cache
def every_import() -> list[Import]:
    """All imports of ours in the package."""
    return [found for name in SOURCES for found in imports_of(name)]


def layer(module: str) -> str:
    """The layer that a module belongs to."""
    return module.partition(".")[0]


def allowed(found: Import) -> bool:
    source, target = layer(found.source), layer(found.target)
    if source == target or source in OUTERMOST:
        return True
    if target in OUTERMOST | FORWARDING or found.target == "":  # nothing imports the root, which imports everything
        return False
    return source == "" or source in FORWARDING or target in ALLOWED[source]


def test_every_module_has_a_place():
    known = set(ALLOWED) | OUTERMOST | FORWARDING | {""}
    strangers = sorted({layer(name) for name in SOURCES} - known)
    assert not strangers, f"give {strangers} a line in ALLOWED (or in OUTERMOST) of {Path(__file__).name}"


def test_layers_import_downwards_only():
    wrong = [
        f"{SOURCES[i.source].relative_to(PACKAGE.parent)}:{i.line} imports kernelfe.{i.target}"
        for i in every_import()
        if not allowed(i)
    ]
    assert not wrong, "imports against the arrows of the design:\n" + "\n".join(wrong)


def test_the_check_sees_a_wrong_import():
    """The test above must be able to fail: the forbidden arrows are recognised as forbidden."""
    for source, target in [
        ("linalg.cholesky", "kernels.base"),
        ("kernels.base", "gp.prior.term"),
        ("calculators.ase", "gp.regressor"),  # only the protocol
        ("simulate.langevin", "gp.regressor"),
        ("frames.frames", "cli.main"),
        ("functionals.base", ""),
        ("gp.regressor", "models"),
    ]:
        assert not allowed(Import(source, target, 1)), (source, target)
    for source, target in [
        ("gp.regressor", "calculators.ase"),
        ("simulate.langevin", "protocol"),
        ("cli.main", "gp.regressor"),
        ("linalg.cholesky", "errors"),
    ]:
        assert allowed(Import(source, target, 1)), (source, target)


def test_allowed_layers_form_no_cycle():
    graph = {name: {layer(t) for t in targets} for name, targets in ALLOWED.items()}
    assert find_cycle(graph) is None


def test_contributing_guide_has_the_same_table():
    """The table of layers in CONTRIBUTING.md repeats ``ALLOWED``; "common" stands for ``COMMON``."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    stated: dict[str, set[str]] = {}
    for layers, targets in re.findall(r"^\| (`.*?) \| (.*) \|$", text, re.MULTILINE):
        for name in set(re.findall(r"`(\w+)`", layers)) - OUTERMOST:
            stated[name] = set(re.findall(r"`(\w+)`", targets)) | (COMMON if "common" in targets else set())
    assert stated == ALLOWED


def test_modules_form_no_cycle():
    """No import cycle between modules, counting every import. Packages only gather names and are passed through."""
    graph: dict[str, set[str]] = {name: set() for name in SOURCES if SOURCES[name].name != "__init__.py"}
    for found in every_import():
        if found.source in graph and found.target in graph:
            graph[found.source].add(found.target)
    cycle = find_cycle(graph)
    assert cycle is None, "import cycle: " + " → ".join(cycle or [])


def test_a_package_gathers_names_only():
    """The test for cycles would miss code in an ``__init__`` other than imports."""
    allowed_nodes = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign, ast.AnnAssign)
    for name, path in SOURCES.items():
        if path.name == "__init__.py" and name not in ("", "functionals", "datasets", "testing", "analysis"):
            strange = [type(n).__name__ for n in tree(name).body if not isinstance(n, allowed_nodes)]
            assert not strange, f"{path}: {strange}"


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """One cycle of a directed graph as a list of nodes, or None."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for following in sorted(graph.get(node, ())):
            if cycle := walk(following, [*path, node]):
                return cycle
        done.add(node)
        return None

    return next((cycle for node in sorted(graph) if (cycle := walk(node, []))), None)


def test_find_cycle():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_every_folder_with_modules_is_a_package():
    """setuptools ships only folders with an ``__init__.py``: without one, a wheel would lack the folder."""
    folders = {path.parent for path in SOURCES.values()}
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").exists()) == []


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def unsafe_uses(tree: ast.AST) -> list[tuple[int, str]]:
    """Constructs that execute what a file contains: (line, what)."""
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [(node.lineno, f"import of {n}") for n in names if n.partition(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        called, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called in {"exec", "eval", "builtins.exec", "builtins.eval"}:
            found.append((node.lineno, f"{called}()"))
        if called == "torch.load" and keywords.get("weights_only") != "True":
            found.append((node.lineno, "torch.load() without weights_only=True"))
        if keywords.get("allow_pickle", "False") != "False":
            found.append((node.lineno, "allow_pickle"))
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_executes_what_a_file_contains(name):
    assert unsafe_uses(tree(name)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import cloudpickle as c",
        "exec(text)",
        "x = eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_unsafe_uses_are_recognised(code):
    assert unsafe_uses(ast.parse(code))


@pytest.mark.parametrize("code", ["model.eval()", "torch.load(p, weights_only=True)", "np.load(p, allow_pickle=False)"])
def test_safe_uses_are_not(code):
    assert unsafe_uses(ast.parse(code)) == []


#: What is asked of a fresh interpreter, in this order; one for all, since it takes seconds to load torch.
FRESH = """
import json, sys
heavy = lambda: sorted({"openmm", "pymbar", "MDAnalysis", "h5py", "matplotlib"} & set(sys.modules))
found = {}
import kernelfe
found["with kernelfe"] = heavy()
found["listed"] = sorted({"analysis", "training"} & set(dir(kernelfe)))
found["attributes"] = [kernelfe.training.minimize_relative_entropy.__name__, kernelfe.analysis.parity.__name__]
found["no such thing"] = hasattr(kernelfe, "no_such_thing")
import kernelfe.analysis.plots
found["with its figures"] = heavy()
print("found", json.dumps(found))
"""


@pytest.fixture(scope="module")
def fresh():
    """Standard output of a fresh interpreter, before what it found, and that."""
    run = subprocess.run([sys.executable, "-c", FRESH], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    before, _, found = run.stdout.rpartition("found ")
    return before, json.loads(found)


def test_every_public_subpackage_is_an_attribute(fresh):
    """Without an import of its own; what is not there stays an AttributeError."""
    _, found = fresh
    assert found["attributes"] == ["minimize_relative_entropy", "parity"]
    assert found["listed"] == ["analysis", "training"]
    assert found["no such thing"] is False


def test_import_is_light(fresh):
    """``import kernelfe`` loads no optional package and prints nothing, and figures load matplotlib when drawn."""
    before, found = fresh
    assert found["with kernelfe"] == [] and found["with its figures"] == []
    assert before == ""
