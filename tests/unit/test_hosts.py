from __future__ import annotations

from typing import Any

import pytest

from polystore_ray.controller.host_table import HostTable
from polystore_ray.errors import StoreUnavailableError


def test_no_host_is_made_once_the_store_has_ended() -> None:
    """It would take the name of one that a new store of the same name makes."""
    made: list[Any] = []
    hosts = HostTable(lambda *what: made.append(what), *[lambda *_: None] * 3)
    hosts.kill_all()
    with pytest.raises(StoreUnavailableError, match="was shut down"):
        hosts.host("memory", "a node", b"")
    assert made == []
