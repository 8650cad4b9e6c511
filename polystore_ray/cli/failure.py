"""Errors of the command line, each reported in one line."""

from __future__ import annotations

import click

from polystore_ray.cli.escaping import shown

__all__ = ["EXIT_CODES", "Failed", "one_line"]

EXIT_CODES = {
    0: "success",
    1: "the command failed",
    2: "the arguments are invalid",
    130: "interrupted",
}


class Failed(click.ClickException):
    """Signal that a command failed; its message is the one line on standard error."""

    exit_code = 1


def one_line(message: object) -> str:
    """Return a message as one line that is safe to print to a terminal."""
    return shown(" ".join(str(message).split()))
