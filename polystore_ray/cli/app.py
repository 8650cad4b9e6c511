"""The command group ``polystore``: the options of all commands, and the exit codes."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NoReturn

import click

import polystore
from polystore import StorageError
from polystore_ray.cli.failure import one_line
from polystore_ray.cli.session import shared_options

__all__ = ["main", "polystore_command"]


class OneLineGroup(click.Group):
    """A command group that reports every error in one line on standard error.

    It exits with 0 on success, 1 if the command failed, 2 if its arguments are invalid, and 130 if
    it was interrupted.
    """

    def main(self, *arguments: Any, **settings: Any) -> NoReturn:
        """Run the command, and exit."""
        settings["standalone_mode"] = False
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # not every character is in every encoding
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*arguments, **settings)
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            code = _report(error.format_message(), error.exit_code)
        except StorageError as error:
            code = _report(error, 1)
        except (click.Abort, KeyboardInterrupt):
            code = _report("interrupted", 130)
        except BrokenPipeError:
            # The reader closed the pipe, as `head` does. Python would report it again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        sys.exit(code if isinstance(code, int) else 0)


def _report(message: object, code: int) -> int:
    click.echo(f"polystore: {one_line(message)}", err=True)
    return code


@click.group(
    "polystore",
    cls=OneLineGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(polystore.__version__, message="%(prog)s %(version)s")
@shared_options
@click.pass_context
def polystore_command(context: click.Context, /, **chosen: Any) -> None:
    """Inspect and maintain a store on a Ray cluster.

    A PLACE is BACKEND:PATH, such as memory:/plate1/A01.npy or disk:results/a.tif. The options that
    all commands share may also be given before the command, or in the environment.

    Exit codes: 0 success, 1 the command failed, 2 its arguments are invalid.
    """
    group: Any = context.command
    context.default_map = dict.fromkeys(group.commands, chosen)


def main() -> NoReturn:
    """Run ``polystore``."""
    polystore_command.main(prog_name="polystore")
