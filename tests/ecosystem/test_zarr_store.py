"""The zarr store on cluster memory: zarr's own suites, in local mode and on a cluster."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, Self

import numpy as np
import pytest
import zarr
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from zarr.abc.store import Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, cpu, default_buffer_prototype
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests

from polystore.exceptions import InvalidPathError, UnsupportedFormatError
from polystore_ray import RayBackendRegistry
from polystore_ray.interop.stored_bytes import StoredBytes
from polystore_ray.transport.leased_reads import NOT_KEPT
from polystore_ray.zarr import ClusterStore

MIB = 2**20


class Opened:
    """Counts how often one of it was unpickled."""

    times = 0

    def __reduce__(self) -> Any:
        return _open, ()


def _open() -> Opened:
    Opened.times += 1
    return Opened()


async def _first(found: AsyncIterator[str]) -> str | None:
    return await anext(found, None)


class TestStore(StoreTests[ClusterStore, cpu.Buffer]):
    store_cls = ClusterStore
    buffer_cls = cpu.Buffer

    async def set(self, store: ClusterStore, key: str, value: Buffer) -> None:
        path = f"{store.path}/{key}"
        store._registry["memory"].save(value.to_bytes(), path, overwrite=True, parents=True)

    async def get(self, store: ClusterStore, key: str) -> Buffer:
        value = store._registry["memory"].load(f"{store.path}/{key}")
        return self.buffer_cls.from_bytes(value)

    @pytest.fixture
    def store_kwargs(self, registry: RayBackendRegistry, place: str) -> dict[str, Any]:
        return {"path": f"{place}/1.zarr", "registry": registry}

    def test_store_repr(self, store: ClusterStore) -> None:
        assert repr(store).startswith(f"ClusterStore({store.path!r}, RayBackendRegistry(")
        assert str(store) == f"polystore://memory{store.path}"

    def test_store_supports_writes(self, store: ClusterStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: ClusterStore) -> None:
        assert store.supports_listing


class TestStoreOnACluster(TestStore):
    local = False


# What zarr says of dtypes whose place in its specification is not settled.
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("machine", [ZarrHierarchyStateMachine, ZarrStoreStateMachine])
class TestModel:
    share = 1  # of the examples of the model, in which every call of a cluster costs a millisecond

    def test_behaves_as_the_model(
        self, registry: RayBackendRegistry, place: str, machine: type[Any]
    ) -> None:
        make: Any = lambda: machine(ClusterStore(place, registry))  # noqa: E731 - as zarr does
        many = max(1, settings().max_examples // self.share)
        run_state_machine_as_test(make, settings=settings(max_examples=many))


class TestModelOnACluster(TestModel):
    local = False
    share = 10


class Elsewhere(Buffer):
    """A buffer that is no memory of this processor, as that of a GPU."""

    @classmethod
    def create_zero_length(cls) -> Self:
        return cls(np.empty(0, "B"))

    @classmethod
    def from_buffer(cls, buffer: Buffer) -> Self:
        return cls(buffer.as_numpy_array().copy())

    @classmethod
    def from_bytes(cls, bytes_like: Any) -> Self:
        return cls(np.frombuffer(bytes_like, "B").copy())

    def as_numpy_array(self) -> Any:
        return np.asarray(self._data)

    def combine(self, others: Iterable[Buffer]) -> Self:
        raise NotImplementedError


class TestUse:
    """What zarr's suites do not ask."""

    @pytest.fixture
    def store(self, registry: RayBackendRegistry, place: str) -> ClusterStore:
        return ClusterStore(f"{place}/1.zarr", registry)

    @pytest.fixture
    def requests(self, store: ClusterStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What the store asks of the controller from now on."""
        transport = type(store._registry._connect())
        made: list[str] = []

        def counted(name: str) -> Any:
            call = getattr(transport, name)

            def counting(self: Any, operation: str, *arguments: Any, **options: Any) -> Any:
                made.append(operation)
                return call(self, operation, *arguments, **options)

            return counting

        for name in ("ask", "change"):
            monkeypatch.setattr(transport, name, counted(name))
        return made

    def test_an_array_is_the_same_in_every_store_of_the_path(self, store: ClusterStore) -> None:
        values = np.arange(60).reshape(6, 10)
        array = zarr.create_array(store, data=values, chunks=(4, 4))
        array[1, 2:5] = 0
        values[1, 2:5] = 0
        again = zarr.open_array(pickle.loads(pickle.dumps(store)), mode="r")
        np.testing.assert_array_equal(again[:], values)

    async def test_a_value_is_read_as_a_view_and_stays_as_it_was(self, store: ClusterStore) -> None:
        await store.set("c/0", cpu.Buffer.from_bytes(b"x" * MIB))
        value = await store.get("c/0")
        assert value is not None
        read = value.as_numpy_array()
        assert not read.flags.owndata
        assert not read.flags.writeable
        await store.set("c/0", cpu.Buffer.from_bytes(b"y"))
        assert read[0] == read[-1] == ord("x")

    async def test_what_goes_together_fails_alone(self, store: ClusterStore) -> None:
        value = cpu.Buffer.from_bytes(b"x")
        await store.set("a", value)
        keys = ["a/below-a-value", "b", "c", "d"]
        results = await asyncio.gather(
            *(store.set(key, value) for key in keys), return_exceptions=True
        )
        assert [type(result).__name__ for result in results] == [
            "PathNotDirectoryError",
            *["NoneType"] * 3,
        ]
        read = await asyncio.gather(*(store.get(key) for key in ["missing", *keys]))
        assert [found and found.to_bytes() for found in read] == [None, None, *[b"x"] * 3]

    async def test_a_buffer_of_another_memory_gets_a_copy(self, store: ClusterStore) -> None:
        await store.set("k", cpu.Buffer.from_bytes(b"abc"))
        found = await store.get("k", BufferPrototype(Elsewhere, cpu.NDBuffer), SuffixByteRequest(2))
        assert isinstance(found, Elsewhere)
        assert found.to_bytes() == b"bc"

    async def test_of_two_writes_of_one_key_at_once_one_is_kept(self, store: ClusterStore) -> None:
        values = [cpu.Buffer.from_bytes(bytes([i])) for i in range(50)]
        await asyncio.gather(*(store.set("k", value) for value in values))
        found = await store.get("k")
        assert found in values

    async def test_a_cancelled_read_holds_up_no_other(self, store: ClusterStore) -> None:
        await store.set("k", cpu.Buffer.from_bytes(b"x"))
        cancelled = asyncio.ensure_future(store.get("k"))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert (await store.get("k")) == cpu.Buffer.from_bytes(b"x")

    async def test_the_end_of_a_value(self, store: ClusterStore) -> None:
        await store.set("k", cpu.Buffer.from_bytes(b"abc"))
        for suffix, expected in ((0, b""), (2, b"bc"), (9, b"abc")):
            found = await store.get("k", byte_range=SuffixByteRequest(suffix))
            assert found is not None
            assert found.to_bytes() == expected

    async def test_one_writer_makes_a_key(self, store: ClusterStore) -> None:
        values = [cpu.Buffer.from_bytes(bytes([i])) for i in range(20)]
        await asyncio.gather(*(store.set_if_not_exists("k", value) for value in values))
        first = await store.get("k")
        await store.set_if_not_exists("k", cpu.Buffer.from_bytes(b"later"))
        assert await store.get("k") == first

    async def test_new_values_and_others_are_published_together(
        self, store: ClusterStore, requests: list[str]
    ) -> None:
        old, new = cpu.Buffer.from_bytes(b"old"), cpu.Buffer.from_bytes(b"new")
        await store.set("kept", old)
        requests.clear()
        await asyncio.gather(
            store.set("set", new),
            store.set("both", new),
            *(store.set_if_not_exists(key, new) for key in ("kept", "new")),
            store.set_if_not_exists("both", old),
        )
        assert requests == ["read", "publish"]
        found = [await store.get(key) for key in ("set", "both", "kept", "new")]
        assert found == [new, new, old, new]

    async def test_a_new_value_leaves_that_of_a_faster_writer(
        self, store: ClusterStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fast, slow = cpu.Buffer.from_bytes(b"fast"), cpu.Buffer.from_bytes(b"slow")
        other = ClusterStore(store.path, store._registry)
        look, others = StoredBytes._missing, [other]

        def overtaken(self: StoredBytes, new: Any) -> Any:
            missing = look(self, new)
            if others:
                others.pop().set_sync("a", fast)
            return missing

        monkeypatch.setattr(StoredBytes, "_missing", overtaken)
        await asyncio.gather(*(store.set_if_not_exists(key, slow) for key in "ab"))
        assert [await store.get(key) for key in "ab"] == [fast, slow]

    def test_an_array_is_created_in_one_publication(
        self, store: ClusterStore, requests: list[str]
    ) -> None:
        zarr.create_array(store, name="a/b/c", shape=(4,), dtype="u1")
        assert requests.count("publish") == 1
        assert [name for name, _ in zarr.open_group(store, mode="r").members(None)] == [
            "a",
            "a/b",
            "a/b/c",
        ]

    async def test_a_kept_value_costs_neither_a_call_nor_a_thread(
        self, store: ClusterStore, requests: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = cpu.Buffer.from_bytes(b"first"), cpu.Buffer.from_bytes(b"second")
        await store.set("k", first)
        path = f"{store.path}/k"
        while store._values.kept(path) is NOT_KEPT:  # until the node has its lease
            await store.get("k")
            await asyncio.sleep(0.01)
        requests.clear()
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "to_thread", None)
            assert await store.get("k") == first
            assert await store.get("k", byte_range=SuffixByteRequest(2)) == first[3:]
        assert requests == []
        store._registry["memory"].save(b"second", f"{store.path}/k", overwrite=True)
        assert await store.get("k") == second
        await store.delete("k")
        while store._values.kept(path) is NOT_KEPT:
            assert await store.get("k") is None
        requests.clear()
        assert await store.get("k") is None
        assert requests == []
        await store.set("k", first)
        assert await store.get("k") == first

    @pytest.mark.parametrize("zarr_format", [3, None])  # without it, zarr asks for what is missing
    def test_an_array_is_opened_again_without_a_call(
        self,
        store: ClusterStore,
        requests: list[str],
        monkeypatch: pytest.MonkeyPatch,
        zarr_format: Any,
    ) -> None:
        zarr.create_array(store, shape=(4,), dtype="u1")
        while store._values.kept(f"{store.path}/zarr.json") is NOT_KEPT:  # until there is a lease
            zarr.open_array(store, mode="r", zarr_format=zarr_format)
            time.sleep(0.01)
        requests.clear()
        monkeypatch.setattr(asyncio, "to_thread", None)
        assert zarr.open_array(store, mode="r", zarr_format=zarr_format).shape == (4,)
        assert requests == []

    async def test_what_is_no_bytes_says_so(self, store: ClusterStore) -> None:
        memory = store._registry["memory"]
        memory.save({"a": 1}, f"{store.path}/k", parents=True)
        with pytest.raises(UnsupportedFormatError, match=r"a dict.*/1.zarr/k"):
            await store.get("k")

    @pytest.mark.parametrize("key", ["..", "../2.zarr/k", "a/../../k", "a/..", "./k", "a/./k"])
    async def test_no_key_leads_out_of_the_directory(self, store: ClusterStore, key: str) -> None:
        value = cpu.Buffer.from_bytes(b"x")
        with pytest.raises(InvalidPathError):
            store.get_sync(key)
        calls = (
            store.get(key),
            store.set(key, value),
            store.set_if_not_exists(key, value),
            store.delete(key),
            store.delete_dir(key),
            store.exists(key),
            store.getsize(key),
            _first(store.list_dir(key)),
            _first(store.list_prefix(f"{key}/")),
        )
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, InvalidPathError)

    async def test_nothing_of_a_value_is_run(self, store: ClusterStore) -> None:
        memory = store._registry["memory"]
        memory.save_batch(
            [Opened(), [Opened()]], [f"{store.path}/{name}" for name in "ab"], parents=True
        )
        await store.set("c", cpu.Buffer.from_bytes(b"x"))
        for call in (store.get("a"), store.getsize("b"), store.get("b")):
            with pytest.raises(UnsupportedFormatError, match="zarr reads only bytes"):
                await call
        both = await asyncio.gather(store.get("a"), store.get("c"), return_exceptions=True)
        assert isinstance(both[0], UnsupportedFormatError)
        assert both[1] == cpu.Buffer.from_bytes(b"x")
        assert Opened.times == 0

    async def test_the_event_loop_waits_for_nothing(
        self, store: ClusterStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        transport = type(store._registry._connect())
        asked = []

        def outside(name: str) -> Any:
            call = getattr(transport, name)

            def checked(*args: Any, **options: Any) -> Any:
                with pytest.raises(RuntimeError, match="no running event loop"):
                    asyncio.get_running_loop()
                asked.append(name)
                return call(*args, **options)

            return checked

        for name in ("ask", "change", "get", "put", "publish"):
            monkeypatch.setattr(transport, name, outside(name))
        value = cpu.Buffer.from_bytes(b"x" * MIB)
        await asyncio.gather(*(store.set(f"c/{i}", value) for i in range(3)))
        await store.set_if_not_exists("d", value)
        assert await store.get("c/0") == value
        assert await store.get_partial_values(default_buffer_prototype(), [("d", None)]) == [value]
        assert await store.exists("d")
        assert await store.getsize("d") == MIB
        assert [key async for key in store.list_dir("c")] == ["0", "1", "2"]
        assert len([key async for key in store.list()]) == 4
        await store.delete("d")
        await store.delete_dir("c")
        await store.clear()
        assert len(asked) > 10

    @pytest.mark.parametrize("missing", [0, 1, 30])
    async def test_missing_keys_cost_no_request_of_their_own(
        self, store: ClusterStore, requests: list[str], missing: int
    ) -> None:
        value = cpu.Buffer.from_bytes(b"x")
        there = [f"there/{i}" for i in range(30 - missing)]
        await asyncio.gather(*(store.set(key, value) for key in there))
        requests.clear()
        keys = [*there, *(f"missing/{i}" for i in range(missing))]
        found = await asyncio.gather(*(store.get(key) for key in keys))
        assert found == [*([value] * len(there)), *([None] * missing)]
        assert requests == ["read"]

    async def test_keys_are_deleted_together(
        self, store: ClusterStore, requests: list[str]
    ) -> None:
        value = cpu.Buffer.from_bytes(b"x")
        keys = [f"c/{i}/0" for i in range(30)]
        await asyncio.gather(*(store.set(key, value) for key in [*keys, "d/kept"]))
        requests.clear()
        await asyncio.gather(*(store.delete(key) for key in [*keys, "c/missing", "d"]))
        assert len(requests) <= 2
        assert [key async for key in store.list()] == ["d/kept"]
        assert [key async for key in store.list_dir("")] == ["d"]

    async def test_a_store_of_the_whole_tree(self) -> None:
        store = ClusterStore("/", RayBackendRegistry("whole", local=True))
        value = cpu.Buffer.from_bytes(b"x")
        await asyncio.gather(store.set("a/b", value), store.set("c", value))
        assert sorted([key async for key in store.list()]) == ["a/b", "c"]
        await store.clear()
        assert await store.is_empty("")

    def test_a_store_equals_what_leads_to_the_same(self, store: ClusterStore) -> None:
        like = ClusterStore(f"x/..{store.path}/.", store._registry)
        assert like == store
        assert hash(like) == hash(store)
        assert ClusterStore("/other", store._registry) != store
        assert ClusterStore(store.path, RayBackendRegistry("other", local=True)) != store


class TestUseOnACluster(TestUse):
    local = False

    def test_tasks_share_an_array(self, store: ClusterStore) -> None:
        import ray

        @ray.remote(num_cpus=0)
        def fill(store: Store, row: int) -> None:
            zarr.open_array(store)[row] = row

        array = zarr.create_array(store, shape=(4, 8), chunks=(1, 8), dtype="i4")
        ray.get([fill.remote(store, row) for row in range(4)])
        np.testing.assert_array_equal(array[:, 0], range(4))
