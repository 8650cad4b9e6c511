"""Functions of a user on their way to other processes: by name where possible, else whole."""

from __future__ import annotations

import io
import pickle
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
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


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc] # of a package without types
    """A pickler that has names of values in place of what stands for them."""

    def __init__(self, file: io.BytesIO, name_of: Callable[[Any], str | None]) -> None:
        super().__init__(file)
        self._name_of = name_of

    def persistent_id(self, part: Any) -> str | None:
        return self._name_of(part)


class _Unpickler(pickle.Unpickler):
    """An unpickler that puts values in the place of their names."""

    def __init__(self, file: io.BytesIO, values: Mapping[str, Any]) -> None:
        super().__init__(file)
        self._values = values

    def persistent_load(self, name: str) -> Any:
        return self._values[name]


def call_to_bytes(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    name_of: Callable[[Any], str | None] = lambda _: None,
) -> bytes:
    """Return a function and its arguments for another process.

    - `name_of`: called with each part of both; returns the name of the value that the part stands
      for, None for one that stands for itself

    Raises `VFSTypeError` if they do not pickle.
    """

    def pickled() -> bytes:
        file = io.BytesIO()
        _Pickler(file, name_of).dump((function, arguments))
        return file.getvalue()

    try:
        code = pickled()
    except Exception as error:
        raise VFSTypeError(
            f"the function of a recipe and its arguments must pickle ({error})", backend="memory"
        ) from error
    whole = b""
    package = (getattr(function, "__module__", None) or "").partition(".")[0]
    if not _is_installed(package):
        with suppress(Exception), pickled_by_value(package):  # it need not succeed
            whole = pickled()
    return pickle.dumps(tuple(_Sent(code, b"" if whole == code else whole)))


def _is_installed(package: str) -> bool:
    """Return whether a package is part of Python, or of what every process has installed."""
    file = getattr(sys.modules.get(package), "__file__", None)
    return package in sys.stdlib_module_names or bool(file and file.startswith(_INSTALLED))


def call_from_bytes(data: bytes, values: Mapping[str, Any]) -> Call:
    """Return what `call_to_bytes` made into bytes; this runs code of the user.

    - `values`: by the names that `name_of` returned

    Raises `StorageResolutionError` if this process lacks the code of the function.
    """
    sent = _Sent(*pickle.loads(data))
    for code in filter(None, sent):
        try:
            found: Call = _Unpickler(io.BytesIO(code), values).load()
        except (ImportError, AttributeError) as error:
            missing = error
        else:
            return found
    raise StorageResolutionError(
        f"the code of a recipe is not in this process ({type(missing).__name__}: {missing}); "
        f"install its package on every node, or name it in the runtime_env of the job",
        backend="memory",
    ) from missing
