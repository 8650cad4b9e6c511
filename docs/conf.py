"""Sphinx builds the documentation and runs its examples."""

import hashlib
import logging
import os
from pathlib import Path

import polystore

project = "polystore"
author = "the polystore developers"
copyright = "2026, the polystore developers"  # noqa: A001 - Sphinx's name
version = release = polystore.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "myst_nb", "numpydoc", "sphinx_click"]
exclude_patterns = ["_build"]
default_role = "py:obj"
html_theme = "furo"
html_title = "polystore"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_js_files = ["pages.js"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = True
numpydoc_show_class_members = False
nitpicky = False

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def _digest_of_sources() -> str:
    """Return what changes when the code of the packages does."""
    digest = hashlib.sha256()
    for package in ("polystore", "polystore_ray"):
        for path in sorted((Path(__file__).parents[1] / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# Notebooks run once, and again when they or the packages change.
nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).parent / "_build/notebooks" / _digest_of_sources())
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_output_stderr = "remove"  # of Ray's processes
logging.getLogger("traitlets").setLevel(logging.ERROR)  # which names each notebook
# The docstrings of modules run in the tests; here only the pages do.
trim_doctest_flags = True
doctest_test_doctest_blocks = ""
