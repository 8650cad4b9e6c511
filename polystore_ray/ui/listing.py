"""Directories, a window at a time: only the facts of what is shown are asked for."""

from __future__ import annotations

import fnmatch
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import escape, has_magic
from typing import Any, NamedTuple

from polystore import FileManager
from polystore.exceptions import UnsupportedOperationError
from polystore_ray.ui.reading import Place

__all__ = ["MOST_SORTED", "Listings", "Wanted"]

MOST_SORTED = 10_000
"""The most entries that are sorted by facts, which takes a request for each."""
_MOST_ROWS = 500  # in one window
_MOST_KEPT = 8  # directories
_AT_ONCE = 16  # requests

_FACTS = ("type", "size", "modified", "shape", "dtype", "lost", "evicted", "target")


class Wanted(NamedTuple):
    """Which entries of a directory, and in which order.

    - `sort`: "name", "size" or "modified"
    - `search`: a part of a name, in any case, or a glob
    - `below`: whether to search the files in all directories below it
    """

    place: Place
    sort: str = "name"
    reverse: bool = False
    search: str = ""
    below: bool = False


class Listings:
    """The latest listings, kept while their later windows are shown."""

    def __init__(self, fm: FileManager) -> None:
        self._fm = fm
        self._kept: OrderedDict[Wanted, list[str]] = OrderedDict()

    def window(self, wanted: Wanted, start: int, count: int) -> dict[str, Any]:
        """Return some entries, and how many there are; the first window lists anew."""
        names = self._kept.get(wanted)
        if names is None or start == 0:
            names = self._kept[wanted] = self._names(wanted)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        start, count = max(0, start), max(0, min(count, _MOST_ROWS))
        shown = names[start : start + count]
        return {"total": len(names), "start": start, "entries": self._entries(wanted.place, shown)}

    def _names(self, wanted: Wanted) -> list[str]:
        backend, path = wanted.place
        glob = _glob(wanted.search)
        if wanted.below:
            cut = len(path.rstrip("/")) + 1
            files = self._fm.list_files(path, backend, pattern=glob, recursive=True)
            names = [file[cut:] for file in files]
        else:
            names = self._fm.list_dir(path, backend)
            if wanted.search:
                names = fnmatch.filter(names, glob)
        if wanted.sort != "name":
            names = self._sorted(wanted.place, names, wanted.sort)
        return names[::-1] if wanted.reverse else names

    def _sorted(self, place: Place, names: list[str], fact: str) -> list[str]:
        if len(names) > MOST_SORTED:
            raise UnsupportedOperationError(
                f"{len(names)} entries are sorted by name only; search for a part of the name "
                f"first, so that at most {MOST_SORTED} are left",
                path=place.path,
                backend=place.backend,
            )
        entries = self._entries(place, names)
        by_fact: Callable[[dict[str, Any]], Any] = lambda entry: entry.get(fact) or 0  # noqa: E731
        return [entry["name"] for entry in sorted(entries, key=by_fact)]

    def _entries(self, place: Place, names: Sequence[str]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(lambda name: self._entry(place.below(name), name), names))

    def _entry(self, place: Place, name: str) -> dict[str, Any]:
        facts = self._fm.stat(place.path, place.backend)
        entry: dict[str, Any] = {fact: facts[fact] for fact in _FACTS if fact in facts}  # type: ignore[literal-required]
        leads_down = facts["type"] == "symlink" and self._fm.is_dir(place.path, place.backend)
        return entry | {"name": name, "opens": leads_down or facts["type"] == "directory"}


def _glob(search: str) -> str:
    """Return a glob as it is, and any other text as a glob for names that contain it."""
    if has_magic(search):
        return search
    return f"*{''.join(map(_in_any_case, search))}*"


def _in_any_case(letter: str) -> str:
    cases = {letter.lower(), letter.upper()}
    if len(cases) == 1 or any(len(case) > 1 for case in cases):
        return escape(letter)
    return f"[{''.join(sorted(cases))}]"
