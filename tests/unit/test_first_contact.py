"""Which cluster a process means that names none, and what it says where that refuses it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from polystore_ray import StoreUnavailableError
from polystore_ray.rayapi import private
from polystore_ray.transport import connect


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of what Ray takes for a cluster of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(connect, "recorded_address", lambda _wanted: address)
        yield address


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the addresses that Ray is started with."""
    addresses: list[Any] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", addresses.append)
    return addresses


def test_a_cluster_that_wants_a_token_is_named_with_both_cures(
    here: str, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_address: str) -> None:
        raise ray.exceptions.AuthenticationError("no token")

    monkeypatch.setattr(private, "greet", refuse)
    with pytest.raises(StoreUnavailableError) as caught:
        connect.start_ray(timeout=5)
    assert started == []
    for part in (here, "refused", "RAY_AUTH_TOKEN", "runs on this machine", "RAY_ADDRESS=local"):
        assert part in str(caught.value)


def test_a_cluster_that_answers_is_used_and_named(
    here: str, started: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(private, "greet", lambda _address: None)
    with caplog.at_level(logging.INFO, "polystore_ray"):
        connect.start_ray(timeout=5)
    assert started == [here]
    assert here in caplog.text
    assert "RAY_ADDRESS=local" in caplog.text


def test_a_cluster_that_does_not_answer_is_not_waited_for(
    here: str, started: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def fail(_address: str) -> None:
        raise RuntimeError("hung up")

    monkeypatch.setattr(private, "greet", fail)
    connect.start_ray(timeout=5)
    assert started == ["local"]
    assert f"the cluster at {here} does not answer" in caplog.text
