"""Ray Data's writes: all or nothing, repeatable, and they replace what they are told to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from polystore.exceptions import InvalidPathError, PathExistsError
from polystore_ray import RayBackendRegistry

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Rows:
    """A dataset whose tasks write these blocks, each task as often as it is told."""

    def __init__(self, *tasks: list[pa.Table], fails: bool = False, attempts: Any = ()) -> None:
        self._tasks = tasks
        self._fails = fails
        self._attempts = attempts

    def write_datasink(self, sink: Any) -> None:
        from ray.data.datasource import WriteResult

        for blocks in self._attempts:
            sink.write(blocks, SimpleNamespace(task_idx=0))
        done = [
            sink.write(blocks, SimpleNamespace(task_idx=number))
            for number, blocks in enumerate(self._tasks)
        ]
        if self._fails:
            raise ZeroDivisionError
        sink.on_write_complete(WriteResult(0, 0, done))


@pytest.fixture
def data() -> Any:
    from polystore_ray import data

    return data


@pytest.fixture
def memory(registry: RayBackendRegistry) -> Any:
    return registry["memory"]


def _table(*values: int) -> pa.Table:
    return pa.table({"a": list(values)})


def _arrays(data: Any, **values: Any) -> pa.Table:
    return pa.concat_tables(
        data._block(f"/from/{name}", np.asarray(value)) for name, value in values.items()
    )


def test_fewer_blocks_leave_no_old_ones(
    data: Any, memory: Any, registry: RayBackendRegistry
) -> None:
    data.write(Rows([_table(1), _table(2)], [_table(3)]), "/t", registry)
    assert memory.list_dir("/t") == ["000000-000000", "000000-000001", "000001-000000"]
    memory.save("kept", "/t/notes.txt")
    memory.save("kept", "/t/sub/x", parents=True)
    data.write(Rows([_table(4)]), "/t", registry, overwrite=True)
    assert memory.list_dir("/t") == ["000000-000000", "notes.txt", "sub"]
    assert memory.load("/t/000000-000000") == _table(4)
    assert memory.load("/t/sub/x") == "kept"
    assert memory.list_dir("/") == ["t"]


def test_old_blocks_are_not_joined_without_being_told(
    data: Any, memory: Any, registry: RayBackendRegistry
) -> None:
    memory.save(_table(1), "/t/000007-000000", parents=True)
    with pytest.raises(PathExistsError, match="000007-000000"):
        data.write(Rows([_table(2)]), "/t", registry)
    assert memory.list_dir("/t") == ["000007-000000"]
    assert memory.list_dir("/") == ["t"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_write_that_fails_leaves_nothing(
    data: Any, memory: Any, registry: RayBackendRegistry, overwrite: bool
) -> None:
    with pytest.raises(ZeroDivisionError):
        data.write(Rows([_table(1)], fails=True), "/new", registry, overwrite=overwrite)
    memory.save(_table(0), "/old/000000-000000", parents=True)
    with pytest.raises(ZeroDivisionError):
        data.write(Rows([_table(1)], fails=True), "/old", registry, overwrite=overwrite)
    assert memory.list_dir("/") == ["old"]
    assert memory.load("/old/000000-000000") == _table(0)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_task_that_is_tried_again_replaces_what_it_wrote(
    data: Any, memory: Any, registry: RayBackendRegistry, overwrite: bool
) -> None:
    former = [[_table(1), _table(2), _table(3)], [_table(1)]]
    data.write(Rows([_table(4), _table(5)], attempts=former), "/t", registry, overwrite=overwrite)
    assert memory.load_batch(memory.list_files("/t")) == [_table(4), _table(5)]


def test_rows_of_one_name_are_refused(data: Any, memory: Any, registry: RayBackendRegistry) -> None:
    twice = Rows([_arrays(data, a=[1])], [_arrays(data, a=[2])])
    for overwrite in (False, True):
        with pytest.raises(PathExistsError, match="/t/a"):
            data.write(twice, "/t", registry, column="data", overwrite=overwrite)
    assert memory.list_dir("/") == []


def test_a_column_replaces_the_files_of_its_names(
    data: Any, memory: Any, registry: RayBackendRegistry
) -> None:
    memory.save_batch(["old", "other"], ["/t/a", "/t/b"], parents=True)
    rows = Rows([_arrays(data, a=[1, 2], c=[3, 4])])
    with pytest.raises(PathExistsError, match="/t/a"):
        data.write(rows, "/t", registry, column="data")
    assert memory.load_batch(["/t/a", "/t/b"]) == ["old", "other"]
    data.write(rows, "/t", registry, column="data", overwrite=True)
    assert memory.list_dir("/t") == ["a", "b", "c"]
    assert memory.load("/t/a").tolist() == [1, 2]
    data.write(Rows([_arrays(data, d=[5])]), "/t", registry, column="data")
    assert memory.list_dir("/t") == ["a", "b", "c", "d"]


def test_a_linked_directory_stays_a_link(
    data: Any, memory: Any, registry: RayBackendRegistry
) -> None:
    memory.ensure_directory("/real")
    memory.create_symlink("/real", "/link")
    data.write(Rows([_table(1)]), "/link", registry)
    assert memory.is_symlink("/link")
    assert memory.list_dir("/real") == ["000000-000000"]


def test_neither_the_root_nor_a_file_is_a_place(
    data: Any, memory: Any, registry: RayBackendRegistry
) -> None:
    memory.save(1, "/file")
    with pytest.raises(InvalidPathError):
        data.write(Rows([_table(1)]), "/", registry)
    with pytest.raises(PathExistsError):
        data.write(Rows([_table(1)]), "/file", registry, overwrite=True)
    assert memory.list_dir("/") == ["file"]


ARRAYS = [
    *(np.array([1, 2, 100]).astype(f"{order}{kind}") for order in "<>" for kind in (
        "i1", "u2", "i4", "i8", "f2", "f4", "f8", "c8", "c16", "m8[s]", "M8[ns]", "M8[D]"
    )),
    np.array([True, False]),
    np.array(1.5, "f4"),
    np.array(2, ">i4"),
    np.array([(1, 2.0)], [("a", "<i4"), ("b", ">f8")]),
    np.array(["ab", "ä\0c"]),
    np.array([b"ab\0c", b"c"]),
    np.array([None, 1], object),
    np.ones(2, np.longdouble),
    np.ones((0, 3)),
    np.arange(24, dtype=">i2").reshape(2, 3, 4)[:, ::-1].T,
    np.ma.array([1, 2], mask=[False, True]),
]  # fmt: skip


def _has_tensors(array: Any) -> bool:
    is_timed = str(array.dtype.newbyteorder("=")) in ("timedelta64[s]", "datetime64[ns]")
    return array.ndim > 0 and (array.dtype.char in "?bBhHiIlLqQefd" or is_timed)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.ndim}")
def test_an_array_comes_out_as_it_went_in(data: Any, array: Any) -> None:
    from ray.data.block import BlockAccessor

    block = data._block("/a", array)
    [row] = list[Any](BlockAccessor.for_block(block).iter_rows(public_row_format=True))
    got = row["data"]
    assert type(got) is type(array)
    assert got.shape == array.shape
    native = array.dtype.newbyteorder("=")
    assert got.dtype in ([native] if _has_tensors(array) else [native, array.dtype])
    assert got.tolist() == array.tolist()
    [again] = BlockAccessor.for_block(block).to_numpy(["data"])["data"]
    assert np.asarray(again).dtype == np.asarray(got).dtype
    assert again.tolist() == array.tolist()


def test_an_array_of_a_dtype_that_is_not_of_numpy_comes_out(data: Any) -> None:
    """As bfloat16 is."""
    from numpy._core._rational_tests import rational  # type: ignore[import-not-found]
    from ray.data.block import BlockAccessor

    array = np.array([rational(1, 3), rational(2, 3)])
    block = BlockAccessor.for_block(data._block("/a", array))
    [row] = list[Any](block.iter_rows(public_row_format=True))
    assert row["data"].dtype == array.dtype
    assert row["data"].tolist() == array.tolist()
