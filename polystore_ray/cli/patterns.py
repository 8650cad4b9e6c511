"""Patterns of the command line: globs, also recursive ones."""

from __future__ import annotations

from fnmatch import fnmatchcase
from glob import has_magic

from polystore import FileManager
from polystore.exceptions import PathNotFoundError
from polystore.filemanager.across import walked
from polystore.paths import natural_key
from polystore_ray.cli.places import Place

__all__ = ["below", "expanded", "fits", "fixed_part"]


def below(fm: FileManager, place: Place) -> dict[str, str]:
    """Return what is below a directory: paths from there, each "directory", "file" or "other".

    They are in natural order. Links to directories are not followed.
    """
    directories, files, others = walked(fm.registry, place.path, place.backend)
    cut = len(directories[0].rstrip("/")) + 1
    kinds = ((directories[1:], "directory"), (files, "file"), (others, "other"))
    found = {path[cut:]: kind for paths, kind in kinds for path in paths}
    return {path: found[path] for path in sorted(found, key=_order)}


def _order(path: str) -> list[object]:
    return [natural_key(name) for name in path.split("/")]


def fits(pattern: str, path: str) -> bool:
    """Return whether a glob fits a path; ``**`` fits any number of directories, also none.

    Examples
    --------
    >>> fits("plate*/**/*.npy", "plate1/a/b/c.npy"), fits("*.npy", "a/b.npy")
    (True, False)
    """
    parts = pattern.split("/")
    ahead = _skipping(parts, {0})  # the numbers of the parts that may fit the next name
    for name in path.split("/"):
        fitting = {at for at in ahead if at < len(parts) and _fits_name(parts[at], name)}
        ahead = _skipping(parts, {at if parts[at] == "**" else at + 1 for at in fitting})
    return len(parts) in ahead


def _fits_name(part: str, name: str) -> bool:
    return part == "**" or fnmatchcase(name, part)


def _skipping(parts: list[str], ahead: set[int]) -> set[int]:
    """Return the numbers, and those of the parts after a ``**`` that fits nothing."""
    for at in range(min(ahead, default=0), len(parts)):
        if at in ahead and parts[at] == "**":
            ahead.add(at + 1)
    return ahead


def expanded(fm: FileManager, place: Place) -> list[Place]:
    """Return the place itself; if it is a glob and does not exist, the places that it fits.

    Raises `PathNotFoundError` if it fits nothing.
    """
    if not has_magic(place.path) or fm.exists(place.path, place.backend):
        return [place]
    base, parts = fixed_part(place)
    if "**" in parts:
        pattern = "/".join(parts)
        found = [base.below(path) for path in below(fm, base) if fits(pattern, path)]
    else:
        found = [base]
        for part in parts:
            found = [child for directory in found for child in _children(fm, directory, part)]
    if not found:
        raise PathNotFoundError("nothing fits the pattern", path=place.path, backend=place.backend)
    return found


def fixed_part(place: Place) -> tuple[Place, list[str]]:
    """Return the directory before the first name with a pattern, and the names from there."""
    names = place.path.split("/")
    first = next(number for number, name in enumerate(names) if has_magic(name))
    start = "/" if place.path.startswith("/") else "."
    return place._replace(path="/".join(names[:first]) or start), names[first:]


def _children(fm: FileManager, directory: Place, part: str) -> list[Place]:
    if not fm.is_dir(directory.path, directory.backend):
        return []
    names = fm.list_dir(directory.path, directory.backend)
    return [directory.below(name) for name in names if fnmatchcase(name, part)]
