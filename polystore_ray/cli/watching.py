"""The command ``watch``: print what happens below a path, as it happens."""

from __future__ import annotations

import sys

import click

from polystore import Event
from polystore_ray.cli.output import human_bytes, print_json, say
from polystore_ray.cli.places import PLACE, Place
from polystore_ray.cli.session import Session, with_session

__all__ = ["watch"]


@click.command(short_help="Print what happens below a path, as it happens.")
@click.argument("place", type=PLACE, default="memory:/")
@click.option("--here", is_flag=True, help="Only PLACE and what is directly in it.")
@click.option("--since", metavar="NUMBER", type=click.IntRange(min=0), help="Begin after an event.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="End after so long without an event.",
)
@with_session
def watch(
    session: Session, place: Place, *, here: bool, since: int | None, timeout: float | None
) -> None:
    """Print a line for each change at PLACE and below it, until it is interrupted.

    In the memory, a tree that is copied, moved or deleted is one line. With ``--json``, each line
    is a JSON document with the number of the event, at which ``--since`` goes on later. PLACE can
    also be a directory of the backends disk and zarr, which keep no events to go on from.
    """
    options = {} if since is None else {"since": since}
    files = session.files()
    for event in files.watch(
        place.path, place.backend, recursive=not here, timeout=timeout, **options
    ):
        if session.as_json:
            print_json(event._asdict())
        else:
            say(_line(event))
        sys.stdout.flush()


def _line(event: Event) -> str:
    of_tree = " and all below it" if event.is_tree else ""
    size = "" if event.size is None else f", {human_bytes(event.size)}"
    source = "" if event.source is None else f"{event.source} -> "
    return f"{event.kind:<9} {source}{event.path}  ({event.type}{of_tree}{size})"
