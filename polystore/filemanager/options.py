"""The options of a call, which the file manager passes to the backend that the call names."""

from __future__ import annotations

import warnings
from typing import Any

from polystore.base import DataSource
from polystore.capabilities import options_of
from polystore.keywords import listed, not_taken
from polystore.transfer.proxies import class_of

__all__ = ["OptionRules"]


class OptionRules:
    """What a file manager does with options that a backend does not take, and with `overwrite`.

    Parameters
    ----------
    strict : bool
        Whether an option that the backend does not take raises. Otherwise it is dropped, with one
        warning for each backend.
    overwrite : bool
        The default of the option `overwrite` of saves.
    """

    def __init__(self, *, strict: bool, overwrite: bool) -> None:
        self.strict = strict
        self.overwrite = overwrite
        self._warned: set[tuple[str, str, frozenset[str]]] = set()

    def applied(self, backend: DataSource, method: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options that a call passes on.

        Raises
        ------
        VFSTypeError
            If the backend does not take one of them; the message lists those that it takes.
        """
        if not (options or self.overwrite):
            return options
        cls: type = class_of(backend)
        taken = options_of(cls, method)
        if taken is None:
            return options
        if self.overwrite and "overwrite" in taken:
            options = {"overwrite": True, **options}
        others = options.keys() - taken
        if others and self.strict:
            raise not_taken(cls, method, sorted(others), sorted(taken))
        if others:
            self._warn(backend, method, frozenset(others))
        return {name: value for name, value in options.items() if name in taken}

    def _warn(self, backend: DataSource, method: str, others: frozenset[str]) -> None:
        name = class_of(backend).__name__
        if (name, method, others) not in self._warned:
            self._warned.add((name, method, others))
            message = f"{name}.{method} takes no {listed(sorted(others))}; dropped"
            warnings.warn(message, UserWarning, stacklevel=4)
