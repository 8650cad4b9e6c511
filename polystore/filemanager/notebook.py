"""The file manager in a notebook: its backends, and the first entries of its memory."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from polystore.base import DataSource
from polystore.exceptions import StorageError
from polystore.filemanager.dispatch import Registry, reading
from polystore.notebooks import entries, text
from polystore.paths import natural_key

__all__ = ["manager_html"]

_MOST_NAMES = 20  # of a directory
_MOST_LEVELS = 3


@runtime_checkable
class StartsBackends(Protocol):
    """A registry that starts a backend when it is used first."""

    def in_use(self) -> list[str]:
        """Return the keys of the backends that have been used. Nothing is started."""


def manager_html(registry: Registry) -> str:
    """Return the HTML of a file manager; its memory is shown if it is in use."""
    used = registry.in_use() if isinstance(registry, StartsBackends) else list(registry)
    shown = f"FileManager({text(registry)})"
    if "memory" not in used:
        return shown
    try:
        with reading(registry, "memory", "/") as memory:
            return f"{shown}<br>memory:/{_tree(memory, '/', _MOST_LEVELS)}"
    except StorageError as error:
        return f"{shown}<br>{text(error)}"


def _tree(backend: DataSource, path: str, levels: int) -> str:
    names = sorted(backend.list_dir(path), key=natural_key)
    items = [_branch(backend, path, name, levels) for name in names[:_MOST_NAMES]]
    if len(names) > _MOST_NAMES:
        items.append(f"and {len(names) - _MOST_NAMES} more")
    return entries(items)


def _branch(backend: DataSource, directory: str, name: str, levels: int) -> str:
    path = f"{directory.rstrip('/')}/{name}"
    if not backend.is_dir(path) or backend.is_symlink(path):
        return text(name)
    below = _tree(backend, path, levels - 1) if levels > 1 else ""
    return f"{text(f'{name}/')}{below}"
