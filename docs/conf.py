"""Sphinx configuration. Build: ``python -m sphinx -W -b html docs build/docs``."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "kernelfe"
author = "The kernelfe developers"
copyright = "The kernelfe developers, MIT licence"
release = version = installed_version("kernelfe")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "plain_docstrings",  # in docs/_ext
]
exclude_patterns = ["_ext"]
html_theme = "furo"
html_title = f"kernelfe {version}"

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "fieldlist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
