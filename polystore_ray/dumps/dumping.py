"""Write a dump: a snapshot of the tree, then its values from the nodes that hold them."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import platform
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import polystore
from polystore.exceptions import PathExistsError, StorageError, UnsupportedOperationError
from polystore.paths import P
from polystore.progress import Progress, reporting
from polystore.serialization import Sealed
from polystore_ray.dumps.files import DumpFile, DumpFiles, files_at
from polystore_ray.dumps.manifest import ENTRIES, OBJECTS, TREE, Manifest, json_line, lines_in
from polystore_ray.dumps.objects import pieces_of
from polystore_ray.dumps.tasks import OWN_NAMES, Connect, is_own, run_part_tasks
from polystore_ray.errors import DataLostError
from polystore_ray.registry import RayBackendRegistry
from polystore_ray.transport.base import Task, Transport
from polystore_ray.wire.envelope import closed
from polystore_ray.wire.messages import NotPinnedError, Pin, Record

__all__ = ["dump"]

_BEGUN = "INCOMPLETE"  # the name of a file that is there until the manifest is
_PAGE = 1000  # paths that the controller describes in one answer
_PART_BYTES = 64 * 2**20  # of objects, or of small values, in one file, about
_PART_OBJECTS = 10_000
_PART_ROWS = 100_000  # of small values

Row = dict[str, Any]


def dump(
    registry: RayBackendRegistry,
    destination: P,
    *,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress = None,
) -> Manifest:
    """Write all that a store's memory holds into a directory or to a URL.

    All values are of one moment, while others go on to save and delete: the dump reads a snapshot
    of the tree, which is a directory of the memory until the dump ends. The nodes that hold values
    write them, unopened. Paths keep their versions, times, replicas and fallbacks; links and copies
    stay links and copies. The manifest is written last: without it, there is no dump.

    Parameters
    ----------
    registry : RayBackendRegistry
        The store.
    destination : str or os.PathLike
        An empty or a new directory, or a URL. If the nodes of the cluster do not share the
        directory, all values pass through the caller.
    storage_options : mapping, optional
        Options of fsspec for the URL.
    progress : callable or bool, optional
        Called with the number of values written so far and the number of all; `True` shows a bar.

    Returns
    -------
    Manifest
        What was written. Its `lost` counts the paths whose values the store had lost.

    Raises
    ------
    PathExistsError
        If the destination is not empty.
    StorageError
        If values cannot be read or written; there is no dump then.

    Examples
    --------
    >>> import tempfile
    >>> from polystore_ray import RayBackendRegistry
    >>> from polystore_ray.dumps import dump, restore
    >>> registry = RayBackendRegistry("full", local=True)
    >>> registry["memory"].save_batch([b"one", b"two"], ["/1", "/2"])
    >>> directory = tempfile.mkdtemp()
    >>> dump(registry, directory).values
    2
    >>> other = RayBackendRegistry("empty", local=True)
    >>> restore(other, directory).values
    2
    >>> other["memory"].load("/2")
    b'two'
    """
    connect: Connect = registry._connect  # noqa: SLF001 - what its own memory has
    files = files_at(destination, storage_options)
    if files.names():
        raise PathExistsError(
            "the destination is not empty; dump into a new directory, or delete what is there",
            path=files.where,
        )
    begun = files.write(_BEGUN, [f"This dump is incomplete. {uuid.uuid4().hex}\n".encode()])
    snapshot = f"{OWN_NAMES[0]}{uuid.uuid4().hex[:8]}"
    moment = connect().change("snapshot", "/", snapshot)
    try:
        writing = _Writing(connect, files, snapshot)
        writing.run(begun, progress)
    finally:
        with suppress(StorageError):  # the error of the dump is the one to see
            connect().change("delete_all", snapshot)
    manifest = Manifest(
        store=registry.status().store,
        moment=moment,
        made_by=f"polystore {polystore.__version__}, Python {platform.python_version()}",
        options=_options(connect),
        **writing.counts(),
    )
    manifest.write(files)
    files.delete(_BEGUN)
    return manifest


def _options(connect: Connect) -> dict[str, Any]:
    """Return the options of a store, except those of its backends, which may hold secrets."""
    options = connect().options
    names = [field.name for field in dataclasses.fields(options) if field.name != "backends"]
    given = {name: getattr(options, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


class _Part(NamedTuple):
    """Objects of one node that are to be in one file: their ids and sizes."""

    name: str
    node: str
    objects: list[str]
    sizes: list[int]

    @property
    def is_full(self) -> bool:
        return len(self.sizes) >= _PART_OBJECTS or sum(self.sizes) >= _PART_BYTES


class _Writing:
    """The writing of one dump: the rows of all paths, and the parts that hold their values."""

    def __init__(self, connect: Connect, files: DumpFiles, snapshot: str) -> None:
        self._connect, self._files, self._snapshot = connect, files, snapshot
        self._tree: list[Row] = []
        self._rows: defaultdict[str, list[bytes]] = defaultdict(list)  # by part, as lines
        self._part_of: dict[str, str] = {}  # by object
        self._first: dict[tuple[str, int], str] = {}  # the path of a value, by object and number
        self._open: dict[str, _Part] = {}  # by node
        self._small_bytes = 0
        self._names = (f"{number:05}" for number in itertools.count())  # of parts
        self._small = next(self._names)
        self._written: list[DumpFile] = []
        self._lost: set[str] = set()  # objects
        self._paths = 0
        self._step: Callable[..., None] = lambda _count=1: None

    def run(self, begun: DumpFile, progress: Progress) -> None:
        """Write all files but the manifest."""
        directories, links, paths = self._connect().ask("outline", self._snapshot)
        rows: list[Row] = [{"directory": self._cut(path)} for path in directories]
        rows += [{"link": self._cut(path), "target": target} for path, target in links]
        self._tree = [row for row in rows if not is_own(next(iter(row.values())))]
        paths = [path for path in paths if not is_own(self._cut(path))]
        self._paths = len(paths)
        with reporting(progress, len(paths), "dumping") as self._step:
            tasks = self._tasks(paths)
            for file, lost, count in run_part_tasks(self._connect, self._files, begun, tasks):
                self._written.append(file)
                self._lost.update(lost)
                self._step(count)
        if self._connect().options.eviction is not None:
            self._leave_out_evicted()
        for part, lines in self._rows.items():
            self._write(part + ENTRIES, lines)
        self._write(TREE, map(json_line, self._tree))

    def counts(self) -> dict[str, Any]:
        """Return what was written, for the manifest."""
        gone = self._lost_paths() if self._lost else set()
        lost = len(gone) + sum("lost" in row or row.get("of") in gone for row in self._tree)
        return {
            "values": self._paths - lost,
            "bytes": sum(file.size for file in self._written),
            "lost": lost,
            "files": tuple(sorted(self._written)),
            "lost_objects": tuple(sorted(self._lost)),
        }

    def _leave_out_evicted(self) -> None:
        """Leave out the values that were evicted since it was decided which object has them.

        Their objects may have been released, or written without them.
        """
        gone: set[str] = set()
        for part, lines in self._rows.items():
            rows = [row for row in lines_in(memoryview(b"".join(lines))) if "object" in row]
            for start in range(0, len(rows), _PAGE):
                page = rows[start : start + _PAGE]
                paths = [self._snapshot + row["path"] for row in page]
                pins, records = self._connect().ask("records", paths, path=paths[0])
                for row, record in zip(page, records, strict=True):
                    pin = pins[record.stored] if isinstance(record.stored, int) else None
                    if pin is None or (pin.id, record.number) != (row["object"], row["number"]):
                        gone.add(row["path"])
                        self._tree.append({"lost": row["path"], "fallback": row["fallback"]})
            if gone:
                rows = [*lines_in(memoryview(b"".join(lines)))]
                self._rows[part] = [json_line(row) for row in rows if row["path"] not in gone]
        for row in self._tree:
            if row.get("of") in gone:
                row |= {"lost": row.pop("copy"), "fallback": None}
                del row["of"]

    def _lost_paths(self) -> set[str]:
        """Return the paths of objects that were lost during the dump, except those of copies."""
        parts = {self._part_of[id_] for id_ in self._lost}
        rows = (row for part in parts for row in lines_in(memoryview(b"".join(self._rows[part]))))
        return {row["path"] for row in rows if row["object"] in self._lost}

    def _cut(self, path: str) -> str:
        return path[len(self._snapshot) :]

    def _write(self, name: str, lines: Iterable[bytes]) -> None:
        self._written.append(self._files.write(name, lines))

    def _tasks(self, paths: Sequence[str]) -> Iterator[Task]:
        """Yield the tasks that write objects, as soon as it is known which."""
        for start in range(0, len(paths), _PAGE):
            page = paths[start : start + _PAGE]
            pins, records = self._connect().ask("records", page, path=page[0])
            for path, record in zip(page, records, strict=True):
                self._plan(path, record, pins)
            for node in [node for node, part in self._open.items() if part.is_full]:
                yield self._task(self._open.pop(node))
        for part in self._open.values():
            yield self._task(part)

    def _task(self, part: _Part) -> Task:
        name = part.name + OBJECTS
        arguments = self._connect, self._files, name, part.objects
        return [part.node] if part.node else [], write_objects, arguments

    def _plan(self, path: str, record: Record, pins: Sequence[Pin]) -> None:
        """Decide where a value goes, and add its row."""
        here, stored = self._cut(path), record.stored
        if stored is None:
            self._tree.append({"lost": here, "fallback": record.fallback})
            self._step()
            return
        pin = pins[stored] if isinstance(stored, int) else None
        first = self._first.setdefault((pin.id if pin else "", record.number), here)
        if first != here:
            self._tree.append({"copy": here, "of": first})
        elif isinstance(stored, bytes):
            value = base64.b64encode(stored).decode()
            self._add_small(json_line(_row(here, record) | {"value": value}))
        elif pin is not None:
            is_new = pin.id not in self._part_of
            part = self._part_of.get(pin.id) or self._add_object(pin)
            row = _row(here, record) | {"object": pin.id, "number": record.number}
            self._rows[part].append(json_line(row))
            if is_new:
                return  # it counts once its object is written
        self._step()

    def _add_small(self, line: bytes) -> None:
        lines = self._rows[self._small]
        lines.append(line)
        self._small_bytes += len(line)
        if self._small_bytes >= _PART_BYTES or len(lines) >= _PART_ROWS:
            self._write(self._small + ENTRIES, self._rows.pop(self._small))
            self._small, self._small_bytes = next(self._names), 0

    def _add_object(self, pin: Pin) -> str:
        """Add an object to the part that is open for its node; return the name of the part."""
        node = pin.nodes[0] if pin.nodes else ""
        if node not in self._open:
            self._open[node] = _Part(next(self._names), node, [], [])
        part = self._open[node]
        part.objects.append(pin.id)
        part.sizes.append(pin.nbytes)
        self._part_of[pin.id] = part.name
        return part.name


def _row(path: str, record: Record) -> Row:
    size, shape, dtype = record.facts
    version, modified = record.moment
    row = {"path": path, "size": size, "shape": shape, "dtype": dtype, "version": version}
    return row | {
        "modified": modified,
        "replicas": record.replicas,
        "fallback": record.fallback,
    }


def write_objects(
    connect: Connect, files: DumpFiles, name: str, wanted: list[str]
) -> tuple[DumpFile, list[str], int]:
    """Write objects, given by their ids, into one file.

    Return the file, the ids of objects that it lacks since they are gone, and the number of objects
    that were wanted.
    """
    transport = connect()
    if wanted and not transport.opens_here:
        raise UnsupportedOperationError(
            "over ray:// the proxy opens every value; dump to a URL or into a directory that the "
            "nodes share, or from a node of the cluster",
            backend="memory",
        )
    objects = transport.deadline.retry(partial(_sealed, transport, wanted), NotPinnedError, _unread)
    gone = {*wanted} - {id_ for id_, _ in objects}
    return files.write(name, pieces_of(objects)), sorted(gone), len(wanted)


def _sealed(transport: Transport, wanted: list[str]) -> list[tuple[str, Sealed]]:
    """Return objects as they are stored; their bytes are views of the node's shared memory."""
    pins: list[Pin] = transport.ask("pins", wanted, transport.node) if wanted else []
    with closed():
        envelopes = transport.get(pins)
    return [(pin.id, envelope.sealed) for pin, envelope in zip(pins, envelopes, strict=True)]


def _unread(error: NotPinnedError) -> DataLostError:
    return DataLostError(
        f"no node returned the saved bytes in time ({error}). Dump again, since the store may be "
        f"recovering; `polystore lost` lists what is lost for good",
        backend="memory",
    )
