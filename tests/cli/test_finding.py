"""``find``, ``head``, and ``ls`` of several places and globs."""

from __future__ import annotations

import numpy as np
import pytest

from polystore import FileManager
from polystore_ray.cli.patterns import fits
from tests.cli.commands import run_locally, says_one_line


@pytest.fixture
def plate(fm: FileManager) -> FileManager:
    fm.save(np.arange(60).reshape(20, 3), "/plate/A10.npy", backend="memory")
    fm.save(np.zeros(2), "/plate/A9.npy", backend="memory")
    fm.save("".join(f"{n}\n" for n in range(30)), "/plate/raw/notes", backend="memory")
    fm.create_symlink("/plate/raw", "/plate/link", backend="memory")
    return fm


def test_find_lists_what_meets_the_conditions(plate: FileManager) -> None:
    def found(*arguments: object) -> list[str]:
        done = run_locally("find", *arguments)
        assert (done.code, done.err) == (0, "")
        return done.out.splitlines()

    everything = ["A9.npy", "A10.npy", "link", "raw", "raw/notes"]
    assert found("memory:/plate") == [f"memory:/plate/{path}" for path in everything]
    assert found()[0] == "memory:/plate"
    assert found("memory:/", "--name", "*.npy") == ["memory:/plate/A9.npy", "memory:/plate/A10.npy"]
    assert found("--name", "plate/**/n*") == ["memory:/plate/raw/notes"]
    assert found("--type", "directory") == ["memory:/plate", "memory:/plate/raw"]
    assert found("--type", "symlink") == ["memory:/plate/link"]
    assert found("--larger", 100) == ["memory:/plate/A10.npy"]
    assert found("memory:/plate/raw/notes", "memory:/plate/A*") == [
        "memory:/plate/raw/notes",
        "memory:/plate/A9.npy",
        "memory:/plate/A10.npy",
    ]
    assert run_locally("find", "--json", "--name", "notes").json == ["memory:/plate/raw/notes"]
    assert "/none" in says_one_line(run_locally("find", "memory:/none"))
    assert "nothing fits" in says_one_line(run_locally("find", "memory:/*/none*"))


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*", "a", True),
        ("*", "a/b", False),
        ("**", "a/b/c", True),
        ("**/c", "c", True),
        ("**/c", "a/b/c", True),
        ("**/c", "a/b/cc", False),
        ("a/**", "a", True),
        ("a/**/c", "a/c", True),
        ("a/**/c/**/e", "a/b/c/d/c/e", True),
        ("a/**/c", "b/a/c", False),
        ("[ab]?", "bx", True),
        ("a", "A", False),
        ("a\nb*", "a\nbc", True),
    ],
)
def test_a_glob_fits_name_by_name(pattern: str, path: str, expected: bool) -> None:
    assert fits(pattern, path) is expected


def test_a_glob_fits_deep_paths_in_time() -> None:
    assert not fits("/".join(["**", "a"] * 15), "/".join(["a"] * 14 + ["b"] * 5000))


def test_head_prints_the_beginning_of_any_value(plate: FileManager) -> None:
    assert run_locally("head", "memory:/plate/raw/notes").out == "".join(
        f"{n}\n" for n in range(10)
    )
    assert run_locally("head", "-n", "2", "memory:/plate/A10.npy").out == (
        "array (2, 3) int64\n[[0 1 2]\n [3 4 5]]\n"
    )
    values = {"/list": list(range(50)), "/dict": dict.fromkeys("abc", 1), "/bytes": b"abcdef"}
    for path, value in (values | {"/number": 5, "/scalar": np.array(7)}).items():
        plate.save(value, path, backend="memory")
    assert run_locally("head", "-n", "2", "--json", "memory:/list").json == [0, 1]
    assert run_locally("head", "-n", "2", "memory:/dict").json == {"a": 1, "b": 1}
    assert run_locally("head", "-n", "2", "memory:/bytes").out == "ab"
    assert run_locally("head", "memory:/number").out == "5\n"
    assert run_locally("head", "memory:/scalar").out == "array () int64\n7\n"
    assert "/none" in says_one_line(run_locally("head", "memory:/none"))


def test_ls_takes_several_places_and_globs(plate: FileManager) -> None:
    plate.save(1, "/one", backend="memory")
    assert run_locally("ls", "memory:/plate/raw", "memory:/one", "memory:/plate").out == (
        "memory:/one\n\nmemory:/plate/raw:\nnotes\n\n"
        "memory:/plate:\nA9.npy\nA10.npy\nlink -> /plate/raw\nraw/\n"
    )
    assert run_locally("ls", "memory:/plate/*.npy").out == (
        "memory:/plate/A9.npy\nmemory:/plate/A10.npy\n"
    )
    assert run_locally("ls", "memory:/plate/r*").out == "notes\n"
    long = run_locally("ls", "-l", "memory:/**/*.npy").out.splitlines()
    assert [line.split()[-1] for line in long] == ["memory:/plate/A9.npy", "memory:/plate/A10.npy"]
    facts = run_locally("ls", "--json", "memory:/one", "memory:/plate/raw").json
    assert facts["memory:/one"]["type"] == "file"
    assert [entry["name"] for entry in facts["memory:/plate/raw"]] == ["notes"]
