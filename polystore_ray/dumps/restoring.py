"""Restore a dump into a store: all of it in one step, or nothing; and verify a dump."""

from __future__ import annotations

import base64
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from polystore.arguments import whole_number
from polystore.exceptions import CorruptDataError, PathExistsError, StorageError
from polystore.paths import P, normalize
from polystore.progress import Progress, reporting
from polystore.serialization import Sealed, seal
from polystore_ray.dumps.files import DumpFile, DumpFiles, files_at
from polystore_ray.dumps.manifest import MANIFEST, Manifest, lines_in
from polystore_ray.dumps.objects import objects_in
from polystore_ray.dumps.tasks import OWN_NAMES, THREADS, Connect, is_own, run_part_tasks
from polystore_ray.registry import RayBackendRegistry
from polystore_ray.transport.base import Task
from polystore_ray.wire.messages import WHOLE, Facts, InlineFullError, Items, Pin, Stored
from polystore_ray.wire.pack import Pack

__all__ = ["restore", "verify"]

_PAGE = 1000  # small values that are published together

Row = dict[str, Any]


def restore(
    registry: RayBackendRegistry,
    source: P,
    *,
    replicas: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress = None,
) -> Manifest:
    """Fill an empty store with a dump, whose checksums are verified.

    The store may have another number of nodes, or be in local mode. All paths appear in one step;
    if anything fails, none does. No value is opened, so nothing of the dump runs; a later `load`
    opens a value, and runs what its author chose, as for any value.

    Parameters
    ----------
    registry : RayBackendRegistry
        The store. Its memory must be empty.
    source : str or os.PathLike
        The directory or URL of the dump.
    replicas : int, optional
        On how many nodes each value is held; by default as in the store that was dumped.
    storage_options : mapping, optional
        Options of fsspec for the URL.
    progress : callable or bool, optional
        Called with the number of values restored so far and the number of all; `True` shows a bar.

    Returns
    -------
    Manifest
        What the dump holds.

    Raises
    ------
    PathNotFoundError
        If there is no dump, or one that was interrupted.
    CorruptDataError
        If a file of the dump is missing or damaged.
    PathExistsError
        If the memory is not empty.
    TooFewNodesError
        If the cluster has fewer nodes than a value wants, unless `replicas` is given.
    StorageFullError
        If the values do not fit into the store.
    """
    connect: Connect = registry._connect  # noqa: SLF001 - what its own memory has
    files = files_at(source, storage_options)
    manifest, proof = Manifest.read(files), files.describe(MANIFEST)
    if replicas is not None:
        replicas = whole_number(replicas, "replicas", 1, backend="memory")
    present = [f"/{name}" for name in connect().ask("list_dir", "/") if not is_own(f"/{name}")]
    if present:
        raise PathExistsError(
            "restore needs an empty store; use another one, or delete what this one holds",
            path=present[0],
            backend="memory",
        )
    staging = connect().change("ensure_directory", f"{OWN_NAMES[1]}{uuid.uuid4().hex[:8]}")
    try:
        tasks: list[Task] = [
            ([], restore_part, (connect, files, *part, staging, replicas, manifest.lost_objects))
            for part in manifest.parts()
        ]
        skipped: set[str] = set()
        with reporting(progress, manifest.values + manifest.lost, "restoring") as step:
            for count, lost in run_part_tasks(connect, files, proof, tasks):
                skipped.update(lost)
                step(count)
            _graft(connect, files, manifest, staging, skipped, step)
    except BaseException:
        with suppress(StorageError):  # the error of the restore is the one to see
            connect().change("delete_all", staging)
        raise
    return manifest


def verify(
    source: P, *, storage_options: Mapping[str, Any] | None = None, progress: Progress = None
) -> Manifest:
    """Check that a dump is whole: read every file, and compare its checksum. It opens no value.

    Parameters
    ----------
    source, storage_options
        Same as for `restore`.
    progress : callable or bool, optional
        Called with the number of files checked so far and the number of all; `True` shows a bar.

    Returns
    -------
    Manifest
        What the dump holds.

    Raises
    ------
    PathNotFoundError
        If there is no dump, or one that was interrupted.
    CorruptDataError
        If a file is missing or damaged; it is named.
    """
    files = files_at(source, storage_options)
    manifest = Manifest.read(files)
    with (
        reporting(progress, len(manifest.files), "verifying") as step,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for _ in pool.map(files.check, manifest.files):
            step()
    return manifest


def _graft(
    connect: Connect,
    files: DumpFiles,
    manifest: Manifest,
    staging: str,
    skipped: set[str],
    step: Callable[..., None],
) -> None:
    """Let everything appear at the root, with its directories, copies and links."""
    directories: list[str] = []
    copies: list[tuple[str, str]] = []
    links: list[tuple[str, str]] = []
    with _damage_reported(files, manifest.tree):
        rows = list(lines_in(files.read_checked(manifest.tree)))
        for row in rows:
            if "directory" in row:
                directories.append(_path(row["directory"]))
            elif "link" in row:
                links.append((_path(row["link"]), normalize(row["target"])))
            elif "copy" in row and row["of"] not in skipped:
                copies.append((_path(row["of"]), _path(row["copy"])))
    connect().change("graft", staging, directories, copies, links)
    step(sum("copy" in row or "lost" in row for row in rows))


def restore_part(
    connect: Connect,
    files: DumpFiles,
    entries: DumpFile,
    objects: DumpFile | None,
    staging: str,
    replicas: int | None,
    lost: tuple[str, ...],
) -> tuple[int, list[str]]:
    """Publish the values of one part below a directory.

    Return the number of paths in the part, and those whose values are not in the dump.
    """
    default = connect().options.replicas or 1
    skipped: list[str] = []
    groups: defaultdict[int, list[Row]] = defaultdict(list)
    count = 0
    with _damage_reported(files, entries):
        for count, row in enumerate(lines_in(files.read_checked(entries)), 1):  # noqa: B007
            if row.get("object") in lost:
                skipped.append(_path(row["path"]))
            else:
                recorded = row["replicas"]
                wanted = default if recorded is None else _at_least(1, recorded)
                groups[replicas or wanted].append(row)
    held: dict[str, Sealed] = {}
    if objects is not None:
        with _damage_reported(files, objects):
            held = dict(objects_in(files.read_checked(objects)))
    with _damage_reported(files, entries):
        for wanted, rows in groups.items():
            _publish_objects(
                connect, staging, [row for row in rows if "object" in row], held, wanted
            )
            small = [row for row in rows if "object" not in row]
            for start in range(0, len(small), _PAGE):
                page = small[start : start + _PAGE]
                # A value that travels inside the call is held as often as the tree is.
                _publish_small(connect, staging, page, wanted, inline=wanted <= default)
    return count, skipped


def _publish_objects(
    connect: Connect, staging: str, rows: list[Row], held: dict[str, Sealed], replicas: int
) -> None:
    which = {id_: number for number, id_ in enumerate(dict.fromkeys(row["object"] for row in rows))}
    pins = [connect().put(held[id_]) for id_ in which]
    stored: list[Stored] = [(which[row["object"]], _at_least(WHOLE, row["number"])) for row in rows]
    _publish(connect, staging, rows, pins, stored, replicas)


def _publish_small(
    connect: Connect, staging: str, rows: list[Row], replicas: int, *, inline: bool
) -> None:
    messages = [base64.b64decode(row["value"], validate=True) for row in rows]
    if inline:
        with suppress(InlineFullError):
            _publish(connect, staging, rows, [], list(messages), replicas)
            return
    pin = connect().put(seal(Pack.of(messages)))
    _publish(connect, staging, rows, [pin], [(0, i) for i in range(len(rows))], replicas)


def _publish(
    connect: Connect,
    staging: str,
    rows: list[Row],
    pins: list[Pin],
    stored: list[Stored],
    replicas: int,
) -> None:
    if not rows:
        return
    transport = connect()
    paths = [staging + _path(row["path"]) for row in rows]
    moments = [(_at_least(0, row["version"]), float(row["modified"])) for row in rows]
    facts = [_facts(row) for row in rows]
    # A task that Ray repeats finds what it has published.
    items = Items(paths, facts, stored, overwrite=True, parents=True, moments=moments)
    transport.publish(pins, items._replace(replicas=replicas))
    for path, row, (version, _) in zip(paths, rows, moments, strict=True):
        if row["fallback"] is not None:
            key, where = row["fallback"]
            transport.change("set_fallback", path, version, (str(key), str(where)), path=path)


def _facts(row: Row) -> Facts:
    shape, dtype = row["shape"], row["dtype"]
    if dtype is not None and not isinstance(dtype, str):
        raise ValueError(f"{dtype!r} is not the name of a dtype")
    sides = None if shape is None else tuple(_at_least(0, side) for side in shape)
    return _at_least(0, row["size"]), sides, dtype


def _at_least(least: int, number: Any) -> int:
    if type(number) is not int or number < least:
        raise ValueError(f"{number!r} is not a whole number of at least {least}")
    return number


def _path(path: Any) -> str:
    """Return a path of a dump, which leads nowhere else."""
    names = path[1:].split("/") if isinstance(path, str) and path.startswith("/") else [""]
    if {"", ".", ".."} & set(names) or "\0" in path:
        raise ValueError(f"{path!r} is not a path of a dump")
    return str(path)


@contextmanager
def _damage_reported(files: DumpFiles, file: DumpFile) -> Iterator[None]:
    """Report rows that are not those of a dump as damage of a file."""
    path = files.path_of(file.name)
    try:
        yield
    except StorageError as error:
        error.located(path=path)
        raise
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise CorruptDataError(f"a row of the dump is damaged ({error!r})", path=path) from error
