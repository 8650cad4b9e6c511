"""The manifest of a dump: written last, it makes the dump whole and names each file's checksum."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from polystore.exceptions import CorruptDataError, PathNotFoundError
from polystore_ray.dumps.files import DumpFile, DumpFiles

__all__ = ["ENTRIES", "MANIFEST", "OBJECTS", "TREE", "Manifest", "json_line", "lines_in"]

MANIFEST = "manifest.json"
TREE = "tree.jsonl"
ENTRIES, OBJECTS = ".entries.jsonl", ".objects"
"""The endings of the files of a part: its paths, and the objects that hold their values."""

_FORMAT = "polystore dump"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a dump holds.

    Attributes
    ----------
    store : str
        The name of the store.
    moment : float
        The time of the dump in seconds since the epoch; all values are of this moment.
    values : int
        The number of paths with a value.
    bytes : int
        The size of the files.
    lost : int
        The number of paths that the dump lacks, since the store had lost their values.
    options : dict
        The options of the store, such as ``replicas``; those of backends are left out.
    made_by : str
        The versions of polystore and Python.
    files : tuple of DumpFile
        The other files.
    lost_objects : tuple of str
        The ids of objects that were lost during the dump.
    """

    store: str
    moment: float
    values: int
    bytes: int
    lost: int
    options: dict[str, Any]
    made_by: str
    files: tuple[DumpFile, ...]
    lost_objects: tuple[str, ...] = ()

    def parts(self) -> list[tuple[DumpFile, DumpFile | None]]:
        """Return the parts: the file of the paths, and that of their objects if they have any."""
        files = {file.name: file for file in self.files}
        return [
            (file, files.get(name.removesuffix(ENTRIES) + OBJECTS))
            for name, file in files.items()
            if name.endswith(ENTRIES)
        ]

    @property
    def tree(self) -> DumpFile:
        """The file of directories, links and copies."""
        return next(file for file in self.files if file.name == TREE)

    def write(self, files: DumpFiles) -> None:
        """Write the manifest, which makes the dump whole."""
        facts = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(self)}
        facts |= {"files": [file._asdict() for file in self.files]}
        facts |= {"sha256": _checksum(facts)}
        files.write(MANIFEST, [json.dumps(facts, indent=1).encode()])

    @classmethod
    def read(cls, files: DumpFiles) -> Manifest:
        """Return the manifest of a dump.

        Raises `PathNotFoundError` if there is no dump, or one that was interrupted, and
        `CorruptDataError` if the manifest is damaged, or of a later version of polystore.
        """
        try:
            data = bytes(files.read(MANIFEST))
        except PathNotFoundError as error:
            found = files.names()
            raise PathNotFoundError(
                "the dump was interrupted: it has no manifest, so dump the store again"
                if found
                else "there is no dump here",
                path=files.where,
            ) from error
        try:
            return cls._from(json.loads(data))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            path = files.path_of(MANIFEST)
            raise CorruptDataError(f"the manifest is damaged ({error})", path=path) from error

    @classmethod
    def _from(cls, facts: dict[str, Any]) -> Manifest:
        checksum = facts.pop("sha256")
        if facts.pop("format") != _FORMAT or (version := facts.pop("version")) > _VERSION:
            raise ValueError("it is not of a dump that this version of polystore can read")
        if checksum != _checksum({"format": _FORMAT, "version": version, **facts}):
            raise ValueError("its checksum differs")
        kinds = {"store": str, "moment": float, "values": int, "bytes": int, "lost": int}
        for name, kind in (kinds | {"options": dict, "made_by": str}).items():
            if type(facts[name]) is not kind:
                raise ValueError(f"{name} is not of type {kind.__name__}")
        names = {file["name"] for file in facts["files"]}
        if TREE not in names or any("/" in name or "\\" in name for name in names):
            raise ValueError("its names are not those of a dump")
        facts |= {"files": tuple(DumpFile(**file) for file in facts["files"])}
        return cls(**facts | {"lost_objects": tuple(facts["lost_objects"])})


def _checksum(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def json_line(row: dict[str, Any]) -> bytes:
    """Return a row as a line of JSON."""
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def lines_in(data: memoryview) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of lines that `json_line` made; raise `CorruptDataError` if none."""
    for line in bytes(data).splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorruptDataError(f"a line of the dump is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise CorruptDataError("a line of the dump is not a JSON object")
        yield row
