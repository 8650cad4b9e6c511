"""Places: ``backend:path``, as every command of the command line names what it is about."""

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
    """A backend's key, and a path in that backend."""

    backend: str
    path: str

    def __str__(self) -> str:
        return f"{self.backend}:{self.path}"

    def below(self, name: str) -> Place:
        """Return the place of a name in this directory."""
        return self._replace(path=f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last name of the path."""
        return self.path.rstrip("/").rpartition("/")[2]


class _PlaceType(click.ParamType):  # type: ignore[type-arg]  # it has an argument in newer versions only
    """``backend:path``: everything before the first colon is the backend's key.

    Without a path the place is the top of the backend: ``/``, and of the disk and zarr the
    directory that the command is run in.
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
            # The shell itself completes files; asking a cluster would take seconds a keystroke.
            return [CompletionItem(incomplete.partition(":")[2], type="file")]
        keys = (f"{key}:" for key in backend_keys())
        return [CompletionItem(key) for key in keys if key.startswith(incomplete)]


PLACE = _PlaceType()
