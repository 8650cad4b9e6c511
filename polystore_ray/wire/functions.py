"""Functions of a user on their way to other processes: by name where possible, else whole."""

from __future__ import annotations

import pickle
import sys
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import cloudpickle

from polystore.exceptions import StorageResolutionError, VFSTypeError
from polystore_ray.wire.classes import pickled_by_value

__all__ = ["call_from_bytes", "call_to_bytes"]

_INSTALLED = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)

Call = tuple[Callable[..., Any], Sequence[Any]]
"""A function and its arguments."""


class _Sent(NamedTuple):
    code: bytes
    whole: bytes
    """For processes that lack its module; empty if the code is the same, or installed."""


def call_to_bytes(function: Callable[..., Any], arguments: Sequence[Any]) -> bytes:
    """Return a function and its arguments for another process.

    Raises `VFSTypeError` if they do not pickle.
    """
    try:
        code = cloudpickle.dumps((function, arguments))
    except Exception as error:
        raise VFSTypeError(
            f"the function of a recipe and its arguments must pickle ({error})", backend="memory"
        ) from error
    whole = b""
    package = (getattr(function, "__module__", None) or "").partition(".")[0]
    if not _is_installed(package):
        with suppress(Exception), pickled_by_value(package):  # it need not succeed
            whole = cloudpickle.dumps((function, arguments))
    return pickle.dumps(tuple(_Sent(code, b"" if whole == code else whole)))


def _is_installed(package: str) -> bool:
    """Return whether a package is part of Python, or of what every process has installed."""
    file = getattr(sys.modules.get(package), "__file__", None)
    return package in sys.stdlib_module_names or bool(file and file.startswith(_INSTALLED))


def call_from_bytes(data: bytes) -> Call:
    """Return what `call_to_bytes` made into bytes; this runs code of the user.

    Raises `StorageResolutionError` if this process lacks the code of the function.
    """
    sent = _Sent(*pickle.loads(data))
    for code in filter(None, sent):
        try:
            found: Call = pickle.loads(code)
        except (ImportError, AttributeError) as error:
            missing = error
        else:
            return found
    raise StorageResolutionError(
        f"the code of a recipe is not in this process ({type(missing).__name__}: {missing}); "
        f"install its package on every node, or name it in the runtime_env of the job",
        backend="memory",
    ) from missing
