"""A user's functions in Ray tasks, near the data that they work on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Any

import cloudpickle
import ray
from ray import exceptions as ray_exceptions

from polystore.exceptions import VFSTypeError
from polystore.transfer.many import Failure
from polystore_ray.deadline import let_go_of_values
from polystore_ray.errors import HostLostError, StoreUnavailableError
from polystore_ray.rayapi.errors import first_line, of_user_code, translated
from polystore_ray.rayapi.placement import MEMORY, near_node
from polystore_ray.transport.base import Task

__all__ = ["apply_to_reference", "run_tasks"]

_LARGE = 2**16  # bytes, such as an array in a `functools.partial`
_DIED = (ray_exceptions.WorkerCrashedError, ray_exceptions.OutOfMemoryError)


def apply_to_reference(function: Callable[[Any], Any], reference: Any) -> Any:
    """Call a function in a task with the value of a reference; return the reference to the task.

    Ray runs a task where most of the bytes of its arguments are.
    """
    return _Apply.options(num_cpus=0, max_retries=0).remote(function, reference)


def run_tasks(tasks: Iterable[Task], options: dict[str, Any]) -> Generator[Any, None, None]:
    """Run functions near their data, as many at a time as keep the cluster busy.

    Yield their results in order, however long they take, or the `Failure` of a task.

    Raises `StoreUnavailableError` if this process has lost the cluster.
    """
    try:
        _Attempt.options(**options)
    except (TypeError, ValueError) as error:
        raise VFSTypeError(f"the options of a task are those of ray.remote: {error}") from None
    window = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    started: deque[Any] = deque()
    known: tuple[Any, Any] = None, None
    try:
        for where, function, arguments in tasks:
            if function is not known[0]:
                known = function, _shared(function)
            placed = {"scheduling_strategy": near_node(where[0])} if where else {}
            started.append(_Attempt.options(**(placed | options)).remote(known[1], *arguments))
            if len(started) >= window:
                yield _outcome(started.popleft())
        while started:
            yield _outcome(started.popleft())
    finally:
        for task in started:
            ray.cancel(task)


def _shared(function: Callable[..., Any]) -> Any:
    """Return a function as an argument of many tasks: one that is large is an object for all."""
    with suppress(Exception):  # Ray will say what does not pickle
        if len(cloudpickle.dumps(function)) > _LARGE:
            return ray.put(function)
    return function


def _apply(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ray_exceptions.RayError as error:
        raise of_user_code(error) from error.__cause__


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function, or the `Failure`: Ray prints errors that nobody gets."""
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - the function may raise anything
        let_go_of_values(error)
        return Failure(of_user_code(error))


_Apply: Any = ray.remote(_apply)
_Attempt: Any = ray.remote(_attempt)


def _outcome(task: Any) -> Any:
    try:
        return ray.get(task)
    except _DIED as error:
        reason = first_line(error).partition(". ")[0]  # without advice about log files
        return Failure(HostLostError(f"the process died while it ran the function ({reason})"))
    except ray_exceptions.RayTaskError as error:
        return Failure(translated(error, backend=MEMORY))
    except ray_exceptions.RayError as error:
        ours = translated(error, backend=MEMORY)
        if isinstance(ours, StoreUnavailableError):
            raise ours from error
        return Failure(ours)
