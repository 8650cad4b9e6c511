"""What all tests share: one Ray for the session, and how long the endless ones go on.

``--hypothesis-profile=soak`` makes the stateful model, the fuzzers, the kills and the races go on
for long, and says at the end what was done. ``make soak`` gives it.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

# One test of the fuzzer takes a decoder, and one of the model a backend.
_ALWAYS: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
}
settings.register_profile("test", max_examples=60, stateful_step_count=30, **_ALWAYS)
settings.register_profile("soak", max_examples=20_000, stateful_step_count=60, **_ALWAYS)
settings.load_profile("test")

_DONE = pytest.StashKey[Counter[str]]()


def _soaking(config: pytest.Config) -> bool:
    return bool(config.getoption("--hypothesis-profile") == "soak")


@pytest.fixture(scope="session")
def soaking(pytestconfig: pytest.Config) -> bool:
    """Tell whether to go on for long."""
    return _soaking(pytestconfig)


@pytest.fixture(scope="session")
def done(pytestconfig: pytest.Config) -> Counter[str]:
    """Count here what was done, for the end of a soak to say it."""
    return pytestconfig.stash.setdefault(_DONE, Counter())


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """Return the seed of all that Hypothesis does not choose: its own, if one was given."""
    given = pytestconfig.getoption("--hypothesis-seed")
    return int(given) if given is not None else random.getrandbits(32)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if _soaking(config):
        seed = config.getoption("--hypothesis-seed")
        terminalreporter.section(f"what was done, from the seed {seed}")
        for what, count in config.stash.get(_DONE, Counter()).items():
            terminalreporter.line(f"{count:>10,} {what}")


# These connect this process to another Ray, or start one in its place.
_OTHER_RAYS = {"chaos", "cluster", "clusters", "nodes", "small_ray"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put modules with another Ray last, so that the session's own is started once."""
    with_another = {
        item.path for item in items if _OTHER_RAYS.intersection(getattr(item, "fixturenames", ()))
    }
    items.sort(key=lambda item: item.path in with_another)


@pytest.fixture(scope="module")
def ray_cluster(polystore_ray_cluster: None) -> None:
    """Connect to a Ray of this session's own; a module that needs another one may end it."""
