"""Backends that each break one promise, for the conformance kit to find."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import numpy as np

from polystore import (
    CorruptDataError,
    DiskBackend,
    MemoryBackend,
    PathExistsError,
    ReadOnlyBackend,
    StorageBackend,
    StorageError,
    ZarrBackend,
)
from polystore.testing import FileAccess

MOMENT = 0.001  # seconds


class OverwritesSilently(MemoryBackend):
    def save(self, data: Any, path: Any, **options: Any) -> None:
        super().save(data, path, **options | {"overwrite": True})


class IgnoresOverwrite(MemoryBackend):
    def save(self, data: Any, path: Any, *, overwrite: bool = False, **options: Any) -> None:
        super().save(data, path, **options)


class SharesWhatIsSaved(MemoryBackend):
    def __init__(self) -> None:
        super().__init__()
        self.shared: dict[str, Any] = {}

    def save(self, data: Any, path: Any, **options: Any) -> None:
        super().save(data, path, **options)
        self.shared[path] = data

    def load(self, path: Any, **options: Any) -> Any:
        super().load(path)
        return self.shared.get(path)


class Tears(DiskBackend):
    """Overwrites a file in place, half after half."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.files = FileAccess(root)
        self.writing = threading.Lock()

    def save(self, data: Any, path: Any, *, overwrite: bool = False, **options: Any) -> None:
        if not (overwrite and self.exists(path) and isinstance(data, np.ndarray)):
            super().save(data, path, overwrite=overwrite, **options)
            return
        whole = self.files.encode(data)
        with self.writing, self.files.place(path).open("r+b") as file:
            file.write(whole[: len(whole) // 2])
            file.flush()
            time.sleep(MOMENT)
            file.write(whole[len(whole) // 2 :])


class ListsTemporaries(MemoryBackend):
    def save(self, data: Any, path: Any, **options: Any) -> None:
        temporary = f"{path}.{uuid.uuid4().hex}"
        super().save(data, temporary, **options)
        time.sleep(MOMENT)
        self.delete(temporary)
        super().save(data, path, **options)


class LeavesTemporaries(DiskBackend):
    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.files = FileAccess(root)

    def save(self, data: Any, path: Any, **options: Any) -> None:
        try:
            super().save(data, path, **options)
        except StorageError:
            self.files.place("/.polystore-tmp-left").touch()
            raise


class SavesWithTheNextCall(DiskBackend):
    _waiting: tuple[Any, ...] = ()

    def save(self, data: Any, path: Any, **options: Any) -> None:
        self._flush()
        self._waiting = data, path, options

    def load(self, path: Any, **options: Any) -> Any:
        self._flush()
        return super().load(path, **options)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, ()
        if waiting:
            super().save(waiting[0], waiting[1], **waiting[2])


class RaisesFromExists(MemoryBackend):
    def exists(self, path: Any) -> bool:
        return bool(self.stat(path)["modified"])


class AnswersInNumbers(MemoryBackend):
    def is_file(self, path: Any) -> bool:
        return int(super().is_file(path))  # type: ignore[return-value]


class ListsInNoOrder(MemoryBackend):
    def list_dir(self, path: Any) -> list[str]:
        return super().list_dir(path)[::-1]


class LosesARace(MemoryBackend):
    """Looks first, and saves then."""

    def save(self, data: Any, path: Any, *, overwrite: bool = False, **options: Any) -> None:
        if not overwrite and self.exists(path):
            raise PathExistsError("taken", path=path, backend="memory")
        time.sleep(MOMENT)
        super().save(data, path, overwrite=True, **options)


class MovesInTwoSteps(MemoryBackend):
    def move(self, source: Any, destination: Any) -> None:
        self.copy(source, destination)
        time.sleep(MOMENT)
        self.delete_all(source)


class LinksInTwoSteps(MemoryBackend):
    def create_symlink(self, source: Any, link: Any, *, overwrite: bool = False) -> None:
        if overwrite and source != link and self.is_symlink(link):
            self.delete(link)
            time.sleep(MOMENT)
        super().create_symlink(source, link, overwrite=overwrite)


class PublishesOneByOne(MemoryBackend):
    _save_all = StorageBackend._save_all

    def save(self, data: Any, path: Any, **options: Any) -> None:
        super().save(data, path, **options)
        time.sleep(MOMENT)


class LoadsDamage(DiskBackend):
    def load(self, path: Any, **options: Any) -> Any:
        try:
            return super().load(path, **options)
        except CorruptDataError:
            return None


class DoesNotSayWhatIsDamaged(DiskBackend):
    def load(self, path: Any, **options: Any) -> Any:
        try:
            return super().load(path, **options)
        except CorruptDataError as error:
            raise CorruptDataError("damaged", backend="disk") from error


class CannotBeWritten(ReadOnlyBackend):
    def load(self, path: Any) -> Any:
        raise NotImplementedError

    def is_file(self, path: Any) -> bool:
        raise NotImplementedError

    def is_dir(self, path: Any) -> bool:
        raise NotImplementedError

    def list_dir(self, path: Any) -> list[str]:
        raise NotImplementedError


class LosesRegions(ZarrBackend):
    """Reads an array, changes a part of it, and writes it whole again."""

    def save(self, data: Any, path: Any, *, region: Any = None, **options: Any) -> None:
        if region is None:
            super().save(data, path, **options)
            return
        whole = self.load(path)
        whole[region] = data
        time.sleep(10 * MOMENT)
        super().save(whole, path, overwrite=True)


class ShowsWhatWasCutOff(ZarrBackend):
    """Changes nothing but the shape."""

    def resize(self, path: Any, shape: Any, **options: Any) -> None:
        super().resize(path, shape, **options)
        if np.prod(shape) > 6:
            super().save(7, path, region=-1)


class WatchesLate(DiskBackend):
    """Begins to watch when the first event is asked for."""

    def watch(self, path: Any, **options: Any) -> Any:
        yield from super().watch(path, **options | {"timeout": 0})


class AppendsWhereOthersDo(ZarrBackend):
    """Asks where the end is, and then writes there."""

    def append(self, values: Any, path: Any, *, axis: int = 0, **options: Any) -> int:
        whole = self.load(path)
        time.sleep(10 * MOMENT)
        joined = np.append(whole, values, axis)
        super().save(joined.astype(whole.dtype), path, overwrite=True)
        return int(whole.shape[axis])
