"""The zarr backend's tree on a local file system: arrays, groups and files in directories."""

from __future__ import annotations

import errno
import operator
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from functools import partial
from typing import Any, TypeVar

import zarr
from zarr.abc.store import Store

from polystore.disk import DiskBackend
from polystore.exceptions import (
    CorruptDataError,
    InvalidPathError,
    PathIsDirectoryError,
    StorageError,
    UnsupportedFormatError,
    UnsupportedOperationError,
)
from polystore.filesystem.descent import files_below
from polystore.filesystem.dir_fd import REACH, Held, Place, check_no_device
from polystore.filesystem.renames import publish_file, put, rename_new
from polystore.filesystem.temporaries import (
    PREFIX,
    hidden_directory,
    keep_mode,
    remove,
    sweep_now,
    temporary_name,
)
from polystore.filesystem.tree_operations import sync_tree
from polystore.paths import P
from polystore.region import Region
from polystore.writable import private
from polystore.zarr.array.creation import DEFAULTS, ArrayOptions, ZarrFormat, create
from polystore.zarr.array.groups import (
    GROUP_FILES,
    GROUP_METADATA,
    GroupMark,
    is_shown,
    member_format,
)
from polystore.zarr.array.locks import LocalLocks
from polystore.zarr.array.reading import (
    METADATA,
    Mode,
    apart,
    as_numbers,
    check_file,
    described,
    is_chunk,
    node_type,
    open_array,
    open_node,
    read_array,
)
from polystore.zarr.array.stored import StoredArray, copy_stored
from polystore.zarr.array.updating import Shared, append, resize, write_region
from polystore.zarr.local.groups import LocalGroups
from polystore.zarr.local.key_files import KeyFiles
from polystore.zarr.local.rooted_store import TreeStore, files_in, held_store

__all__ = ["LocalZarr"]

D = TypeVar("D")
T = TypeVar("T")

# What cannot be said of a path that leads nowhere.
_OF_SOMETHING = (CorruptDataError, PathIsDirectoryError, UnsupportedFormatError)


class LocalZarr(DiskBackend):
    """Store arrays of numbers as directories that zarr reads, and any other value as a file.

    A save is atomic: the array is written beside its place and takes it in one step. What the
    methods promise is said by `polystore.zarr.ZarrBackend`.

    Parameters
    ----------
    root : str or os.PathLike, optional
        As of `DiskBackend`.
    zarr_format : {2, 3}, optional
        The format where no group has one yet; by default 3.
    """

    def __init__(self, root: P | None = None, *, zarr_format: ZarrFormat | None = None) -> None:
        super().__init__(root)
        self._default_format = zarr_format
        self._wanted_format: ZarrFormat | None = None
        self._groups = LocalGroups(self._places, is_rooted=bool(self._top))
        if self._top:
            with self._os_errors("/"), self._places.existing("/") as top:
                if not top.names():
                    name, metadata = GROUP_FILES[zarr_format or 3]
                    top.place(name).write(metadata)

    def of_format(self, zarr_format: ZarrFormat | None) -> LocalZarr:
        """Return the same tree, which makes new arrays and groups of this format, None for any."""
        tree = copy(self)
        tree._wanted_format = zarr_format  # noqa: SLF001 - its own kind
        return tree

    def check_batch(self, paths: list[str], **options: Any) -> None:
        """Raise what a batch to `paths` would raise whatever the values."""
        self._check_batch(paths, **options)

    # What a value is

    _directories_are_values = True

    def _is_array(self, directory: Held) -> bool:
        files = self._files(directory)
        try:
            # A group has a zarr.json too.
            metadata = files.read("zarr.json")
            if metadata is not None and node_type(metadata) == "array":
                return True
            return files.exists(".zarray")
        except (OSError, CorruptDataError, InvalidPathError):
            return False  # a question never fails: what cannot be looked at is not there

    def _has_value(self, place: Place) -> bool:
        asked = place.identity()
        while not super()._has_value(place):
            found = place.identity()
            if found == asked:
                return False
            asked = found  # replaced meanwhile
        return True

    def _has_directory(self, place: Place) -> bool:
        while True:
            asked = place.identity()
            if not super()._has_directory(place):
                return False
            if place.identity() == asked:
                return True

    def _asked(self, path: P, question: Callable[[Held], T], otherwise: D) -> T | D:
        """Ask of what is still there afterwards: an array half deleted is none."""

        def dated(held: Held) -> tuple[T, os.stat_result]:
            return question(held), held.status()

        while True:
            found = super()._asked(path, dated, None)
            if found is None:
                return otherwise
            answer, known = found
            if self._is_at(path, known):
                return answer

    def _is_hidden(self, name: str) -> bool:
        return name in METADATA or super()._is_hidden(name)

    def _check_name(self, name: str) -> None:
        if name in METADATA:
            raise InvalidPathError("zarr keeps its own metadata under this name")
        super()._check_name(name)

    def _describe(self, held: Held, path: P) -> dict[str, Any]:
        if not held.is_directory():
            return super()._describe(held, path)
        facts: dict[str, Any] = {"size": _size(held)}
        with suppress(CorruptDataError, InvalidPathError):  # stat never fails on what a file holds
            array = open_array(self._store(held, read_only=True))
            facts |= {"shape": array.shape, "dtype": str(array.dtype)}
        return facts

    # Arrays

    def open(self, path: P, mode: Mode = "r") -> zarr.Array[Any] | zarr.Group:
        with self._os_errors(path), self._places.existing(path) as held:
            check_no_device(held.status())
            if not held.is_directory():
                raise UnsupportedFormatError("the path is a file, neither an array nor a group")
            text = self._places.text(path) if self._top else self._places.real(path)
            store = TreeStore(self._top or None, text, read_only=mode == "r")
            return open_node(store, mode)

    def _files(self, directory: Held) -> KeyFiles:
        return files_in(directory, rooted=bool(self._top))

    def _store(self, directory: Held, *, read_only: bool) -> Store:
        """Return what zarr opens a directory with, which it holds open."""
        return held_store(directory, rooted=bool(self._top), read_only=read_only)

    def apart(self, path: P) -> list[str]:
        with suppress(OSError, StorageError):  # its load says it
            return apart(self.open(path))
        return super().apart(path)

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
            with self._located(path), self._held(path) as is_still_there:
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
        with self._existing_value(path) as held:
            if not held.is_directory():
                return super().load(path, region=region, suffix=suffix, **options)
            if suffix is not None:
                raise UnsupportedFormatError(f"an array of zarr is no {suffix} file")
            store, files = self._store(held, read_only=True), self._files(held)
            while True:
                shown = _shape(files)
                value = read_array(store, region, lambda: _size(held))
                # What was cut off while it was read would have come as fill values.
                if not any(map(operator.lt, _shape(files), shown)):
                    return value

    @contextmanager
    def _held(self, path: P) -> Iterator[Callable[[], bool]]:
        """Hold what is at a path, so that nothing else is taken for it; give what asks for it."""
        try:
            with self._places.existing(path) as held:
                again = held.again()
        except OSError:
            yield lambda: False
            return
        with again:
            yield lambda: self._is_at(path, again.status())

    def _is_at(self, path: P, status: os.stat_result) -> bool:
        with suppress(OSError):
            return super()._is_at(path, status)
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
        if options.zarr_format not in (None, self._wanted_format):
            self.of_format(options.zarr_format).save(
                data,
                path,
                overwrite=overwrite,
                parents=parents,
                suffix=suffix,
                durable=durable,
                options=options,
            )
            return
        array = as_numbers(data) if suffix is None else None
        if array is None:
            with self._located(path):
                check_file(data, suffix or str(path))
            super().save(
                data, path, overwrite=overwrite, parents=parents, suffix=suffix, durable=durable
            )
            return

        def write(store: Store) -> None:
            replaced = self._array_at(path)
            chosen = self._format_in(self._groups.marks(path), replaced)
            create(store, array, options, zarr_format=chosen, replaced=replaced)

        self._put_array(path, write, overwrite=overwrite, parents=parents, durable=durable)

    def _put_array(
        self,
        path: P,
        write: Callable[[Store], None],
        *,
        overwrite: bool,
        parents: bool = False,
        durable: bool = False,
    ) -> None:
        """Publish at `path` the array that `write` writes into an empty store."""

        def write_directory(temporary: Place) -> None:
            temporary.make_directory()
            with temporary.hold(REACH | os.O_DIRECTORY) as directory:
                write(self._store(directory, read_only=False))
                if durable:
                    sync_tree(directory)

        self._replace(path, write_directory, overwrite=overwrite, parents=parents, durable=durable)

    # Copies into another tree, and out of one

    @contextmanager
    def stored(self, path: P) -> Iterator[StoredArray | None]:
        """Yield the array at a path as it is stored, None for a file."""
        with (
            self._located(path),
            self._held(path) as is_there,
            self._existing_value(path) as held,
        ):
            if not held.is_directory():
                yield None
                return
            files = self._files(held)
            shown = _shape(files)
            yield StoredArray(
                self._store(held, read_only=True),
                3 if files.exists("zarr.json") else 2,
                lambda: is_there() and not any(map(operator.lt, _shape(files), shown)),
            )

    def put_stored(self, path: P, array: StoredArray, *, parents: bool = False) -> None:
        """Store a copy of an array at a free path."""
        self._put_array(path, partial(copy_stored, array), overwrite=False, parents=parents)

    def shows(self, path: P, zarr_format: ZarrFormat) -> bool:
        """Return whether the group above a path shows members of a format."""
        return is_shown(self._groups.marks(path), zarr_format)

    def group_metadata(self, path: P) -> dict[str, bytes]:
        """Return the metadata files of the group at a path, {} if it is not a group."""
        with self._os_errors(path), self._places.existing(path) as held:
            files = self._files(held)
            found = {name: files.read(name) for name in GROUP_METADATA}
        return {name: data for name, data in found.items() if data is not None}

    def put_group(self, path: P, metadata: Mapping[str, bytes]) -> None:
        """Create a group with this metadata at a free path, and its parents."""
        self.ensure_directory(os.path.dirname(self._places.text(path)) or ".")
        with self._free_place(path) as place:
            self._forget(path)
            self._make_group(place, metadata)

    def _array_at(self, path: P) -> zarr.Array[Any] | None:
        """Return the array that is replaced, None where there is none that can be read."""
        with suppress(OSError, CorruptDataError), self._places.existing(path) as held:
            if self._is_array(held):
                return open_array(self._store(held, read_only=True))
        return None

    def _format_in(
        self, marks: Iterable[GroupMark], replaced: zarr.Array[Any] | None = None
    ) -> ZarrFormat:
        """Return the format of what is to be made in directories of these marks."""
        is_old = replaced is not None and replaced.metadata.zarr_format == 2
        if self._wanted_format is None and is_old:
            return 2
        return member_format(marks, self._wanted_format, self._default_format)

    def _save_region(self, data: Any, path: P, region: Region, *, durable: bool) -> None:
        with self._existing_value(path) as held:
            if not held.is_directory():
                super().save(data, path, region=region, durable=durable)
                return
            with self._shared(path, held, durable=durable) as array:
                write_region(array, region, data)

    def append(self, values: Any, path: P, *, axis: int = 0, durable: bool = False) -> int:
        with self._existing_array(path, durable=durable) as array:
            return append(array, values, axis)

    def resize(self, path: P, shape: Sequence[int], *, durable: bool = False) -> None:
        with self._existing_array(path, durable=durable) as array:
            resize(array, shape)

    @contextmanager
    def _existing_array(self, path: P, *, durable: bool) -> Iterator[Shared]:
        with self._existing_value(path) as held:
            if not held.is_directory():
                raise UnsupportedOperationError("only zarr arrays grow, and this is a file")
            with self._shared(path, held, durable=durable) as array:
                yield array

    @contextmanager
    def _shared(self, path: P, directory: Held, *, durable: bool) -> Iterator[Shared]:
        """Give an array that others change too; what is changed is synced at the end."""
        with self._os_errors(path):
            store, forget = self._store(directory, read_only=False), partial(self._forget, path)
            yield _SharedDirectory(directory, self._files(directory), store, forget)
            if durable:
                sync_tree(directory)

    @contextmanager
    def _replacing(
        self, path: P, *, overwrite: bool, parents: bool, **options: Any
    ) -> Iterator[Place]:
        with self._located(path):
            # Asked first, or parents would be made inside an array.
            self._check_save(str(path), overwrite=overwrite, parents=parents)
        if parents and not self.is_dir(os.path.dirname(self._places.text(path)) or "."):
            self._forget(path)
        replacing = super()._replacing(path, overwrite=overwrite, parents=parents, **options)
        with replacing as temporary:
            yield temporary
            if temporary.is_directory() or self._asked(path, self._is_array, False):
                self._forget(path)

    def _publish(self, temporary: Place, target: Place, *, overwrite: bool) -> None:
        if not overwrite:
            rename_new(temporary, target)
            return
        replaced = put(temporary, target, self._check_replaceable)
        if replaced:
            remove(replaced)

    def _check_replaceable(self, place: Place) -> None:
        check_no_device(place.status())
        if self._has_directory(place):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), place.name)

    @contextmanager
    def _temporary(self, place: Place) -> Iterator[Place]:
        # Hidden in a directory that is no group, since zarr lists arrays of any name.
        with hidden_directory(place) as hidden:
            yield hidden.place("new")

    # Groups

    def _forget(self, path: P) -> None:
        """Let no group above a path tell of it what is about to change."""
        self._groups.forget(path)

    def _make_directory(self, place: Place) -> None:
        chosen = self._format_in(self._groups.marks_from(place.directory))
        name, metadata = GROUP_FILES[chosen]
        self._make_group(place, {name: metadata})

    def _make_group(self, place: Place, metadata: Mapping[str, bytes]) -> None:
        with self._temporary(place) as temporary:
            temporary.make_directory()
            with temporary.hold(REACH | os.O_DIRECTORY) as directory:
                for name, data in metadata.items():
                    directory.place(name).write(data)
            rename_new(temporary, place)

    def _ensure_directory(self, path: P) -> None:
        if not self.is_dir(path):
            self._forget(path)
        super()._ensure_directory(path)

    def delete(self, path: P) -> None:
        with self._present(path) as place:
            if _is_member(place) and not self._is_filled(place):
                self._forget(path)
        super().delete(path)

    def delete_all(self, path: P) -> None:
        with self._present(path) as place:
            if _is_member(place):
                self._forget(path)
        super().delete_all(path)

    def move(self, source: P, destination: P) -> None:
        with self._transfer(source, destination) as (origin, _):
            if _is_member(origin):
                self._forget(source)
        super().move(source, destination)

    @contextmanager
    def _transfer(self, source: P, destination: P) -> Iterator[tuple[Place, Place]]:
        with super()._transfer(source, destination) as (origin, place):
            if _is_member(origin):
                self._forget(destination)
            yield origin, place

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        if self.exists(source):
            with self._free_place(link, over_link=overwrite):
                self._forget(link)
        super().create_symlink(source, link, overwrite=overwrite)

    def _is_filled(self, place: Place) -> bool:
        """Return whether it is a directory that cannot be removed, since something is in it."""
        if not place.is_directory() or self._has_value(place):
            return False
        with place.hold(REACH | os.O_DIRECTORY) as directory:
            return not self._is_empty(directory)

    def _is_empty(self, directory: Held) -> bool:
        return all(map(self._is_hidden, directory.names()))

    def _remove_directory(self, place: Place) -> None:
        with place.hold(REACH | os.O_DIRECTORY) as directory, hidden_directory(place) as aside:
            sweep_now(directory)
            if not self._is_empty(directory):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), place.name)
            # It is in the way of rmdir, which alone knows whether somebody saves there meanwhile.
            for name in METADATA:
                with suppress(FileNotFoundError):
                    directory.place(name).rename(aside.place(PREFIX + name))
            try:
                place.remove_directory()
            except OSError:
                for name in aside.names():
                    with suppress(OSError):  # deleted by another, or made again
                        rename_new(aside.place(name), directory.place(name.removeprefix(PREFIX)))
                raise


def _is_member(place: Place) -> bool:
    """Return whether zarr may know of what is at a place: an array, a group, or a link to one."""
    return place.is_directory() or place.is_link()


class _SharedDirectory(Shared):
    """An array in a directory, that several change at once."""

    def __init__(
        self, directory: Held, files: KeyFiles, store: Store, forget: Callable[[], None]
    ) -> None:
        self._directory, self._files, self._forget = directory, files, forget
        self.store = store
        self.locks = LocalLocks(directory)

    def metadata(self) -> tuple[str, bytes]:
        for name in ("zarr.json", ".zarray"):
            metadata = self._files.read(name)
            if metadata is not None:
                return name, metadata
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def publish(self, metadata: bytes, *, shows_less: bool = False) -> None:
        self._forget()
        place = self._directory.place(self.metadata()[0])
        temporary = place.beside(temporary_name())
        try:
            temporary.write(metadata)
            keep_mode(place, temporary)
            temporary.sync()
            publish_file(temporary, place, overwrite=True)
        except BaseException:
            remove(temporary)
            raise

    def chunks(self) -> Iterable[str]:
        return (key for key, _ in files_below(self._directory) if is_chunk(key))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._files.remove(key)


def _shape(files: KeyFiles) -> tuple[int, ...]:
    """Return the shape of an array, () if its metadata cannot be read."""
    for name in ("zarr.json", ".zarray"):
        with suppress(OSError, StorageError, KeyError, TypeError):
            metadata = files.read(name)
            if metadata is not None:
                return tuple(described(metadata)["shape"])
    return ()


def _size(directory: Held) -> int:
    return sum(status.st_size for _, status in files_below(directory))


# Not in the body, which would register the class under the key.
LocalZarr._backend_type = "zarr"  # noqa: SLF001 - its own
