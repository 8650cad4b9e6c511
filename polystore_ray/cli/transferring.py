"""Commands that change a store: ``cp``, ``put``, ``get``, ``mv`` and ``rm``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from glob import has_magic
from typing import Any

import click

from polystore import FileManager, StorageError
from polystore.exceptions import DirectoryNotEmptyError
from polystore_ray.cli.copying import Copier
from polystore_ray.cli.failure import Failed, one_line
from polystore_ray.cli.output import print_json, progress_bar
from polystore_ray.cli.patterns import expanded, fixed_part
from polystore_ray.cli.places import PLACE, Place
from polystore_ray.cli.session import THIS_MACHINE, Session, with_session

__all__ = ["cp", "get", "mv", "put", "rm"]

_CREATE = click.option("--create", is_flag=True, help="Create the detached store if it is missing.")
_UNPICKLE = click.option("--unpickle", is_flag=True, help="Load values of any type, as for cat.")
_QUIET = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
_COPYING = (
    click.option(
        "--exclude",
        "excluded",
        metavar="GLOB",
        multiple=True,
        help="Leave out what has such a name or, with a slash, such a path below the source.",
    ),
    click.option("-f", "--force", is_flag=True, help="Replace existing files."),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on with a partial copy: skip files that are there and not older than the source.",
    ),
    click.option(
        "-k",
        "--keep-going",
        is_flag=True,
        help="Skip files that cannot be copied, report them at the end, and exit with 1.",
    ),
    click.option(
        "--lossy",
        is_flag=True,
        help="Leave behind metadata of files that the other backend cannot keep.",
    ),
    _UNPICKLE,
    _QUIET,
)

Pairs = Sequence[tuple[Place, Place]]


def _copy_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in reversed(_COPYING):
        function = decorate(function)
    return function


@click.command(short_help="Copy a file or a tree, also between backends.")
@click.argument("source", type=PLACE)
@click.argument("destination", type=PLACE)
@_copy_options
@_CREATE
@with_session
def cp(
    session: Session, source: Place, destination: Place, *, create: bool, **options: Any
) -> None:
    """Copy a file or a tree, also from one backend to another.

    A destination that ends in a slash, or has no path, is a directory to copy into. If SOURCE is a
    glob (``**`` stands for any number of directories), all that it fits goes into the directory
    DESTINATION, with its path from the first name that has a pattern. Files whose suffix names no
    format are copied as their bytes. Existing files are replaced only with --force.
    """
    fm = session.files(create=create, unpickle=options.pop("unpickle"))
    _copy(session, fm, list(_pairs(fm, source, destination)), **options)


@click.command(short_help="Copy files of this machine into a store.")
@click.argument("sources", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True))
@click.argument("destination", type=PLACE)
@_copy_options
@_CREATE
@with_session
def put(
    session: Session, sources: tuple[str, ...], destination: Place, *, create: bool, **options: Any
) -> None:
    """Copy files and directories of this machine into a store, as cp does.

    Several of them go into the directory DESTINATION. They are read by this process, wherever the
    nodes of the cluster are.
    """
    fm = session.files(create=create, unpickle=options.pop("unpickle"))
    if len(sources) > 1:
        destination = destination._replace(path=f"{destination.path.rstrip('/')}/")
    places = [Place(THIS_MACHINE, os.path.abspath(source)) for source in sources]
    _copy(session, fm, [(place, _inside(place, destination)) for place in places], **options)


@click.command(short_help="Copy values of a store to files on this machine.")
@click.argument("source", type=PLACE)
@click.argument("destination", metavar="FILE", type=click.Path())
@_copy_options
@with_session
def get(session: Session, source: Place, destination: str, **options: Any) -> None:
    """Copy a value, a tree or what a glob fits to files on this machine, as cp does.

    They are written by this process, wherever the nodes of the cluster are.
    """
    fm = session.files(unpickle=options.pop("unpickle"))
    path = os.path.abspath(destination)
    if destination.endswith("/") or os.path.isdir(path):
        path = f"{path.rstrip('/')}/"
    pairs = _pairs(fm, source, Place(THIS_MACHINE, path))
    _copy(session, fm, list(pairs), **options)


def _pairs(fm: FileManager, source: Place, destination: Place) -> Iterator[tuple[Place, Place]]:
    """Yield what a copy is of, and where it goes."""
    if not has_magic(source.path) or fm.exists(source.path, source.backend):
        yield source, _inside(source, destination)
        return
    base, _ = fixed_part(source)
    cut = len(base.path.rstrip("/")) + 1 if base.path != "." else 0
    above = ""
    for place in expanded(fm, source):
        if not (above and place.path.startswith(above)):
            yield place, destination.below(place.path[cut:])
            above = f"{place.path}/"


def _copy(
    session: Session,
    fm: FileManager,
    pairs: Pairs,
    *,
    quiet: bool,
    force: bool,
    resume: bool,
    keep_going: bool,
    excluded: Sequence[str],
    lossy: bool,
) -> None:
    copier = Copier(fm, excluded, force, resume, keep_going, lossy)
    with progress_bar("copying", hidden=quiet) as copier.progress:
        try:
            for source, target in pairs:
                copier.copy(source, target)
        except StorageError as error:
            if keep_going or copier.total < 2:
                raise
            resuming = f"{copier.copied} files were copied: --resume goes on after them, and "
            raise Failed(
                f"{error}; {resuming if copier.copied else ''}--keep-going skips what fails"
            ) from error
    failed = [
        {"path": one_line(place), "error": one_line(error.message)}
        for place, error in copier.failed
    ]
    if session.as_json:
        print_json({"copied": copier.copied, "skipped": copier.skipped, "failed": failed})
    else:
        for failure in failed:
            click.echo(f"polystore: {failure['path']}: {failure['error']}", err=True)
    if failed:
        done = f"{copier.copied} files were copied"
        raise Failed(f"{len(failed)} files were not copied; {done}, {copier.skipped} were there")


@click.command(short_help="Move a file or a tree, also between backends.")
@click.argument("source", type=PLACE)
@click.argument("destination", type=PLACE)
@_UNPICKLE
@_CREATE
@_QUIET
@with_session
def mv(
    session: Session,
    source: Place,
    destination: Place,
    *,
    create: bool,
    unpickle: bool,
    quiet: bool,
) -> None:
    """Move a file or a tree. Between backends, the source is deleted after all is copied."""
    target = _inside(source, destination)
    fm = session.files(create=create, unpickle=unpickle)
    across = source.backend != target.backend
    with progress_bar("moving", hidden=quiet or not across) as progress:
        fm.move(
            source.path,
            target.path,
            source.backend,
            to_backend=target.backend,
            progress=progress,
        )
    if session.as_json:
        print_json({"move": str(source), "to": str(target)})


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
    """Delete files, links and empty directories; with -r, whole trees. PLACES can be globs."""
    fm = session.files()
    places = tuple(found for place in places for found in expanded(fm, place))
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
