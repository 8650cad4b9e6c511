"""Contract line 33: the error tree."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

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


def test_an_os_error_has_errno_and_filename() -> None:
    error = pickle.loads(pickle.dumps(exceptions.PathNotFoundError("no such file", path="/a")))
    assert (error.errno, error.filename) == (2, "/a")


def test_a_cause_that_does_not_travel_leaves_its_text() -> None:
    class StuckError(Exception):
        def __reduce__(self) -> str:
            raise TypeError

    error = StorageError("what is wrong")
    error.__cause__ = StuckError("why")
    assert repr(pickle.loads(pickle.dumps(error)).__cause__) == "RuntimeError('StuckError: why')"
