"""The command line as a user meets it, in local mode: what it prints, and how it ends."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from polystore import FileManager
from polystore_ray import RayBackendRegistry
from polystore_ray.cli.__main__ import polystore_command
from polystore_ray.wire.messages import Loss
from tests.cli.commands import Done, run_alone, run_here, run_locally, says_one_line


@pytest.fixture
def plate(fm: FileManager) -> FileManager:
    fm.save(np.arange(6).reshape(2, 3), "/plate/A01.npy", backend="memory")
    fm.save(np.zeros(100), "/plate/raw/A02.npy", backend="memory")
    fm.save("two\nlines\n", "/notes", backend="memory")
    return fm


def test_ls_lists_names_and_marks_directories(plate: FileManager) -> None:
    assert run_locally("ls", "memory:/") == Done(0, "notes\nplate/\n", "")
    assert run_locally("ls", "memory:/plate").out == "A01.npy\nraw/\n"
    assert run_locally("ls", "memory:/notes").out == "notes\n"
    assert run_locally("ls").out == run_locally("ls", "memory:").out == "notes\nplate/\n"


def test_ls_long_tells_kind_size_shape_and_dtype(plate: FileManager) -> None:
    first, second = run_locally("ls", "-l", "memory:/plate").out.splitlines()
    assert first.split()[:5] == ["file", "48", "B", "2x3", "int64"]
    assert first.endswith("A01.npy")
    assert second.startswith("directory")
    listed = run_locally("ls", "--json", "memory:/plate").json
    assert [(entry["name"], entry["type"]) for entry in listed] == [
        ("A01.npy", "file"),
        ("raw", "directory"),
    ]
    assert listed[0]["shape"] == [2, 3]


def test_tree_draws_what_is_below(plate: FileManager) -> None:
    assert run_locally("tree", "memory:/").out.splitlines() == [
        "memory:/",
        "|-- notes",
        "`-- plate/",
        "    |-- A01.npy",
        "    `-- raw/",
        "        `-- A02.npy",
        "2 directories, 3 files",
    ]
    assert (
        run_locally("tree", "-d", "1", "memory:/").out.splitlines()[-1] == "1 directories, 1 files"
    )
    assert run_locally("tree", "--json", "memory:/plate").json == {
        "A01.npy": None,
        "raw": {"A02.npy": None},
    }


def test_stat_and_why_tell_what_is_known(plate: FileManager) -> None:
    facts = run_locally("stat", "--json", "memory:/plate/A01.npy").json
    assert (facts["type"], facts["size"], facts["dtype"]) == ("file", 48, "int64")
    assert "shape     (2, 3)" in run_locally("why", "memory:/plate/A01.npy").out
    assert run_locally("why", "--json", "memory:/plate/A01.npy").json["fallback"] is None


def test_lost_values_are_listed_and_marked(plate: FileManager) -> None:
    assert run_locally("lost") == Done(0, "", "")
    plate.save(np.zeros(90_000), "/plate/raw/A03.npy", backend="memory")
    plate.save(np.zeros(90_000), "/plate/b.npy", backend="memory", fallback=("zarr", "/b"))
    lose("/plate/raw/A03.npy", "/plate/b.npy")
    done = run_locally("lost")
    assert done.code == 1
    first, second = done.out.splitlines()
    assert first.startswith("/plate/b.npy        2023-11-1")
    assert "  one 1f0c2a9b  " in first
    assert first.endswith("restores it from zarr:/b")
    assert second.startswith("/plate/raw/A03.npy")
    assert done.err.startswith("polystore: 2 values are lost; ")
    [found] = run_locally("lost", "--json", "memory:/plate/raw").json
    assert (found["path"], found["host"], found["cause"]) == ("/plate/raw/A03.npy", "one", "why")
    long = run_locally("ls", "-l", "memory:/plate").out.splitlines()
    assert [line.split()[0] for line in long] == ["file", "lost", "directory"]
    assert "  [lost]" in run_locally("tree", "memory:plate/").out.splitlines()[-2]
    assert run_locally("tree").out.endswith("5 files, 2 lost\n")
    assert run_locally("tree", "--json", "memory:/plate/raw").json == {
        "A02.npy": None,
        "A03.npy": "lost",
    }
    assert (
        "lost      the last copy was on node one 1f0c2a9b"
        in run_locally("stat", "memory:/plate/b.npy").out
    )
    assert "2 values are lost; `polystore lost`" in run_locally("status").out


def test_evicted_values_are_marked() -> None:
    registry = RayBackendRegistry("cli-small", local=True, max_bytes=1000, eviction="lru")
    memory = registry["memory"]
    for name in ("first", "second"):
        memory.save(np.zeros(100), f"/{name}", evictable=True)
    long = run_here("--local", "--store", "cli-small", "ls", "-l", "memory:/").out.splitlines()
    assert [line.split()[0] for line in long] == ["evicted", "file"]
    done = run_here("--local", "--store", "cli-small", "cat", "memory:/first")
    assert done.code == 1
    assert "evicted when others needed the room" in done.err
    registry.shutdown()


def test_a_dump_is_written_verified_and_restored(plate: FileManager, tmp_path: Path) -> None:
    where = tmp_path / "dump"
    done = run_locally("dump", "cli", where)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("dumped 3 values, ")
    assert done.out.split(" of store ")[1].startswith("cli at 20")
    assert run_locally("verify", where).out.startswith("verified 3 values, ")
    assert "needs an empty store" in says_one_line(run_locally("restore", where, "cli"))
    facts = run_locally("restore", where, "cli-again", "--json").json
    assert (facts["store"], facts["values"], facts["lost"]) == ("cli", 3, 0)
    again = RayBackendRegistry("cli-again", local=True)
    assert again["memory"].load("/notes") == "two\nlines\n"
    again.shutdown()
    (where / "tree.jsonl").write_text("")
    for command in (("verify", where), ("restore", where, "cli-again")):
        assert "tree.jsonl" in says_one_line(run_locally(*command))
    lost = np.zeros(90_000)
    plate.save(lost, "/gone", backend="memory")
    lose("/gone")
    lacking = run_locally("dump", "cli", tmp_path / "lacking")
    assert (lacking.code, "dumped 3 values" in lacking.out) == (1, True)
    assert "the dump lacks 1 values" in lacking.err
    assert run_locally("verify", tmp_path / "lacking").code == 0


def lose(*paths: str) -> None:
    """Have the store of `run_locally` believe that it lost values."""
    transport = RayBackendRegistry("cli", local=True)._connect()
    pins = transport.ask("read", list(paths)).pins
    transport._controller.note("volume_lost", "local")
    loss = Loss("1f0c2a9b77", "one", 1_700_000_000.0, "why")
    transport._controller.note("lost", [pin.id for pin in pins], loss)


def test_cat_prints_a_value_as_it_is(plate: FileManager, tmp_path: Path) -> None:
    assert run_locally("cat", "memory:/notes").out == "two\nlines\n"
    array = "array (2, 3) int64\n[[0 1 2]\n [3 4 5]]\n"
    assert run_locally("cat", "memory:/plate/A01.npy").out == array
    assert run_locally("cat", "--json", "memory:/plate/A01.npy").json == {
        "shape": [2, 3],
        "dtype": "int64",
        "values": [[0, 1, 2], [3, 4, 5]],
    }
    plate.save({"cells": [1, 2.5]}, "/table", backend="memory")
    assert run_locally("cat", "memory:/table").json == {"cells": [1, 2.5]}
    plate.save(b"abc", tmp_path / "a.bin", backend="disk")
    assert run_locally("cat", f"disk:{tmp_path}/a.bin").out == "abc"


def test_du_adds_up_by_directory(plate: FileManager) -> None:
    sums = {entry["path"]: entry["bytes"] for entry in run_locally("du", "--json").json}
    assert sums["/plate"] == 848
    assert set(sums) == {"/", "/plate"}
    deeper = run_locally("du", "-d", "2", "--json", "memory:/").json
    assert {"path": "/plate/raw", "bytes": 800} in deeper


def test_cp_and_mv_go_between_backends(plate: FileManager, tmp_path: Path) -> None:
    assert run_locally("cp", "memory:/plate", f"disk:{tmp_path}/plate") == Done(0, "", "")
    assert plate.load(tmp_path / "plate/raw/A02.npy", backend="disk").shape == (100,)
    for directory in ("memory:/copies/", "memory:"):
        assert run_locally("cp", f"disk:{tmp_path}/plate/A01.npy", directory) == Done(0, "", "")
    assert plate.load("/A01.npy", backend="memory").shape == (2, 3)
    assert plate.list_dir("/copies", backend="memory") == ["A01.npy"]
    assert run_locally("mv", f"disk:{tmp_path}/plate", "memory:/again").code == 0
    assert not (tmp_path / "plate").exists()
    assert plate.load("/again/A01.npy", backend="memory").shape == (2, 3)
    assert run_locally("mv", "memory:/again", "memory:/once").code == 0
    assert plate.list_dir("/once", backend="memory") == ["A01.npy", "raw"]


def test_cp_never_overwrites(plate: FileManager) -> None:
    line = says_one_line(run_locally("cp", "memory:/notes", "memory:/plate/A01.npy"))
    assert "exists" in line
    assert "/plate/A01.npy" in line


def test_rm_asks_for_recursive_to_take_a_tree(plate: FileManager) -> None:
    assert "-r deletes" in says_one_line(run_locally("rm", "memory:/plate"))
    assert run_locally("rm", "-r", "memory:/plate", "memory:/notes") == Done(0, "", "")
    assert plate.list_dir("/", backend="memory") == []


def test_status_and_shutdown(plate: FileManager) -> None:
    assert run_locally("status", "--json").json["files"] == 3
    assert "NODE" in run_locally("status").out
    assert "3 files" in says_one_line(run_locally("shutdown"))
    assert run_locally("status", "--json").json["files"] == 3
    assert run_locally("shutdown", "--yes") == Done(0, "", "")
    assert run_locally("status", "--json").json["files"] == 0


def test_names_cannot_forge_what_the_terminal_shows(fm: FileManager) -> None:
    fm.save(1, "/a\x1b[2J\nb", backend="memory")
    assert run_locally("ls").out == "a\\x1b[2J\\nb\n"
    assert "\\x1b" in says_one_line(run_locally("rm", "memory:/c\x1b[2J"))
    assert run_locally("ls", "--json").json[0]["name"] == "a\x1b[2J\nb"


WRONG = [
    (["lss"], 2, "No such command 'lss'"),
    (["ls", "--jsn"], 2, "No such option"),
    (["ls", "plate"], 2, "names no backend: write memory:plate or disk:plate"),
    (["tree", "memory:/", "memory:/"], 2, "unexpected extra argument"),
    (["cat"], 2, "Missing argument 'PLACE'"),
    (["tree", "-d", "x"], 2, "'x' is not a valid integer range"),
    (["cp", "memory:/", "disk:"], 2, "has no name; give"),
    (["why", "disk:a"], 2, "works for memory:PATH only"),
    (["lost", "disk:a"], 2, "works for memory:PATH only"),
    (["lost", "memory:/none"], 1, "/none"),
    (["dump", "cli"], 2, "Missing argument 'DIRECTORY-OR-URL'"),
    (["restore", "/none", "cli"], 1, "there is no dump here: '/none'"),
    (["verify", "no-such-scheme://a/b"], 1, "no-such-scheme://"),
    (["status", "--all"], 2, "--all lists the stores of a cluster"),
    (["demo"], 2, "neither --local nor --json"),
    (["ls", "foo:/"], 1, "no backend is called 'foo'"),
    (
        ["ls", "memory:/none"],
        1,
        "no such file or directory: '/none' (backend memory)",
    ),
    (["tree", "memory:/file"], 1, "is not a directory"),
    (["cat", "memory:/"], 1, "directory"),
    (["cat", "memory:/../.."], 1, "backend memory"),
    (["cat", "disk:a.unknown"], 1, "a.unknown"),
    (["rm", "-r", "disk:."], 1, "is the root or the current directory"),
    (["why", "memory:/none"], 1, "/none"),
    (["drain", "node"], 1, "one node only"),
    (["--store", "a/b", "ls"], 1, "the name of a store"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_every_wrong_input_is_answered_in_one_line(
    fm: FileManager, arguments: list[str], code: int, words: str
) -> None:
    fm.save(1, "/file", backend="memory")
    done = run_locally(*arguments)
    assert words in says_one_line(done)
    assert done.code == code


def test_cat_and_cp_run_nothing_of_what_was_saved(fm: FileManager, tmp_path: Path) -> None:
    trap = tmp_path / "was-run"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (trap,)

    fm.save([Trap()], "/trap", backend="memory")
    fm.save_batch([[Trap(), bytes(90_000)], [Trap()]], ["/t/1", "/t/2"], backend="memory")
    for path in ("/trap", "/t/1", "/t/2"):
        line = says_one_line(run_locally("cat", f"memory:{path}"))
        assert "not plain data" in line
        assert path in line
        assert run_locally("cp", f"memory:{path}", f"disk:{tmp_path}/copy.json").code == 1
    assert not trap.exists()
    assert run_locally("cat", "--unpickle", "memory:/trap").code == 0
    assert trap.exists()


def test_cat_opens_all_plain_data(fm: FileManager) -> None:
    moment = dt.datetime(2020, 1, 2, tzinfo=dt.UTC)
    plain = {"a": [1, 2.5, None, True, 2j], "b": (b"x", "y"), "c": {1, 2}, "when": moment}
    values = [plain, np.float32(1.5), np.zeros((0, 3), order="F"), np.array("2020", "M8[D]")]
    values += [np.arange(50_000), np.zeros(3, [("x", "f8"), ("n", "U3")]), bytearray(b"z")]
    paths = [f"/v{i}" for i in range(len(values))]
    fm.save_batch(values, paths, backend="memory")
    for path, value in zip(paths, values, strict=True):
        fm.save(value, f"/alone{path}", backend="memory")
        for at in (path, f"/alone{path}"):
            assert run_locally("cat", f"memory:{at}").code == 0, at
    assert run_locally("cat", "--json", "memory:/v0").json["a"] == [1, 2.5, None, True, "2j"]


def test_help_is_there_for_every_command() -> None:
    for name, command in polystore_command.commands.items():
        done = run_locally(name, "--help")
        assert done.code == 0
        assert {"--address", "--store", "--local", "--json"} <= set(done.out.split())
        assert command.short_help is not None
        assert command.short_help in run_locally("--help").out


def test_a_reader_that_has_had_enough_makes_no_noise(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number}.txt").touch()
    command = f"{sys.executable} -m polystore_ray.cli ls --local disk:{tmp_path} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0.txt\n", "")


def test_the_shell_can_complete(tmp_path: Path) -> None:
    def completions(words: str) -> list[str]:
        environment = {"_POLYSTORE_COMPLETE": "bash_complete", "COMP_WORDS": words}
        done = subprocess.run(
            [sys.executable, "-c", "from polystore_ray.cli.__main__ import main; main()"],
            env={**environment, "COMP_CWORD": str(words.count(" "))},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return [line.partition(",")[2] for line in done.stdout.split()]

    assert completions("polystore sta") == ["stat", "status"]
    assert completions("polystore ls me") == ["memory:"]
    assert "--json" in completions("polystore ls --")


def test_the_module_and_the_script_are_one(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("polystore")
    version = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60)
    assert version.stdout == run_alone("--version").out
    assert version.stdout.startswith("polystore 0.")


def test_the_environment_chooses_and_options_overrule_it(tmp_path: Path) -> None:
    chosen = {"POLYSTORE_RAY_LOCAL": "1", "POLYSTORE_STORE": "mine", "POLYSTORE_JSON": "1"}
    assert run_alone("status", **chosen).json["store"] == "mine"
    assert run_alone("status", "--store", "other", **chosen).json["store"] == "other"
    assert run_alone("--store", "before", "status", **chosen).json["store"] == "before"
