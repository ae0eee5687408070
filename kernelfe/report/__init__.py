"""Reports: one HTML file each, with its figures inside and nothing loaded from elsewhere."""

from __future__ import annotations

from .comparison import comparison_page
from .html import Page, number, png
from .labelling import label_page
from .liquid import liquid_section
from .model import model_page
from .samples import samples_section
from .viewer import viewer_input, write_viewer

__all__ = [
    "Page",
    "comparison_page",
    "label_page",
    "liquid_section",
    "model_page",
    "number",
    "png",
    "samples_section",
    "viewer_input",
    "write_viewer",
]
