"""The examples of the documentation run: every ``python`` block of README.md and docs/, in order, page by page.

A block that cannot run is preceded by the comment line ``<!-- not executed: reason -->``; the reason is compulsory.
Of a ``bash`` block after the line ``<!-- executed -->``, the lines that begin with ``kernelfe`` run as well.
"""

from __future__ import annotations

import logging
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernelfe.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[^\n`]*)$")
EXECUTED = "<!-- executed -->"
NOT_EXECUTED = re.compile(r"<!-- not executed: (?P<reason>\S.*) -->")

#: Allowed languages of a fence. `python` runs; MyST directives and other languages do not hold Python.
OTHER_LANGUAGES = {"bash", "text", "json", "toml", "bibtex"}
DIRECTIVES = re.compile(
    r"\{(toctree|math|note|warning|tip|include|eval-rst|figure|image|admonition|glossary|list-table)\}"
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, line number, why it is not to run, and whether its commands are to run."""

    language: str
    text: str
    line: int
    reason: str | None
    commands: bool = False


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown page, in order."""
    found: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        opening = FENCE.match(lines[at])
        if not opening:
            at += 1
            continue
        start, closing = at + 1, opening["indent"] + opening["ticks"]
        at = start
        while at < len(lines) and lines[at].rstrip() != closing:
            at += 1
        body = "\n".join(line.removeprefix(opening["indent"]) for line in lines[start:at])
        before = next((line for line in reversed(lines[: start - 1]) if line.strip()), "")
        mark = NOT_EXECUTED.fullmatch(before.strip())
        found.append(
            Block(
                opening["language"].strip(),
                body,
                start + 1,
                mark["reason"] if mark else None,
                before.strip() == EXECUTED,
            )
        )
        at += 1
    return found


@pytest.fixture
def log_level():
    """Restore the level of the logger, which an example may set."""
    logger = logging.getLogger("kernelfe")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("log_level")
@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_run(page, tmp_path, monkeypatch):
    """Blocks of one page share a namespace, as a reader's session would; files go to an empty folder."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "bash" and block.commands:
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.startswith("kernelfe "):
                    main(shlex.split(line, comments=True)[1:], prog_name="kernelfe", standalone_mode=False)
            continue
        if block.language != "python":
            assert block.language in OTHER_LANGUAGES or DIRECTIVES.match(block.language), (
                f"{page.name}:{block.line}: fence {block.language!r}; write `python` so that the example is executed, "
                f"or one of {sorted(OTHER_LANGUAGES)}"
            )
            continue
        if block.reason is None:
            # Line numbers of the page in the traceback.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            exec(code, namespace)
        else:
            compile(block.text, str(page), "exec")


def test_readme_and_docs_are_there():
    missing = [str(page.relative_to(ROOT)) for page in PAGES if not page.exists()]
    assert not missing
    assert len(PAGES) > 10


def test_blocks_are_found():
    page = "a\n```python\nx = 1\n```\n\n<!-- not executed: needs OpenMM -->\n```python\ny\n```\n"
    page += "- item\n  ```bash\n  ls\n  ```\n"
    assert blocks(page) == [
        Block("python", "x = 1", 3, None),
        Block("python", "y", 8, "needs OpenMM"),
        Block("bash", "ls", 12, None),
    ]


def test_a_reason_is_compulsory():
    assert blocks("<!-- executed -->\n```bash\nkernelfe fit x\n```\n")[0].commands
    assert blocks("<!-- not executed: -->\n```python\ny\n```\n")[0].reason is None


@pytest.mark.parametrize("script", sorted((ROOT / "docs").glob("[gt]*/*.py")), ids=lambda p: p.stem)
def test_scripts_of_the_gallery_and_the_tutorials(script):
    """They are executed when the documentation is built, not here again; each has a title and ends in a picture."""
    text = script.read_text(encoding="utf-8")
    compile(text, str(script), "exec")
    title, underline = text.splitlines()[1:3]
    assert set(underline) == {"="} and len(underline) >= len(title)
    assert "plt.show()" in text
    assert re.search(rf"\b{script.stem}\b", (ROOT / "docs" / "conf.py").read_text()) is None  # none is exempted


#: A path of the repository in backticks, with the name of a class or function after a colon if one is meant.
PATH = re.compile(r"`((?:kernelfe|tests|benchmarks|docs|data)/[\w./-]*)(?::(\w+))?`")


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_of_the_repository_exist(page):
    """Files, and classes and functions in them, that a page names exist."""
    for path, name in PATH.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
        if name:
            source = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^(class|def) {name}\b", source, re.MULTILINE), f"{page.name} names {path}:{name}"


def test_commands_name_existing_scripts():
    for page in PAGES:
        for script in re.findall(r"python (\w+/[\w./]+\.py)", page.read_text(encoding="utf-8")):
            assert (ROOT / script).exists(), f"{page.name} runs {script}"
