"""Commands that change a store: ``cp``, ``mv`` and ``rm``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from polystore.exceptions import DirectoryNotEmptyError
from polystore_ray.cli.failure import Failed
from polystore_ray.cli.output import print_json, progress_bar
from polystore_ray.cli.places import PLACE, Place
from polystore_ray.cli.session import Session, with_session

__all__ = ["cp", "mv", "rm"]


def _transfer_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.option("--create", is_flag=True, help="Create the detached store if it is missing."),
        click.option("--unpickle", is_flag=True, help="Load values of any type, as for cat."),
        click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
        click.argument("destination", type=PLACE),
        click.argument("source", type=PLACE),
    ):
        function = decorate(function)
    return function


@click.command(short_help="Copy a file or a tree, also between backends.")
@_transfer_options
@with_session
def cp(session: Session, source: Place, destination: Place, **options: bool) -> None:
    """Copy a file or a tree, also from one backend to another. Never overwrites.

    A destination that ends in a slash, or has no path, is a directory to copy into.
    """
    _transfer("copy", session, source, destination, **options)


@click.command(short_help="Move a file or a tree, also between backends.")
@_transfer_options
@with_session
def mv(session: Session, source: Place, destination: Place, **options: bool) -> None:
    """Move a file or a tree. Between backends, the source is deleted after all is copied."""
    _transfer("move", session, source, destination, **options)


def _transfer(
    operation: str,
    session: Session,
    source: Place,
    destination: Place,
    *,
    create: bool,
    unpickle: bool,
    quiet: bool,
) -> None:
    target = _inside(source, destination)
    fm = session.files(create=create, unpickle=unpickle)
    across = source.backend != target.backend
    label = "copying" if operation == "copy" else "moving"
    with progress_bar(label, hidden=quiet or not across) as progress:
        getattr(fm, operation)(
            source.path,
            target.path,
            source.backend,
            to_backend=target.backend,
            progress=progress,
        )
    if session.as_json:
        print_json({operation: str(source), "to": str(target)})


def _inside(source: Place, destination: Place) -> Place:
    if destination.path == "." or destination.path.endswith("/"):
        if not source.name or source.name in (".", ".."):
            raise click.UsageError(f"{source} has no name; give the destination a name")
        return destination.below(source.name)
    return destination


@click.command(short_help="Delete files, links and directories.")
@click.argument("places", type=PLACE, nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Delete directories with their contents.")
@with_session
def rm(session: Session, places: tuple[Place, ...], *, recursive: bool) -> None:
    """Delete files, links and empty directories; with -r, whole trees."""
    fm = session.files()
    for place in places:
        if (
            recursive
            and not place.path.strip("/.")
            and place.backend.partition("@")[0] in ("disk", "zarr")
        ):
            raise Failed(f"{place} is the root or the current directory; name entries in it")
        delete = fm.delete_all if recursive else fm.delete
        try:
            delete(place.path, place.backend)
        except DirectoryNotEmptyError as error:
            raise Failed(f"{error}; -r deletes its contents too") from error
    if session.as_json:
        print_json({"deleted": [*map(str, places)]})
