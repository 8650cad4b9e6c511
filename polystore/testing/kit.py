"""The base of all suites: the fixtures of the backend under test, and its declared deviations."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.testing
import pytest

from polystore.exceptions import StorageError, UnsupportedOperationError
from polystore.filemanager import FileManager
from polystore.testing.raw import RawAccess

__all__ = ["BackendKit", "needs"]

_NEEDED = "needed_suites"
Test = TypeVar("Test", bound=Callable[..., None])


def needs(*suites: type[BackendKit]) -> Callable[[Test], Test]:
    """Run a test only in classes that derive from these suites too.

    A promise that takes two capabilities is in one suite and needs the other: the overwriting
    batch is in `Batches` and needs `Writable`.
    """

    def mark(test: Test) -> Test:
        setattr(test, _NEEDED, suites)
        return test

    return mark


class BackendKit:
    """The base of every suite.

    A class of tests derives from the suites of its backend's capabilities, in any order. It
    overrides the fixture `backend`, if necessary `root` and `raw`, and the methods below if the
    backend holds other values than arrays.

    A test cannot be overridden or set to None: declare a deviation instead.

    Attributes
    ----------
    deviations : dict of str to str
        Names of tests that the backend is known to fail, each with the reason. Such a test is
        expected to fail; it is an error if it passes.
    suffix : str
        The end of every stored name, for a backend that chooses the format by it.

    Raises
    ------
    TypeError
        When a class of tests is defined, if it declares a deviation from a test that it lacks, or
        without a reason, or if it overrides a test.
    """

    deviations: ClassVar[dict[str, str]] = {}
    suffix: ClassVar[str] = ".npy"

    # The tests of the class's own body, since those that need other suites are hidden below.
    _declared: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._declared = {name: member for name, member in vars(cls).items() if _is_test(name)}
        for name in filter(_is_test, dir(cls)):
            [test, *others] = cls._definitions(name)
            if others:
                raise TypeError(
                    f"{cls.__name__} has more than one {name}: declare in 'deviations' where the "
                    f"backend deviates, and give other tests other names"
                )
            needed = getattr(test, _NEEDED, ())
            if needed:
                claimed = all(issubclass(cls, suite) for suite in needed)
                # pytest collects no None.
                setattr(cls, name, test if claimed else None)
        for name, reason in cls.deviations.items():
            if not _is_test(name) or getattr(cls, name, None) is None:
                raise TypeError(
                    f"{cls.__name__} declares a deviation from {name!r}, which is no test of it"
                )
            if not isinstance(reason, str) or not reason.strip():
                raise TypeError(f"{cls.__name__} declares {name} without saying why")

    @classmethod
    def _definitions(cls, name: str) -> list[Any]:
        """Return the different tests that the class and its bases call by this name."""
        found: list[Any] = []
        for base in cls.__mro__:
            declared = vars(base).get("_declared", vars(base))
            if name in declared and declared[name] not in found:
                found.append(declared[name])
        return found

    @pytest.fixture
    def backend(self) -> Any:
        """Return the backend under test; every class of tests overrides this."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture 'backend'")

    @pytest.fixture
    def root(self, backend: Any) -> str:
        """Return an empty directory of the backend, without a slash at its end.

        The default is the root of a virtual tree.
        """
        return ""

    @pytest.fixture
    def raw(self) -> RawAccess | None:
        """Return access to the stored values that bypasses the backend.

        `Damage` and `Traces` need it. None is for a backend whose values only it can reach.
        """
        return None

    @pytest.fixture
    def plant(self, backend: Any, raw: RawAccess | None) -> Callable[[Any, str], None]:
        """Return a function that stores a value and its parents before reading is tested.

        The default uses raw access, or the backend's own `save` if there is none.
        """
        return _saving(backend) if raw is None else raw.write

    @pytest.fixture(autouse=True)
    def _tolerate_declared_deviations(self, request: pytest.FixtureRequest) -> None:
        reason = self.deviations.get(request.node.originalname)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    def value(self, seed: int = 0) -> Any:
        """Return a value that the backend can hold, a different one for each seed."""
        return np.arange(12, dtype=np.int32).reshape(3, 4) + seed

    def large(self, seed: int = 0) -> Any:
        """Return a large value, which takes time to store; 2 MiB by default."""
        return np.full((256, 1024), seed, dtype=np.float64)

    def unstorable(self) -> Any:
        """Return a value that the backend cannot hold."""
        return threading.Lock()

    def same(self, loaded: Any, saved: Any) -> None:
        """Assert that a loaded value is equal to the saved one."""
        numpy.testing.assert_array_equal(loaded, saved)

    def path(self, root: str, name: str) -> str:
        """Return the path of a value below the directory under test."""
        return f"{root}/{name}{self.suffix}"

    def paths(self, root: str, *names: str) -> list[str]:
        """Return the paths of these names."""
        return [self.path(root, name) for name in names]

    def names(self, error: StorageError, path: str) -> None:
        """Assert that an error names the path and the backend, also after pickling."""
        assert path in str(error)
        assert error.backend
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def _is_test(name: str) -> bool:
    return name.startswith("test")


def _saving(backend: Any) -> Callable[[Any, str], None]:
    # The file manager passes `parents` to the backends that take it.
    manager = FileManager({"kit": backend})

    def save(value: Any, path: str) -> None:
        try:
            manager.save(value, path, "kit")
        except UnsupportedOperationError as error:
            error.add_note("a backend that cannot be written needs the fixture 'raw' or 'plant'")
            raise

    return save
