"""Waits for Ray: each with a deadline, each error one of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore.exceptions import StorageError
from polystore_ray.deadline import Deadline
from polystore_ray.rayapi.errors import translated

__all__ = ["Network", "answer_of", "wait_for"]

_PAUSE = 0.5  # seconds before a call is made again


class Network:
    """What every call passes on its way; the fault kit puts a worse one in its place."""

    def send(self, call: Callable[[], Any]) -> Any:
        """Make a call and return the reference to its answer."""
        return call()


network = Network()


def wait_for(
    references: Any, *, backend: str, timeout: float | Deadline, path: str | None = None
) -> Any:
    """Return what references lead to, by the deadline.

    Raises
    ------
    StorageError
        For any error of Ray; a backend's own error comes as itself.
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

    A call whose answer was lost on the way is made again where it is harmless to repeat it. `asked`
    is the reference to the answer of a call that has been made once, if it has.
    """
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
    attempt = call if asked is None else lambda: asked
    while True:
        try:
            return ray.get(network.send(attempt), timeout=deadline.left)
        except ray_exceptions.RayError as error:
            ours = translated(error, backend=backend, path=path, timeout=deadline.timeout)
            if isinstance(ours, StorageError):
                ours.located(path=path, backend=backend)
            is_a_task = isinstance(error, ray_exceptions.RayTaskError)
            ours.__cause__ = None if is_a_task else error
            if not repeatable or not isinstance(error, ray_exceptions.ActorUnavailableError):
                raise ours  # noqa: B904 - its cause is set already
            deadline.pause_or_raise(ours, _PAUSE)
            attempt = call
