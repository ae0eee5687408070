"""Convert docstrings written as plain text to reStructuredText.

Docstrings of kernelfe have formulas as indented lines and use ``|x|`` and ``terms_`` as on paper. In
reStructuredText these are block quotes, substitutions and hyperlinks. Therefore, before napoleon reads a docstring,

- an indented block of the description (before the first numpy section) becomes a literal block, line breaks kept;
- bars, trailing underscores and lone asterisks (as in ``(n, *shape)``) outside of backticks are escaped.

Methods that scikit-learn adds to every estimator for metadata routing are omitted: they link to its own manual.
"""

from __future__ import annotations

import re

SECTION = re.compile(r"^(-{3,}|={3,})\s*$")
LITERAL = re.compile(r"(``.+?``|:[\w:]+:`.+?`|`.+?`)")


def escape(line: str) -> str:
    """Escape ``|``, the underscore at the end of a word and a lone ``*``, outside of backticks."""
    parts = LITERAL.split(line)
    for k in range(0, len(parts), 2):
        parts[k] = re.sub(r"(?<!\\)\|", r"\\|", parts[k])
        parts[k] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", parts[k])
        if not line.lstrip().startswith("*"):  # the parameters *args and **kwargs are napoleon's
            parts[k] = re.sub(r"(?<![*\\])\*(?=\w)(?![^*]*\*)", r"\\*", parts[k])
    return "".join(parts)


def convert(lines: list[str]) -> list[str]:
    """The docstring with formulas as literal blocks and special characters escaped."""
    first_section = next((k - 1 for k, line in enumerate(lines) if SECTION.match(line)), len(lines))
    out: list[str] = []
    literal = False
    for k, line in enumerate(lines):
        indented = line.startswith("    ") and k < first_section
        if indented and not literal and k and not lines[k - 1].strip():
            literal = True
            out += ["::", ""]
        elif line.strip() and not indented:
            literal = False
        out.append(line if literal or line.lstrip().startswith((".. ", ">>>")) else escape(line))
    return out


def process(app, what, name, obj, options, lines):
    """Handler of ``autodoc-process-docstring``."""
    lines[:] = convert(lines)


def skip(app, what, name, obj, skipping, options):
    """Handler of ``autodoc-skip-member``."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app):
    """Register the handlers; docstrings ahead of napoleon's, whose priority is 500."""
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}
