"""A page of headings, paragraphs, tables and figures, written to one self-contained file.

The markup is in ``templates/``; it escapes all text.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..files.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates"), encoding="utf-8"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


class Page:
    """Parts of a page in order; all text is escaped.

    Parameters
    ----------
    title
        Of the document and its first heading.
    """

    def __init__(self, title: str):
        self.title = title
        self._parts: list[dict[str, Any]] = []
        self._figures = 0

    def heading(self, text: str) -> None:
        """A section."""
        self._add("heading", text=text)

    def paragraph(self, text: str, kind: str = "") -> None:
        """A paragraph; kind "lead", "note" or "warning" changes its looks."""
        self._add("paragraph", text=text, kind=kind)

    def bullets(self, items: Sequence[str]) -> None:
        """A list."""
        self._add("bullets", items=list(items))

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", strong: Sequence[int] = ()
    ) -> None:
        """A table; ``strong`` are the numbers of rows to stress."""
        self._add("table", header=list(header), rows=list(rows), caption=caption, strong=set(strong))

    def figure(self, figure: Figure, caption: str) -> None:
        """A matplotlib figure, numbered, with its caption."""
        self._figures += 1
        data = base64.b64encode(png(figure)).decode("ascii")
        self._add("figure", number=self._figures, data=data, caption=caption)

    def render(self) -> str:
        """The document."""
        return _TEMPLATES.get_template("page.html").render(title=self.title, parts=self._parts)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the document, atomically."""
        with atomic_write(path) as aside:
            aside.write_text(self.render(), encoding="utf-8")

    def _add(self, what: str, **content: Any) -> None:
        self._parts.append({"what": what, **content})


def png(figure: Figure, dpi: int = 130) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def number(value: float | None, digits: int = 3) -> str:
    """A number for readers: significant digits, thin-spaced thousands, a dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0.0:
        return "0"
    if abs(value) >= 10 ** max(digits, 4):
        return f"{value:,.0f}".replace(",", "\u2009")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}" if decimals <= 6 else f"{value:.{digits - 1}e}"
