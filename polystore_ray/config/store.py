"""The options of a store, which its first user sets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal

from polystore.exceptions import StorageResolutionError, VFSTypeError
from polystore_ray.config.backends import BackendOptions

__all__ = ["StoreOptions", "check_timeout"]

_LEASED_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """The options of a store when it is made; None means the default, or that of the store.

    - `max_bytes`: what all values in the memory may take together; by default there is no limit
    - `pin_budget`: the part of a node's object store that is pinned before the oldest values are
      adopted, so that Ray can spill them; half of it by default
    - `replicas`: on how many nodes each value is held; 1 by default. From 2 on, no change is
      acknowledged before a process on another node has it too
    - `too_few_nodes`: whether a save that finds fewer nodes fails, which is the default, or warns
      and goes on with as many as there are; others get their copies when they join
    - `backends`: the options of backends, by ``"backend"`` and ``"backend@node"``
    - `host_calls`: how many calls a host may have at a time, 256 by default
    - `read_cache`: bytes of loaded files that each host keeps; an eighth of its node's object store
      by default
    - `read_leases`: whether processes keep what they read repeatedly from the memory, and read it
      again without a call; True by default
    - `leased_bytes`: bytes of small values that each process keeps for it, 32 MiB by default
    - `eviction`: with "lru", values that were saved as evictable make room where a save would take
      the store beyond `max_bytes`, the one used longest ago first; by default nothing does
    """

    max_bytes: int | None = None
    pin_budget: float | None = None
    replicas: int | None = None
    too_few_nodes: Literal["error", "warn"] | None = None
    backends: Mapping[str, BackendOptions] | None = None
    host_calls: int | None = None
    read_cache: int | None = None
    read_leases: bool | None = None
    leased_bytes: int | None = None
    eviction: Literal["lru"] | None = None

    def __post_init__(self) -> None:
        _check_whole("max_bytes", self.max_bytes, 1, "bytes above 0")
        if self.pin_budget is not None and not (
            _is_real(self.pin_budget) and 0 < self.pin_budget <= 1
        ):
            raise VFSTypeError(f"pin_budget must be above 0 and at most 1, not {self.pin_budget!r}")
        _check_whole("replicas", self.replicas, 1, "nodes above 0")
        _check_whole("host_calls", self.host_calls, 1, "calls above 0")
        _check_whole("read_cache", self.read_cache, 0, "bytes")
        _check_whole("leased_bytes", self.leased_bytes, 0, "bytes")
        if self.read_leases not in (None, True, False):
            raise VFSTypeError(f"read_leases must be True or False, not {self.read_leases!r}")
        if self.eviction not in (None, "lru"):
            raise VFSTypeError(f"eviction must be 'lru' or None, not {self.eviction!r}")
        if self.eviction is not None and self.max_bytes is None:
            raise VFSTypeError("eviction='lru' needs max_bytes, beyond which values are evicted")
        if self.too_few_nodes not in (None, "error", "warn"):
            raise VFSTypeError(
                f"too_few_nodes must be 'error' or 'warn', not {self.too_few_nodes!r}"
            )

    @property
    def bytes_of_leased_reads(self) -> int:
        """Bytes that a process keeps under read leases, 0 for nothing."""
        if self.read_leases is False:
            return 0
        return _LEASED_BYTES if self.leased_bytes is None else self.leased_bytes

    def check_against(self, made_with: StoreOptions, store: object) -> None:
        """Raise if a store was made with other options than these.

        Raises `StorageResolutionError` naming the options that differ.
        """
        if self is made_with or self == _ANY:
            return
        self._check_backends(made_with.backends or {}, store)
        for field in fields(self):
            if field.name == "backends":
                continue
            wanted, made = getattr(self, field.name), getattr(made_with, field.name)
            if wanted is not None and wanted != made:
                raise StorageResolutionError(
                    f"the store {store} exists and was made with {field.name}={made!r}, not "
                    f"{wanted!r}; leave the option out, use another name, or end it with shutdown()"
                )

    def _check_backends(self, made_with: Mapping[str, BackendOptions], store: object) -> None:
        for key, wanted in (self.backends or {}).items():
            differing = wanted.differ_from(made_with.get(key, BackendOptions()))
            if differing:
                # Not their values, which may be secrets.
                raise StorageResolutionError(
                    f"the store {store} exists and was made with another "
                    f"{', '.join(differing)} for this backend; leave backends[{key!r}] out, use "
                    f"another name, or end it with shutdown()",
                    backend=key,
                )


def check_timeout(timeout: Any) -> float:
    """Return a number of seconds above 0.

    Raises `VFSTypeError` if it is anything else.
    """
    if not (_is_real(timeout) and 0 < timeout < math.inf):
        raise VFSTypeError(f"timeout must be a number of seconds above 0, not {timeout!r}")
    return float(timeout)


def _check_whole(name: str, value: Any, least: int, meaning: str) -> None:
    if value is None:
        return
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise VFSTypeError(f"{name} must be a whole number of {meaning}, not {value!r}")


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


_ANY = StoreOptions()
