"""The zarr backend's tree on a local file system: arrays, groups and files in directories."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store

from polystore.atomic import (
    exchange,
    hidden_directory,
    remove,
    rename_new,
    sweep_now,
    sync_tree,
    temporary_name,
)
from polystore.disk import DiskBackend
from polystore.exceptions import (
    CorruptDataError,
    InvalidPathError,
    PathIsDirectoryError,
    UnsupportedFormatError,
)
from polystore.paths import P
from polystore.region import Region
from polystore.zarr_arrays import (
    DEFAULTS,
    GROUP,
    METADATA,
    ArrayOptions,
    Mode,
    as_numbers,
    node_type,
    open_array,
    open_node,
    read_array,
    write_region,
)
from polystore.zarr_store import RootedStore

__all__ = ["LocalZarr"]

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
        return super()._is_value(place) or _is_array(place)

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

    def _store(self, place: str, *, read_only: bool) -> Store | str:
        """Return what zarr opens a place with, out of which no link of a chunk leads."""
        return RootedStore(place, read_only=read_only) if self._top else place

    def load(self, path: P, *, region: Region | None = None) -> Any:
        while True:
            with self._held(path) as is_still_there:
                try:
                    value = self._load(path, region)
                except (CorruptDataError, PathIsDirectoryError):
                    if is_still_there():
                        raise
                    continue
                # Replaced while it was read, its missing chunks would have come as fill values.
                if is_still_there():
                    return value

    def _load(self, path: P, region: Region | None) -> Any:
        with self._existing_value(path) as place:
            if not _is_array(place):
                return super().load(path, region=region)
            return read_array(self._store(place, read_only=True), region, lambda: _size(place))

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
        durable: bool = False,
        options: ArrayOptions = DEFAULTS,
    ) -> None:
        if region is not None:
            self._save_region(data, path, region, durable=durable)
            return
        array = as_numbers(data)
        if array is None:
            super().save(data, path, overwrite=overwrite, parents=parents, durable=durable)
            return
        with self._replacing(
            path, overwrite=overwrite, parents=parents, durable=durable
        ) as temporary:
            os.mkdir(temporary)
            store = self._store(temporary, read_only=False)
            options.write(store, array, replaced=self._attributes(path))
            if durable:
                sync_tree(temporary)

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
            write_region(self._store(place, read_only=False), region, data)
            if durable:
                sync_tree(place)

    @contextmanager
    def _replacing(
        self, path: P, *, overwrite: bool, parents: bool, durable: bool
    ) -> Iterator[str]:
        with self._located(path):
            self._check_name(path)
            # Asked first, or parents would be made inside an array.
            self._check_save(str(path), overwrite=overwrite, parents=parents)
        replacing = super()._replacing(path, overwrite=overwrite, parents=parents, durable=durable)
        with replacing as temporary:
            yield temporary

    def _publish(self, temporary: str, target: str, *, overwrite: bool) -> None:
        directories = os.path.isdir(target) or os.path.isdir(temporary)
        if not (overwrite and directories and os.path.lexists(target)):
            try:
                super()._publish(temporary, target, overwrite=overwrite and not directories)
            except FileExistsError:
                if not overwrite:
                    raise
                # Another save came first, and is replaced.
                self._publish(temporary, target, overwrite=overwrite)
            return
        if not exchange(temporary, target):
            # Where paths cannot be exchanged, a reader may for a moment find nothing.
            aside = temporary_name(target)
            os.rename(target, aside)
            os.rename(temporary, target)
            os.rename(aside, temporary)
        if self._is_directory(temporary):  # a group came there since it was looked at
            exchange(temporary, target)
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), target)
        remove(temporary)

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
        found = os.listdir(place)
        # A temporary is a save that is going on.
        if any(name not in METADATA for name in found):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), place)
        metadata = {Path(place, name): Path(place, name).read_bytes() for name in found}
        for file in metadata:
            file.unlink(missing_ok=True)
        try:
            os.rmdir(place)
        except OSError:  # somebody saves into it since
            for file, content in metadata.items():
                file.write_bytes(content)
            raise


def _is_array(place: str) -> bool:
    if os.path.isfile(f"{place}/.zarray"):
        return True
    try:
        # A group has a zarr.json too.
        return node_type(Path(place, "zarr.json").read_bytes()) == "array"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
        return False  # a question never fails: what cannot be looked at is not there


def _size(place: str) -> int:
    return sum(file.lstat().st_size for file in Path(place).rglob("*") if file.is_file())


# Not in the body, which would register the class under the key.
LocalZarr._backend_type = "zarr"  # noqa: SLF001 - its own
