"""Contract line 33: the error tree."""

from __future__ import annotations

import copy
import errno
import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

import polystore_ray.errors  # noqa: F401 - its errors are part of the tree
from polystore import exceptions
from polystore.exceptions import StorageError

BASES = {
    "BackendNotFoundError": KeyError,
    "CallTimeoutError": TimeoutError,
    "CorruptDataError": ValueError,
    "DirectoryNotEmptyError": IsADirectoryError,
    "FileLockTimeoutError": TimeoutError,
    "ImageLoadError": RuntimeError,
    "ImageSaveError": ValueError,
    "InvalidPathError": ValueError,
    "MissingDependencyError": ImportError,
    "PathExistsError": FileExistsError,
    "PathIsDirectoryError": IsADirectoryError,
    "PathNotDirectoryError": NotADirectoryError,
    "PathNotFoundError": FileNotFoundError,
    "StorageResolutionError": ValueError,
    "StorageWriteError": RuntimeError,
    "StoreUnavailableError": ConnectionError,
    "UnsupportedFormatError": ValueError,
    "UnsupportedOperationError": NotImplementedError,
    "VFSTypeError": TypeError,
}


def tree(cls: type[StorageError] = StorageError) -> Iterator[type[StorageError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from tree(child)


ALL = sorted(set(tree()), key=lambda cls: cls.__name__)


def test_the_tree_has_the_names_of_the_contract() -> None:
    names = {cls.__name__ for cls in ALL}
    assert set(BASES) <= names
    assert set(exceptions.__all__) <= names


@pytest.mark.parametrize("cls", [cls for cls in ALL if cls.__name__ in BASES])
def test_each_is_also_what_python_users_catch(cls: type[StorageError]) -> None:
    assert issubclass(cls, BASES[cls.__name__])


@pytest.mark.parametrize("cls", ALL)
def test_each_reads_well_and_travels_whole(cls: type[StorageError]) -> None:
    error = cls("what is wrong", path="/a b", backend="memory")
    assert str(error) == "what is wrong: '/a b' (backend memory)"
    error.store = "'ml', lifetime 'job'"
    assert str(error) == "what is wrong: '/a b' (backend memory, store 'ml', lifetime 'job')"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    error.add_note("a note")
    try:
        raise error from KeyError("cause")
    except StorageError as raised:
        travelled = pickle.loads(pickle.dumps(raised))
    assert type(travelled) is cls
    assert str(travelled) == str(error)
    assert (travelled.path, travelled.backend) == ("/a b", "memory")
    assert repr(travelled.__cause__) == "KeyError('cause')"
    assert travelled.__notes__ == ["a note"]
    assert str(copy.copy(error)) == str(error)


ERRNO = {
    "DirectoryNotEmptyError": errno.ENOTEMPTY,
    "FileLockTimeoutError": errno.ETIMEDOUT,
    "PathExistsError": errno.EEXIST,
    "PathIsDirectoryError": errno.EISDIR,
    "PathNotDirectoryError": errno.ENOTDIR,
    "PathNotFoundError": errno.ENOENT,
}


@pytest.mark.parametrize("name", ERRNO)
def test_an_os_error_has_what_its_handlers_look_at(name: str) -> None:
    error = getattr(exceptions, name)("what is wrong", path="/a")
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert (each.errno, each.strerror, each.filename) == (ERRNO[name], "what is wrong", "/a")
        assert each.filename2 is None
    late = getattr(exceptions, name)("what is wrong").located(path="/b", backend="disk")
    assert (late.filename, str(late)) == ("/b", "what is wrong: '/b' (backend disk)")


def test_a_key_error_reads_without_quotes() -> None:
    assert str(exceptions.BackendNotFoundError("no backend is called 'x'")) == (
        "no backend is called 'x'"
    )


def test_what_is_located_already_stays() -> None:
    error = StorageError("what is wrong", path="/a", backend="disk")
    assert error.located(path="/other", backend="zarr") is error
    assert (error.path, error.backend) == ("/a", "disk")


class CodeError(exceptions.PathNotFoundError):
    """A user's own, with another signature and an attribute."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}", path="/a", backend="mine")
        self.code, self.hint = code, hint


class ImportCodeError(exceptions.MissingDependencyError):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


@pytest.mark.parametrize("error", [CodeError(7, hint="why"), ImportCodeError(7)])
def test_an_error_with_its_own_init_travels(error: Any) -> None:
    for travelled in (
        pickle.loads(pickle.dumps(error)),
        cloudpickle.loads(cloudpickle.dumps(error)),
        copy.deepcopy(error),
    ):
        assert type(travelled) is type(error)
        assert (str(travelled), travelled.code) == (str(error), 7)
        assert travelled.args == error.args


def test_an_error_keeps_what_was_written() -> None:
    error = StorageError("what is wrong")
    assert error.written == ()
    error.written = ("/a", "/b")
    assert pickle.loads(pickle.dumps(error)).written == ("/a", "/b")


def test_a_cause_that_does_not_travel_leaves_its_text() -> None:
    class StuckError(Exception):
        def __reduce__(self) -> str:
            raise TypeError

    error = StorageError("what is wrong")
    error.__cause__ = StuckError("why")
    assert repr(pickle.loads(pickle.dumps(error)).__cause__) == "RuntimeError('StuckError: why')"
