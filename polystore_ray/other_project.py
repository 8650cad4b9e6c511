"""Notice another project of the name ``polystore``, whose files mix with ours or hide them.

PyPI has a project named ``polystore``, which installs a package of the same name as this one.
This module imports nothing of ``polystore``, since that may be the other project's.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from importlib.util import find_spec

__all__ = ["CURE", "check", "found"]

CURE = (
    "run `pip uninstall polystore polystore-ray`, and install polystore-ray again; keep the other "
    "project in an environment of its own"
)
_OURS = "compat.py"  # a module that the other project lacks


def found() -> str:
    """Return a sentence about the other project where it is installed, else an empty text."""
    spec = find_spec("polystore")
    where = os.path.dirname(spec.origin) if spec is not None and spec.origin else None
    if where is not None and not os.path.isfile(os.path.join(where, _OURS)):
        return f"`import polystore` finds another project of that name, in {where}"
    version = _installed_version()
    if version is None:
        return ""
    return (
        f"the project polystore {version} of PyPI is installed too, and its files may replace "
        f"those of polystore-ray"
    )


def _installed_version() -> str | None:
    """Return the version of the other project by the name of its metadata directory."""
    for entry in sys.path:  # importlib.metadata takes twenty times as long to import
        with suppress(OSError):
            for name in os.listdir(entry or "."):
                start, end = os.path.splitext(name)
                if end in (".dist-info", ".egg-info") and start.startswith("polystore-"):
                    return start.split("-")[1]
    return None


def check() -> None:
    """Warn where the other project is installed.

    Raises
    ------
    ImportError
        If ``import polystore`` finds the other project, or a mixture of both.
    """
    problem = found()
    try:
        from polystore import Hostable  # noqa: F401 - the other project lacks this name
    except (ImportError, AttributeError, SyntaxError) as error:
        if problem:
            raise ImportError(f"{problem}: {CURE}", name="polystore") from error
        raise
    if problem:
        warnings.warn(f"{problem}: {CURE}", UserWarning, stacklevel=3)
