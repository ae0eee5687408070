from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from kernelfe.report import Page, number


def test_text_is_escaped_everywhere(tmp_path):
    page = Page("<b>title</b>")
    evil = '<script>alert(1)</script> & "quotes"'
    page.heading(evil)
    page.paragraph(evil, "lead")
    page.bullets([evil])
    page.table([evil], [[evil]], evil, strong=[0])
    page.figure(Figure(figsize=(1, 1)), evil)
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text and "<b>title" not in text
    assert text.count("&lt;script&gt;") == 8  # the caption of a figure is its alternative text as well
    assert '<tr class="strong">' in text and "Figure 1." in text


@pytest.mark.parametrize(
    "value, shown",
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0"),
        (0.012345, "0.0123"),
        (12.345, "12.3"),
        (123.6, "124"),
        (31234.5, "31\u2009234"),
        (-0.5, "-0.500"),
        (1.23e-9, "1.23e-09"),
    ],
)
def test_numbers_for_readers(value, shown):
    assert number(value) == shown
