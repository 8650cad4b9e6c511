"""Programs of the system that the fault kit needs, and what it says when one is missing."""

from __future__ import annotations

import os
import shutil

__all__ = ["WITHOUT", "MissingProgramError", "goes_without", "require"]

WITHOUT = "POLYSTORE_FAULTS_WITHOUT"
"""The environment variable that names programs to do without, separated by commas."""


class MissingProgramError(RuntimeError):
    """Signal that a program of the system is missing; the message names its package."""


def goes_without(program: str) -> bool:
    """Return whether the user has asked to leave out what needs a program."""
    return program in os.environ.get(WITHOUT, "").split(",")


def require(program: str, package: str, what: str) -> str:
    """Return the path of a program.

    Parameters
    ----------
    program, package : str
        Its name, and the Debian package that has it.
    what : str
        What needs it, for the message.

    Raises
    ------
    MissingProgramError
        If it is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise MissingProgramError(
            f"{what} needs {program}, which is not installed: apt-get install {package}; "
            f"{WITHOUT}={program} leaves it out"
        )
    return found
