"""A page of headings, paragraphs, tables and figures, written to one self-contained file."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..files.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1b1f24; background: #fff;
       max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; padding-top: .6rem; border-top: 1px solid #d8dee4; }
p.lead { font-size: 1.12rem; margin-top: 0; }
p.note { color: #57606a; font-size: .92rem; }
p.warning { background: #fff4e0; border-left: 4px solid #e69f00; padding: .55rem .9rem; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .92rem; color: #424a53; margin-top: .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #424a53; padding-bottom: .3rem; }
th { text-align: left; border-bottom: 2px solid #8c959f; padding: .3rem .8rem .3rem 0; vertical-align: bottom; }
td { border-bottom: 1px solid #e6eaee; padding: .3rem .8rem .3rem 0; white-space: nowrap; }
tr.strong td { font-weight: 600; }
ul { padding-left: 1.2rem; }
li { margin: .3rem 0; }
"""


class Page:
    """Collects the parts of a page in order; every text given is escaped.

    Parameters
    ----------
    title
        Of the document and its first heading.
    """

    def __init__(self, title: str):
        self.title = title
        self._parts: list[str] = [f"<h1>{html.escape(title)}</h1>"]
        self._figures = 0

    def heading(self, text: str) -> None:
        """A section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str, kind: str = "") -> None:
        """A paragraph; kind "lead", "note" or "warning" changes its looks."""
        self._parts.append(
            f'<p class="{html.escape(kind)}">{html.escape(text)}</p>' if kind else f"<p>{html.escape(text)}</p>"
        )

    def bullets(self, items: Sequence[str]) -> None:
        """A list."""
        self._parts.append("<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>")

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", strong: Sequence[int] = ()
    ) -> None:
        """A table; ``strong`` are the numbers of rows to stress."""
        head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header)
        body = "".join(
            ('<tr class="strong">' if k in strong else "<tr>")
            + "".join(f"<td>{html.escape(str(c))}</td>" for c in row)
            + "</tr>"
            for k, row in enumerate(rows)
        )
        above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        self._parts.append(
            f'<div class="scroll"><table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def figure(self, figure: Figure, caption: str) -> None:
        """A matplotlib figure, numbered, with its caption."""
        self._figures += 1
        data = base64.b64encode(png(figure)).decode("ascii")
        text = html.escape(caption)
        self._parts.append(
            f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
            f"<figcaption><b>Figure {self._figures}.</b> {text}</figcaption></figure>"
        )

    def render(self) -> str:
        """The document."""
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style></head>\n<body>\n"
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the document, atomically."""
        with atomic_write(path) as aside:
            aside.write_text(self.render(), encoding="utf-8")


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
