"""Who may import whom, read from the source: the layers of the design import downwards only."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kernelfe"

#: Small modules without physics that every layer may use.
COMMON = {"errors", "units", "io", "specs", "_hdf5", "_version"}

#: Layer → the layers it may import, beside COMMON. `models.protocol` names one module of a layer. A new module or
#: folder of the package needs a line here: that is the moment to think about where it belongs.
ALLOWED: dict[str, set[str]] = {
    "_version": set(),
    "errors": set(),
    "units": set(),
    "io": set(),
    "_hdf5": set(),
    "specs": set(),
    "topology": set(),
    "functionals": set(),
    "frames": {"functionals"},
    "descriptors": {"topology"},
    "kernels": {"functionals"},
    "linalg": set(),
    "models": {"linalg", "kernels", "descriptors", "functionals", "frames", "topology"},
    "statistics": {"frames", "functionals", "topology"},
    "allatom": {"frames", "statistics", "topology"},
    "simulate": {"models.protocol", "topology"},
    "calculators": {"models.protocol"},
    "training": {"models", "simulate", "statistics", "frames", "functionals", "descriptors", "topology"},
    "dynamics": set(),
    "selection": set(),
    "datasets": {"frames"},
    "analysis": {"frames", "functionals", "descriptors", "statistics", "models.uncertainty"},
}

#: Private modules beside a public one, and the layer they are part of.
PRIVATE = dict.fromkeys(
    ("_archive", "_arguments", "_atoms", "_checks", "_extxyz", "_files", "_joining", "_layouts", "_pairs", "_traj"),
    "frames",
)
PRIVATE["_axes"] = "topology"

#: The outermost layer: may import everything, is imported by nothing in the library.
OUTERMOST = {"cli", "_cli_files", "_cli_fit", "_cli_sample", "report", "testing", "quickstart", "__main__"}

#: Layers that must not even use the helpers of COMMON, except the errors.
STRICT: dict[str, set[str]] = {
    "_version": set(),
    "errors": set(),
    "units": {"errors"},
    "io": {"errors", "units"},
    "_hdf5": {"errors", "io"},
    "specs": {"errors"},
    "linalg": {"errors"},
}

#: (importing module, imported layer) for imports inside functions that the design declares.
LAZY_EXCEPTIONS = {("models", "calculators")}


@dataclass(frozen=True)
class Import:
    """One import statement of ours: ``source`` imports ``target`` (dotted, without ``kernelfe.``)."""

    source: str
    target: str
    line: int
    lazy: bool


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
    """Every import of ours in one module; those inside functions and for type checkers only are lazy."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.extend(Import(source, target, node.lineno, lazy) for target in resolve(source, node))
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        lazy = lazy or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
        for child in ast.iter_child_nodes(node):
            visit(child, lazy)

    visit(tree(source), False)
    return found


@cache
def every_import() -> list[Import]:
    """All imports of ours in the package."""
    return [found for name in SOURCES for found in imports_of(name)]


def layer(module: str) -> str:
    """The layer that a module belongs to."""
    first = module.partition(".")[0]
    return PRIVATE.get(first, first)


def allowed(found: Import) -> bool:
    source, target = layer(found.source), layer(found.target)
    if source == target or source in OUTERMOST:
        return True
    if target in OUTERMOST or found.target == "":  # nothing imports the root of the package, which imports everything
        return False
    if source == "":
        return True
    if found.lazy and (source, target) in LAZY_EXCEPTIONS:
        return True
    permitted = ALLOWED[source] | STRICT.get(source, COMMON)
    return target in permitted or any(found.target == p or found.target.startswith(p + ".") for p in permitted)


def test_every_module_has_a_place():
    known = set(ALLOWED) | OUTERMOST | {""}
    strangers = sorted({layer(name) for name in SOURCES} - known)
    assert not strangers, f"give {strangers} a line in ALLOWED (or in OUTERMOST) of {Path(__file__).name}"


def test_layers_import_downwards_only():
    wrong = [
        f"{SOURCES[i.source].relative_to(PACKAGE.parent)}:{i.line} imports kernelfe.{i.target}"
        for i in every_import()
        if layer(i.source) in {*ALLOWED, *OUTERMOST, ""} and not allowed(i)
    ]
    assert not wrong, "imports against the arrows of the design:\n" + "\n".join(wrong)


def test_the_check_sees_a_wrong_import():
    """The test above must be able to fail: the forbidden arrows are recognised as forbidden."""
    for source, target, lazy in [
        ("linalg.cholesky", "kernels.term", False),
        ("kernels.term", "models", True),
        ("models.regressor", "calculators.ase", False),  # declared only as a lazy import
        ("simulate.langevin", "models.regressor", False),  # only the protocol
        ("frames", "cli", True),
        ("functionals.base", "", False),
    ]:
        assert not allowed(Import(source, target, 1, lazy)), (source, target)
    for source, target, lazy in [
        ("models.regressor", "calculators.ase", True),
        ("simulate.langevin", "models.protocol", False),
        ("cli", "models.regressor", False),
        ("linalg.cholesky", "errors", False),
    ]:
        assert allowed(Import(source, target, 1, lazy)), (source, target)


def test_allowed_layers_form_no_cycle():
    graph = {name: {layer(t) for t in targets} for name, targets in ALLOWED.items()}
    assert find_cycle(graph) is None


def test_modules_form_no_cycle():
    """No import cycle between modules at import time, inside a layer or across."""
    graph: dict[str, set[str]] = {name: set() for name in SOURCES}
    for found in every_import():
        if not found.lazy and found.target in graph:
            # A package's __init__ gathers its modules; what they import from it by name is a cycle, and is found.
            graph[found.source].add(found.target)
    cycle = find_cycle(graph)
    assert cycle is None, "import cycle: " + " → ".join(cycle or [])


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
