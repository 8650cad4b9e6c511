"""Operations of the contract that a backend hands on, each in one line of its class."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

__all__ = ["forwarded"]

Method = TypeVar("Method", bound=Callable[..., Any])


def forwarded(method: Method) -> Method:
    """Return an override of `method` that calls the backend's ``_forward``.

    ``_forward(operation, *args, **options)`` gets the method's name and the call's arguments.
    Signature and docstring are those of `method`.

    Examples
    --------
    >>> from polystore import StorageBackend
    >>> class Tree:
    ...     exists = forwarded(StorageBackend.exists)
    ...     def _forward(self, operation, path):
    ...         return f"{operation} {path}"
    >>> Tree().exists("/a")
    'exists /a'
    """
    operation = method.__name__

    # Not its attributes, such as that it is unsupported.
    @wraps(method, updated=())
    def call(self: Any, *args: Any, **options: Any) -> Any:
        return self._forward(operation, *args, **options)

    return cast("Method", call)
