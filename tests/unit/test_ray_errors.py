from __future__ import annotations

import inspect
import pickle

import pytest
from ray import exceptions as ray_exceptions

from polystore.exceptions import PathNotFoundError, StorageError
from polystore_ray.errors import CallTimeoutError, DataLostError, HostLostError
from polystore_ray.ray_errors import KNOWN, translated


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
