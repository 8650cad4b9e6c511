"""What a backend's class declares for the processes that host it on a cluster."""

from __future__ import annotations

import types
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

from polystore.paths import P, as_text

__all__ = ["Hostable", "hostable"]


class Hostable:
    """The declarations that `polystore_ray` reads from a backend's class; all have defaults.

    A backend declares what differs from the defaults. It may derive from this class, but need not.

    Attributes
    ----------
    _host_options : mapping of str to object
        The resources that a host needs, as options of a Ray actor: ``{"num_gpus": 1}``.
    _saves_regions_together : bool
        Whether several regions of one array may be saved at the same time, because the backend
        itself makes sure that no save undoes another. By default, a host saves one after another.
    """

    _backend_type: ClassVar[str | None] = None
    _host_options: ClassVar[Mapping[str, Any]] = {}
    _saves_regions_together: ClassVar[bool] = False

    @classmethod
    def portable_path(cls, path: P, /, **options: Any) -> str:
        """Return `path` so that it means the same in every process of this machine.

        A backend whose paths depend on the working directory overrides this method.

        Parameters
        ----------
        path : str or os.PathLike
            A path as this process means it.
        **options
            The constructor's arguments of the instance in the other process.
        """
        return as_text(path, backend=cls._backend_type)

    @classmethod
    def portable_options(cls, **options: Any) -> dict[str, Any]:
        """Return the constructor's arguments so that they mean the same in every process.

        A backend that takes a path which depends on the working directory overrides this method.
        """
        return options

    def content_identity(self, path: P, /) -> Hashable | None:
        """Return a value that changes whenever the stored value changes, or None if unknown.

        A host keeps a loaded value for later loads of the same path while this stays the same.
        It does not ask a class that overrides `load` without overriding this method too.
        """
        return None


@lru_cache(maxsize=256)
def hostable(cls: type) -> type[Hostable]:
    """Return a backend's class with the defaults for what it does not declare."""
    if issubclass(cls, Hostable):
        return cls
    return types.new_class(cls.__name__, (cls, Hostable))
