from __future__ import annotations

import inspect
import pickle

import pytest
from ray import exceptions as ray_exceptions

from polystore.exceptions import (
    MissingDependencyError,
    PathNotFoundError,
    StorageError,
    StorageFullError,
    StorageResolutionError,
)
from polystore.serialization import Sealed
from polystore_ray.errors import CallTimeoutError, DataLostError, HostLostError
from polystore_ray.rayapi.errors import KNOWN, of_user_code, translated
from polystore_ray.transport.tasks import _attempt


def test_a_task_returns_its_error_since_ray_prints_those_that_nobody_gets() -> None:
    def fails() -> None:
        raise KeyError("mine")

    def uses_ray() -> None:
        raise ray_exceptions.GetTimeoutError("late")

    assert _attempt(lambda number: number + 1, 2) == 3
    for function, kind in ((fails, KeyError), (uses_ray, StorageResolutionError)):
        failure = pickle.loads(pickle.dumps(_attempt(function)))
        assert isinstance(failure.error, kind)


def test_every_error_class_of_ray_is_mapped() -> None:
    classes = {
        cls
        for _, cls in inspect.getmembers(ray_exceptions, inspect.isclass)
        if issubclass(cls, ray_exceptions.RayError)
    }
    assert classes - set(KNOWN) == set()


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (ray_exceptions.GetTimeoutError("late"), CallTimeoutError),
        (ray_exceptions.RayActorError(), HostLostError),
        (ray_exceptions.OutOfDiskError("no space left"), StorageFullError),
        (ray_exceptions.ObjectStoreFullError("full"), StorageFullError),
        (ray_exceptions.OwnerDiedError("00" * 28, None, "there"), DataLostError),
    ],
)
def test_names_path_and_backend_and_is_never_not_found(
    error: Exception, ours: type[StorageError]
) -> None:
    result = translated(error, backend="memory", path="/a", timeout=3)
    assert type(result) is ours
    assert "'/a' (backend memory)" in str(result)
    assert not isinstance(result, FileNotFoundError)
    assert str(pickle.loads(pickle.dumps(result))) == str(result)


def test_a_backends_own_error_is_itself() -> None:
    own = PathNotFoundError("no such file", path="/a", backend="disk")
    error = ray_exceptions.RayTaskError("call", "traceback", own).as_instanceof_cause()
    assert translated(error, backend="disk") is own


def test_a_foreign_error_carries_the_other_processes_traceback() -> None:
    own = KeyError("k")
    error = ray_exceptions.RayTaskError("call", "the remote traceback", own).as_instanceof_cause()
    assert translated(error, backend="mine") is own
    assert "the remote traceback" in own.__notes__[0]


def test_a_value_whose_class_is_missing_says_so_by_either_way() -> None:
    head = b"\x80\x05cno_such_module\nC\n)\x81."
    with pytest.raises(MissingDependencyError, match="no_such_module") as small:
        Sealed(head).open()
    # A large value is opened by Ray, which keeps the error.
    large = translated(ray_exceptions.RaySystemError(small.value), backend="memory", path="/a")
    assert large is small.value
    assert large.path == "/a"


def test_an_error_of_ray_that_users_code_raised_is_not_one_of_the_call() -> None:
    raised = of_user_code(ray_exceptions.RayActorError())
    arrived = ray_exceptions.RayTaskError("call", "traceback", raised).as_instanceof_cause()
    error = translated(arrived, backend="mine", path="/a")
    assert type(error) is StorageResolutionError
    assert "RayActorError" in str(error)
    own = ray_exceptions.RayTaskError("call", "traceback", KeyError("k")).as_instanceof_cause()
    assert str(of_user_code(own)) == "'k'"
