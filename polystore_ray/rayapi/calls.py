"""Waits for Ray: each with a deadline, each error one of ours."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore.exceptions import StorageError
from polystore_ray.deadline import Deadline
from polystore_ray.errors import HostLostError
from polystore_ray.rayapi.errors import translated

__all__ = ["Network", "answer_of", "future_of", "wait_for"]

_PAUSE = 0.5  # seconds before a call is made again


class Network:
    """The way of every call to an actor; the fault kit replaces it by an unreliable one."""

    def send(self, call: Callable[[], Any]) -> Any:
        """Make a call and return the reference to its answer."""
        return call()


network = Network()


def future_of(call: Callable[[], Any], *, backend: str) -> Future[Any]:
    """Make a remote call and return the future of its result; errors are those of `wait_for`."""
    result: Future[Any] = Future()

    def fail(error: BaseException) -> None:
        ours = translated(error, backend=backend) if isinstance(error, Exception) else error
        ours.__cause__ = error
        result.set_exception(ours)

    def take(answer: Future[Any]) -> None:
        error = answer.exception()
        if error is None:
            result.set_result(answer.result())
        else:
            fail(error)

    try:
        network.send(call).future().add_done_callback(take)
    except ray_exceptions.RayError as error:
        fail(error)
    return result


def wait_for(
    references: Any, *, backend: str, timeout: float | Deadline, path: str | None = None
) -> Any:
    """Return what references lead to, by the deadline.

    Raises `StorageError` for any error of Ray; a backend's own error comes as itself.
    """
    return answer_of(
        lambda: references, backend=backend, timeout=timeout, path=path, repeatable=False
    )


def answer_of(
    call: Callable[[], Any],
    *,
    backend: str,
    timeout: float | Deadline,
    path: str | None = None,
    repeatable: bool,
    asked: Any = None,
) -> Any:
    """Return the result of a remote call by the deadline; errors are those of `wait_for`.

    A `repeatable` call whose answer was lost is made again. `asked` is the reference to the answer
    of a call that was made already.
    """
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)

    def attempt() -> Any:
        nonlocal asked
        made, asked = asked, None
        try:
            reference = network.send(call if made is None else lambda: made)
            return ray.get(reference, timeout=deadline.left)
        except ray_exceptions.RayError as error:
            cause = None if isinstance(error, ray_exceptions.RayTaskError) else error
            raise ours(error) from cause

    def ours(error: ray_exceptions.RayError) -> Exception:
        found = translated(error, backend=backend, path=path, timeout=deadline.timeout)
        if isinstance(found, StorageError):
            found.located(path=path, backend=backend)
        return found

    def check_repeatable(error: HostLostError) -> None:
        if not repeatable or not isinstance(error.__cause__, ray_exceptions.ActorUnavailableError):
            raise error

    return deadline.retry(attempt, HostLostError, check_repeatable, pause=_PAUSE)
