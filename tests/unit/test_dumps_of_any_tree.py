"""Whatever was done to a store, a dump and a restore bring back the same tree and values."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from test_dumps import content

from polystore import StorageError
from polystore_ray import RayBackendRegistry
from polystore_ray.dumps import dump, restore, verify

NAMES = st.sampled_from(["a", "b", "ü", "\udc80", "a b", ".c", "a.npy"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
ARRAYS = st.builds(np.full, st.sampled_from([0, 3, 9000]), st.integers(0, 255), st.just("u1"))
VALUES = st.one_of(
    st.none(), st.text(max_size=5), st.binary(max_size=5), ARRAYS, st.just("x" * 70_000)
)
OPERATIONS = st.one_of(
    st.tuples(st.just("save"), VALUES, PATHS),
    st.tuples(st.just("save_batch"), st.integers(2, 20), PATHS),
    st.tuples(st.just("ensure_directory"), PATHS),
    st.tuples(st.just("copy"), PATHS, PATHS),
    st.tuples(st.just("move"), PATHS, PATHS),
    st.tuples(st.just("create_symlink"), PATHS, PATHS),
    st.tuples(st.just("delete_all"), PATHS),
)


def do(memory: Any, operation: str, *arguments: Any) -> None:
    if operation == "save":
        memory.save(*arguments, parents=True, overwrite=True)
    elif operation == "save_batch":
        number, top = arguments
        values = [np.full(1500, i) for i in range(number)]
        memory.save_batch(values, [f"{top}/{i}" for i in range(number)], parents=True)
    else:
        getattr(memory, operation)(*arguments)


@given(st.lists(OPERATIONS, max_size=25))
def test_a_restored_store_is_the_store_that_was_dumped(operations: list[tuple[Any, ...]]) -> None:
    old = RayBackendRegistry("any-tree", local=True)
    new = RayBackendRegistry("same-tree", local=True)
    try:
        for operation in operations:
            with suppress(StorageError):  # most of them fail; the others make a tree
                do(old["memory"], *operation)
        before, status = content(old), old.status()
        with tempfile.TemporaryDirectory() as directory:
            manifest = dump(old, directory)
            assert verify(directory) == manifest
            restore(new, directory)
        assert content(old) == content(new) == before
        after = new.status()
        assert (
            (after.files, after.bytes)
            == (status.files, status.bytes)
            == (
                manifest.values,
                status.bytes,
            )
        )
        for path, facts in before.items():
            if facts["type"] == "file":
                np.testing.assert_equal(new["memory"].load(path), old["memory"].load(path))
    finally:
        old.shutdown()
        new.shutdown()
