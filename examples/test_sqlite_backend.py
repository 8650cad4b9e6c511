"""The SQLite backend keeps the contract: the conformance kit, and tests specific to SQLite."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from sqlite_backend import SqliteBackend

from polystore import CorruptDataError, FileManager, StorageWriteError
from polystore.testing import (
    AtomicBatches,
    Batches,
    Concurrency,
    Damage,
    Directories,
    FileAccess,
    Readable,
    Traces,
    Transfers,
    VirtualPaths,
    Writable,
)
from polystore.testing.stateful import check_sequences


class Plates(SqliteBackend):
    """The backend under test; each test has its own database."""

    _backend_type = "plates"
    database: ClassVar[str] = ":memory:"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the database."""
    monkeypatch.setattr(Plates, "database", str(tmp_path / "plates.sqlite"))
    return tmp_path / "plates.sqlite"


class Kit(
    Readable,
    Writable,
    Directories,
    Transfers,
    Batches,
    AtomicBatches,
    VirtualPaths,
    Concurrency,
):
    """The capabilities of the backend: all except links, regions and descriptions of arrays."""


class TestSqlite(Kit, Damage, Traces):
    @pytest.fixture
    def backend(self, database: Path) -> Iterator[Plates]:
        with Plates() as backend:
            yield backend

    @pytest.fixture
    def raw(self, backend: Plates, database: Path) -> SqliteAccess:
        return SqliteAccess(database)


class TestSqliteOfAStore(Kit):
    """The same in a host, as on a cluster."""

    @pytest.fixture
    def backend(self, database: Path, polystore_local: FileManager) -> Any:
        return polystore_local.registry["plates"]


def test_every_sequence_of_operations_does_what_the_model_does() -> None:
    @contextmanager
    def opened() -> Iterator[tuple[Plates, str]]:
        with Plates() as backend:
            yield backend, ""

    check_sequences(opened, links=False, regions=False, examples=20)


class SqliteAccess(FileAccess):
    """Raw access to the rows with SQL only."""

    def run(self, statement: str, *values: object) -> list[Any]:
        connection = sqlite3.connect(self.top)
        with connection:
            rows = connection.execute(statement, values).fetchall()
        connection.close()
        return rows

    def write(self, value: Any, path: str) -> None:
        parent, _, _ = path.rpartition("/")
        insert = "INSERT OR IGNORE INTO nodes VALUES (?, ?, ?, ?)"
        self.run(insert, path, parent or "/", "array", self.encode(value))
        while parent:
            above = parent.rpartition("/")[0]
            self.run(insert, parent, above or "/", "directory", None)
            parent = above

    def read(self, path: str) -> Any:
        [(value,)] = self.run("SELECT value FROM nodes WHERE path = ?", path)
        return self.decode(value)

    def damage(self, path: str) -> Iterator[str]:
        whole = self.encode(self.read(path))
        for how, stored in {
            "cut in half": whole[: len(whole) // 2],
            "emptied": b"",
            "overwritten with zeros": bytes(len(whole)),
        }.items():
            self.run("UPDATE nodes SET value = ? WHERE path = ?", stored, path)
            yield how

    def contents(self) -> Mapping[str, object]:
        return {row[0]: row for row in self.run("SELECT * FROM nodes")}


def test_tasks_on_a_cluster_share_one_database(database: Path, polystore_ray: FileManager) -> None:
    import cloudpickle
    import ray
    import sqlite_backend

    # Workers cannot import modules in the directory of a script.
    cloudpickle.register_pickle_by_value(sqlite_backend)

    class Wells(SqliteBackend):
        _backend_type = "wells"

    Wells.database = str(database)

    @ray.remote
    def measure(fm: FileManager, well: str) -> list[str]:
        fm.save(np.arange(3), f"/plate1/{well}", backend="wells")
        return fm.list_files("/plate1", backend="wells")

    ray.get([measure.remote(polystore_ray, well) for well in ("A1", "A2", "A10")])
    listed = polystore_ray.list_files("/plate1", backend="wells")
    assert listed == ["/plate1/A1", "/plate1/A2", "/plate1/A10"]
    assert SqliteAccess(database).read("/plate1/A2").tolist() == [0, 1, 2]


def test_of_several_processes_one_saves_each_path(database: Path) -> None:
    code = """
import sys
from polystore import PathExistsError
from sqlite_backend import SqliteBackend
class Shared(SqliteBackend):
    database = sys.argv[1]
with Shared() as backend:
    for i in range(20):
        try:
            backend.save_batch([sys.argv[2].encode()] * 2, [f"/{i}/a", f"/{i}/b"], parents=True)
        except PathExistsError:
            continue
        print(i)
"""
    savers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(database), str(number)],
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    won = [saver.communicate(timeout=100)[0].split() for saver in savers]
    assert [saver.returncode for saver in savers] == [0] * 3
    assert sorted(int(i) for paths in won for i in paths) == [*range(20)]
    with Plates() as backend:
        for number, paths in enumerate(won):
            for i in paths:
                loaded = backend.load_batch([f"/{i}/a", f"/{i}/b"])
                assert loaded == [str(number).encode()] * 2


@pytest.mark.usefixtures("database")
def test_arrays_and_bytes_come_back_as_they_were() -> None:
    values = [
        b"",
        b"bytes",
        np.array(3.5),
        np.empty((0, 3), np.int8),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["2026-01-02"], "M8[D]"),
        np.zeros(2, [("a", "i4"), ("b", "U3")]),
    ]
    with Plates() as backend:
        for value in values:
            backend.save(value, "/a", overwrite=True)
            loaded = backend.load("/a")
            assert type(loaded) is type(value)
            np.testing.assert_array_equal(loaded, value)
            assert getattr(loaded, "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.usefixtures("database")
def test_what_is_saved_is_there_when_it_is_opened_again() -> None:
    with Plates() as backend:
        backend.save(b"kept", "/a")
    with Plates() as backend:
        assert backend.load("/a") == b"kept"


def test_a_file_that_is_no_database_is_told(database: Path) -> None:
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(CorruptDataError, match="not a database"):
        Plates()


def test_what_sqlite_refuses_names_the_path(database: Path) -> None:
    with Plates() as backend:
        backend.save(b"", "/a")
        SqliteAccess(database).run(
            "CREATE TRIGGER full BEFORE INSERT ON nodes BEGIN SELECT RAISE(FAIL, 'full'); END"
        )
        with pytest.raises(StorageWriteError, match=r"full: '/b' \(backend plates\)"):
            backend.save(b"", "/b")
        assert backend.list_dir("/") == ["a"]
