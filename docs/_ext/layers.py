"""Draw the layers of kernelfe and their imports, read from the source, as docs/_static/layers.svg.

Run ``python docs/_ext/layers.py`` after a change of imports between layers. A layer is a folder of the package or a
module at its root. Every import counts, including those inside functions and those for type checkers. The element
``<desc>`` of the picture lists all arrows; ``tests/test_layers.py`` compares this list with the source. To keep the
picture readable, it shows only arrows that do not follow from others, and leaves out those to the common layers.
"""

from __future__ import annotations

import ast
import re
from itertools import combinations, pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "_static" / "layers.svg"

#: Layers that almost every other layer imports: one box at the bottom, without arrows.
COMMON = ("runtime", "files", "specs", "units", "errors")
#: Layers that may import everything and that no other layer imports: one box at the top, without arrows.
OUTERMOST = ("cli", "report", "quickstart", "testing")
#: Not drawn: the package itself and the modules that forward names of 0.2.
LEFT_OUT = {"", "__init__", "__main__", "io", "models", "topology"}

CAPTIONS = {
    "allatom": "trajectories, runs",
    "analysis": "surfaces, basins",
    "calculators": "ASE",
    "compiled": "loops over pairs",
    "datasets": "bundled data",
    "deploy": "LAMMPS, GROMACS",
    "descriptors": "R → environments z",
    "frames": "data and file formats",
    "functionals": "observables",
    "geometry": "bonds, angles, cells",
    "gp": "Gaussian process",
    "kernels": "κ, thermal parts",
    "linalg": "algebra only",
    "protocol": "interface of a model",
    "simulate": "Langevin, exchange",
    "statistics": "labels from runs",
    "training": "active, rel. entropy",
}

#: Size of a box, width of a gap for an arrow, and distances between boxes and between rows, pixels.
WIDTH, HEIGHT, NARROW, GAP, RISE = 148, 44, 4, 26, 96


def layer_of(path: Path, package: Path) -> str:
    """Name of the layer of a source file."""
    first = path.relative_to(package).parts[0]
    return first.removesuffix(".py")


def imported_layers(path: Path, package: Path, layers: set[str]) -> set[str]:
    """Layers that one source file imports."""
    here = list(path.relative_to(package).with_suffix("").parts)[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[list[str]] = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[1:] for alias in node.names if alias.name.split(".")[0] == package.name]
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            if node.level:
                base = here[: len(here) - node.level + 1] + module
            elif module[:1] == [package.name]:
                base = module[1:]
            else:
                continue
            names = [base or [alias.name] for alias in node.names]
        found |= {name[0] for name in names if name and name[0] in layers}
    return found


def arrows(package: Path = ROOT / "kernelfe") -> list[tuple[str, str]]:
    """All imports between layers as sorted pairs (importing layer, imported layer)."""
    files = [path for path in sorted(package.rglob("*.py")) if layer_of(path, package) not in LEFT_OUT]
    layers = {layer_of(path, package) for path in files}
    pairs = {(layer_of(path, package), target) for path in files for target in imported_layers(path, package, layers)}
    return sorted((source, target) for source, target in pairs if source != target)


def listed(svg: str) -> list[tuple[str, str]]:
    """Arrows listed in the ``<desc>`` of a picture."""
    description = re.search(r"<desc>(.*?)</desc>", svg, re.DOTALL)
    lines = description[1].strip().splitlines() if description else []
    return [(source, target) for source, target in (line.split(" imports ") for line in lines)]


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Transitive reduction: without arrows that follow from others."""

    def reachable(node: str) -> set[str]:
        return set().union(*({target} | reachable(target) for target in graph[node]))

    return {
        node: {t for t in targets if not any(t in reachable(o) for o in targets - {t})}
        for node, targets in graph.items()
    }


def rows_of(graph: dict[str, set[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Layers in rows, the top row first, and the arrows as paths through the rows.

    Each layer is one row below the lowest layer that imports it. An arrow across several rows passes a narrow gap in
    each row between, named ``"source>target"``.
    """

    def depth(node: str) -> int:
        return max((1 + depth(source) for source in graph if node in graph[source]), default=0)

    depths = {node: depth(node) for node in sorted(graph)}
    rows: list[list[str]] = [[n for n in depths if depths[n] == k] for k in range(max(depths.values()) + 1)]
    paths = []
    for source in sorted(graph):
        for target in sorted(graph[source]):
            between = range(depths[source] + 1, depths[target])
            for k in between:
                rows[k].append(f"{source}>{target}")
            paths.append([source, *(f"{source}>{target}" for _ in between), target])
    links = [(depths[path[0]] + k, *pair) for path in paths for k, pair in enumerate(pairwise(path))]
    return untangled(rows, links), paths


def centres(row: list[str]) -> list[float]:
    """Places of the middles of the boxes and gaps of one row, relative to the middle of the row."""
    widths = [NARROW if ">" in node else WIDTH for node in row]
    left = -(sum(widths) + GAP * (len(row) - 1)) / 2
    return [left + sum(widths[:k]) + GAP * k + widths[k] / 2 for k in range(len(row))]


def untangled(rows: list[list[str]], links: list[tuple[int, str, str]]) -> list[list[str]]:
    """Order the rows for few crossings and short arrows: exchange two places as long as this helps."""

    def cost() -> float:
        places = [dict(zip(row, centres(row), strict=True)) for row in rows]
        lines = [(k, places[k][a], places[k + 1][b]) for k, a, b in links]
        crossed = sum(k == j and (a - c) * (b - d) < 0 for (k, a, b), (j, c, d) in combinations(lines, 2))
        return 200.0 * crossed + sum(abs(a - b) for _, a, b in lines)

    best, before = cost(), float("inf")
    while best < before:
        before = best
        for row in rows:
            for i, j in combinations(range(len(row)), 2):
                row[i], row[j] = row[j], row[i]
                if cost() < best - 1e-9:
                    best = cost()
                else:
                    row[i], row[j] = row[j], row[i]
    return rows


def box(x: float, y: float, width: float, title: str, caption: str, colour: str) -> str:
    """SVG of one box with a title and a caption."""
    middle = x + width / 2
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{HEIGHT}" rx="6" fill="{colour}" stroke="#444"/>\n'
        f'<text x="{middle:.0f}" y="{y + 18:.0f}" font-weight="bold">{title}</text>\n'
        f'<text x="{middle:.0f}" y="{y + 35:.0f}" font-size="12">{caption}</text>\n'
    )


def picture(pairs: list[tuple[str, str]]) -> str:
    """The SVG text of the picture."""
    hidden = {*COMMON, *OUTERMOST}
    nodes = {layer for pair in pairs for layer in pair} - hidden
    graph = {node: {t for s, t in pairs if s == node and t not in hidden} for node in sorted(nodes)}
    rows, paths = rows_of(reduced(graph))
    total = 2 * max(centres(row)[-1] for row in rows) + WIDTH
    height = 90 + len(rows) * RISE + HEIGHT + 20
    corner = [
        {node: (20 + total / 2 + x, 90 + k * RISE) for node, x in zip(row, centres(row), strict=True)}
        for k, row in enumerate(rows)
    ]
    body = []
    for path in paths:
        first = next(k for k, row in enumerate(rows) if path[0] in row)
        x, y = corner[first][path[0]]
        curve = f"M{x:.0f},{y + HEIGHT:.0f}"
        for k, (before, node) in enumerate(pairwise(path), first + 1):
            (x1, y1), (x2, y2) = corner[k - 1][before], corner[k][node]
            middle = (y1 + HEIGHT + y2) / 2
            curve += f" C{x1:.0f},{middle:.0f} {x2:.0f},{middle:.0f} {x2:.0f},{y2 - 3 * (node == path[-1]):.0f}"
            curve += "" if node == path[-1] else f" V{y2 + HEIGHT:.0f}"
        body.append(f'<path d="{curve}"/>\n')
    body = [f'<g fill="none" stroke="#667" stroke-width="1.3" marker-end="url(#tip)">\n{"".join(body)}</g>\n']
    body.append(box(20, 16, total, ", ".join(OUTERMOST), "import everything below", "#f3e3c8"))
    for row in corner:
        boxes = [(x - WIDTH / 2, y, node) for node, (x, y) in row.items() if ">" not in node]
        body += [box(x, y, WIDTH, node, CAPTIONS.get(node, ""), "#dbe8f5") for x, y, node in boxes]
    body.append(
        box(20, height - HEIGHT - 20, total, ", ".join(COMMON), "common: imported by almost all layers", "#e4e4e4")
    )
    description = "\n".join(f"{source} imports {target}" for source, target in pairs)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total + 40:.0f} {height:.0f}" '
        'font-family="sans-serif" font-size="14" text-anchor="middle">\n'
        f"<title>Layers of kernelfe and their imports</title>\n<desc>\n{description}\n</desc>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#667"/></marker></defs>\n'
        f'<rect width="{total + 40:.0f}" height="{height:.0f}" fill="white"/>\n{"".join(body)}</svg>\n'
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(arrows()), encoding="utf-8")
