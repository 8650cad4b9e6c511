from __future__ import annotations

import pickle
from typing import Any

import pytest

from polystore_ray.controller.host_table import HostTable
from polystore_ray.errors import StoreUnavailableError
from polystore_ray.wire.versions import ClassVersions


def test_no_host_is_made_once_the_store_has_ended() -> None:
    """It would take the name of one that a new store of the same name makes."""
    made: list[Any] = []
    hosts = HostTable(
        lambda *what: made.append(what), lambda *_: None, lambda *_: None, lambda *_: 0
    )
    hosts.kill_all()
    with pytest.raises(StoreUnavailableError, match="was shut down"):
        hosts.host("memory", "a node", b"")
    assert made == []


def test_the_first_and_the_latest_code_are_told_apart_by_no_clock() -> None:
    versions = ClassVersions()

    def number(origin: str, sequence: int, code: str) -> int:
        return versions.number("mine", origin, sequence, code)

    assert number("driver", 0, "first") == 1
    assert number("worker", 0, "first") == 1  # the same code, defined by an import
    assert number("driver", 2, "third") == 2
    assert number("driver", 1, "second") < 2  # pickled earlier, used later
    assert number("another driver", 0, "other") == 3
    assert number("worker", 0, "first") == 1
    assert number("driver", 2, "third") == 2
    assert number("driver", 3, "other") == 3
    assert number("another driver", 1, "first") == 4  # edited back
    assert versions.number("another key", "driver", 9, "first") == 1


def test_what_is_remembered_of_a_class_is_bounded() -> None:
    versions = ClassVersions()
    for process in range(5000):
        versions.number("mine", f"{process}", 0, "code")
    assert len(pickle.dumps(versions)) < 100_000
    assert versions.number("mine", "0", 0, "code") == 1
