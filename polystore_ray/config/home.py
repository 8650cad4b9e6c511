"""The home of a registry: where its store is, whichever process has the registry."""

from __future__ import annotations

import os
from typing import NamedTuple

from polystore.exceptions import UnsupportedOperationError

__all__ = ["Home", "made_here"]

_process = ""


def _renew() -> None:
    global _process  # noqa: PLW0603 - a fact about the process
    _process = os.urandom(8).hex()


_renew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


class Home(NamedTuple):
    """Which process made a registry and, once it was pickled, which store it means.

    - `address`: the address of the cluster; empty until the registry is pickled
    - `cluster`: a text that tells the cluster from others at the same address
    - `job`: the id of the job whose store it is, if it is a job's
    - `store_id`: what tells the store from others of its name; empty if it has not been used yet
    """

    process: str
    address: str = ""
    cluster: str = ""
    job: str = ""
    store_id: str = ""

    @property
    def is_here(self) -> bool:
        """Whether the registry was made in this process."""
        return self.process == _process

    def require_here(self) -> None:
        """Raise unless the registry was made in this process, as one of a local store must be.

        Raises `UnsupportedOperationError` if it was not.
        """
        if not self.is_here:
            raise UnsupportedOperationError(
                "a local registry (local=True) lives in one process and cannot be shared with "
                "another, forked or not; use RayBackendRegistry() on a cluster"
            )


def made_here() -> Home:
    """Return the home of a registry that is made in this process."""
    return Home(_process)
