"""Claims: each value of a directory goes to one consumer at a time."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator

import pytest

from polystore.exceptions import PathExistsError, VFSTypeError
from polystore_ray import ClaimLostError, RayBackendRegistry
from polystore_ray.client.claims import Claim
from polystore_ray.client.memory import ClusterMemoryBackend
from polystore_ray.controller import claims
from polystore_ray.controller.state import StoreController
from polystore_ray.transport.in_process import LocalTransport

SHORT = 0.1  # seconds, of a lease that runs out
LONG = 60.0


@pytest.fixture
def memory() -> Iterator[ClusterMemoryBackend]:
    registry = RayBackendRegistry("claims", local=True)
    memory: ClusterMemoryBackend = registry["memory"]
    memory.save_batch([1, 2, 3], ["/todo/b", "/todo/a", "/todo/c.tif"], parents=True)
    yield memory
    registry.shutdown()


def claimed(memory: ClusterMemoryBackend, pattern: str = "/todo/*", lease: float = LONG) -> Claim:
    found = memory.claim(pattern, by="me", lease=lease)
    assert found is not None
    return found


def controller_of(memory: ClusterMemoryBackend) -> StoreController:
    transport = memory._connect()
    assert isinstance(transport, LocalTransport)
    return transport._controller


def test_each_value_goes_to_one_consumer_in_the_order_in_which_they_came(
    memory: ClusterMemoryBackend,
) -> None:
    assert [claimed(memory).path for _ in range(3)] == ["/todo/b", "/todo/a", "/todo/c.tif"]
    assert memory.claim("/todo/*") is None


def test_a_pattern_chooses(memory: ClusterMemoryBackend) -> None:
    assert claimed(memory, "/todo/*.tif").path == "/todo/c.tif"
    assert memory.claim("/todo/*.tif") is None
    assert memory.claim("/missing/*") is None
    assert memory.claim("/todo/a/*") is None  # a file
    memory.create_symlink("/todo", "/link")
    assert claimed(memory, "/link/a").path == "/todo/a"


def test_what_is_done_is_deleted_or_moved(memory: ClusterMemoryBackend) -> None:
    claimed(memory).done()
    claimed(memory).done(to="/done/deep/a")
    assert memory.list_files("/", recursive=True) == ["/todo/c.tif", "/done/deep/a"]
    assert memory.load("/done/deep/a") == 2


def test_a_move_that_fails_keeps_the_claim(memory: ClusterMemoryBackend) -> None:
    claim = claimed(memory)
    with pytest.raises(PathExistsError):
        claim.done(to="/todo/a")
    claim.done()


def test_what_is_given_back_can_be_claimed_again(memory: ClusterMemoryBackend) -> None:
    claim = claimed(memory)
    claim.release()
    assert claimed(memory).path == claim.path
    with pytest.raises(ClaimLostError):
        claim.done()


def test_a_block_deletes_at_its_end_and_gives_back_after_an_error(
    memory: ClusterMemoryBackend,
) -> None:
    with claimed(memory) as first:
        pass
    assert not memory.exists(first.path)
    with pytest.raises(ZeroDivisionError), claimed(memory) as second:
        _ = 1 / 0
    assert claimed(memory).path == second.path


def test_a_claim_runs_out_and_says_who_has_the_path(memory: ClusterMemoryBackend) -> None:
    late = claimed(memory, "/todo/a", lease=SHORT)
    assert memory.claim("/todo/a") is None
    time.sleep(SHORT)
    assert late.left == 0
    claimed(memory, "/todo/a")
    with pytest.raises(ClaimLostError, match=r"'me' has the path now.*'/todo/a'"):
        late.done()
    with pytest.raises(ClaimLostError):
        late.renew()
    assert memory.exists("/todo/a")


def test_a_late_claim_that_nobody_else_has_still_holds(memory: ClusterMemoryBackend) -> None:
    late = claimed(memory, "/todo/a", lease=SHORT)
    time.sleep(SHORT)
    late.renew(LONG)
    assert late.left > LONG / 2
    assert memory.claim("/todo/a") is None
    late.done()


@pytest.mark.parametrize("change", ["overwrite", "delete", "move"])
def test_a_claim_is_of_one_value(memory: ClusterMemoryBackend, change: str) -> None:
    claim = claimed(memory, "/todo/a")
    if change == "overwrite":
        memory.save(9, "/todo/a", overwrite=True)
    elif change == "delete":
        memory.delete("/todo/a")
    else:
        memory.move("/todo/a", "/elsewhere")
    with pytest.raises(ClaimLostError):
        claim.done()
    if change == "overwrite":
        assert claimed(memory, "/todo/a").path == "/todo/a"


def test_who_waits_gets_what_is_saved_or_what_runs_out(memory: ClusterMemoryBackend) -> None:
    memory.delete_all("/todo")
    start = time.monotonic()
    assert memory.claim("/todo/*", wait=SHORT) is None
    assert time.monotonic() - start >= SHORT
    saving = threading.Timer(SHORT, lambda: memory.save(1, "/todo/x", parents=True))
    saving.start()
    first = memory.claim("/todo/*", wait=LONG, lease=3 * SHORT)
    second = memory.claim("/todo/*", wait=LONG)
    assert first is not None
    assert second is not None
    assert first.path == second.path
    saving.join()


def test_many_consumers_share_the_work(memory: ClusterMemoryBackend) -> None:
    memory.delete_all("/todo")
    paths = [f"/todo/{number}" for number in range(200)]
    memory.save_batch(paths, paths, parents=True)
    done: list[str] = []

    def consume() -> None:
        while claim := memory.claim("/todo/*"):
            done.append(memory.load(claim.path))
            claim.done()

    consumers = [threading.Thread(target=consume) for _ in range(8)]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join()
    assert sorted(done) == sorted(paths)


def test_another_controller_lets_claims_last_as_long_again(memory: ClusterMemoryBackend) -> None:
    claim = claimed(memory, "/todo/a")
    _, parts = controller_of(memory).parts()
    another = StoreController.from_parts(parts)
    another.recover({})
    held = another.state.claims
    place, number, free_in = held.first("/todo", "a", "you", LONG, 0.0)
    assert (place, number) == ("/todo", 0)
    assert free_in > 0
    held.check("/todo/a", claim._number)


def test_claims_of_what_is_gone_are_forgotten(
    memory: ClusterMemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = controller_of(memory).state.claims
    monkeypatch.setattr(claims, "_PURGED_FROM", 10)
    held._purged_from = 10
    for number in range(100):
        memory.save(number, f"/gone/{number}", parents=True)
        path = claimed(memory, f"/gone/{number}").path
        memory.delete(path)
    assert len(held._claims) <= 21


@pytest.mark.parametrize("options", [{"lease": -1}, {"lease": "1"}, {"wait": "long"}])
def test_wrong_options_are_refused(
    memory: ClusterMemoryBackend, options: dict[str, object]
) -> None:
    with pytest.raises(VFSTypeError):
        memory.claim("/todo/*", **options)  # type: ignore[arg-type]


def test_a_claim_does_not_travel(memory: ClusterMemoryBackend) -> None:
    with pytest.raises(VFSTypeError, match="send its path"):
        pickle.dumps(claimed(memory))
