"""The command ``find``: list what is below places and meets conditions."""

from __future__ import annotations

from collections.abc import Iterator

import click

from polystore import FileManager
from polystore.exceptions import PathNotFoundError
from polystore_ray.cli.output import print_json, say
from polystore_ray.cli.patterns import below, expanded, fits
from polystore_ray.cli.places import PLACE, Place
from polystore_ray.cli.session import Session, with_session

__all__ = ["find"]


@click.command(short_help="List what is below a place, by name, type or size.")
@click.argument("places", type=PLACE, nargs=-1)
@click.option("--name", "glob", metavar="GLOB", help="Names or, with a slash, paths below PLACE.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["file", "directory", "symlink"]),
    help="Only such entries.",
)
@click.option("--larger", metavar="BYTES", type=click.IntRange(min=0), help="Only larger values.")
@with_session
def find(
    session: Session,
    places: tuple[Place, ...],
    *,
    glob: str | None,
    kind: str | None,
    larger: int | None,
) -> None:
    """List what is below PLACES, one place in each line; by default, all of the memory.

    PLACES can be globs. ``**`` in a glob stands for any number of directories. Links are not
    followed.
    """
    fm = session.files()
    wanted = places or (Place("memory", "/"),)
    found = (
        place
        for pattern in wanted
        for top in expanded(fm, pattern)
        for place in _selected(fm, top, glob)
        if _has(fm, place, kind, larger)
    )
    if session.as_json:
        print_json([str(place) for place in found])
    else:
        for place in found:
            say(str(place))


def _selected(fm: FileManager, top: Place, glob: str | None) -> Iterator[Place]:
    """Yield what is below a place, or the place itself if it is a file, if its name fits."""
    if fm.stat(top.path, top.backend)["type"] == "missing":
        raise PathNotFoundError("no such file or directory", path=top.path, backend=top.backend)
    paths = list(below(fm, top)) if fm.is_dir(top.path, top.backend) else [""]
    for path in paths:
        place = top.below(path) if path else top
        if glob is None or fits(glob, path if "/" in glob else place.name):
            yield place


def _has(fm: FileManager, place: Place, kind: str | None, larger: int | None) -> bool:
    if kind is None and larger is None:
        return True
    facts = fm.stat(place.path, place.backend)
    if kind is not None and facts["type"] != kind:
        return False
    return larger is None or (facts.get("size") or 0) > larger
