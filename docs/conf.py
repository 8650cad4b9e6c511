"""Sphinx builds the documentation and runs its examples."""

import polystore

project = "polystore"
author = "the polystore developers"
copyright = "2026, the polystore developers"  # noqa: A001 - Sphinx's name
version = release = polystore.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "myst_nb", "numpydoc", "sphinx_click"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "polystore"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = True
numpydoc_show_class_members = False
nitpicky = False
nb_execution_mode = "off"  # a test sees to it that the results in it are right
trim_doctest_flags = True
doctest_global_setup = """
import os
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
"""
# The docstrings of modules run in the tests; here only the pages do.
doctest_test_doctest_blocks = ""
