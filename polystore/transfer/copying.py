"""Copy values from one backend into another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

from polystore.base import DataSource, StorageBackend
from polystore.capabilities import Capability
from polystore.error_translation import naming_written
from polystore.paths import P
from polystore.progress import Progress, reporting
from polystore.transfer.proxies import Pairs, Sender, class_of

__all__ = [
    "RAW",
    "ChecksLosses",
    "KeepsFiles",
    "KeepsGroups",
    "LoadsEach",
    "check_losses",
    "copy_directories",
    "copy_values",
    "load_and_save",
    "save_in_parts",
    "values_of",
]

RAW = ".bin"
"""The suffix whose format is the bytes of a file."""

_HELD_BYTES = 32 * 2**20  # of values that are in memory at a time, about
_HELD_VALUES = 256  # most values have no size that is known before they are loaded

SaveBatch = Callable[..., None]


class KeepsFiles(Capability, methods=("file_format",)):
    """A backend that keeps values in a format, whose bytes ``suffix=".bin"`` loads and saves."""

    @classmethod
    def file_format(cls, path: str, /) -> str | None:
        """Return the name of the format of a value; None for a value without one."""


class KeepsGroups(Capability, methods=("directory_format",)):
    """A backend whose directories have metadata, which ``suffix=".bin"`` loads and saves."""

    directory_format: ClassVar[str]
    """The name of the format of the metadata."""


class ChecksLosses(Capability, methods=("check_convertible",)):
    """A backend whose files can hold more than `load` returns, such as metadata."""

    def check_convertible(self, paths: Sequence[P], /) -> None:
        """Raise `UnsupportedOperationError` if other backends could not keep all of a file."""


class LoadsEach(Capability, methods=("load_each",)):
    """A backend that yields many values in turn, faster than by one `load` after another."""

    def load_each(self, paths: Sequence[P], /) -> Iterator[Any]:
        """Yield the values at `paths`, in their order."""
        yield from ()


def values_of(source: DataSource, paths: Sequence[str]) -> Iterator[Any]:
    """Yield the values at `paths`; no more of them are in memory than the caller holds."""
    return source.load_each(paths) if isinstance(source, LoadsEach) else map(source.load, paths)


def copy_values(
    source: DataSource,
    target: StorageBackend,
    pairs: Pairs,
    progress: Progress = None,
    **options: Any,
) -> None:
    """Copy values into another backend; only part of them are in memory at a time.

    Between two backends that keep a value in a file of one format, the bytes of the file are
    copied.

    - `pairs`: the paths of the values, and those of their copies
    - `progress`: called with the number of values copied so far and the number of all; `True` shows
      a bar
    - `options`: passed to the ``save_batch`` of `target`

    The error of either backend names the paths that were written.
    """
    if isinstance(source, Sender):
        source.send(target, pairs, progress, **options)
    else:
        load_and_save(source, target, pairs, progress, **options)


def load_and_save(
    source: DataSource,
    target: StorageBackend,
    pairs: Pairs,
    progress: Progress = None,
    **options: Any,
) -> None:
    """Copy values as `copy_values` does, through this process."""
    as_bytes, converted = _split_by_format(source, target, pairs)
    done: list[str] = []
    with (
        naming_written(done, len(pairs)) if as_bytes and converted else nullcontext(),
        reporting(progress, len(pairs), "copying") as step,
    ):
        files = (source.load(path, suffix=RAW) for path, _ in as_bytes)
        save_in_parts(files, as_bytes, target.save_batch, step, suffix=RAW, **options)
        done += [path for _, path in as_bytes]
        values = values_of(source, [path for path, _ in converted])
        save_in_parts(values, converted, target.save_batch, step, **options)


def copy_directories(source: DataSource, target: StorageBackend, pairs: Pairs) -> None:
    """Create directories in another backend; each pair comes after those of its ancestors.

    Between two backends whose directories have metadata of one format, the metadata is copied.
    """
    kinds = [class_of(backend) for backend in (source, target)]
    formats = {kind.directory_format for kind in kinds if issubclass(kind, KeepsGroups)}
    if len(formats) == 1 and all(issubclass(kind, KeepsGroups) for kind in kinds):
        for path, new in pairs:
            target.save(source.load(path, suffix=RAW), new)
        return
    above = {new.rpartition("/")[0] for _, new in pairs}
    for _, new in pairs:
        if new not in above:  # those above are created with it
            target.ensure_directory(new)


def check_losses(source: DataSource, target: StorageBackend, pairs: Pairs) -> None:
    """Raise if a copy would lose what files hold in addition to the values that `load` returns.

    Raises `UnsupportedOperationError` with the names of what would be lost.
    """
    if issubclass(class_of(source), ChecksLosses):
        origin: Any = source
        converted = _split_by_format(source, target, pairs)[1]
        origin.check_convertible([path for path, _ in converted])


def _split_by_format(
    source: DataSource, target: StorageBackend, pairs: Pairs
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the pairs that are files of one format in both backends, and the other pairs."""
    split: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    for pair in pairs:
        kind = _format(class_of(source), pair[0])
        split[kind is None or kind != _format(class_of(target), pair[1])].append(pair)
    return split


def _format(cls: type[Any], path: str) -> str | None:
    return cls.file_format(path) if issubclass(cls, KeepsFiles) else None


def save_in_parts(
    values: Iterable[Any],
    pairs: Pairs,
    save_batch: SaveBatch,
    step: Callable[[int], None],
    **options: Any,
) -> None:
    """Save values in batches, each as soon as enough of them are loaded.

    - `values`: the values at the first paths of the pairs
    - `pairs`: the paths; no value is loaded twice
    - `save_batch`: that of the other backend
    - `step`: called with the number of values in each batch that is saved

    The error of either backend names the paths that were written.
    """
    if not pairs:
        return
    targets = [target for _, target in pairs]
    written: list[str] = []
    with naming_written(written, len(targets)):
        for part in _parts(values):
            paths = targets[len(written) : len(written) + len(part)]
            save_batch(part, paths, **options)
            written += paths
            step(len(paths))


def _parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    held = 0
    for value in values:
        part.append(value)
        held += len(value) if isinstance(value, bytes) else getattr(value, "nbytes", 0)
        if held >= _HELD_BYTES or len(part) >= _HELD_VALUES:
            yield part
            part, held = [], 0
    if part:
        yield part
