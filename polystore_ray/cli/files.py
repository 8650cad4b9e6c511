"""Commands that read a store: ``ls``, ``tree``, ``stat``, ``cat``, ``head`` and ``du``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import click

from polystore import FileManager
from polystore.exceptions import PathNotFoundError
from polystore.paths import normalize
from polystore_ray.cli.failure import Failed
from polystore_ray.cli.output import (
    aligned,
    fields,
    human_bytes,
    moment,
    print_json,
    print_value,
    say,
)
from polystore_ray.cli.patterns import expanded
from polystore_ray.cli.places import PLACE, Place
from polystore_ray.cli.session import Session, with_session

__all__ = ["cat", "du", "head", "ls", "stat", "tree"]

Facts = dict[str, Any]


@click.command(short_help="List directories and files.")
@click.argument("places", type=PLACE, nargs=-1)
@click.option(
    "-l",
    "--long",
    is_flag=True,
    help="Also show type (or that it is lost or evicted), size, shape, dtype and time.",
)
@with_session
def ls(session: Session, places: tuple[Place, ...], *, long: bool) -> None:
    """List directories and files; by default, the root of the memory.

    PLACES can be globs; ``**`` stands for any number of directories. Names of directories end in a
    slash.
    """
    fm = session.files()
    wanted = places or (Place("memory", "/"),)
    found = [place for pattern in wanted for place in expanded(fm, pattern)]
    if len(found) == 1:
        _print_entries(session, list(_listed(fm, found[0])), long=long)
        return
    directories = [place for place in found if fm.is_dir(place.path, place.backend)]
    files = [place for place in found if place not in directories]
    if session.as_json:
        listed: Facts = {str(place): list(_entries(fm, place)) for place in directories}
        print_json({str(place): _facts(fm, place) for place in files} | listed)
        return
    entries = [_facts(fm, place) | {"name": str(place)} for place in files]
    _print_entries(session, entries, long=long)
    for place in directories:
        if entries or place is not directories[0]:
            say()
        say(f"{place}:")
        _print_entries(session, list(_entries(fm, place)), long=long)


def _print_entries(session: Session, entries: list[Facts], *, long: bool) -> None:
    if session.as_json:
        print_json(entries)
    elif long and entries:
        aligned(_long(entry) for entry in entries)
    else:
        for entry in entries:
            say(_name(entry))


def _listed(fm: FileManager, place: Place) -> Iterator[Facts]:
    facts = _facts(fm, place)
    if fm.is_dir(place.path, place.backend):
        yield from _entries(fm, place)
    else:
        yield facts | {"name": place.name or place.path}


def _entries(fm: FileManager, place: Place) -> Iterator[Facts]:
    for name in fm.list_dir(place.path, place.backend):
        yield fm.stat(place.below(name).path, place.backend) | {"name": name}


def _facts(fm: FileManager, place: Place) -> Facts:
    facts: Facts = {**fm.stat(place.path, place.backend)}
    if facts["type"] == "missing":
        raise PathNotFoundError("no such file or directory", path=place.path, backend=place.backend)
    return facts


def _name(entry: Facts) -> str:
    name = str(entry["name"])
    if entry["type"] == "symlink":
        return f"{name} -> {entry.get('target')}"
    return f"{name}/" if entry["type"] == "directory" else name


def _long(entry: Facts) -> tuple[str, ...]:
    shape = "x".join(map(str, entry["shape"])) if entry.get("shape") else "-"
    size = human_bytes(entry.get("size"))
    when = moment(entry.get("modified"))
    kind = "lost" if entry.get("lost") else "evicted" if entry.get("evicted") else entry["type"]
    return kind, size, shape, str(entry.get("dtype") or "-"), when, _name(entry)


@click.command(short_help="Show a directory as a tree.")
@click.argument("place", type=PLACE, default="memory:/")
@click.option("-d", "--depth", type=click.IntRange(min=1), help="How many levels to show.")
@with_session
def tree(session: Session, place: Place, depth: int | None) -> None:
    """Show a directory and everything below it as a tree."""
    fm = session.files()
    _require_directory(fm, place)
    if session.as_json:
        print_json(_branch(fm, place, depth, _lost_below(fm, place)))
        return
    say(str(place))
    counts = {"directory": 0, "file": 0}
    lost = _lost_below(fm, place)
    for line, child, is_directory in _lines(fm, place, "", depth):
        counts["directory" if is_directory else "file"] += 1
        say(f"{line}  [lost]" if _is_in(lost, child) else line)
    summary = f"{counts['directory']} directories, {counts['file']} files"
    say(f"{summary}, {len(lost)} lost" if lost else summary)


def _lost_below(fm: FileManager, place: Place) -> set[str]:
    """Return the paths of lost values in the memory; none of other backends."""
    if place.backend != "memory":
        return set()
    memory: Any = fm.registry["memory"]
    return {value.path for value in memory.lost(place.path)}


def _is_in(paths: set[str], place: Place) -> bool:
    return bool(paths) and normalize(place.path) in paths


def _require_directory(fm: FileManager, place: Place) -> None:
    _facts(fm, place)
    if not fm.is_dir(place.path, place.backend):
        raise Failed(f"{place} is not a directory")


def _lines(
    fm: FileManager, place: Place, before: str, depth: int | None
) -> Iterator[tuple[str, Place, bool]]:
    # Not recursive: a tree may be deeper than Python's limit of recursion.
    waiting = [(place, before, fm.list_dir(place.path, place.backend)[::-1])]
    while waiting:
        directory, start, names = waiting[-1]
        if not names:
            waiting.pop()
            continue
        child = directory.below(name := names.pop())
        is_directory = _is_branch(fm, child)
        label = f"{name}/" if is_directory else name
        yield f"{start}{'|-- ' if names else '`-- '}{label}", child, is_directory
        if is_directory and len(waiting) != depth:
            below = fm.list_dir(child.path, child.backend)[::-1]
            waiting.append((child, f"{start}{'|   ' if names else '    '}", below))


def _is_branch(fm: FileManager, place: Place) -> bool:
    return fm.is_dir(place.path, place.backend) and not fm.is_symlink(place.path, place.backend)


def _branch(fm: FileManager, place: Place, depth: int | None, lost: set[str]) -> Facts:
    """Return a dict from each name in a directory to its own dict.

    A file or a link is None, a lost value "lost".
    """
    top: Facts = {}
    waiting = [(place, top, 1)]
    while waiting:
        directory, found, level = waiting.pop()
        for name in fm.list_dir(directory.path, directory.backend):
            child = directory.below(name)
            is_branch = _is_branch(fm, child)
            found[name] = {} if is_branch else "lost" if _is_in(lost, child) else None
            if is_branch and level != depth:
                waiting.append((child, found[name], level + 1))
    return top


@click.command(short_help="Show the metadata of a path.")
@click.argument("place", type=PLACE)
@with_session
def stat(session: Session, place: Place) -> None:
    """Show the metadata of a file, a directory or a link."""
    facts = _facts(session.files(), place)
    if session.as_json:
        print_json(facts)
    else:
        fields(facts)


@click.command(short_help="Print a value, without unpickling.")
@click.argument("place", type=PLACE)
@click.option(
    "--unpickle",
    is_flag=True,
    help="Load a value of any type, which runs code from its pickle: only if you trust it.",
)
@with_session
def cat(session: Session, place: Place, *, unpickle: bool) -> None:
    """Print a value: bytes and text unchanged, an array as NumPy shows it, else JSON.

    Nothing is unpickled. From the memory, only plain data is loaded: numbers, text, bytes, dates,
    lists, dicts and arrays.
    """
    fm = session.files(unpickle=unpickle)
    print_value(fm.load(place.path, place.backend), as_json=session.as_json)


@click.command(short_help="Print the first lines, rows or items of a value.")
@click.argument("place", type=PLACE)
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many lines of text, rows of an array, items of a list or a dict, or bytes.",
)
@click.option("--unpickle", is_flag=True, help="Load a value of any type, as for cat.")
@with_session
def head(session: Session, place: Place, *, number: int, unpickle: bool) -> None:
    """Print the first lines, rows, items or bytes of a value, as cat does.

    Of an array, only these rows are read, where its format allows it.
    """
    fm = session.files(unpickle=unpickle)
    facts = _facts(fm, place)
    if facts.get("shape"):
        value = fm.load(place.path, place.backend, region=(slice(0, number),))
    else:
        value = _first(fm.load(place.path, place.backend), number)
    print_value(value, as_json=session.as_json)


def _first(value: Any, number: int) -> Any:
    if isinstance(value, str):
        return "".join(value.splitlines(keepends=True)[:number])
    if isinstance(value, dict):
        return dict(islice(value.items(), number))
    if isinstance(value, list | tuple | bytes | bytearray):
        return value[:number]
    return value


@click.command(short_help="Sum the sizes of values by directory.")
@click.argument("place", type=PLACE, default="memory:/")
@click.option(
    "-d", "--depth", type=click.IntRange(min=0), default=1, help="How many levels to list."
)
@with_session
def du(session: Session, place: Place, depth: int) -> None:
    """Sum the sizes of the values in a directory and in its subdirectories.

    It makes one request per file, so a large tree takes long.
    """
    fm = session.files()
    _facts(fm, place)
    sums = _sums(fm, place)
    listed = {path: n for path, n in sums.items() if _level(path, place) <= depth}
    if session.as_json:
        print_json([{"path": path, "bytes": n} for path, n in listed.items()])
    else:
        aligned((human_bytes(n), path) for path, n in listed.items())


def _sums(fm: FileManager, place: Place) -> dict[str, int]:
    """Return the number of bytes in each directory, the deepest directories first."""
    if not fm.is_dir(place.path, place.backend):
        return {place.path: fm.stat(place.path, place.backend).get("size") or 0}
    sums: dict[str, int] = {}
    # The open directories from the top down, each with the names that are left to visit.
    waiting = [(place, fm.list_dir(place.path, place.backend)[::-1])]
    totals = [0]
    while waiting:
        directory, names = waiting[-1]
        if not names:
            waiting.pop()
            sums[directory.path] = total = totals.pop()
            if totals:
                totals[-1] += total
            continue
        child = directory.below(names.pop())
        if _is_branch(fm, child):
            waiting.append((child, fm.list_dir(child.path, child.backend)[::-1]))
            totals.append(0)
        elif not fm.is_symlink(child.path, child.backend):
            totals[-1] += fm.stat(child.path, child.backend).get("size") or 0
    return sums


def _level(path: str, place: Place) -> int:
    return path.rstrip("/").count("/") - place.path.rstrip("/").count("/")
