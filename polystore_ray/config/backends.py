"""The options of backends: the arguments of their constructors in every host of a store."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from polystore.backend_registry import backend_class
from polystore.exceptions import VFSTypeError
from polystore.hostable import hostable
from polystore.registration import backend_key
from polystore_ray.config.nodes import Node

__all__ = [
    "BackendOptions",
    "check_arguments",
    "options_of_backends",
    "options_on",
    "split_key",
]


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Keyword arguments of a constructor, pickled until they arrive where the backend is made.

    The controller, which they pass through, never opens users' objects.
    """

    pickled: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, key: str, options: Mapping[str, Any]) -> BackendOptions:
        """Close the options of the backend `key`.

        Raises `VFSTypeError` if one does not pickle.
        """
        pickled = {}
        for name, value in options.items():
            try:
                pickled[name] = cloudpickle.dumps(value)
            except Exception as error:
                # Pickling runs foreign code, which may raise anything.
                raise VFSTypeError(
                    f"the option {name!r} cannot be sent to the hosts, since it does not pickle: "
                    f"{error}",
                    backend=key,
                ) from error
        return cls(pickled)

    def open(self) -> dict[str, Any]:
        """Return the options."""
        return {name: pickle.loads(value) for name, value in self.pickled.items()}

    def differ_from(self, others: BackendOptions) -> list[str]:
        """Return the names of the options that are missing or different in `others`."""
        names = sorted({*self.pickled, *others.pickled})
        return [
            name for name in names if not _same(self.pickled.get(name), others.pickled.get(name))
        ]


def _same(one: bytes | None, other: bytes | None) -> bool:
    if one == other:
        return True
    # Equal values need not have equal pickles.
    return one is not None and other is not None and bool(pickle.loads(one) == pickle.loads(other))


def split_key(key: str) -> tuple[str, str | None]:
    """Return the backend and the node that ``"backend@node"`` names; None names none."""
    name, at, node = key.partition("@")
    return name, node if at else None


def options_of_backends(
    given: Mapping[Any, Mapping[str, Any]] | None,
) -> dict[str, BackendOptions] | None:
    """Check and close the options of backends, by their keys, also ``"backend@node"``.

    Raises `VFSTypeError` if a constructor does not take its options, or they do not pickle;
    `BackendNotFoundError` if no backend has the key.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise VFSTypeError(f"backends must be a mapping from keys to options, not {given!r}")
    options = {backend_key(key): _named(key, found) for key, found in given.items()}
    closed: dict[str, BackendOptions] = {}
    for key, found in options.items():
        name, node = split_key(key)
        if name == "memory":
            raise VFSTypeError(
                "the memory takes no options here; use those of RayBackendRegistry, such as "
                "max_bytes",
                backend=key,
            )
        cls = backend_class(name)
        shared = options.get(name, {}) if node is not None else {}
        check_arguments(cls, key, shared | found)
        closed[key] = BackendOptions.of(key, hostable(cls).portable_options(**found))
    return closed


def _named(key: object, options: object) -> dict[str, Any]:
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise VFSTypeError(
            f"the options of a backend must be a mapping from names to values, not {options!r}",
            backend=str(key),
        )
    return dict(options)


def check_arguments(cls: Any, key: str, options: Mapping[str, Any]) -> None:
    """Raise if the constructor of a backend does not take these options.

    Raises `VFSTypeError` that names the option that is unknown or missing, and the known ones.
    """
    signature = inspect.signature(cls)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise VFSTypeError(
            f"{error}: {cls.__name__}{signature} is made with "
            f"RayBackendRegistry(backends={{{key!r}: {{...}}}})",
            backend=key,
        ) from error


def options_on(
    backends: Mapping[str, BackendOptions] | None, key: str, node: Node
) -> BackendOptions:
    """Return the options of a backend on a node: those for all nodes, then those for this one."""
    found: dict[str, bytes] = {}
    for given, options in sorted((backends or {}).items(), key=lambda item: "@" in item[0]):
        name, wanted = split_key(given)
        if name == key and (wanted is None or node.is_called(wanted)):
            found |= options.pickled
    return BackendOptions(found)
