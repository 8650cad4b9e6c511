"""Programs of the operating system that the fault kit needs."""

from __future__ import annotations

import os
import shutil

__all__ = ["WITHOUT", "MissingProgramError", "goes_without", "require"]

WITHOUT = "POLYSTORE_FAULTS_WITHOUT"
"""The environment variable that lists programs to do without, separated by commas."""


class MissingProgramError(RuntimeError):
    """Signal that a program of the system is missing; the message names its package."""


def goes_without(program: str) -> bool:
    """Return whether the user asked to skip the tests that need a program."""
    return program in os.environ.get(WITHOUT, "").split(",")


def require(program: str, package: str, what: str) -> str:
    """Return the path of a program.

    - `program`, `package`: the name of the program, and the Debian package that contains it
    - `what`: the feature that needs the program, for the message

    Raises `MissingProgramError` if the program is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise MissingProgramError(
            f"{what} needs {program}, which is not installed: apt-get install {package}; "
            f"to skip it, set {WITHOUT}={program}"
        )
    return found
