"""Fixtures of the explored tests."""

from __future__ import annotations

import pytest

from tests.explored import model


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> model.Patch:
    """Return what puts the model in place of the cluster, the clock and the threads."""
    return model.patched(monkeypatch)
