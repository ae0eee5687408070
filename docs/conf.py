"""Sphinx configuration. Build: ``python -m sphinx -W -b html docs build/docs``."""

from __future__ import annotations

import logging
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
    "sphinx_gallery.gen_gallery",
    "plain_docstrings",  # in docs/_ext
]
# tutorials/ and gallery/ hold the scripts; their pages, with output and pictures, are written to generated/
exclude_patterns = ["_ext", "tutorials", "gallery"]
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


def picture_style(gallery_conf, name):
    """Set one style for all pictures, similar to the figures of ``kernelfe.analysis``."""
    import matplotlib

    matplotlib.rcdefaults()
    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.labelsize": 9,
            "axes.titlesize": 10,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "savefig.dpi": 160,
        }
    )


def one_thread(gallery_conf, name):
    """Use one thread: for small problems on a busy machine, more threads are slower."""
    import torch

    torch.set_num_threads(1)
    logging.getLogger("kernelfe").setLevel(logging.WARNING)  # otherwise Sphinx prints the log of the fits


sphinx_gallery_conf = {
    "examples_dirs": ["tutorials", "gallery"],
    "gallery_dirs": ["generated/tutorials", "generated/gallery"],
    "filename_pattern": r"\.py$",  # all are executed
    "abort_on_example_error": True,
    "only_warn_on_example_error": False,
    "within_subsection_order": "FileNameSortKey",
    "reset_modules": (picture_style, one_thread),
    "show_signature": False,
    "min_reported_time": 1,
    "remove_config_comments": True,
    "download_all_examples": False,
    "image_srcset": [],
}
# functions in the configuration cannot be pickled, which only costs a full build each time
suppress_warnings = ["config.cache"]
