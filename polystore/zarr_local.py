"""The zarr backend's tree on a local file system: arrays, groups and files in directories."""

from __future__ import annotations

import errno
import operator
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore

from polystore.atomic import (
    PREFIX,
    hidden_directory,
    keep_mode,
    remove,
    sweep_now,
    sync_file,
    sync_tree,
    temporary_name,
)
from polystore.descent import held
from polystore.disk import DiskBackend
from polystore.exceptions import (
    CorruptDataError,
    InvalidPathError,
    PathIsDirectoryError,
    StorageError,
    UnsupportedFormatError,
    UnsupportedOperationError,
)
from polystore.os_errors import nothing_there
from polystore.paths import P
from polystore.region import Region
from polystore.renames import publish_file, put, rename_new
from polystore.writable import private
from polystore.zarr_arrays import (
    DEFAULTS,
    GROUP,
    METADATA,
    ArrayOptions,
    Mode,
    as_numbers,
    described,
    is_chunk,
    node_type,
    open_array,
    open_node,
    read_array,
)
from polystore.zarr_locks import LocalLocks
from polystore.zarr_store import RootedStore, held_store
from polystore.zarr_writing import Shared, append, resize, write_region

__all__ = ["LocalZarr"]

T = TypeVar("T")

# What cannot be said of a path that leads nowhere.
_OF_SOMETHING = (CorruptDataError, PathIsDirectoryError, UnsupportedFormatError)
_HOLD = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC


class LocalZarr(DiskBackend):
    """Store arrays of numbers as directories that zarr reads, and any other value as a file.

    A save is atomic: the array is written beside its place and takes it in one step. What the
    methods promise is said by `polystore.zarr.ZarrBackend`.

    Parameters
    ----------
    root : str or os.PathLike, optional
        As of `DiskBackend`.
    """

    def __init__(self, root: P | None = None) -> None:
        super().__init__(root)
        with self._os_errors("/"):
            if self._top and not os.listdir(self._top):
                Path(self._top, "zarr.json").write_bytes(GROUP)

    def check_batch(self, paths: list[str], **options: Any) -> None:
        """Raise what a batch to `paths` would raise whatever the values."""
        self._check_batch(paths, **options)

    # What a value is

    def _is_value(self, place: str) -> bool:
        asked = _identity(place)
        while not (super()._is_value(place) or _is_array(place)):
            found = _identity(place)
            if found == asked:
                return False
            asked = found  # replaced meanwhile
        return True

    def _is_directory(self, place: str) -> bool:
        while True:
            asked = _identity(place)
            if not super()._is_directory(place):
                return False
            if _identity(place) == asked:
                return True

    def is_file(self, path: P) -> bool:
        return self._of_one(path, super().is_file)

    def is_dir(self, path: P) -> bool:
        return self._of_one(path, super().is_dir)

    def stat(self, path: P) -> dict[str, Any]:
        return self._of_one(path, super().stat)

    def _of_one(self, path: P, question: Callable[[P], T]) -> T:
        """Ask until the path leads to the same before and after: an array half deleted is none."""
        asked = self._led_to(path)
        while True:
            answer = question(path)
            found = self._led_to(path)
            if found == asked:
                return answer
            asked = found

    def _led_to(self, path: P) -> tuple[int, int] | None:
        with self._read_errors(path), nothing_there(), self._places.existing(path) as place:
            return _identity(place)
        return None

    def _is_hidden(self, name: str) -> bool:
        return name in METADATA or super()._is_hidden(name)

    def _check_name(self, path: P) -> None:
        if os.path.basename(str(path).rstrip("/")) in METADATA:
            raise InvalidPathError("zarr keeps its own metadata under this name")

    def _describe(self, place: str, path: P) -> dict[str, Any]:
        if not _is_array(place):
            return super()._describe(place, path)
        facts: dict[str, Any] = {"size": _size(place)}
        with suppress(CorruptDataError):  # a question is no place to complain
            array = open_array(self._store(place, read_only=True))
            facts |= {"shape": array.shape, "dtype": str(array.dtype)}
        return facts

    # Arrays

    def open(self, path: P, mode: Mode = "r") -> zarr.Array[Any] | zarr.Group:
        with self._os_errors(path), self._places.existing(path) as place:
            os.stat(place)
            if os.path.isfile(place):
                raise UnsupportedFormatError("the path is a file, neither an array nor a group")
            store: Store | str = place
            if self._top:
                text = self._places.text(path)
                store = RootedStore(self._top, text, read_only=mode == "r")
            return open_node(store, mode)

    def _store(self, place: str, *, read_only: bool) -> Store:
        """Return what zarr opens a place with; below a root no link of a chunk leads out of it."""
        kind = RootedStore if self._top else LocalStore
        return held_store(kind, place, read_only=read_only)

    def content_identity(self, path: P) -> Hashable | None:
        return self._file_identity(path)  # None for an array, whose chunks change unseen

    def load(
        self,
        path: P,
        *,
        region: Region | None = None,
        suffix: str | None = None,
        series: int | None = None,
        missing: str | None = None,
        max_decoded: int | None = None,
        writable: bool = False,
    ) -> Any:
        options = {"series": series, "missing": missing, "max_decoded": max_decoded}
        while True:
            with self._held(path) as is_still_there:
                try:
                    value = self._load(path, region, suffix, options)
                except _OF_SOMETHING as error:
                    if is_still_there() and not self._is_none(path, error):
                        raise
                    continue
                # Replaced while it was read, its missing chunks would have come as fill values.
                if is_still_there():
                    return private(value) if writable else value

    def _is_none(self, path: P, error: StorageError) -> bool:
        """Tell whether what was taken for a directory is none: an array that was moved and back."""
        return isinstance(error, PathIsDirectoryError) and not self.is_dir(path)

    def _load(
        self, path: P, region: Region | None, suffix: str | None, options: dict[str, Any]
    ) -> Any:
        with self._existing_value(path) as place:
            if not _is_array(place):
                return super().load(path, region=region, suffix=suffix, **options)
            if suffix is not None:
                raise UnsupportedFormatError(f"an array of zarr is no {suffix} file")
            store = self._store(place, read_only=True)
            while True:
                shown = _shape(place)
                value = read_array(store, region, lambda: _size(place))
                # What was cut off while it was read would have come as fill values.
                if not any(map(operator.lt, _shape(place), shown)):
                    return value

    @contextmanager
    def _held(self, path: P) -> Iterator[Callable[[], bool]]:
        """Hold what is at a path, so that nothing else is taken for it; give what asks for it."""
        try:
            with self._places.existing(path) as place:
                held = os.open(place, _HOLD)
        except OSError:
            yield lambda: False
            return
        try:
            yield lambda: self._is_at(path, os.fstat(held))
        finally:
            os.close(held)

    def _is_at(self, path: P, status: os.stat_result) -> bool:
        with suppress(OSError), self._places.existing(path) as place:
            return os.path.samestat(os.stat(place), status)
        return False

    def save(
        self,
        data: Any,
        path: P,
        *,
        overwrite: bool = False,
        parents: bool = False,
        region: Region | None = None,
        suffix: str | None = None,
        durable: bool = False,
        options: ArrayOptions = DEFAULTS,
    ) -> None:
        if region is not None:
            self._save_region(data, path, region, durable=durable)
            return
        array = as_numbers(data) if suffix is None else None
        if array is None:
            super().save(
                data, path, overwrite=overwrite, parents=parents, suffix=suffix, durable=durable
            )
            return

        def write(temporary: str) -> None:
            os.mkdir(temporary)
            store = self._store(temporary, read_only=False)
            options.write(store, array, replaced=self._attributes(path))
            if durable:
                sync_tree(temporary)

        self._replace(path, write, overwrite=overwrite, parents=parents, durable=durable)

    def _attributes(self, path: P) -> dict[str, Any]:
        """Return the attributes of the array that is replaced."""
        with suppress(OSError, CorruptDataError), self._places.existing(path) as place:
            if _is_array(place):
                return dict(open_array(self._store(place, read_only=True)).attrs)
        return {}

    def _save_region(self, data: Any, path: P, region: Region, *, durable: bool) -> None:
        with self._existing_value(path) as place:
            if not _is_array(place):
                super().save(data, path, region=region, durable=durable)
                return
            with self._shared(path, place, durable=durable) as array:
                write_region(array, region, data)

    def append(self, values: Any, path: P, *, axis: int = 0, durable: bool = False) -> int:
        with self._existing_array(path, durable=durable) as array:
            return append(array, values, axis)

    def resize(self, path: P, shape: Sequence[int], *, durable: bool = False) -> None:
        with self._existing_array(path, durable=durable) as array:
            resize(array, shape)

    @contextmanager
    def _existing_array(self, path: P, *, durable: bool) -> Iterator[Shared]:
        with self._existing_value(path) as place:
            if not _is_array(place):
                raise UnsupportedOperationError("only zarr arrays grow, and this is a file")
            with self._shared(path, place, durable=durable) as array:
                yield array

    @contextmanager
    def _shared(self, path: P, place: str, *, durable: bool) -> Iterator[Shared]:
        """Give an array that others change too, held open; what is changed is synced at the end."""
        with self._os_errors(path), held(place) as directory:
            yield _SharedDirectory(directory, self._store(directory, read_only=False))
            if durable:
                sync_tree(directory)

    @contextmanager
    def _replacing(
        self, path: P, *, overwrite: bool, parents: bool, **options: Any
    ) -> Iterator[str]:
        with self._located(path):
            self._check_name(path)
            # Asked first, or parents would be made inside an array.
            self._check_save(str(path), overwrite=overwrite, parents=parents)
        replacing = super()._replacing(path, overwrite=overwrite, parents=parents, **options)
        with replacing as temporary:
            yield temporary

    def _publish(self, temporary: str, target: str, *, overwrite: bool) -> None:
        if not overwrite:
            rename_new(temporary, target)
            return
        replaced = put(temporary, target, self._check_no_group)
        if replaced:
            remove(replaced)

    def _check_no_group(self, place: str) -> None:
        os.lstat(place)
        if self._is_directory(place):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), place)

    @contextmanager
    def _temporary(self, place: str) -> Iterator[str]:
        # Hidden in a directory that is no group, since zarr lists arrays of any name.
        with hidden_directory(place) as hidden:
            yield f"{hidden}/new"

    # Groups

    def _make_directory(self, place: str) -> None:
        with self._temporary(place) as temporary:
            os.mkdir(temporary)
            Path(temporary, "zarr.json").write_bytes(GROUP)
            rename_new(temporary, place)

    def _remove_directory(self, place: str) -> None:
        sweep_now(place)
        with held(place) as directory, hidden_directory(place) as aside:
            self._check_empty(directory)
            # It is in the way of rmdir, which alone knows whether somebody saves there meanwhile.
            for name in METADATA:
                with suppress(FileNotFoundError):
                    os.rename(f"{directory}/{name}", f"{aside}/{PREFIX}{name}")
            try:
                os.rmdir(place)
            except OSError:
                for name in os.listdir(aside):
                    with suppress(OSError):  # deleted by another, or made again
                        rename_new(f"{aside}/{name}", f"{directory}/{name.removeprefix(PREFIX)}")
                raise

    def _check_empty(self, place: str) -> None:
        if any(not self._is_hidden(name) for name in os.listdir(place)):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), place)


class _SharedDirectory(Shared):
    """An array in a directory, that several change at once."""

    def __init__(self, directory: str, store: Store) -> None:
        self._directory = directory
        self.store = store
        self.locks = LocalLocks(directory)

    def metadata(self) -> tuple[str, bytes]:
        name = "zarr.json" if os.path.isfile(f"{self._directory}/zarr.json") else ".zarray"
        return name, Path(self._directory, name).read_bytes()

    def publish(self, metadata: bytes, *, shows_less: bool = False) -> None:
        place = f"{self._directory}/{self.metadata()[0]}"
        temporary = temporary_name(place)
        try:
            Path(temporary).write_bytes(metadata)
            keep_mode(place, temporary)
            sync_file(temporary)
            publish_file(temporary, place, overwrite=True)
        except BaseException:
            remove(temporary)
            raise

    def chunks(self) -> Iterable[str]:
        for place, _, names in os.walk(self._directory):
            for name in names:
                key = os.path.relpath(f"{place}/{name}", self._directory)
                if is_chunk(key):
                    yield key

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            remove(f"{self._directory}/{key}")


def _is_array(place: str) -> bool:
    if os.path.isfile(f"{place}/.zarray"):
        return True
    try:
        # A group has a zarr.json too.
        return node_type(Path(place, "zarr.json").read_bytes()) == "array"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
        return False  # a question never fails: what cannot be looked at is not there


def _shape(place: str) -> tuple[int, ...]:
    """Return the shape of an array, () if its metadata cannot be read."""
    for name in ("zarr.json", ".zarray"):
        with suppress(OSError, KeyError, TypeError):
            return tuple(described(Path(place, name).read_bytes())["shape"])
    return ()


def _identity(place: str) -> tuple[int, int] | None:
    """Return what tells apart two things that have one name after another; None for nothing."""
    try:
        status = os.stat(place)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _size(place: str) -> int:
    return sum(file.lstat().st_size for file in Path(place).rglob("*") if file.is_file())


# Not in the body, which would register the class under the key.
LocalZarr._backend_type = "zarr"  # noqa: SLF001 - its own
