"""Failures of the command line: the thing asked for could not be done, said in one line."""

from __future__ import annotations

import click

from polystore_ray.cli.escaping import shown

__all__ = ["EXIT_CODES", "Failed", "one_line"]

EXIT_CODES = {
    0: "done",
    1: "the thing asked for failed",
    2: "the command was not understood",
    130: "interrupted",
}


class Failed(click.ClickException):
    """Signal that the thing asked for could not be done; its message becomes the one line."""

    exit_code = 1


def one_line(message: object) -> str:
    """Return a message as one line that a terminal shows as it is meant."""
    return shown(" ".join(str(message).split()))
