from __future__ import annotations

import re
from html.parser import HTMLParser

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


#: The body that release 0.2, which joined strings, made of the page below; the picture is left out.
BODY_OF_0_2 = """<body>
<h1>T &lt;&amp;&gt; &#x27;q&#x27; &quot;d&quot;</h1>
<p class="lead">lead &amp; &#x27;x&#x27;</p>
<p>plain</p>
<h2>H&lt;1&gt;</h2>
<ul><li>a</li><li>b &amp; c</li></ul>
<ul></ul>
<div class="scroll"><table><caption>cap &quot;q&quot;</caption><thead><tr><th></th><th>x &amp; y</th></tr></thead>\
<tbody><tr><td>1</td><td>2</td></tr><tr class="strong"><td>3.5</td><td>&lt;b&gt;</td></tr></tbody></table></div>
<div class="scroll"><table><thead><tr><th>h</th></tr></thead><tbody></tbody></table></div>
<figure><img alt="fig&#x27;s cap" src="data:image/png;base64,"><figcaption><b>Figure 1.</b> fig&#x27;s cap</figcaption>\
</figure>
<h2>end</h2>
</body></html>
"""


class Events(HTMLParser):
    """What a browser builds a page from: tags with their attributes, and texts."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, *attrs))

    def handle_endtag(self, tag):
        self.found.append(("end", tag))

    def handle_data(self, data):
        self.found.append(("text", data))


def test_the_document_is_that_of_release_0_2():
    page = Page("T <&> 'q' \"d\"")
    page.paragraph("lead & 'x'", "lead")
    page.paragraph("plain")
    page.heading("H<1>")
    page.bullets(["a", "b & c"])
    page.bullets([])
    page.table(["", "x & y"], [["1", 2], [3.5, "<b>"]], 'cap "q"', [1])
    page.table(["h"], [])
    page.figure(Figure(figsize=(1, 1)), "fig's cap")
    page.heading("end")
    head, body = page.render().split("<body>")
    body = re.sub('base64,[^"]*', "base64,", "<body>" + body)
    assert Events(body).found == Events(BODY_OF_0_2).found
    assert head.startswith('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">')
    assert "p.warning { background: #fff4e0" in head and "<title>T &lt;" in head
