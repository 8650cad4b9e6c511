"""Contract lines 11 and 23: what is a path, and what a listing selects."""

from __future__ import annotations

from enum import Enum
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest

from polystore import InvalidPathError, PathExistsError, VFSTypeError
from polystore.paths import (
    NameFilter,
    as_text,
    check_distinct,
    display,
    file_order,
    natural_key,
    normalize,
)


class Held:
    """A path object that holds anything, and shows itself as something else."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path

    def __str__(self) -> str:
        return "not the path"


class Liar(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not the path"

    def __format__(self, spec: str) -> str:
        return "not the path"


class Member(str, Enum):  # noqa: UP042 - it shows itself as its name, a StrEnum as its value
    A = "/a"


@pytest.mark.parametrize(
    "path", ["/a", PurePosixPath("/a"), Held("/a"), Liar("/a"), Held(Liar("/a")), Member.A]
)
def test_text_is_what_a_path_holds_and_not_how_it_shows_itself(path: Any) -> None:
    text = as_text(path)
    assert type(text) is str
    assert text == f"{text}" == display(path) == "/a"


def test_numpys_text_is_text() -> None:
    assert type(as_text(np.array(["/a"])[0])) is str


@pytest.mark.parametrize("path", [None, 17, 1.5, b"/a", Held(b"/a"), Held(3), ["/a"], object])
def test_another_type_is_refused_and_named(path: Any) -> None:
    with pytest.raises(VFSTypeError, match=rf"not {type(path).__name__} \(backend disk\)"):
        as_text(path, backend="disk")
    assert isinstance(display(path), str)


@pytest.mark.parametrize("path", ["", "a\0b", "\0"])
def test_what_can_name_nothing_is_refused(path: str) -> None:
    with pytest.raises(InvalidPathError) as caught:
        as_text(path, backend="memory")
    assert isinstance(caught.value, ValueError)
    assert (caught.value.path, caught.value.backend) == (path, "memory")


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("a/b", "/a/b"),
        ("//a///b//", "/a/b"),
        ("/a/./c/../b", "/a/b"),
        (".", "/"),
        ("/", "/"),
        ("/a/..", "/"),
        ("...", "/..."),
        ("/ /\n/é", "/ /\n/é"),
        ("/x" * 2500, "/x" * 2500),
        ("x" * 5000, "/" + "x" * 5000),
        ("\udcff/\ud800", "/\udcff/\ud800"),
    ],
)
def test_each_path_of_a_virtual_tree_has_one_spelling(path: str, normal: str) -> None:
    assert normalize(path) == normal


@pytest.mark.parametrize("path", ["..", "/..", "a/../..", "/a/../../b"])
def test_nothing_is_above_the_root(path: str) -> None:
    with pytest.raises(InvalidPathError, match="above the root"):
        normalize(path)


def test_a_path_that_occurs_twice_is_named_as_it_was_given() -> None:
    check_distinct(["/a", "/b"], ["a", "b"], backend=None)
    with pytest.raises(PathExistsError, match=r"'b//' \(backend zarr\)"):
        check_distinct(["/a", "/b", "/b"], ["a", "b", "b//"], backend="zarr")


# What listings select


@pytest.mark.parametrize(
    ("pattern", "extensions", "selected"),
    [
        (None, None, ["a.tif", "B.TIF", "c.ome.tif", "d.png", "tif"]),
        ("*.tif", None, ["a.tif", "c.ome.tif"]),
        (None, {".tif"}, ["a.tif", "B.TIF", "c.ome.tif"]),
        (None, [".TIF", ".PNG"], ["a.tif", "B.TIF", "c.ome.tif", "d.png"]),
        (None, (e for e in (".ome.tif",)), ["c.ome.tif"]),
        ("[ac]*", {".tif"}, ["a.tif", "c.ome.tif"]),
        (None, set(), []),
    ],
)
def test_a_name_has_to_fit_the_pattern_and_an_extension(
    pattern: str | None, extensions: Any, selected: list[str]
) -> None:
    select = NameFilter(pattern, extensions)
    assert [n for n in ("a.tif", "B.TIF", "c.ome.tif", "d.png", "tif") if select(n)] == selected


@pytest.mark.parametrize(("pattern", "extensions"), [(3, None), (None, [1]), (None, ".tif")])
def test_a_selection_that_is_no_text_is_refused(pattern: Any, extensions: Any) -> None:
    with pytest.raises(VFSTypeError):
        NameFilter(pattern, extensions)


def test_orders_are_shallow_first_and_natural() -> None:
    paths = ["/b", "/a/c", "/a", "/B", "/a/b/c"]
    assert sorted(paths, key=file_order) == ["/B", "/a", "/b", "/a/c", "/a/b/c"]
    names = ["x10y2", "x2", "x10y1", "x", "10", "9", "x02"]
    assert sorted(names, key=natural_key) == ["9", "10", "x", "x02", "x2", "x10y1", "x10y2"]
