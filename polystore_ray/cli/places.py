"""Places: the arguments ``BACKEND:PATH`` of the command line."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from polystore.backend_registry import backend_keys
from polystore.registration import backend_key

__all__ = ["PLACE", "Place"]

_PLACE = re.compile(r"([A-Za-z0-9_@.-]+):(.*)", re.DOTALL)


class Place(NamedTuple):
    """The key of a backend, and a path in that backend."""

    backend: str
    path: str

    def __str__(self) -> str:
        return f"{self.backend}:{self.path}"

    def below(self, name: str) -> Place:
        """Return the place of a name in this directory."""
        return self._replace(path=f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rstrip("/").rpartition("/")[2]


class _PlaceType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """``BACKEND:PATH``: the text before the first colon is the key of the backend.

    Without a path, the place is the root ``/``; for disk and zarr, the current directory.
    """

    name = "place"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Place:
        if isinstance(value, Place):
            return value
        found = _PLACE.fullmatch(value)
        if found is None:
            self.fail(
                f"{value!r} names no backend: write memory:{value or '/'} or disk:{value or '.'}",
                parameter,
                context,
            )
        key, path = found.groups()
        key = backend_key(key)
        return Place(key, path or ("." if key in ("disk", "zarr") else "/"))

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        if ":" in incomplete:
            # The shell completes files; a request to a cluster would take seconds per keystroke.
            return [CompletionItem(incomplete.partition(":")[2], type="file")]
        keys = (f"{key}:" for key in backend_keys())
        return [CompletionItem(key) for key in keys if key.startswith(incomplete)]


PLACE = _PlaceType()
